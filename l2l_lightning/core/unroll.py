"""The inner loop of one window and its meta-gradient."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from l2l_lightning.core.estimators.replay import WithGradient, replay, slopes
from l2l_lightning.core.objective import Objective
from l2l_lightning.core.problems import Problems, nested
from l2l_lightning.core.rule import Rule, RuleInput
from l2l_lightning.core.sampling import CoordinateSample, check_sampled
from l2l_lightning.core.state import InnerState
from l2l_lightning.core.window import Data, Window

ONE_PASS = 2**19  # rows (problems x coordinates) times steps whose graph is kept during the walk


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
    sample: CoordinateSample | None = None,
) -> Unrolled:
    """Walk U inner steps over U+1 points; every point costs one forward and backward pass of the optimizee.

    With second derivatives dropped (section 2.1 of Andrychowicz et al. 2016), theta_t is theta_0 plus the rule's steps
    and every gradient is a constant, so the gradient of the meta-loss sum_t w_t f(theta_t) with respect to phi is that
    of sum_s <slope_s, step_s(phi)>, where slope_s = sum_{t > s} w_t grad_t: the gradient that feeds the rule serves the
    meta-loss too.

    The sum runs over coordinates. Where the rule is ``coordinatewise``, the walk may therefore keep no graph, and
    ``replay`` repeats the steps of a sample of the coordinates, or of one block of them after another.

    In the ``forward`` of an optimizee (``MetaTrainingProblem``) the whole graph is kept, for the levels above.

    A point whose loss or gradient is not finite counts neither in the meta-loss nor in its gradient, the rule sees a
    zero gradient there, and the problem is marked as diverged; so is one whose theta is not finite at the end.

    Args:
        rule: a pure update rule, (RuleInput, state) -> (step (B, n), state).
        problems: the B problems.
        state: where they stand.
        window: instances are ignored here (see ``reset_problems``); its batches are walked through.
        objective: weights and transform of the meta-loss.
        second_order: differentiate through the optimizees' gradients as well.
        sample: coordinates that stand for all of them in the meta-gradient; every coordinate moves all the same.

    Raises:
        InputError: for a sample where the rule is not ``coordinatewise``, or with ``second_order``.
    """
    if sample is not None:
        check_sampled(rule, second_order)
    coordinatewise = getattr(rule, "coordinatewise", False)
    learns = torch.is_grad_enabled()
    inside = nested()
    graph_of_all = second_order or inside or not coordinatewise
    large = state.theta.numel() * window.unroll > ONE_PASS
    replays = learns and not graph_of_all and (large or sample is not None)
    way_back = window.unroll if learns and not replays else None
    record = None if graph_of_all else rule.record(state.rule, way_back)  # type: ignore[attr-defined]
    keeps_graph = learns and not replays and record is None

    theta, rule_state = state.theta, state.rule
    steps: list[Tensor] = []
    losses: list[Tensor] = []
    grads: list[Tensor] = []
    alives: list[Tensor] = []
    with torch.set_grad_enabled(keeps_graph):
        for t in range(window.unroll + 1):
            data = window.data(t, state.instance)
            seen = _alive_part(theta, problems, data) if second_order and inside else theta.view_as(theta)
            loss, grad = problems.losses_and_grads(seen, data, create_graph=second_order)
            alive = _finite(loss, grad)
            if second_order and seen.requires_grad:
                # A masked inf would still give 0 * inf = nan on its way back through the optimizee.
                seen.register_hook(lambda g, alive=alive: torch.where(alive, g, 0.0))
            grad = torch.where(alive, grad, 0.0)
            losses.append(loss)
            alives.append(alive.squeeze(-1))
            if learns and not second_order:
                grads.append(grad if sample is None else grad[..., sample.coordinates])
            if t < window.unroll:
                inputs = RuleInput(theta, grad, loss, state.age + t)
                if record is not None:
                    step = record(inputs)
                else:
                    step, rule_state = rule(inputs, rule_state)
                if keeps_graph:
                    steps.append(step)
                theta = theta + step

    curve, alive = torch.stack(losses), torch.stack(alives)  # (U+1, B)
    weights = torch.where(alive, objective.point_weights(window.unroll, theta).unsqueeze(-1), 0.0)
    counted = torch.where(alive, curve, 1.0)
    # The mean over the problems that count; 0/0 where none is left, which the caller sees as a meta-loss of nan.
    weights = weights / weights.sum()
    meta_loss = (weights * objective.value(counted)).sum()
    if learns and second_order and (theta.requires_grad or inside):
        # Where no problem counts, masks make a gradient of 0 of it; it shall be nan, as the meta-loss is.
        meta_loss = WithGradient.apply(meta_loss, (0 * weights.sum()).expand_as(theta), theta)
    elif learns and not second_order:
        weights = weights * objective.slope(counted)
        if replays:
            phi, gradients = replay(rule, state, curve, torch.stack(grads), weights, sample)  # type: ignore[arg-type]
            meta_loss = WithGradient.apply(meta_loss, *gradients, *phi)
        else:
            taken = torch.stack(steps) if record is None else record.steps()
            slope = slopes(torch.stack(grads), weights)
            if sample is not None:
                taken, slope = taken[..., sample.coordinates], slope * sample.weight
            if taken.requires_grad or inside:
                meta_loss = WithGradient.apply(meta_loss, slope, taken)
    end = replace(
        state,
        theta=theta.detach(),
        rule={name: leaf.detach() for name, leaf in (record.state if record else rule_state).items()},
        age=state.age + window.unroll,
        diverged=state.diverged | ~alive.all(0) | ~theta.detach().isfinite().all(-1),
    )
    return Unrolled(meta_loss, curve.detach(), end)


def _finite(loss: Tensor, grad: Tensor) -> Tensor:
    """(B, 1) bool from losses (B,) and gradients (B, n), whose largest magnitude is nan or inf where any other is."""
    return (grad.detach().abs().amax(-1) + loss.detach().abs() < torch.inf).unsqueeze(-1)


def _alive_part(theta: Tensor, problems: Problems, data: Data) -> Tensor:
    """theta (B, n) without a graph where losses or gradients are not finite, found where no hook could mask them."""
    loss, grad = problems.losses_and_grads(theta, data)
    return torch.where(_finite(loss, grad), theta, theta.detach())
