"""Checks that authors of plug-ins call from a test of their own."""

import torch
from torch import Tensor, nn
from torch.func import functional_call

from l2l_lightning.core.coordinates import CoordinateLayout
from l2l_lightning.core.errors import InputError
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.random import Split, keyed_generator
from l2l_lightning.core.rule import RuleInput
from l2l_lightning.core.state import check_rule_state, fresh_state
from l2l_lightning.core.unroll import advance
from l2l_lightning.core.window import Window
from l2l_lightning.data.base import ProblemDataModule, check_drawn
from l2l_lightning.files.description import describe
from l2l_lightning.optimizees.base import OptimizeeModule
from l2l_lightning.rules import Adam, UpdateRule


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
        state = fresh_state(theta, rule.init_state(theta, problems.layout), windows[0].instance, forever)
        curves = []
        for window in windows:
            curve, state = advance(rule, problems, state, window)
            curves.append(curve.mean(1))
        first, last = float(curves[0][0]), float(curves[-1][-1])
        if last < first:
            return
        reached.append(last)
    raise AssertionError(f"Adam does not lower {name}'s loss: {first:.6g} at first, {min(reached):.6g} at best.")


def _double(leaf: Tensor) -> Tensor:
    return leaf.double() if leaf.is_floating_point() else leaf


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)


def check_rule(rule: UpdateRule, steps: int = 5) -> None:
    """Hold an update rule against what the project expects of one, on random gradients of three problems.

    ``init_state`` gives a dictionary of tensors with the problems in their last but one dimension. ``forward`` returns
    an update, which is to be added to theta, and the new state, with leaves of the same names and shapes; it changes
    neither its inputs nor the rule, and gives the same again. Problems do not disturb each other. A rule of scope
    "coordinate" treats coordinates alone as it treats them together, and one of scope "tensor" tensors. Rates side by
    side are those one by one. Arguments are kept as attributes, and trainable parameters reach the update.

    Args:
        rule: the rule; it is left as it was.
        steps: inner steps of each check.

    Raises:
        AssertionError: what does not hold, in one sentence.
        InputError: for leaves without the dimension of problems, or an argument that is not kept.
    """
    name = type(rule).__name__
    describe(rule)
    layout = CoordinateLayout.of(nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)))
    walk = _RuleWalk(rule, layout, steps)
    _check_rule_shapes(walk, name)
    updates = walk()[1]  # (T, B, n)
    assert torch.equal(walk()[1], updates), f"{name} keeps something between calls, or draws random numbers of its own."
    assert updates.isfinite().all(), f"{name}'s updates are not finite for ordinary gradients."
    _check_is_update(walk, updates, name)
    for b in range(PROBLEMS):
        alone = walk(problems=slice(b, b + 1))[1]
        assert _close(alone, updates[:, b : b + 1]), f"{name}'s update of a problem depends on the problems beside it."
    _check_scope(walk, updates, name)
    _check_rates(walk, name)
    _check_phi(walk, name)


PROBLEMS = 3


class _RuleWalk:
    """Steps of a rule from a random theta with random gradients, of all problems and coordinates or of some."""

    def __init__(self, rule: UpdateRule, layout: CoordinateLayout, steps: int) -> None:
        self.rule, self.layout, self.steps = rule, layout, steps
        generator = keyed_generator(3)
        self.theta = torch.randn(PROBLEMS, layout.n, generator=generator)  # (B, n)
        self.grads = torch.randn(steps, PROBLEMS, layout.n, generator=generator)  # (T, B, n)
        self.losses = 1 + torch.rand(steps, PROBLEMS, generator=generator)  # (T, B)

    def __call__(
        self,
        rule: UpdateRule | None = None,
        problems: slice = slice(None),
        coordinates: slice = slice(None),
        layout: CoordinateLayout | None = None,
        shift: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """theta (B, n) at the end and the updates (T, B, n)."""
        rule, layout = rule or self.rule, layout or self.layout
        theta = self.theta[problems, coordinates] + shift
        total = torch.full((len(theta),), float(self.steps))
        state, updates = rule.init_state(theta, layout), []
        for t in range(self.steps):
            ages = torch.full((len(theta),), t)
            grad, loss = self.grads[t, problems, coordinates], self.losses[t, problems]
            update, state = rule(RuleInput(theta, grad, loss, ages, total, layout), state)
            updates.append(update)
            theta = theta + update
        return theta, torch.stack(updates)


def _check_rule_shapes(walk: _RuleWalk, name: str) -> None:
    rule, theta = walk.rule, walk.theta
    state = rule.init_state(theta, walk.layout)
    assert isinstance(state, dict), (
        f"{name}.init_state must return a dictionary of tensors, got {type(state).__name__}."
    )
    check_rule_state(name, state, PROBLEMS)
    before = {leaf: value.clone() for leaf, value in state.items()}
    inputs = RuleInput(
        theta,
        walk.grads[0],
        walk.losses[0],
        torch.zeros(PROBLEMS, dtype=torch.int64),
        torch.zeros(PROBLEMS),
        walk.layout,
    )
    answer = rule(inputs, state)
    pair = isinstance(answer, tuple) and len(answer) == 2
    assert pair, f"{name}.forward must return two things, the update and the new state, got {type(answer).__name__}."
    update, new_state = answer
    fits = isinstance(update, Tensor) and update.shape == theta.shape
    assert fits, (
        f"{name}.forward must return an update of theta's shape {tuple(theta.shape)}, got "
        f"{tuple(update.shape) if isinstance(update, Tensor) else type(update).__name__}."
    )
    shapes = {leaf: tuple(value.shape) for leaf, value in before.items()}
    found = {leaf: tuple(value.shape) for leaf, value in new_state.items()}
    assert found == shapes, f"{name}.forward must return the leaves of init_state, {shapes}, got {found}."
    for leaf, value in before.items():
        assert torch.equal(state[leaf], value), f"{name}.forward writes into the old state's leaf {leaf!r}."


def _check_is_update(walk: _RuleWalk, updates: Tensor, name: str) -> None:
    """Far from the origin, an update that holds theta itself is large."""
    far = walk(shift=1000.0)[1]
    assert (far - updates).abs().max() < 500, (
        f"{name}.forward seems to return the new theta; it must return the update, which is added to theta."
    )


def _check_scope(walk: _RuleWalk, updates: Tensor, name: str) -> None:
    layout = walk.layout
    parts = {
        "coordinate": [slice(i, i + 1) for i in range(layout.n)],
        "tensor": [where for _, where, _ in layout.slices],
    }
    for part in parts.get(walk.rule.scope, []):
        alone = walk(coordinates=part, layout=layout.cut(part))[1]
        assert _close(alone, updates[..., part]), (
            f"{name} says that its scope is {walk.rule.scope!r}, but an update depends on other {walk.rule.scope}s; "
            'set scope = "tensor" or "problem".'
        )


def _check_rates(walk: _RuleWalk, name: str) -> None:
    if walk.rule.rate_argument is None:
        return
    rates = torch.tensor([0.001, 0.01, 0.1])
    together = walk(rule=walk.rule.with_rates(rates))[1]
    for b, rate in enumerate(rates.tolist()):
        alone = walk(rule=walk.rule.with_rate(rate))[1][:, b]
        assert _close(alone, together[:, b]), (
            f"{name}: with a column of rates (B, 1) in self.{walk.rule.rate_argument} a problem moves otherwise than "
            "with its rate alone; use the argument in tensor operations only."
        )


def _check_phi(walk: _RuleWalk, name: str) -> None:
    phi = {key: value for key, value in walk.rule.named_parameters() if value.requires_grad}
    if phi:
        updates = walk()[1]
        assert updates.requires_grad, f"{name}'s updates do not depend on its parameters {', '.join(phi)}."


def _close(left: Tensor, right: Tensor) -> bool:
    return torch.allclose(left, right, rtol=1e-3, atol=1e-5 * max(1.0, float(right.detach().abs().max())))


def check_data(data: ProblemDataModule, optimizee: OptimizeeModule) -> None:
    """Hold a DataModule against what the project expects of one, with the optimizee that reads its data.

    ``draw`` takes its random numbers from its generator alone. Instances have the problems in their first dimension,
    batches the U+1 points in their first and the problems in their second. Batches fit the instance in use: a problem
    keeps its instance until it restarts, while its batches are drawn anew for every window, so what defines a problem
    (such as a teacher) belongs into the instance, and targets that depend on it are computed in the optimizee's
    forward.

    Args:
        data: the DataModule, of a few problems.
        optimizee: reads its data; it is left as it was.

    Raises:
        AssertionError: what does not hold, in one sentence.
        InputError: for anything but two dictionaries of leaves of these shapes.
    """
    data.prepare_data()
    data.setup("fit")
    data.bind(optimizee)
    name, count = type(data).__name__, data.problems
    torch.manual_seed(0)
    before = torch.get_rng_state()
    drawn = data.draw(keyed_generator(1), count)
    check_drawn(data, drawn, count)
    assert torch.equal(before, torch.get_rng_state()), f"{name}.draw draws from torch's global generator."
    for part, again in zip(drawn, data.draw(keyed_generator(1), count), strict=True):
        same = part.keys() == again.keys() and all(torch.equal(leaf, again[key]) for key, leaf in part.items())
        assert same, f"{name}.draw draws from something else than its generator."
    if drawn[1]:
        _check_stays_the_same_problem(data, optimizee, name)


THETAS = 32
SAME = 6.0  # times the variation within a window; about 0.5 is expected of problems that stay the same


def _check_stays_the_same_problem(data: ProblemDataModule, optimizee: OptimizeeModule, name: str) -> None:
    """Losses of the same theta vary from window to window no more than the points of one window explain."""
    problems = Problems(optimizee)
    windows = [data.window(Split.TRAIN, index)._replace(prepare=data.prepare) for index in (0, 1)]
    instance, losses = windows[0].instance, []
    for draw in range(THETAS):
        theta = problems.draw(1, keyed_generator(2, draw)).repeat(windows[0].problems, 1)
        at_points = [
            [problems.losses_and_grads(theta, window.data(t, instance))[0] for t in range(window.unroll + 1)]
            for window in windows
        ]
        losses.append(torch.stack([torch.stack(points) for points in at_points]))
    curves = torch.stack(losses)  # (THETAS, 2, U+1, B)
    within = (curves[:, :, ::2].mean(2) - curves[:, :, 1::2].mean(2)).square().mean()
    between = (curves[:, 0].mean(1) - curves[:, 1].mean(1)).square().mean()
    assert between <= SAME * within + 1e-12, (
        f"{name}.draw: a problem changes from window to window, for its batches come from something that is drawn anew "
        "with them; put what defines a problem into the instance, and compute targets in the optimizee's forward."
    )


__all__ = ["check_data", "check_optimizee", "check_rule"]
