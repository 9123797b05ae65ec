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

    def point_weights(self, unroll: int) -> list[float]:
        """w_0 ... w_U, which sum to one."""
        if self.weights == "final":
            return [0.0] * unroll + [1.0]
        raw = [1.0] * (unroll + 1) if self.weights == "uniform" else [float(t) for t in range(unroll + 1)]
        return [weight / sum(raw) for weight in raw]

    def value(self, losses: Tensor) -> Tensor:
        """transform(f), elementwise."""
        return losses if self.transform == "plain" else losses.clamp_min(torch.finfo(losses.dtype).tiny).log()

    def slope(self, losses: Tensor) -> Tensor:
        """d transform(f) / d f, elementwise."""
        if self.transform == "plain":
            return torch.ones_like(losses)
        tiny = torch.finfo(losses.dtype).tiny
        return torch.where(losses > tiny, losses.clamp_min(tiny).reciprocal(), 0.0)
