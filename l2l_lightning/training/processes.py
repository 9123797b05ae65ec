"""What the processes of one run tell each other beside gradients, which Lightning averages. All must call these."""

import os
import warnings
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor


def gather(thing: Any) -> list[Any]:
    """On rank 0 the things of all processes in the order of ranks, elsewhere and in a single process the own one.

    Tensors should lie on the CPU.
    """
    if not _several():
        return [thing]
    first = dist.get_rank() == 0
    found: list[Any] | None = [None] * dist.get_world_size() if first else None
    dist.gather_object(thing, found)
    return [thing] if found is None else found


def concatenate(tensor: Tensor) -> Tensor:
    """(W * B,) of W processes in the order of ranks, from (B,) of each."""
    if not _several():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor)
    return torch.cat(parts)


def largest(*values: int, device: torch.device) -> list[int]:
    """The largest of each value, so that all processes decide alike."""
    if not _several():
        return list(values)
    agreed = torch.tensor(values, device=device)
    dist.all_reduce(agreed, dist.ReduceOp.MAX)
    return agreed.tolist()


def say_processes(before: int, now: int) -> None:
    """Say what changes where a run goes on with another number of processes than wrote its checkpoint."""
    if before == now:
        return
    change = (
        f"the problems of {before - now} of them are left behind"
        if now < before
        else f"{now - before} of them start with new problems"
    )
    rank_zero_info(
        f"The checkpoint was written by {before} process(es), this run has {now}: {change}, and an outer step "
        f"averages over {now} times B problems instead of {before} times."
    )


def warn_of_shared_store() -> None:
    """Warn where a restart by torchrun may hang: its one store keeps the last start's addresses (pytorch#135712)."""
    restarts = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0))
    if restarts and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        warnings.warn(
            "After a restart by torchrun the processes may wait for each other in vain; "
            "start torchrun with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its environment.",
            stacklevel=2,
        )


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
