"""The inner loop of one window and its meta-gradient."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from l2l_lightning.core.objective import Objective
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.state import InnerState, RuleState
from l2l_lightning.core.window import Window


class RuleInput(NamedTuple):
    """Everything an update rule may look at.

    Attributes:
        theta: (..., n) coordinates.
        grad: (..., n) gradient at theta, detached unless second derivatives are kept.
        loss: (...) loss at theta, None where the caller has none.
        step: (...) int64, inner steps since the reset.
    """

    theta: Tensor
    grad: Tensor
    loss: Tensor | None
    step: Tensor


Rule = Callable[[RuleInput, RuleState], tuple[Tensor, RuleState]]


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


def unroll(
    rule: Rule,
    problems: Problems,
    state: InnerState,
    window: Window,
    objective: Objective,
    second_order: bool = False,
) -> Unrolled:
    """Walk U inner steps over U+1 points; every point costs one forward and backward pass of the optimizee.

    With second derivatives dropped (section 2.1 of Andrychowicz et al. 2016), theta_t is theta_0 plus the rule's steps
    and every gradient is a constant, so the gradient of the meta-loss sum_t w_t f(theta_t) with respect to phi is that
    of the surrogate sum_t w_t <grad_t, theta_t(phi)>: the gradient that feeds the rule serves the meta-loss too.

    A point whose loss or gradient is not finite counts neither in the meta-loss nor in its gradient, the rule sees a
    zero gradient there, and the problem is marked as diverged.

    Args:
        rule: a pure update rule, (RuleInput, state) -> (step (B, n), state).
        problems: the B problems.
        state: where they stand.
        window: instances are ignored here (see ``reset_problems``); its batches are walked through.
        objective: weights and transform of the meta-loss.
        second_order: differentiate through the optimizees' gradients as well.
    """
    theta, rule_state = state.theta, state.rule
    thetas: list[Tensor] = []
    grads: list[Tensor] = []
    losses: list[Tensor] = []
    alives: list[Tensor] = []
    for t in range(window.unroll + 1):
        seen = theta.view_as(theta)
        loss, grad = problems.losses_and_grads(seen, window.data(t, state.instance), create_graph=second_order)
        # The largest magnitude is nan or inf where any coordinate is.
        alive = (grad.detach().abs().amax(-1) + loss.detach().abs() < torch.inf).unsqueeze(-1)
        if second_order and seen.requires_grad:
            # A masked inf would still give 0 * inf = nan on its way back through the optimizee.
            seen.register_hook(lambda g, alive=alive: torch.where(alive, g, 0.0))
        grad = torch.where(alive, grad, 0.0)
        thetas.append(torch.where(alive, theta, 0.0))
        grads.append(grad)
        losses.append(loss)
        alives.append(alive.squeeze(-1))
        if t < window.unroll:
            step, rule_state = rule(RuleInput(theta, grad, loss, state.age + t), rule_state)
            theta = theta + step

    curve, alive = torch.stack(losses), torch.stack(alives)  # (U+1, B)
    weights = torch.where(alive, theta.new_tensor(objective.point_weights(window.unroll)).unsqueeze(-1), 0.0)
    counted = torch.where(alive, curve, 1.0)
    total = (weights * objective.value(counted)).sum()
    if not second_order:
        slopes = weights * objective.slope(counted)
        surrogate = (slopes.unsqueeze(-1) * torch.stack(grads) * torch.stack(thetas)).sum()
        total = total + surrogate - surrogate.detach()
    # The mean over the problems that count; 0/0 where none is left, which the caller sees as a meta-loss of nan.
    meta_loss = total / weights.sum()
    end = replace(
        state,
        theta=theta.detach(),
        rule={name: leaf.detach() for name, leaf in rule_state.items()},
        age=state.age + window.unroll,
        diverged=state.diverged | ~alive.all(0),
    )
    return Unrolled(meta_loss, curve.detach(), end)
