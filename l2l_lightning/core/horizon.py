"""When problems restart: after how many inner steps each problem is replaced by a fresh one."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from l2l_lightning.core.errors import (
    InputError,
    check_non_negative,
    check_non_negative_int,
    check_positive,
    check_positive_int,
)


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


@dataclass(frozen=True)
class ToldTotal:
    """The number of inner steps that a problem is told it will have, drawn at its reset.

    Attributes:
        unknown: probability of telling nothing (a total of 0).
        factor: the lifetime is multiplied by a log-uniform number between 1/factor and factor.

    Raises:
        InputError: for a probability outside [0, 1] or a factor below 1.
    """

    unknown: float = 0.0
    factor: float = 1.0

    def __post_init__(self) -> None:
        check_non_negative(self, unknown=self.unknown)
        check_positive(self, factor=self.factor)
        if self.unknown > 1 or self.factor < 1:
            raise InputError(
                f"ToldTotal: unknown must be at most 1 and factor at least 1, got {self.unknown} and {self.factor}."
            )

    def draw(self, lifetimes: Tensor, generator: torch.Generator) -> Tensor:
        """Totals (B,), float, for lifetimes (B,) in inner steps."""
        both = torch.rand(
            2, len(lifetimes), dtype=torch.float64, generator=generator, device=generator.device
        )  # (2, B)
        totals = lifetimes * self.factor ** (2 * both[0] - 1)
        return torch.where(both[1] < self.unknown, 0.0, totals.round())


@dataclass
class Restarts:
    """When problems are replaced by fresh ones, and what they are told.

    Attributes:
        horizon: the lifetimes of problems; 100 inner steps where none is given.
        stagger: spread the first restarts, so that every window sees problems of all ages.
        reset_loss: also restart problems whose loss fell below this (section 2.2 of Shahid 2017).
        reset_norm: also restart problems whose parameters' norm passed this (likewise).
        max_loss: problems whose loss passed this count as diverged, as those do whose loss or gradient is not finite.
        told: the total number of inner steps that a problem is told.

    Raises:
        InputError: for a limit that is not a positive number.
    """

    horizon: Horizon = None  # type: ignore[assignment]  # a class as default would be dumped into configurations
    stagger: bool = True
    reset_loss: float | None = None
    reset_norm: float | None = None
    max_loss: float | None = None
    told: ToldTotal = field(default_factory=ToldTotal)

    def __post_init__(self) -> None:
        limits = {"reset_loss": self.reset_loss, "reset_norm": self.reset_norm, "max_loss": self.max_loss}
        check_positive(self, **{name: limit for name, limit in limits.items() if limit is not None})
        self.horizon = self.horizon or FixedHorizon()
