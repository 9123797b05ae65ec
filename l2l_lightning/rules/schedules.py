"""Numbers that may change with the inner step, such as the learning rate of a rule."""

import math

import torch
from torch import Tensor

from l2l_lightning.core.errors import check_non_negative, check_positive, check_positive_int


class Schedule:
    """A number as a function of the inner steps since the reset."""

    def at(self, step: Tensor) -> Tensor:
        """Values (...), double precision, at inner steps (...), int64."""
        raise NotImplementedError(f"{type(self).__name__} must define at(step).")


class Cosine(Schedule):
    """From ``start`` to ``end`` along half a cosine, then constant (Loshchilov and Hutter 2017, without restarts).

    end + (start - end) (1 + cos(pi t / steps)) / 2.

    Args:
        start: value at step 0.
        end: value from ``steps`` on.
        steps: inner steps of the descent.
    """

    def __init__(self, start: float, end: float = 0.0, steps: int = 100) -> None:
        check_positive(self, start=start)
        check_non_negative(self, end=end)
        check_positive_int(self, steps=steps)
        self.start, self.end, self.steps = start, end, steps

    def at(self, step: Tensor) -> Tensor:
        share = (step.double() / self.steps).clamp_max(1)
        return self.end + (self.start - self.end) / 2 * (1 + torch.cos(math.pi * share))


def value_at(number: float | Schedule, step: Tensor, like: Tensor) -> Tensor | float:
    """A plain number, or a schedule's values as (..., 1) in the type of ``like`` (..., n)."""
    return number.at(step).to(like.dtype).unsqueeze(-1) if isinstance(number, Schedule) else number


def check_schedule(owner: object, **numbers: float | Schedule) -> None:
    """Raise InputError unless every number is a schedule or a positive number."""
    check_positive(owner, **{name: number for name, number in numbers.items() if not isinstance(number, Schedule)})
