"""The meta-loss of a window: weights w_t and a transform of the inner losses."""

from typing import Literal, get_args

import torch
from torch import Tensor

from l2l_lightning.core.errors import check_choice

Weights = Literal["uniform", "final", "increasing"]
Transform = Literal["plain", "log"]


class Objective:
    """sum_t w_t transform(f(theta_t)) over the U+1 points of a window, with weights that sum to one.

    Equation 3 of Andrychowicz et al. 2016 with its weights w_t; the point after the last update counts, as in their
    code. t counts within the window: with an unroll as long as the horizon this is their objective to the letter.

    Args:
        weights: ``uniform``: every point alike; ``final``: only the last point; ``increasing``: proportional to t.
        transform: ``plain``: the loss itself; ``log``: its logarithm, in nats, which makes scales of the loss
            irrelevant (losses must be positive).

    Raises:
        InputError: for an unknown word.
    """

    def __init__(self, weights: Weights = "uniform", transform: Transform = "plain") -> None:
        check_choice(self, get_args(Weights), weights=weights)
        check_choice(self, get_args(Transform), transform=transform)
        self.weights = weights
        self.transform = transform

    def point_weights(self, unroll: int, like: Tensor) -> Tensor:
        """w_0 ... w_U, which sum to one, in the type and on the device of a tensor."""
        t = torch.arange(unroll + 1, dtype=like.dtype, device=like.device)
        if self.weights == "final":
            return (t == unroll).to(t.dtype)
        raw = torch.ones_like(t) if self.weights == "uniform" else t
        return raw / raw.sum()

    def value(self, losses: Tensor) -> Tensor:
        """transform(f), elementwise."""
        return losses if self.transform == "plain" else losses.clamp_min(torch.finfo(losses.dtype).tiny).log()

    def slope(self, losses: Tensor) -> Tensor:
        """d transform(f) / d f, elementwise."""
        if self.transform == "plain":
            return torch.ones_like(losses)
        tiny = torch.finfo(losses.dtype).tiny
        return torch.where(losses > tiny, losses.clamp_min(tiny).reciprocal(), 0.0)
