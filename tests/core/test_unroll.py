import math

import pytest
import torch
from scenes import Scene, awake, initial_state, seen
from torch.func import functional_call
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from l2l_lightning.core.estimators.backpropagation import backpropagate
from l2l_lightning.core.objective import Objective
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.state import fresh_state
from l2l_lightning.core.window import Window
from l2l_lightning.optimizees import Quadratic
from l2l_lightning.rules import (
    SGD,
    Adagrad,
    Adam,
    Adamax,
    CoordinatewiseGRU,
    CoordinatewiseLSTM,
    CoordinatewiseRNN,
    LogAndSign,
    Momentum,
    Nesterov,
    RMSprop,
)

# Large steps, so that the trajectories bend.
NETWORK = {"hidden_size": 2, "output_scale": 0.3, "preprocessing": LogAndSign(5)}
RULES = {
    "lstm": lambda: awake(CoordinatewiseLSTM(layers=2, **NETWORK)),
    "gru": lambda: awake(CoordinatewiseGRU(layers=1, **NETWORK)),
    "rnn": lambda: awake(CoordinatewiseRNN(layers=1, **NETWORK)),
    **{
        kind.__name__.lower(): lambda kind=kind: kind(lr=0.05, trainable=True)
        for kind in (SGD, Momentum, Nesterov, Adagrad, RMSprop, Adam, Adamax)
    },
}
WEIGHTS = {
    "uniform": lambda steps: [1 / (steps + 1)] * (steps + 1),
    "final": lambda steps: [0] * steps + [1],
    "increasing": lambda steps: [t / sum(range(steps + 1)) for t in range(steps + 1)],
}
TRANSFORMS = {"plain": lambda loss: loss, "log": torch.log}

every_rule = pytest.mark.parametrize("name", RULES)
either_order = pytest.mark.parametrize("second_order", [False, True], ids=["first_order", "second_order"])


def make(name):
    return RULES[name]().double()


def run(rule, scene, objective=None, second_order=False):
    return backpropagate(
        rule, scene.problems, scene.state(rule), scene.window(), objective or Objective(), second_order
    )


def meta_gradient(meta_loss, rule):
    return parameters_to_vector(torch.autograd.grad(meta_loss, list(rule.parameters())))


def two_pass(rule, scene, weights, transform):
    """The meta-loss with a graph as one would write it down: a loop over problems, a module each, two passes a point.

    The gradients that feed the rule are constants; a second forward pass at theta_t(phi) makes the meta-loss.
    """
    steps, (count, dim) = len(scene.stream) - 1, scene.theta.shape
    total = 0.0
    for b in range(count):
        module = Quadratic(dim).double()
        theta, state = scene.theta[b], initial_state(rule, scene.theta[b])
        for t, weight in enumerate(WEIGHTS[weights](steps)):
            data = {"W": scene.instance["W"][b], "y": scene.stream[t, b]}
            loss_of_phi = functional_call(module, {"x": theta}, (data,))
            total = total + weight * TRANSFORMS[transform](loss_of_phi) / count
            with torch.no_grad():
                module.x.copy_(theta)
            loss = module(data)
            (grad,) = torch.autograd.grad(loss, module.x)
            step, state = rule(seen(theta, grad, loss.detach(), torch.tensor(t)), state)
            theta = theta + step
    return total


@every_rule
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("weights", ["uniform", "final", "increasing"])
def test_one_pass_equals_two_passes(name, weights, transform):
    rule, scene = make(name), Scene.draw()
    found = run(rule, scene, Objective(weights, transform)).meta_loss
    expected = two_pass(rule, scene, weights, transform)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    found, expected = meta_gradient(found, rule), meta_gradient(expected, rule)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-13 * expected.abs().max().item())


@every_rule
@pytest.mark.parametrize(("weights", "transform"), [("uniform", "plain"), ("increasing", "log")])
def test_second_order_equals_finite_differences(name, weights, transform):
    rule, scene = make(name), Scene.draw(count=2, dim=2, steps=4)
    objective, h = Objective(weights, transform), 1e-5
    phi = parameters_to_vector(rule.parameters()).detach()

    def value(phi):
        with torch.no_grad():
            vector_to_parameters(phi, rule.parameters())
            return run(rule, scene, objective).meta_loss

    directions = h * torch.eye(len(phi), dtype=phi.dtype)
    differences = torch.stack([(value(phi + d) - value(phi - d)) / (2 * h) for d in directions])
    vector_to_parameters(phi, rule.parameters())
    exact = meta_gradient(run(rule, scene, objective, second_order=True).meta_loss, rule)
    torch.testing.assert_close(exact, differences, rtol=1e-6, atol=1e-8)
    first_order = meta_gradient(run(rule, scene, objective).meta_loss, rule)
    assert not torch.allclose(first_order, exact, rtol=1e-5)  # or else the test could not tell them apart


@either_order
@pytest.mark.parametrize("name", ["lstm", "adam"])
def test_next_state_is_detached(name, second_order):
    unrolled = run(make(name), Scene.draw(), second_order=second_order)
    state = unrolled.state
    tensors = [state.theta, *state.rule.values(), *state.instance.values(), unrolled.curve]
    assert all(tensor.grad_fn is None and not tensor.requires_grad for tensor in tensors)
    assert unrolled.meta_loss.requires_grad


@every_rule
def test_two_windows_walk_the_way_of_one(name):
    rule, scene = make(name), Scene.draw(steps=6)
    whole = run(rule, scene)
    first = backpropagate(rule, scene.problems, scene.state(rule), scene.window(0, 2), Objective())
    second = backpropagate(rule, scene.problems, first.state, scene.window(2, 6), Objective())
    curve = torch.cat((first.curve, second.curve[1:]))  # the point between two windows belongs to both
    torch.testing.assert_close(curve, whole.curve, rtol=1e-12, atol=0)
    torch.testing.assert_close(second.curve[0], first.curve[-1], rtol=0, atol=0)
    torch.testing.assert_close(vars(second.state), vars(whole.state), rtol=1e-12, atol=1e-14)
    assert whole.state.age.tolist() == [6, 6, 6]


def test_curve_holds_the_loss_at_every_point():
    rule, scene = make("adam"), Scene.draw()
    curve = run(rule, scene).curve
    assert curve.shape == (6, 3)
    start = (torch.einsum("bij,bj->bi", scene.instance["W"], scene.theta) - scene.stream[0]).square().sum(-1)
    torch.testing.assert_close(curve[0], start)


@either_order
def test_rule_sees_theta_its_gradient_and_loss_and_its_age(second_order):
    scene, seen = Scene.draw(), []

    class Spy(SGD):
        def forward(self, inputs, state):
            seen.append(inputs)
            return -0.1 * inputs.grad, state

    state = scene.state(SGD())
    state.age = torch.tensor([0, 7, 100])
    backpropagate(Spy(), scene.problems, state, scene.window(), Objective(), second_order)
    assert [inputs.t.tolist() for inputs in seen] == [[t, 7 + t, 100 + t] for t in range(5)]
    for t, inputs in enumerate(seen):
        losses, grads = scene.problems.losses_and_grads(inputs.theta, scene.window().data(t, scene.instance))
        assert torch.equal(inputs.loss.detach(), losses)
        assert torch.equal(inputs.grad.detach(), grads)
        assert inputs.grad.requires_grad == second_order


def test_every_point_costs_one_forward_pass():
    class Counting(Quadratic):
        calls = 0

        def forward(self, data):
            Counting.calls += 1
            return super().forward(data)

    rule, scene = make("lstm"), Scene.draw()
    problems = Problems(Counting(4).double())
    unrolled = backpropagate(rule, problems, scene.state(rule), scene.window(), Objective(), second_order=True)
    unrolled.meta_loss.backward()
    assert Counting.calls == len(scene.stream)


def test_the_optimizee_s_python_runs_once_and_its_recording_gives_the_same_numbers():
    problems, scene = Problems(Quadratic(4).double()), Scene.draw()
    data = scene.window().data(0, scene.instance)
    recorded = problems.losses_and_grads(scene.theta, data)
    plain = problems._evaluate(scene.theta, data)
    assert [type(replay).__name__ for replay in problems._recorded.values()] == ["<lambda>"]
    for found, expected in zip(recorded, plain, strict=True):
        assert torch.equal(found, expected)


def test_without_grad_the_value_is_the_same():
    rule, scene = make("lstm"), Scene.draw()
    with torch.no_grad():
        quiet = run(rule, scene)
    assert not quiet.meta_loss.requires_grad
    torch.testing.assert_close(quiet.meta_loss, run(rule, scene).meta_loss.detach(), rtol=1e-14, atol=0)


# Problem 1 of 3 goes bad: how, and at which point.
BAD = 1
SPOILED = {"nan": math.nan, "inf": math.inf, "overflow": 1e200}


def every_bad_end(test):
    test = pytest.mark.parametrize("kind", SPOILED)(test)
    test = pytest.mark.parametrize("second_order", [False, True])(test)
    return pytest.mark.parametrize("name", ["lstm", "gru", "momentum", "adam"])(test)


def spoil(scene, kind, point):
    scene.stream[point, BAD, 0] = SPOILED[kind]
    return scene


def assert_others_are_left_alone(rule, scene, second_order=False):
    together, alone = (run(rule, which, second_order=second_order) for which in (scene, scene.keep(0, 2)))
    torch.testing.assert_close(together.meta_loss, alone.meta_loss, rtol=1e-12, atol=0)
    found, expected = (meta_gradient(which.meta_loss, rule) for which in (together, alone))
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-14)
    assert together.state.diverged.tolist() == [False, True, False]
    torch.testing.assert_close(together.curve[:, [0, 2]], alone.curve, rtol=1e-12, atol=0)


@every_bad_end
def test_a_bad_problem_leaves_the_others_alone(name, second_order, kind):
    assert_others_are_left_alone(make(name), spoil(Scene.draw(), kind, slice(None)), second_order)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["lstm", "gru", "momentum", "adam"])
def test_lost_coordinates_leave_the_others_alone(name, value):
    scene = Scene.draw()
    scene.theta[BAD] = value
    assert_others_are_left_alone(make(name), scene)


@every_bad_end
def test_a_problem_that_goes_bad_counts_at_its_good_points(name, second_order, kind):
    """Sums add up: all problems' is that of the good ones and that of the bad one, each a mean times its count."""
    rule, scene = make(name), spoil(Scene.draw(steps=3), kind, 2)
    together, good, bad = (
        run(rule, part, second_order=second_order) for part in (scene, scene.keep(0, 2), scene.keep(BAD))
    )
    assert together.state.diverged.tolist() == [False, True, False]
    assert torch.isfinite(together.curve[:, BAD]).tolist() == [True, True, False, True]
    sums = [torch.isfinite(part.curve).sum() * meta_gradient(part.meta_loss, rule) for part in (together, good, bad)]
    assert torch.isfinite(sums[0]).all()
    torch.testing.assert_close(sums[0], sums[1] + sums[2], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", SPOILED)
def test_meta_loss_is_nan_where_no_problem_is_left(kind):
    rule, scene = make("lstm"), spoil(Scene.draw(), kind, slice(None)).keep(BAD)
    unrolled = run(rule, scene)
    assert unrolled.meta_loss.isnan()
    assert unrolled.state.due.all()


def test_an_infinite_gradient_of_a_finite_loss_is_divergence_too():
    class Root(Quadratic):
        def forward(self, data):
            return self.x.sum().sqrt()

    theta = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    rule, lifetime = make("adam"), torch.tensor([100, 100])
    state = fresh_state(theta, initial_state(rule, theta), {}, lifetime)
    unrolled = backpropagate(rule, Problems(Root(1).double()), state, Window(0, 2, 3, {}, {}), Objective())
    assert torch.isfinite(unrolled.curve).all()
    assert unrolled.state.diverged.tolist() == [True, False]
    assert torch.isfinite(meta_gradient(unrolled.meta_loss, rule))


@pytest.mark.parametrize("name", ["lstm", "gru", "momentum", "adagrad", "adamax", "rmsprop", "adam"])
def test_a_huge_but_finite_gradient_keeps_the_meta_gradient_finite(name):
    """||1e20 x - 1e150||^2 is finite and so is its gradient, but not the gradient's square."""
    rule, scene = make(name), Scene.draw()
    scene.instance["W"][BAD] *= 1e20
    scene.stream[:, BAD] = 1e150
    assert torch.isfinite(meta_gradient(run(rule, scene).meta_loss, rule)).all()
