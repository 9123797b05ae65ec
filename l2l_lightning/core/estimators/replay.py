"""The meta-gradient from steps taken once more, for some of the coordinates or block by block."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from l2l_lightning.core.rule import CoordinatewiseRule, RuleInput
from l2l_lightning.core.sampling import Coordinates, CoordinateSample
from l2l_lightning.core.state import InnerState

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
    rule: CoordinatewiseRule,
    state: InnerState,
    losses: Tensor,
    grads: Tensor,
    weights: Tensor,
    sample: CoordinateSample | None,
) -> tuple[list[Tensor], list[Tensor]]:
    """The rule's parameters that its steps depend on, and the meta-gradient with respect to them.

    Beside the gradients it takes the memory of one block of coordinates, whatever n is.

    Args:
        rule: a coordinatewise rule.
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
        coordinates: Coordinates = block if sample is None else sample.coordinates[block]
        steps = _take_steps(rule, state, coordinates, losses, grads[..., block])
        if not steps.requires_grad:  # coordinates of a rule without parameters
            continue
        slope = slopes(grads[..., block], weights)
        if sample is not None:
            slope *= sample.weight[block]
        for parameter, found in zip(phi, torch.autograd.grad(steps, phi, slope, allow_unused=True), strict=True):
            if found is not None:
                total[parameter] = total[parameter] + found if parameter in total else found
    return list(total), list(total.values())


def _take_steps(
    whole: CoordinatewiseRule, state: InnerState, coordinates: Coordinates, losses: Tensor, grads: Tensor
) -> Tensor:
    """The steps (U, B, m) of some coordinates, with a graph."""
    rule, rule_state = whole.subset(state.rule, coordinates)
    theta, taken = state.theta[..., coordinates], []
    record = rule.record(rule_state, len(grads) - 1)
    with torch.set_grad_enabled(record is None):
        for t in range(len(grads) - 1):
            inputs = RuleInput(theta, grads[t], losses[t], state.age + t)
            if record is not None:
                step = record(inputs)
            else:
                step, rule_state = rule(inputs, rule_state)
                taken.append(step)
            theta = theta + step
    return torch.stack(taken) if record is None else record.steps()
