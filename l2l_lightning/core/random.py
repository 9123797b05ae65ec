"""Random streams that depend on a key alone, not on what ran before."""

from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """What a stream is drawn for; the first word of its key."""

    DATA = 0
    INITIALISATION = 1
    LIFETIMES = 2
    COORDINATES = 3


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
