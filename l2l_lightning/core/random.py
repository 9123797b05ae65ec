"""Random streams that depend on a key alone, not on what ran before."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """What a stream is drawn for; the first word of its key."""

    DATA = 0
    INITIALISATION = 1
    LIFETIMES = 2
    META_GRADIENT = 3
    ESTIMATOR = 4


class Split(IntEnum):
    """Disjoint families of problems; the second word of a key."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2
    TUNING = 3


def keyed_generator(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator whose stream is a function of the key, such as (stream, split, seed, rank, counter).

    Stopping, resuming and the number of data workers therefore cannot change what window k draws.
    ``numpy.random.SeedSequence`` spreads the keys over independent streams.
    """
    # The length and both halves of every 64-bit word, so that no two keys give the same words.
    words = [len(key), *(part for word in key for part in divmod(word % 2**64, 2**32))]
    seed = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
    return torch.Generator(device=device).manual_seed(seed % 2**63)


@contextmanager
def drawn_from(generator: torch.Generator, device: torch.device) -> Iterator[None]:
    """For code that draws from torch's global generators: they get a seed of this one's, and are put back afterwards.

    Args:
        generator: gives the seed, and moves on.
        device: whose global generator is meant, beside that of the CPU.
    """
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
