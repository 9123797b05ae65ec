"""The meta-gradient from steps taken once more, for some of the coordinates or block by block."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from l2l_lightning.core.coordinates import CoordinateLayout
from l2l_lightning.core.rule import Rule, RuleInput
from l2l_lightning.core.sampling import Coordinates, CoordinateSample
from l2l_lightning.core.state import InnerState
from l2l_lightning.core.unroll import PlainTape

BLOCK = 2**17  # rows (problems x coordinates) times steps of one block


class WithGradient(torch.autograd.Function):
    """A value whose gradients with respect to other tensors are known: (value, *gradients, *tensors) -> value."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, *pairs: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[1 : 1 + len(inputs) // 2])

    @staticmethod
    def backward(ctx: FunctionCtx, dvalue: Tensor) -> tuple[Tensor | None, ...]:
        gradients: tuple[Tensor, ...] = ctx.saved_tensors  # type: ignore[attr-defined]
        return dvalue, *[None] * len(gradients), *(dvalue * gradient for gradient in gradients)


def slopes(grads: Tensor, weights: Tensor) -> Tensor:
    """What a step s = 0 ... U-1 adds to the meta-loss: sum_{t > s} w_t grad_t, (U, B, n).

    Args:
        grads: (U+1, B, n) at the points of the window.
        weights: (U+1, B) of the points, derivatives of the objective's transform included.
    """
    sums = weights[1:].unsqueeze(-1) * grads[1:]
    for step in reversed(range(len(sums) - 1)):
        sums[step] += sums[step + 1]
    return sums


def replay(
    rule: Rule,
    layout: CoordinateLayout,
    state: InnerState,
    losses: Tensor,
    grads: Tensor,
    weights: Tensor,
    sample: CoordinateSample | None,
) -> dict[Tensor, Tensor]:
    """The rule's parameters that its steps depend on, and the meta-gradient with respect to each.

    Beside the gradients it takes the memory of one block of coordinates, whatever n is.

    Args:
        rule: a rule of scope "coordinate".
        layout: of all coordinates.
        state: where the window started.
        losses: (U+1, B) at its points.
        grads: (U+1, B, n) at its points, or (U+1, B, m) of the sample's coordinates.
        weights: (U+1, B) of its points, see ``slopes``.
        sample: the m coordinates, None for all of them.
    """
    phi = [parameter for parameter in rule.parameters() if parameter.requires_grad]
    total: dict[Tensor, Tensor] = {}
    points, problems, count = grads.shape
    width = max(1, BLOCK // (problems * (points - 1)))
    for start in range(0, count, width):
        block = slice(start, start + width)
        if sample is None:
            some = Coordinates(block, layout.cut(block))
        else:
            some = Coordinates(sample.coordinates[block], sample.layout.cut(block))
        steps = _take_steps(rule, layout, state, some, losses, grads[..., block])  # (U, B, width)
        if not steps.requires_grad:  # coordinates of a rule without parameters
            continue
        slope = slopes(grads[..., block], weights)
        if sample is not None:
            slope *= sample.weight[block]
        for parameter, found in zip(phi, torch.autograd.grad(steps, phi, slope, allow_unused=True), strict=True):
            if found is not None:
                total[parameter] = total[parameter] + found if parameter in total else found
    return total


def _take_steps(
    rule: Rule, layout: CoordinateLayout, state: InnerState, some: Coordinates, losses: Tensor, grads: Tensor
) -> Tensor:
    """The updates (U, B, m) of some coordinates, with a graph."""
    rule_state, theta, steps = rule.subset(state.rule, layout, some), state.theta[..., some.chosen], len(grads) - 1
    fast = rule.tape(rule_state, some.layout, steps)
    tape = fast or PlainTape(rule, rule_state)
    with torch.set_grad_enabled(fast is None):
        for t in range(steps):
            inputs = RuleInput(theta, grads[t], losses[t], state.age + t, state.total, some.layout)
            theta = theta + tape(inputs)  # (B, m)
    return tape.updates()
