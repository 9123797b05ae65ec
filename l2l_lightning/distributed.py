"""What the processes of one run tell each other beside gradients, which Lightning averages."""

from typing import Any

import torch.distributed as dist


def gather(thing: Any) -> list[Any]:
    """On rank 0 the things of all processes in the order of ranks, elsewhere and in a single process the own one.

    All processes must call it. Tensors should lie on the CPU.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return [thing]
    first = dist.get_rank() == 0
    found: list[Any] | None = [None] * dist.get_world_size() if first else None
    dist.gather_object(thing, found)
    return [thing] if found is None else found
