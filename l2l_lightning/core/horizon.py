"""When problems restart: after how many inner steps each problem is replaced by a fresh one."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from l2l_lightning.core.errors import InputError, check_non_negative_int, check_positive_int


def round_up(steps: int, unroll: int, name: str) -> int:
    """``steps`` rounded up to whole windows of ``unroll`` inner steps, with a warning where that changes it."""
    rounded = -(-steps // unroll) * unroll
    if rounded != steps:
        warnings.warn(
            f"{name} of {steps} inner steps is no multiple of the unroll of {unroll}; it is rounded up to {rounded}.",
            stacklevel=2,
        )
    return rounded


class Horizon:
    """How long a problem lives, in inner steps; subclasses say between which bounds.

    Lifetimes are whole windows, drawn uniformly between the bounds that hold when the problem starts.
    """

    def bounds(self, window: int) -> tuple[int, int]:
        """Shortest and longest lifetime, in inner steps, of a problem that starts at this window."""
        raise NotImplementedError

    def all_bounds(self) -> list[tuple[int, int]]:
        """Every pair that ``bounds`` can return, for checks before training."""
        return [self.bounds(0)]

    def announce(self, unroll: int) -> None:
        """Warn about every bound that is no multiple of the unroll and will be rounded up."""
        for steps in sorted({steps for bounds in self.all_bounds() for steps in bounds}):
            round_up(steps, unroll, "The horizon")

    def draw(self, count: int, window: int, unroll: int, generator: torch.Generator) -> Tensor:
        """Lifetimes (count,), int64 multiples of ``unroll``."""
        shortest, longest = (-(-steps // unroll) for steps in self.bounds(window))
        windows = torch.randint(shortest, longest + 1, (count,), generator=generator, device=generator.device)
        return windows * unroll


def stagger(lifetimes: Tensor, unroll: int) -> Tensor:
    """Shorten the first lifetimes (B,) evenly, so that later every window sees problems of all ages.

    Problem b of B keeps the fraction (b+1)/B of its windows, at least one.
    """
    count = len(lifetimes)
    share = torch.arange(1, count + 1, device=lifetimes.device)
    windows = lifetimes // unroll
    return -(-windows * share // count) * unroll  # rounded up, in integers


def _check_range(owner: object, low: int, high: int) -> None:
    check_positive_int(owner, low=low, high=high)
    if low > high:
        raise InputError(f"{type(owner).__name__}: low must not be above high, got {low} and {high}.")


class FixedHorizon(Horizon):
    """Every problem lives for the same number of inner steps.

    Args:
        steps: inner steps after which a problem is reset.
    """

    def __init__(self, steps: int = 100) -> None:
        check_positive_int(self, steps=steps)
        self.steps = steps

    def bounds(self, window: int) -> tuple[int, int]:
        return self.steps, self.steps


class RandomHorizon(Horizon):
    """Each problem draws its lifetime uniformly from a range.

    Args:
        low: shortest lifetime in inner steps.
        high: longest lifetime in inner steps.
    """

    def __init__(self, low: int, high: int) -> None:
        _check_range(self, low, high)
        self.low, self.high = low, high

    def bounds(self, window: int) -> tuple[int, int]:
        return self.low, self.high


@dataclass
class Stage:
    """One range of a growing horizon.

    Attributes:
        after: the number of windows (outer steps) after which this range holds.
        low: shortest lifetime in inner steps.
        high: longest lifetime in inner steps.
    """

    after: int
    low: int
    high: int

    def __post_init__(self) -> None:
        check_non_negative_int(self, after=self.after)
        _check_range(self, self.low, self.high)


class GrowingHorizon(Horizon):
    """A range that changes after given numbers of windows, such as short lifetimes first and long ones later.

    Section 2.2 of the thesis "Learning to Optimize Deep Neural Networks" (Shahid 2017) trains so.

    Args:
        stages: ranges in the order of their ``after``; the first starts at 0.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        starts = [stage.after for stage in stages]
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise InputError(
                f"GrowingHorizon: stages must start at after=0 and their `after` must increase, got {starts}."
            )
        self.stages = list(stages)

    def bounds(self, window: int) -> tuple[int, int]:
        current = max((stage for stage in self.stages if stage.after <= window), key=lambda stage: stage.after)
        return current.low, current.high

    def all_bounds(self) -> list[tuple[int, int]]:
        return [(stage.low, stage.high) for stage in self.stages]
