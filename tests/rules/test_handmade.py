import math

import pytest
import torch
from scenes import assert_refused, initial_state, seen
from torch.func import functional_call

from l2l_lightning.core.errors import InputError
from l2l_lightning.rules import (
    SGD,
    Adagrad,
    Adam,
    Adamax,
    CoordinatewiseRNN,
    Cosine,
    KTimesteps,
    Momentum,
    MultiscaleAdam,
    Nesterov,
    RMSprop,
)

# Our rule and torch's optimizer, with defaults and without.
PAIRS = {
    "sgd": (SGD(), torch.optim.SGD, {"lr": 0.01}),
    "sgd, other": (SGD(lr=0.2), torch.optim.SGD, {"lr": 0.2}),
    "momentum": (Momentum(), torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}),
    "momentum, other": (Momentum(0.05, momentum=0.5), torch.optim.SGD, {"lr": 0.05, "momentum": 0.5}),
    "nesterov": (Nesterov(), torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    "nesterov, other": (
        Nesterov(0.05, momentum=0.5),
        torch.optim.SGD,
        {"lr": 0.05, "momentum": 0.5, "nesterov": True},
    ),
    "adagrad": (Adagrad(), torch.optim.Adagrad, {}),
    "adagrad, other": (Adagrad(0.3, eps=0.1), torch.optim.Adagrad, {"lr": 0.3, "eps": 0.1}),
    "rmsprop": (RMSprop(), torch.optim.RMSprop, {}),
    "rmsprop, other": (RMSprop(0.1, alpha=0.6, eps=0.01), torch.optim.RMSprop, {"lr": 0.1, "alpha": 0.6, "eps": 0.01}),
    "adam": (Adam(), torch.optim.Adam, {}),
    "adam, other": (Adam(0.1, 0.5, 0.7, 0.01), torch.optim.Adam, {"lr": 0.1, "betas": (0.5, 0.7), "eps": 0.01}),
    "adamax": (Adamax(), torch.optim.Adamax, {}),
    "adamax, other": (Adamax(0.1, 0.5, 0.7, 0.01), torch.optim.Adamax, {"lr": 0.1, "betas": (0.5, 0.7), "eps": 0.01}),
}
KINDS = [SGD, Momentum, Nesterov, Adagrad, RMSprop, Adam, Adamax]
STEPS, RESTARTS = 50, torch.tensor([0, 7, 31])  # the inner step at which each of three problems starts afresh

every_pair = pytest.mark.parametrize(("rule", "optimizer", "arguments"), PAIRS.values(), ids=PAIRS)
every_kind = pytest.mark.parametrize("kind", KINDS)


def loss(theta):
    """(..., 4) -> (...): curved, coupled, and of several minima."""
    slant = theta.roll(1, -1) - 2 * theta
    return (slant.square() + 1).log().sum(-1) + (3 * theta).sin().sum(-1)


def gradient(theta):
    return torch.func.grad(lambda theta: loss(theta).sum())(theta.detach())


def origin():
    return torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def ours(rule):
    """(STEPS, 3, 4): all problems side by side, each with its own age."""
    theta, age, path = origin(), torch.zeros(3, dtype=torch.int64), []
    state = initial_state(rule, theta)
    with torch.no_grad():
        for t in range(STEPS):
            restart = (t == RESTARTS).unsqueeze(-1)
            theta = torch.where(restart, origin(), theta)
            state = {name: torch.where(restart, 0.0, leaf) for name, leaf in state.items()}
            age = torch.where(restart.squeeze(-1), 0, age)
            step, state = rule(seen(theta, gradient(theta), None, age), state)
            theta, age = theta + step, age + 1
            path.append(theta)
    return torch.stack(path)


def theirs(optimizer, arguments):
    """(STEPS, 3, 4): one problem after the other, with a new optimizer at every restart."""
    paths = []
    for first, restart in zip(origin(), RESTARTS.tolist(), strict=True):
        path = []
        for t in range(STEPS):
            if t in (0, restart):
                theta = first.clone().requires_grad_()
                torch_optimizer = optimizer([theta], **arguments)
            theta.grad = gradient(theta)
            torch_optimizer.step()
            path.append(theta.detach().clone())
        paths.append(torch.stack(path))
    return torch.stack(paths, 1)


@every_pair
def test_every_step_is_that_of_torch_optim(rule, optimizer, arguments):
    path = ours(rule)
    torch.testing.assert_close(path, theirs(optimizer, arguments), rtol=1e-8, atol=1e-9)
    assert (path[-1] - origin()).abs().mean() > 0.02  # the problems went somewhere


@every_kind
def test_default_rate_is_that_of_the_papers_optimizer(kind):
    names = {SGD: 0.01, Momentum: 0.01, Nesterov: 0.01, Adagrad: 0.01, RMSprop: 0.01, Adam: 0.001, Adamax: 0.002}
    assert kind().lr == kind().rate == names[kind]


@every_kind
def test_one_problem_alone_walks_as_in_a_batch(kind):
    rule, theta = kind(lr=0.1), origin()
    batch, alone = initial_state(rule, theta), [initial_state(rule, row) for row in theta]
    for t in range(5):
        grad = gradient(theta)
        steps, batch = rule(seen(theta, grad, None, torch.full((3,), t)), batch)
        single = []
        for b in range(3):
            step, alone[b] = rule(seen(theta[b], grad[b], None, torch.tensor(t)), alone[b])
            single.append(step)
        torch.testing.assert_close(steps, torch.stack(single), rtol=1e-14, atol=0)
        theta = theta + steps


@every_kind
def test_trainable_rate_walks_the_same_way(kind):
    torch.testing.assert_close(ours(kind(lr=0.03, trainable=True).double()), ours(kind(lr=0.03)), rtol=1e-5, atol=1e-7)


@every_kind
def test_gradient_of_log_lr_equals_finite_differences(kind):
    rule = kind(lr=0.03, trainable=True).double()
    assert [name for name, _ in rule.named_parameters()] == ["log_lr"]
    grads = [gradient(origin() + t) for t in range(3)]

    def walk(log_lr):
        theta, state = origin(), initial_state(rule, origin())
        for t, grad in enumerate(grads):
            inputs = seen(theta, grad, None, torch.full((3,), t))
            step, state = functional_call(rule, {"log_lr": log_lr}, (inputs, state))
            theta = theta + step
        return theta

    log_lr = rule.log_lr.detach().requires_grad_()
    assert torch.autograd.gradcheck(walk, log_lr)
    (slope,) = torch.autograd.grad(walk(log_lr).sum(), log_lr)
    torch.testing.assert_close(slope, (walk(log_lr) - origin()).sum())  # steps are proportional to the rate


@every_kind
@pytest.mark.parametrize("trainable", [False, True])
def test_with_rate_is_an_untrained_copy(kind, trainable):
    rule = kind(lr=0.03, trainable=trainable)
    other = rule.with_rate(0.5)
    assert torch.equal(ours(other), ours(kind(lr=0.5)))
    assert list(other.parameters()) == []
    assert (other.lr, other.trainable) == (0.5, False)
    assert (rule.lr, rule.trainable) == (0.03, trainable)
    assert torch.as_tensor(rule.rate).item() == pytest.approx(0.03)


def test_with_rate_keeps_the_other_arguments():
    rule = Adam(0.1, beta1=0.3, beta2=0.4, eps=0.5, trainable=True).with_rate(0.2)
    assert (rule.beta1, rule.beta2, rule.eps) == (0.3, 0.4, 0.5)


@pytest.mark.parametrize(
    ("rule", "argument"),
    [(MultiscaleAdam(), "eta"), (KTimesteps(), "eta_min"), (CoordinatewiseRNN(hidden_size=4), "output_scale")],
)
def test_with_rate_scales_the_steps_of_a_learned_rule(rule, argument):
    """The first step is proportional to the rate, as a schedule's factors are."""
    theta, grad = torch.zeros(2, 5), torch.randn(2, 5)
    if hasattr(rule, "head_weight"):
        torch.nn.init.ones_(rule.head_weight)
    steps = [
        other(seen(theta, grad, None, torch.zeros(2, dtype=torch.long)), initial_state(other, theta))[0]
        for other in (rule.with_rate(0.5), rule.with_rate(0.25), rule.with_rate(Cosine(0.25)))
    ]
    assert steps[0].abs().sum() > 0
    torch.testing.assert_close(steps[0], 2 * steps[1])
    torch.testing.assert_close(steps[1], steps[2])
    assert getattr(rule.with_rate(0.5), argument) == 0.5
    assert getattr(rule, argument) != 0.5


@pytest.mark.parametrize("rate", [0, -0.1, math.nan])
def test_with_rate_refuses_what_the_constructor_refuses(rate):
    with pytest.raises(InputError):
        SGD().with_rate(rate)


@every_kind
def test_state_starts_at_zero_in_the_shape_of_theta(kind):
    for shape in ((5,), (3, 5)):
        leaves = initial_state(kind(), torch.ones(shape, dtype=torch.float64)).values()
        assert all(leaf.shape == shape and leaf.dtype == torch.float64 and not leaf.any() for leaf in leaves)


@pytest.mark.parametrize("name", PAIRS)
def test_a_gradient_whose_square_overflows_is_survived_as_in_torch(name):
    rule, optimizer, arguments = PAIRS[name]
    theta = torch.zeros(2, dtype=torch.float64)
    parameter = theta.clone().requires_grad_()
    torch_optimizer, state = optimizer([parameter], **arguments), initial_state(rule, theta)
    for t, size in enumerate([1e200, 1.0, 1.0]):
        grad = torch.tensor([size, 1.0], dtype=torch.float64)
        step, state = rule(seen(theta, grad, None, torch.tensor(t)), state)
        theta, parameter.grad = theta + step, grad
        torch_optimizer.step()
        torch.testing.assert_close(theta, parameter.detach())


@every_kind
@pytest.mark.parametrize("lr", [0, -0.1, math.nan, math.inf, "0.1", True])
def test_rates_that_are_not_positive_are_refused(kind, lr):
    assert_refused(kind, "lr", lr)


@pytest.mark.parametrize("value", [-0.1, 1, 1.0, math.nan, math.inf])
@pytest.mark.parametrize(
    ("kind", "argument"),
    [(Momentum, "momentum"), (Nesterov, "momentum"), (RMSprop, "alpha")]
    + [(kind, beta) for kind in (Adam, Adamax) for beta in ("beta1", "beta2")],
)
def test_decays_outside_the_unit_interval_are_refused(kind, argument, value):
    assert_refused(kind, argument, value)


@pytest.mark.parametrize("kind", [Adagrad, RMSprop, Adam, Adamax])
@pytest.mark.parametrize("eps", [-1e-8, math.nan, math.inf])
def test_negative_eps_is_refused(kind, eps):
    assert_refused(kind, "eps", eps)


def test_adamax_needs_eps_since_it_divides_by_a_magnitude():
    assert_refused(Adamax, "eps", 0.0)
    assert Adam(eps=0.0).eps == Adagrad(eps=0.0).eps == RMSprop(eps=0.0).eps == 0
