"""The inner loop of one window."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from l2l_lightning.core.problems import Problems
from l2l_lightning.core.rule import Rule, RuleInput, Tape
from l2l_lightning.core.state import InnerState, RuleState
from l2l_lightning.core.window import Window


class Point(NamedTuple):
    """One of the U+1 points that a window visits.

    Attributes:
        theta: (B, n).
        loss: (B,) at theta; not finite where a problem diverged.
        grad: (B, n) at theta, zero where it or the loss is not finite.
        alive: (B,) bool, whether both are finite.
    """

    theta: Tensor
    loss: Tensor
    grad: Tensor
    alive: Tensor


@dataclass
class Unrolled:
    """What one window produced.

    Attributes:
        meta_loss: scalar with a graph to the rule's parameters.
        curve: (U+1, B) losses at every visited point, detached; not finite where a problem diverged.
        state: where the problems stand after the window, detached.
    """

    meta_loss: Tensor
    curve: Tensor
    state: InnerState


class PlainTape:
    """Steps of any rule, differentiated by autograd where it is enabled."""

    def __init__(self, rule: Rule, state: RuleState) -> None:
        self.rule, self.state = rule, state
        self._updates: list[Tensor] = []

    def __call__(self, inputs: RuleInput) -> Tensor:
        update, self.state = self.rule(inputs, self.state)
        if torch.is_grad_enabled():
            self._updates.append(update)
        return update

    def updates(self) -> Tensor:
        """All updates so far (U, ..., n) that were taken with gradients enabled."""
        return torch.stack(self._updates)


def unroll(
    tape: Tape, problems: Problems, state: InnerState, window: Window, second_order: bool = False
) -> Iterator[Point]:
    """Walk U inner steps over U+1 points; each costs one forward and backward pass of the optimizee.

    A problem whose loss or gradient is not finite stays where it is as far as its rule leaves a zero gradient alone.

    Args:
        tape: takes the rule's steps.
        problems: the optimizee, B problems.
        state: where they stand.
        window: its batches are walked through; its instances serve resets alone, see ``reset_problems``.
        second_order: keep the graph of the optimizee's gradients.
    """
    theta = state.theta  # (B, n)
    for t in range(window.unroll + 1):
        loss, grad, alive = problems.evaluate(theta, window.data(t, state.instance), second_order)
        yield Point(theta, loss, grad, alive)
        if t < window.unroll:
            inputs = RuleInput(theta, grad, loss, state.age + t, state.total, problems.layout)
            theta = theta + tape(inputs)  # (B, n)


def state_after(
    state: InnerState, rule_state: RuleState, theta: Tensor, alive: Sequence[Tensor] | Tensor
) -> InnerState:
    """Where problems stand that were at ``state`` when the window began, detached.

    Args:
        state: at the window's start.
        rule_state: after its last step.
        theta: (B, n) at its last point.
        alive: (U+1, B) bool, of all its points.
    """
    alive = torch.stack(list(alive)) if not isinstance(alive, Tensor) else alive
    theta = theta.detach()
    return replace(
        state,
        theta=theta,
        rule={name: leaf.detach() for name, leaf in rule_state.items()},
        age=state.age + len(alive) - 1,
        diverged=state.diverged | ~alive.all(0) | ~theta.isfinite().all(-1),
    )


@torch.no_grad()
def advance(rule: Rule, problems: Problems, state: InnerState, window: Window) -> tuple[Tensor, InnerState]:
    """Walk through a window without any gradient of phi: losses (U+1, B) and the next state."""
    fast = rule.tape(state.rule, problems.layout, None) if rule.scope == "coordinate" else None
    tape = fast or PlainTape(rule, state.rule)
    losses, alives = [], []
    for point in unroll(tape, problems, state, window):
        losses.append(point.loss)
        alives.append(point.alive)
    return torch.stack(losses), state_after(state, tape.state, point.theta, alives)
