"""Checks that authors of plug-ins call from a test of their own."""

import torch
from torch import Tensor
from torch.func import functional_call

from l2l_lightning.core.errors import InputError
from l2l_lightning.core.objective import Objective
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.random import Split, keyed_generator
from l2l_lightning.core.state import fresh_state
from l2l_lightning.core.unroll import unroll
from l2l_lightning.core.window import Window
from l2l_lightning.data.base import ProblemDataModule
from l2l_lightning.optimizees.base import OptimizeeModule
from l2l_lightning.rules import Adam


def check_optimizee(optimizee: OptimizeeModule, data: ProblemDataModule, windows: int = 5) -> None:
    """Hold an optimizee against what the project expects of one, on the problems of a DataModule.

    Initial parameters come from the given generator alone. The forward pass changes no state and gives the same finite
    scalar for problems side by side as for one at a time. The gradient agrees with finite differences in double
    precision. Metrics are scalars. Adam, at one learning rate of 1e-3, 1e-2, 0.1 and 1, lowers the mean loss.

    Args:
        optimizee: the optimizee; it is left as it was.
        data: a DataModule for it, with few problems and without gradient noise, which no finite difference knows of.
        windows: windows that Adam walks through.

    Raises:
        AssertionError: what does not hold, in one sentence.
        InputError: for fewer windows than one, or noisy gradients.
    """
    if windows < 1:
        raise InputError(f"check_optimizee: windows must be a positive integer, got {windows!r}.")
    if getattr(data, "gradient_noise", 0):
        raise InputError("check_optimizee: the DataModule's gradient_noise must be 0.")
    data.prepare_data()
    data.setup("fit")
    data.bind(optimizee)
    name = type(optimizee).__name__
    first, *others = (data.window(Split.TRAIN, index)._replace(prepare=data.prepare) for index in range(windows))
    problems = Problems(optimizee)
    _check_reset(problems, name)
    _check_forward(problems, first, name)
    _check_gradient(optimizee, first, name)
    _check_metrics(problems, data, name)
    _check_descent(problems, [first, *others], name)


def _check_reset(problems: Problems, name: str) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    theta = problems.draw(2, keyed_generator(1))
    assert torch.equal(before, torch.get_rng_state()), f"{name}.reset_parameters draws from torch's global generator."
    torch.manual_seed(1)
    again = problems.draw(2, keyed_generator(1))
    assert torch.equal(theta, again), f"{name}.reset_parameters draws from something else than its generator."
    assert torch.isfinite(theta).all(), f"{name}.reset_parameters gives values that are not finite."


def _check_forward(problems: Problems, window: Window, name: str) -> None:
    theta, data = problems.draw(window.problems, keyed_generator(1)), window.data(0, window.instance)
    state = {key: value.clone() for key, value in problems.template.named_buffers()}
    losses = problems.losses(theta, data)
    assert torch.isfinite(losses).all(), f"{name}'s loss is not finite at its initial parameters."
    for b in range(window.problems):
        parameters = problems.layout.unflatten(theta[b])
        alone = functional_call(problems.template, parameters, ({key: leaf[b] for key, leaf in data.items()},))
        assert torch.allclose(alone, losses[b], rtol=1e-4, atol=1e-6), (
            f"{name}'s loss of a problem depends on the problems beside it: {float(losses[b])} against {float(alone)}."
        )
    for key, value in problems.template.named_buffers():
        assert torch.equal(value, state[key]), f"{name}.forward changes its buffer {key}."


def _check_gradient(optimizee: OptimizeeModule, window: Window, name: str) -> None:
    problems = Problems(optimizee)
    problems.to("cpu", torch.float64)
    theta = problems.draw(window.problems, keyed_generator(1))
    data = {key: _double(leaf) for key, leaf in window.data(0, window.instance).items()}
    _, grads = problems.losses_and_grads(theta, data)
    random = torch.randn(theta.shape, generator=keyed_generator(2), dtype=torch.float64)
    direction = _unit(grads) + _unit(random)
    exact, step = (grads * direction).sum(-1), 1e-6
    around = [problems.losses(theta + sign * step * direction, data) for sign in (1, -1)]
    found = (around[0] - around[1]) / (2 * step)
    assert torch.allclose(exact, found, rtol=1e-3, atol=1e-5), (
        f"{name}'s gradient is not that of its loss: slope {exact.tolist()}, by finite differences {found.tolist()}."
    )


def _check_metrics(problems: Problems, data: ProblemDataModule, name: str) -> None:
    theta = problems.draw(2, keyed_generator(1))
    for batch in data.held_out_data(Split.VALIDATION, problems.device):
        for key, values in problems.metrics(theta, batch).items():
            assert values.shape == (2,), f"{name}'s metric {key} is no scalar but has shape {tuple(values.shape[1:])}."
        break


def _check_descent(problems: Problems, windows: list[Window], name: str) -> None:
    reached = []
    for rate in (1e-3, 1e-2, 0.1, 1.0):
        rule = Adam(lr=rate)
        theta = problems.draw(windows[0].problems, keyed_generator(1))
        forever = torch.full((len(theta),), torch.iinfo(torch.int64).max)
        state = fresh_state(theta, rule.init_state(theta), windows[0].instance, forever)
        curves = []
        for window in windows:
            walked = unroll(rule, problems, state, window, Objective())
            state = walked.state
            curves.append(walked.curve.mean(1))
        first, last = float(curves[0][0]), float(curves[-1][-1])
        if last < first:
            return
        reached.append(last)
    raise AssertionError(f"Adam does not lower {name}'s loss: {first:.6g} at first, {min(reached):.6g} at best.")


def _double(leaf: Tensor) -> Tensor:
    return leaf.double() if leaf.is_floating_point() else leaf


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)


__all__ = ["check_optimizee"]
