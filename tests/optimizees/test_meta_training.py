"""The training of a rule as a problem: nested gradients against finite differences, one code path for all levels."""

import itertools
import warnings
from dataclasses import dataclass

import pytest
import small
import torch
from scenes import awake, initial_state, seen
from torch import Tensor
from torch.func import functional_call
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from l2l_lightning.core.coordinates import CoordinateLayout
from l2l_lightning.core.errors import InputError
from l2l_lightning.core.estimators.backpropagation import backpropagate
from l2l_lightning.core.objective import Objective
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.random import keyed_generator
from l2l_lightning.core.state import fresh_state
from l2l_lightning.core.window import Window
from l2l_lightning.data import MetaTrainingDataModule, QuadraticDataModule
from l2l_lightning.optimizees import MetaTrainingProblem, Quadratic
from l2l_lightning.optimizees.meta_training import as_data
from l2l_lightning.rules import (
    SGD,
    Adam,
    CoordinatewiseLSTM,
    CoordinatewiseRNN,
    Identity,
    KMomentums,
    MultiscaleAdam,
    PartitionedRule,
    Route,
    SoftmaxMLP,
    UpdateRule,
)
from l2l_lightning.testing import check_optimizee

DIM, INNER, UNROLL = 2, 2, 3  # n, P and U of the inner problems
SECOND = {
    "mlp": lambda: KMomentums(k=2, hidden_size=2, eta_min=0.3),
    "lstm": lambda: awake(CoordinatewiseLSTM(layers=1, hidden_size=1, output_scale=0.3, preprocessing=Identity())),
}
orders = pytest.mark.parametrize(
    ("inner", "outer"),
    list(itertools.product([False, True], repeat=2)),
    ids=lambda order: "second" if order else "first",
)


def third_network() -> UpdateRule:
    return awake(CoordinatewiseRNN(layers=1, hidden_size=2, output_scale=0.1, preprocessing=Identity())).double()


@dataclass
class Levels:
    """B trainings of a rule over S outer steps, each on P new quadratics ||W x - y_t||^2 at every point, in float64.

    Attributes:
        rule: the second network.
        phi: (B, m) where the trainings start.
        theta: (S+1, B, P, n) where the inner problems start.
        w: (S+1, B, P, n, n).
        y: (S+1, B, U+1, P, n), another at every inner point.
    """

    rule: UpdateRule
    phi: Tensor
    theta: Tensor
    w: Tensor
    y: Tensor

    @classmethod
    def draw(cls, name: str, count: int = 2, steps: int = 2) -> "Levels":
        generator = keyed_generator(count, steps)

        def normal(*shape: int) -> Tensor:
            return torch.randn(steps + 1, count, *shape, generator=generator, dtype=torch.float64)

        rule = SECOND[name]().double()
        size = len(parameters_to_vector(rule.parameters()))
        phi = 0.5 * torch.randn(count, size, generator=generator, dtype=torch.float64)
        return cls(rule, phi, normal(INNER, DIM), normal(INNER, DIM, DIM), normal(UNROLL + 1, INNER, DIM))

    def problem(self, second_order: bool = False) -> MetaTrainingProblem:
        return MetaTrainingProblem(self.rule, Quadratic(DIM).double(), UNROLL, second_order=second_order)

    def window(self) -> Window:
        """Of the third network."""
        data = as_data(self.theta, {"W": self.w}, {"y": self.y})
        return Window(0, len(self.phi), len(self.theta) - 1, {}, data)

    def meta_loss(self, third: UpdateRule, inner: bool = False, outer: bool = False) -> Tensor:
        """Of the third network, with a graph, by the code under test; both flags are those of ``second_order``."""
        lifetime = torch.full((len(self.phi),), 1000)
        state = fresh_state(self.phi, initial_state(third, self.phi), {}, lifetime)
        return backpropagate(third, Problems(self.problem(inner)), state, self.window(), Objective(), outer).meta_loss


@dataclass
class PlainLoops:
    """The same meta-loss in plain loops, to be differentiated numerically.

    A level whose second derivatives are dropped is one whose function is, at every point that is visited, its tangent:
    ``tangents`` keeps point, value and slope of the first call, at which they are taken.
    """

    levels: Levels
    inner: bool
    outer: bool

    def __post_init__(self) -> None:
        self.tangents: dict[tuple, tuple[Tensor, Tensor, Tensor]] = {}

    def __call__(self, third: UpdateRule) -> float:
        return sum(self.train(third, b) for b in range(len(self.levels.phi))) / len(self.levels.phi)

    def train(self, third: UpdateRule, b: int) -> float:
        phi, steps, total = self.levels.phi[b], len(self.levels.theta) - 1, 0.0
        state = initial_state(third, phi)
        for s in range(steps + 1):
            with torch.enable_grad():
                phi = phi.detach().requires_grad_()
                loss = self.second(phi, s, b)
                (grad,) = torch.autograd.grad(loss, phi)
            with torch.no_grad():
                loss, grad = self.tangent((b, s), self.outer, phi, loss, grad)
                total += loss.item() / (steps + 1)
                step, state = third(seen(phi, grad, loss, torch.tensor(s)), state)
                phi = phi + step
        return total

    def second(self, phi: Tensor, s: int, b: int) -> Tensor:
        """The meta-loss of the second network."""
        rule, w, total = self.levels.rule, self.levels.w[s, b], 0.0
        parameters = CoordinateLayout.of(rule).unflatten(phi)
        theta = self.levels.theta[s, b]
        state = initial_state(rule, theta)
        for t in range(UNROLL + 1):
            error = torch.einsum("pij,pj->pi", w, theta) - self.levels.y[s, b, t]
            loss, grad = error.square().sum(-1), 2 * torch.einsum("pij,pi->pj", w, error)
            loss, grad = self.tangent((b, s, t), self.inner, theta, loss, grad)
            total = total + loss.mean() / (UNROLL + 1)
            inputs = seen(theta, grad, loss, torch.full((INNER,), t))
            step, state = functional_call(rule, parameters, (inputs, state))
            theta = theta + step
        return total

    def tangent(self, key: tuple, exact: bool, x: Tensor, value: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        if exact:
            return value, slope
        x0, value0, slope0 = self.tangents.setdefault(key, (x.detach(), value.detach(), slope.detach()))
        return value0 + (slope0 * (x - x0)).sum(-1), slope0


def numerical_gradient(loss: PlainLoops, third: UpdateRule, step: float = 1e-5) -> Tensor:
    psi = parameters_to_vector(third.parameters()).detach()
    slopes = []
    for direction in torch.eye(len(psi), dtype=psi.dtype):
        values = []
        for sign in (1, -1):
            vector_to_parameters(psi + sign * step * direction, third.parameters())
            values.append(loss(third))
        slopes.append((values[0] - values[1]) / (2 * step))
    vector_to_parameters(psi, third.parameters())
    return torch.tensor(slopes, dtype=psi.dtype)


@pytest.mark.parametrize("name", SECOND)
@orders
def test_the_nested_meta_gradient_is_that_of_finite_differences(name: str, inner: bool, outer: bool) -> None:
    levels, third = Levels.draw(name), third_network()
    plain = PlainLoops(levels, inner, outer)
    value = plain(third)
    meta_loss = levels.meta_loss(third, inner, outer)
    found = parameters_to_vector(torch.autograd.grad(meta_loss, list(third.parameters())))
    assert meta_loss.item() == pytest.approx(value, rel=1e-12)
    expected = numerical_gradient(plain, third)
    assert expected.norm() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


def test_each_order_at_each_level_gives_another_gradient() -> None:
    levels, third = Levels.draw("lstm"), third_network()
    found = [
        parameters_to_vector(torch.autograd.grad(levels.meta_loss(third, *flags), list(third.parameters())))
        for flags in itertools.product([False, True], repeat=2)
    ]
    for one, other in itertools.combinations(found, 2):
        assert (one - other).norm() > 1e-3 * one.norm()


@pytest.mark.parametrize("second_order", [False, True], ids=["first", "second"])
def test_its_loss_and_gradient_are_those_of_a_window_of_meta_training(second_order: bool) -> None:
    levels = Levels.draw("mlp", count=1, steps=1)
    problem = Problems(levels.problem(second_order))
    losses, grads = problem.losses_and_grads(levels.phi, levels.window().data(0, {}))

    rule, inner = levels.rule, Problems(Quadratic(DIM).double())
    vector_to_parameters(levels.phi[0], rule.parameters())
    theta, instance = levels.theta[0, 0], {"W": levels.w[0, 0]}
    state = fresh_state(theta, initial_state(rule, theta), instance, torch.full((INNER,), 1000))
    window = Window(0, INNER, UNROLL, {}, {"y": levels.y[0, 0]})
    meta_loss = backpropagate(rule, inner, state, window, Objective(), second_order).meta_loss
    meta_loss.backward()
    torch.testing.assert_close(losses[0], meta_loss.detach())
    torch.testing.assert_close(grads[0], parameters_to_vector(p.grad for p in rule.parameters()))


def test_it_is_recorded_as_any_optimizee_is() -> None:
    levels = Levels.draw("mlp")
    problems, data = Problems(levels.problem()), levels.window().data(0, {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as that it cannot be recorded
        first = problems.losses_and_grads(levels.phi, data)
    other = levels.window().data(1, {})
    replayed = problems.losses_and_grads(levels.phi, other)
    torch.testing.assert_close(replayed, Problems(levels.problem())._evaluate(levels.phi, other))
    assert not torch.allclose(replayed[1], first[1])


def test_a_fourth_level_is_the_same_again() -> None:
    levels = Levels.draw("lstm")
    third, fourth = third_network(), third_network()
    problem = MetaTrainingProblem(third, levels.problem(), len(levels.theta) - 1).double()
    problems = Problems(problem)
    window = levels.window()
    data = {name: leaf.unsqueeze(0) for name, leaf in as_data(levels.phi, {}, window.batches).items()}
    psi = parameters_to_vector(third.parameters()).detach()
    losses, grads = problems.losses_and_grads(psi.unsqueeze(0), data)
    meta_loss = levels.meta_loss(third)
    torch.testing.assert_close(losses[0], meta_loss.detach())
    expected = torch.autograd.grad(meta_loss, list(third.parameters()))
    torch.testing.assert_close(grads[0], parameters_to_vector(expected))
    # And it moves: two steps of a fourth network on the third one.
    steps = Window(0, 1, 2, {}, {name: torch.stack([leaf] * 3) for name, leaf in data.items()})
    state = fresh_state(psi.unsqueeze(0), initial_state(fourth, psi.unsqueeze(0)), {}, torch.full((1,), 1000))
    walked = backpropagate(fourth, problems, state, steps, Objective())
    assert walked.curve.shape == (3, 1)
    assert all(g.isfinite().all() and g.any() for g in torch.autograd.grad(walked.meta_loss, list(fourth.parameters())))


def test_every_training_starts_with_a_phi_of_its_own_as_the_constructor_draws_it() -> None:
    rule = KMomentums(k=3, hidden_size=400)
    problem = MetaTrainingProblem(rule, Quadratic(DIM), UNROLL)
    before, given = torch.get_rng_state(), parameters_to_vector(rule.parameters()).detach().clone()
    phis = []
    for seed in (1, 2, 1):
        problem.reset_parameters(torch.Generator().manual_seed(seed))
        phis.append(parameters_to_vector(problem.parameters()).detach().clone())
    assert torch.equal(before, torch.get_rng_state()), "torch's own generator is left alone"
    assert torch.equal(phis[0], phis[2])
    assert not torch.equal(phis[0], phis[1])
    assert torch.equal(parameters_to_vector(rule.parameters()), given), "the caller's rule is left alone"
    bound = 3**-0.5  # of nn.Linear
    assert problem.rule.hidden.weight.abs().max().item() == pytest.approx(bound, rel=0.01)


@pytest.mark.parametrize(
    "rule",
    [
        MultiscaleAdam(SoftmaxMLP(1, 3)),
        PartitionedRule({"all": CoordinatewiseLSTM(layers=1, hidden_size=2)}, [Route("all")]),
        Adam(trainable=True),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_parts_of_a_rule_start_anew_too(rule: UpdateRule) -> None:
    """All that is drawn, that is; biases (of 0 and 1) and trainable rates start where they always do."""
    problem = MetaTrainingProblem(rule, Quadratic(DIM), UNROLL)
    problem.reset_parameters(torch.Generator().manual_seed(1))
    first = {name: value.detach().clone() for name, value in problem.named_parameters()}
    problem.reset_parameters(torch.Generator().manual_seed(2))
    moved = {name for name, value in problem.named_parameters() if not torch.equal(value, first[name])}
    assert moved == {name for name, value in first.items() if len(value.unique()) > 2}
    losses, _ = Problems(problem).losses_and_grads(
        torch.stack([parameters_to_vector(problem.parameters()).detach()] * 2),
        {name: leaf.float() for name, leaf in Levels.draw("mlp").window().data(0, {}).items()},
    )
    assert losses.isfinite().all()


def test_it_is_what_the_project_expects_of_an_optimizee() -> None:
    """The check of authors' plug-ins; its finite differences know of all derivatives."""
    rule = CoordinatewiseLSTM(layers=1, hidden_size=3, output_scale=0.3)
    data = MetaTrainingDataModule(QuadraticDataModule(3, problems=32), problems=8)
    check_optimizee(MetaTrainingProblem(rule, Quadratic(3), unroll=5, second_order=True), data)


@pytest.mark.parametrize("name", SECOND)
@orders
def test_inner_problems_that_diverge_do_not_count_and_a_training_that_does_is_noticed(
    name: str, inner: bool, outer: bool
) -> None:
    levels = Levels.draw(name)
    problems, data = Problems(levels.problem(inner)), levels.window().data(0, {})
    data["batch/y"] = data["batch/y"].clone()
    data["batch/y"][0, 2:, 0] = torch.inf  # one of the inner problems of the first training, after two steps
    data["batch/y"][1] = torch.inf  # all of the second
    losses, grads = problems.losses_and_grads(levels.phi, data)

    vector_to_parameters(levels.phi[0], levels.rule.parameters())
    theta, instance = data["theta"][0], {"W": data["instance/W"][0]}
    state = fresh_state(theta, initial_state(levels.rule, theta), instance, torch.full((INNER,), 1000))
    window = Window(0, INNER, UNROLL, {}, {"y": data["batch/y"][0]})
    plain = backpropagate(levels.rule, Problems(Quadratic(DIM).double()), state, window, Objective(), inner)
    plain.meta_loss.backward()
    assert plain.state.diverged.tolist() == [True, False]
    torch.testing.assert_close(losses[0], plain.meta_loss.detach())
    torch.testing.assert_close(grads[0], parameters_to_vector(p.grad for p in levels.rule.parameters()))
    assert losses[1].isnan()
    assert not grads[1].isfinite().all()

    third = third_network()
    state = fresh_state(levels.phi, initial_state(third, levels.phi), {}, torch.full((2,), 1000))
    window = Window(0, 2, 2, {}, {name: torch.stack([leaf] * 3) for name, leaf in data.items()})
    walked = backpropagate(third, problems, state, window, Objective(), outer)
    assert walked.state.diverged.tolist() == [False, True]
    assert walked.meta_loss.isfinite()
    found = torch.autograd.grad(walked.meta_loss, list(third.parameters()))
    assert all(grad.isfinite().all() for grad in found)
    assert any(grad.any() for grad in found)


def test_a_rule_without_parameters_is_refused() -> None:
    with pytest.raises(InputError, match=r"^MetaTrainingProblem: SGD has no parameters to train\.$"):
        MetaTrainingProblem(SGD(), Quadratic(DIM))
    MetaTrainingProblem(Adam(trainable=True), Quadratic(DIM))


def test_data_of_another_optimizee_are_refused() -> None:
    levels = Levels.draw("mlp")
    problems = Problems(MetaTrainingProblem(levels.rule, Quadratic(3).double(), UNROLL))
    with pytest.raises(InputError, match=r"the data's theta has 2 coordinates, but its optimizee Quadratic has 3\.$"):
        problems.losses(levels.phi, levels.window().data(0, {}))


def test_another_dtype_of_phi_moves_the_inner_problem_too() -> None:
    levels = Levels.draw("mlp")
    problems = Problems(MetaTrainingProblem(SECOND["mlp"](), Quadratic(DIM), UNROLL))
    problems.to("cpu", torch.float64)
    assert problems.losses(levels.phi, levels.window().data(0, {})).dtype == torch.float64


def test_a_module_s_own_parameters_are_phi_alone() -> None:
    problem = MetaTrainingProblem(SECOND["mlp"](), Quadratic(DIM))
    assert {name.split(".")[0] for name, _ in problem.named_parameters()} == {"rule"}
    assert isinstance(problem.optimizee, Quadratic)
    assert small.module(optimizee=problem).trained_on["optimizee"]["init_args"]["optimizee"]["init_args"]["dim"] == DIM
