"""Gaussian noise as a pure function, for rules that keep no random state: the same run draws the same noise."""

import math

import torch
from torch import Tensor


def salt(theta: Tensor) -> Tensor:
    """A number (..., n), int64, for each coordinate of a problem that starts at theta (..., n)."""
    index = torch.arange(theta.shape[-1], device=theta.device)
    return theta.double().view(torch.int64) ^ _scramble(index + 1)


def gaussian(salt: Tensor, step: Tensor) -> Tensor:
    """Standard normal values (..., n) in double precision at inner steps (...), by Box and Muller 1958."""
    keys = _scramble(salt + _scramble(step.unsqueeze(-1) + 1))
    first, second = (_uniform(_scramble(keys + stream)) for stream in (1, 2))
    return (-2 * first.log()).sqrt() * torch.cos(2 * math.pi * second)


def _scramble(x: Tensor) -> Tensor:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014) on int64, whose products wrap around."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def _uniform(x: Tensor) -> Tensor:
    """The upper 53 bits as a number in (0, 1)."""
    return (((x >> 11) & 0x1FFFFFFFFFFFFF).double() + 0.5) / 2.0**53
