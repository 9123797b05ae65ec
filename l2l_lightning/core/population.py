"""B problems of one family: started, due, reset, ended early, counted."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from l2l_lightning.core.estimators import Estimator, EstimatorState
from l2l_lightning.core.horizon import Restarts, stagger
from l2l_lightning.core.objective import Objective
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.random import Stream
from l2l_lightning.core.rule import Rule
from l2l_lightning.core.state import InnerState, check_resumed, check_rule_state, fresh_state, reset_problems
from l2l_lightning.core.unroll import Unrolled
from l2l_lightning.core.window import Window

Draws = Callable[[Stream], torch.Generator]  # the generator of one window for each purpose


@dataclass
class Counts:
    """Problems that were replaced since the start.

    Attributes:
        resets: in all.
        divergences: of them, because they diverged.
        early_resets: of them, because they were solved or ran away.
    """

    resets: int = 0
    divergences: int = 0
    early_resets: int = 0


class Population:
    """Where the problems of a training stand, from window to window.

    With an estimator of several ``copies``, problem b of copy c is number c B + b; copies restart together.

    Args:
        problems: the optimizee.
        rule: the update rule.
        estimator: finds the meta-gradient.
        restarts: when problems are replaced.
        unroll: U, inner steps of a window.

    Attributes:
        inner: the problems' state, None before the first window.
        estimator_state: the estimator's own.
        counts: of resets.
    """

    def __init__(self, problems: Problems, rule: Rule, estimator: Estimator, restarts: Restarts, unroll: int) -> None:
        self.problems, self.rule, self.estimator, self.restarts = problems, rule, estimator, restarts
        self.unroll = unroll
        self.inner: InnerState | None = None
        self.estimator_state: EstimatorState = {}
        self.counts = Counts()
        self._unchecked = False  # the state comes from a checkpoint and was not compared with a window yet

    def renew(self, window: Window, number: int, draws: Draws) -> None:
        """Replace the problems that are due; the first window starts them all.

        Args:
            window: of B problems.
            number: of outer steps so far, for horizons that grow.
            draws: the window's generators.

        Raises:
            InputError: if a state from a checkpoint does not fit.
        """
        copies = self.estimator.copies
        if self.inner is None:
            everyone = torch.ones(window.problems, dtype=torch.bool, device=self.problems.device)
            self.inner = self._fresh(window, everyone, number, draws)
            if self.restarts.stagger:
                self.inner.lifetime = stagger(self.inner.lifetime[: window.problems], self.unroll).repeat(copies)
            generator = draws(Stream.ESTIMATOR)
            self.estimator_state = self.estimator.init_state(self._phi(), copies * window.problems, generator)
            return
        if self._unchecked:
            rule_state = self.rule.init_state(self.inner.theta, self.problems.layout)
            check_resumed(self.inner, rule_state, window.repeat(copies), self.problems.layout.n)
            self._unchecked = False
        due = self.inner.due.view(copies, -1).any(0)  # (B,)
        count = int(due.sum())
        if count:
            self.counts.resets += count
            self.counts.divergences += int(self.inner.diverged.view(copies, -1).any(0).sum())
            mask = due.repeat(copies)  # (copies * B,)
            self.inner = reset_problems(self.inner, self._fresh(window, due, number, draws), mask)
            self.estimator_state = self.estimator.reset(self.estimator_state, mask, draws(Stream.ESTIMATOR))

    def _fresh(self, window: Window, mask: Tensor, number: int, draws: Draws) -> InnerState:
        """New problems, every copy of them, where ``mask`` (B,) holds; elsewhere theta is a placeholder."""
        drawn = self.problems.draw(int(mask.sum()), draws(Stream.INITIALISATION))
        theta = drawn.new_zeros(window.problems, drawn.shape[-1])  # (B, n)
        theta[mask] = drawn
        generator = draws(Stream.LIFETIMES)
        lifetime = self.restarts.horizon.draw(window.problems, number, self.unroll, generator)  # (B,)
        total = self.restarts.told.draw(lifetime, generator)  # (B,)
        copies = self.estimator.copies
        theta = theta.repeat(copies, 1)
        rule_state = self.rule.init_state(theta, self.problems.layout)
        check_rule_state(type(self.rule).__name__, rule_state, len(theta))
        instance = window.repeat(copies).instance
        return fresh_state(theta, rule_state, instance, lifetime.repeat(copies), total.repeat(copies))

    def walk(self, window: Window, objective: Objective, draws: Draws) -> Unrolled:
        """One window of all problems; they stand behind it afterwards."""
        assert self.inner is not None, "renew() comes first"
        walked, self.estimator_state = self.estimator.window(
            self.rule,
            self.problems,
            self.inner,
            window.repeat(self.estimator.copies),
            objective,
            self.estimator_state,
            draws(Stream.META_GRADIENT),
        )
        self.inner = walked.state
        if self.restarts.max_loss is not None:
            self.inner.diverged |= (walked.curve > self.restarts.max_loss).any(0)
        self._end_early(self.inner, walked.curve[-1])
        return walked

    def _end_early(self, inner: InnerState, loss: Tensor) -> None:
        """End the lives of problems that are solved or have run away."""
        limits = self.restarts
        if limits.reset_loss is None and limits.reset_norm is None:
            return
        over = torch.zeros_like(inner.diverged)  # (copies * B,)
        if limits.reset_loss is not None:
            over |= loss < limits.reset_loss
        if limits.reset_norm is not None:
            over |= inner.theta.norm(dim=-1) > limits.reset_norm
        self.counts.early_resets += int((over & ~inner.due).view(self.estimator.copies, -1).any(0).sum())
        inner.lifetime = torch.where(over, inner.age, inner.lifetime)

    def _phi(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.rule.named_parameters() if value.requires_grad}

    def start(self, device: torch.device, resumed: bool) -> None:
        """Move to a device at the start of a training, and forget the problems of an earlier one unless resumed."""
        if self.inner is None or not resumed:
            self.inner, self.estimator_state = None, {}
            return
        self.inner = self.inner.to(device)
        self.estimator_state = {name: leaf.to(device) for name, leaf in self.estimator_state.items()}

    def state_dict(self) -> dict[str, Any]:
        """Tensors on the CPU and plain values."""
        return {
            "inner": None if self.inner is None else self.inner.to("cpu").state_dict(),
            "estimator": {name: leaf.cpu() for name, leaf in self.estimator_state.items()},
            "totals": asdict(self.counts),
        }

    def load(self, inner: dict[str, Any] | None, estimator: EstimatorState) -> None:
        """Go on from a saved state; whether it fits is checked at the next window."""
        self.inner = None if inner is None else InnerState(**inner)
        self.estimator_state = estimator
        self._unchecked = inner is not None
