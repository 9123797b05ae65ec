"""The meta-gradient by backpropagation through the rule's steps."""

import torch
from torch import Tensor

from l2l_lightning.core.errors import check_positive_int
from l2l_lightning.core.estimators.base import Estimator, EstimatorState
from l2l_lightning.core.estimators.replay import WithGradient, replay, slopes
from l2l_lightning.core.objective import Objective
from l2l_lightning.core.problems import Problems, nested
from l2l_lightning.core.rule import Rule
from l2l_lightning.core.sampling import CoordinateSample, check_sampled, sample_coordinates
from l2l_lightning.core.state import InnerState
from l2l_lightning.core.unroll import PlainTape, Unrolled, state_after, unroll
from l2l_lightning.core.window import Window

ONE_PASS = 2**19  # rows (problems x coordinates) times steps whose graph is kept during the walk


class Backpropagation(Estimator):
    """Truncated backpropagation through time (Andrychowicz et al. 2016, section 2.1).

    Args:
        second_order: differentiate through the optimizees' gradients; slower, and rarely better.
        meta_coordinates: take the meta-gradient from about this many coordinates of every problem, drawn anew for each
            window, while all of them move: unbiased for rules of scope "coordinate", and much faster on large
            optimizees.

    Raises:
        InputError: for a number that is not a positive integer, or both options at once.
    """

    def __init__(self, second_order: bool = False, meta_coordinates: int | None = None) -> None:
        if meta_coordinates is not None:
            check_positive_int(self, meta_coordinates=meta_coordinates)
        self.second_order, self.meta_coordinates = second_order, meta_coordinates

    def check(self, rule: Rule) -> None:
        if self.meta_coordinates is not None:
            check_sampled(rule, self.second_order)

    def window(
        self,
        rule: Rule,
        problems: Problems,
        inner: InnerState,
        window: Window,
        objective: Objective,
        state: EstimatorState,
        generator: torch.Generator,
    ) -> tuple[Unrolled, EstimatorState]:
        sample = None
        if self.meta_coordinates is not None and self.meta_coordinates < problems.layout.n:
            sample = sample_coordinates(problems.layout, self.meta_coordinates, generator)
        return backpropagate(rule, problems, inner, window, objective, self.second_order, sample), state


def backpropagate(
    rule: Rule,
    problems: Problems,
    state: InnerState,
    window: Window,
    objective: Objective,
    second_order: bool = False,
    sample: CoordinateSample | None = None,
) -> Unrolled:
    """Walk through a window; phi's gradient comes with the meta-loss if gradients are enabled.

    With second derivatives dropped, theta_t is theta_0 plus the rule's updates and every gradient is a constant, so the
    gradient of the meta-loss sum_t w_t f(theta_t) with respect to phi is that of sum_s <slope_s, update_s(phi)>, where
    slope_s = sum_{t > s} w_t grad_t: the gradient that feeds the rule serves the meta-loss too.

    The sum runs over coordinates. For a rule of scope "coordinate" the walk may therefore keep no graph, and ``replay``
    repeats the steps of a sample of the coordinates, or of one block of them after another. Inside another optimizee
    (``MetaTrainingProblem``) the whole graph is kept, for the levels above.

    A point whose loss or gradient is not finite counts neither in the meta-loss nor in its gradient, the rule sees a
    zero gradient there, and the problem is marked as diverged; so is one whose theta is not finite at the end.

    Raises:
        InputError: for a sample where the rule's scope is not "coordinate", or with ``second_order``.
    """
    if sample is not None:
        check_sampled(rule, second_order)
    learns, inside = torch.is_grad_enabled(), nested()
    cuttable = rule.scope == "coordinate" and not second_order and not inside
    large = state.theta.numel() * window.unroll > ONE_PASS
    replays = learns and cuttable and (large or sample is not None)
    backward = window.unroll if learns and not replays else None
    fast = rule.tape(state.rule, problems.layout, backward) if cuttable else None
    tape = fast or PlainTape(rule, state.rule)

    losses, grads, alives = [], [], []
    with torch.set_grad_enabled(learns and not replays and fast is None):
        for point in unroll(tape, problems, state, window, second_order):
            losses.append(point.loss)
            alives.append(point.alive)
            if learns and not second_order:
                grads.append(point.grad if sample is None else point.grad[..., sample.coordinates])

    curve, alive = torch.stack(losses), torch.stack(alives)  # (U+1, B)
    meta_loss, weights = weighted(objective, curve, alive)
    if learns and second_order and (point.theta.requires_grad or inside):
        # Where no problem counts, masks make a gradient of 0 of it; it shall be nan, as the meta-loss is.
        meta_loss = WithGradient.apply(meta_loss, (0 * weights.sum()).expand_as(point.theta), point.theta)
    elif replays:
        gradients = replay(rule, problems.layout, state, curve, torch.stack(grads), weights, sample)
        meta_loss = WithGradient.apply(meta_loss, *gradients.values(), *gradients)
    elif learns and not second_order:
        updates = tape.updates()  # (U, B, n)
        slope = slopes(torch.stack(grads), weights)
        if updates.requires_grad or inside:
            meta_loss = WithGradient.apply(meta_loss, slope, updates)
    return Unrolled(meta_loss, curve.detach(), state_after(state, tape.state, point.theta, alive))


def weighted(objective: Objective, curve: Tensor, alive: Tensor) -> tuple[Tensor, Tensor]:
    """The mean meta-loss of the problems that count, and its derivatives (U+1, B) with respect to the curve.

    Args:
        objective: weights w_t and transform.
        curve: (U+1, B) losses.
        alive: (U+1, B) bool, the points that count; where none does the meta-loss is nan.
    """
    weights = torch.where(alive, objective.point_weights(len(curve) - 1, curve).unsqueeze(-1), 0.0)  # (U+1, B)
    weights = weights / weights.sum()
    counted = torch.where(alive, curve, 1.0)
    return (weights * objective.value(counted)).sum(), weights * objective.slope(counted)
