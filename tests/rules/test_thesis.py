"""The thesis' rules against slow, literal transcriptions of its pseudo-code, coordinate by coordinate."""

import math

import pytest
import torch
from scenes import Scene, assert_refused, initial_state, seen
from torch import nn

from l2l_lightning.core.errors import InputError
from l2l_lightning.core.estimators.backpropagation import backpropagate
from l2l_lightning.core.objective import Objective
from l2l_lightning.rules import (
    Adam,
    Cosine,
    KMomentums,
    KTimesteps,
    LinearAverage,
    MeanNormalizedGradient,
    MultiscaleAdam,
    SoftmaxMLP,
    SoftmaxRecurrent,
)
from l2l_lightning.rules.noise import gaussian, salt
from l2l_lightning.rules.normalized_inputs import MAGNITUDES, move, normalize

STEPS, COUNT, N = 7, 2, 3


def gradient(t: int, x: float) -> float:
    """A gradient that changes its sign and is 0 once."""
    return 0.0 if t == 3 else 2 * (x - 1) + math.sin(5 * t)


def walk(rule, start, grad=gradient, steps=STEPS):
    """Positions (steps + 1, B, n) of the rule, all at once."""
    theta = torch.tensor(start, dtype=torch.float64)
    state, path = initial_state(rule, theta), [theta]
    for t in range(steps):
        g = theta.detach().clone().apply_(lambda x, t=t: grad(t, x))
        with torch.no_grad():
            step, state = rule(seen(theta, g, None, torch.full(theta.shape[:-1], t)), state)
        theta = theta + step
        path.append(theta)
    return torch.stack(path)


STARTS = [[0.3, -1.2, 4.0], [2.0, 0.0, -0.5]]


def each_alone(start, one):
    """``one(x0)`` -> the list of positions of a coordinate alone, for every coordinate."""
    columns = [[one(x) for x in row] for row in start]
    return torch.tensor(columns, dtype=torch.float64).permute(2, 0, 1)


def populate(value, k):
    return [value] * k


def normalized(history):
    largest = max(abs(g) for g in history)
    return [g / largest if largest else 0.0 for g in history]


def algorithm_1_or_2(step, k, eta, midpoint=True):
    """Algorithms 1 and 2; ``step(normalized gradients, positions)`` gets histories newest first."""

    def one(x):
        history_x, history_g = populate(x, k), populate(gradient(0, x), k)
        path = [x]
        for t in range(STEPS):
            delta = step(history_g, history_x)
            high, low = max(history_x), min(history_x)
            reference = (high + low) / 2 if midpoint else x
            x = reference - delta * (high - low + eta(t))
            history_x = [x, *history_x[:-1]]
            history_g = [gradient(t + 1, x), *history_g[:-1]]
            path.append(x)
        return path

    return one


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("sign_only", [False, True])
@pytest.mark.parametrize("reference", ["midpoint", "current"])
def test_mean_normalized_gradient_is_algorithm_1(k, sign_only, reference):
    def step(grads, _):
        seen = [(g > 0) - (g < 0) for g in grads] if sign_only else normalized(grads)
        return sum(seen) / k

    rule = MeanNormalizedGradient(0.05, k, sign_only, reference)
    expected = each_alone(STARTS, algorithm_1_or_2(step, k, lambda t: 0.05, reference == "midpoint"))
    torch.testing.assert_close(walk(rule, STARTS), expected, rtol=1e-12, atol=1e-12)


def test_eta_min_decays_along_a_cosine():
    rule = MeanNormalizedGradient(0.05, 3, decay=Cosine(1.0, 0.1, 4))

    def eta(t):
        return 0.05 * (0.1 + 0.9 / 2 * (1 + math.cos(math.pi * min(t / 4, 1))))

    expected = each_alone(STARTS, algorithm_1_or_2(lambda grads, _: sum(normalized(grads)) / 3, 3, eta))
    torch.testing.assert_close(walk(rule, STARTS), expected, rtol=1e-12, atol=1e-12)


def network(rule, features):
    """Section 3.3, written out with torch's own softmax on one coordinate."""
    x = torch.tensor(features, dtype=torch.float64)
    out = rule.readout(rule.hidden(x).clamp_min(0))
    if rule.output == "tanh":
        return rule.step_range * math.tanh(out.item())
    sign = out[:2].softmax(0) @ torch.tensor([1.0, -1.0], dtype=torch.float64)
    magnitude = sum(p * i / (MAGNITUDES - 1) for i, p in enumerate(out[2:].softmax(0)))
    return rule.step_range * float(sign * magnitude)


VARIANTS = {
    "plain": {},
    "tanh": {"output": "tanh"},
    "positions": {"positions": True},
    "current": {"reference": "current"},
    "midpoint": {"reference": "midpoint"},
    "range": {"step_range": 2.5},
    "small": {"hidden_size": 4},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("k", [1, 5])
def test_k_timesteps_is_algorithm_2(variant, k):
    rule = KTimesteps(k, eta_min=0.07, **VARIANTS[variant]).double()

    def step(grads, positions):
        return network(rule, normalized(grads) + (normalized(positions) if rule.positions else []))

    expected = each_alone(STARTS, algorithm_1_or_2(step, k, lambda t: 0.07, rule.reference == "midpoint"))
    torch.testing.assert_close(walk(rule, STARTS), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("variant", VARIANTS)
def test_k_momentums_is_algorithm_3(variant):
    k, low, high = 4, 0.2, 0.9
    rule = KMomentums(k, low, high, eta_min=0.07, **VARIANTS[variant]).double()
    decays = [low + (high - low) * i / (k - 1) for i in range(k)]

    def one(x):
        history_x, history_g = populate(x, k), populate(gradient(0, x), k)
        path = [x]
        for t in range(STEPS):
            features = normalized(history_g) + (normalized(history_x) if rule.positions else [])
            top, bottom = max(history_x), min(history_x)
            reference = (top + bottom) / 2 if rule.reference == "midpoint" else x
            x = reference - network(rule, features) * (top - bottom + 0.07)
            history_x = [m * h + (1 - m) * x for m, h in zip(decays, history_x, strict=True)]
            history_g = [m * h + (1 - m) * gradient(t + 1, x) for m, h in zip(decays, history_g, strict=True)]
            path.append(x)
        return path

    torch.testing.assert_close(walk(rule, STARTS), each_alone(STARTS, one), rtol=1e-9, atol=1e-11)


def test_second_moment_normalizes_like_adam():
    """Gradients over the root of their bias-corrected mean square, decay 0.999."""
    rule = KTimesteps(2, eta_min=0.07, second_moment=True).double()

    def one(x):
        history_x, history_g, v = populate(x, 2), populate(gradient(0, x), 2), 0.0
        path = [x]
        for t in range(STEPS):
            v = 0.999 * v + 0.001 * history_g[0] ** 2
            root = math.sqrt(v / (1 - 0.999 ** (t + 1))) + 1e-8
            delta = network(rule, [g / root for g in history_g])
            top, bottom = max(history_x), min(history_x)
            x = (top + bottom) / 2 - delta * (top - bottom + 0.07)
            history_x, history_g = [x, history_x[0]], [gradient(t + 1, x), history_g[0]]
            path.append(x)
        return path

    torch.testing.assert_close(walk(rule, STARTS), each_alone(STARTS, one), rtol=1e-9, atol=1e-11)


def test_the_history_stretches_where_gradients_agree_and_shrinks_where_they_disagree():
    """Section 3.2: x_diff grows along a slope and falls around a minimum."""

    def extents(grad):
        path = walk(MeanNormalizedGradient(1e-3, k=5), [[0.0]], grad, steps=30).flatten()
        return path.unfold(0, 5, 1).amax(1) - path.unfold(0, 5, 1).amin(1)

    slope = extents(lambda t, x: 1.0)
    assert (slope.diff() > 0).all()
    assert slope[-1] > 50 * slope[0]
    bowl = extents(lambda t, x: x - 0.5)
    assert bowl.max() > 10 * bowl[-1]


def test_histories_take_2_k_n_values_and_steps_of_k_timesteps_copy_none_of_them():
    theta = torch.zeros(4, 10)
    assert sum(leaf.numel() for leaf in initial_state(KTimesteps(5), theta).values()) == (2 * 5 - 1) * theta.numel()
    assert sum(leaf.numel() for leaf in initial_state(KMomentums(6), theta).values()) == 2 * 6 * theta.numel()
    assert sum(leaf.numel() for leaf in initial_state(MultiscaleAdam(), theta).values()) == 2 * 6 * theta.numel()
    rule, state = KTimesteps(3), {}
    state = initial_state(rule, theta)
    _, after = rule(seen(theta, torch.ones_like(theta), None, torch.zeros(4)), state)
    assert after["x2"] is state["x1"]
    assert after["g2"] is state["g1"]


def test_a_row_of_zeros_stays_zero_and_tiny_gradients_give_no_nan():
    history = torch.tensor([[0.0, 1e-42, 3.0], [0.0, -1e-42, -6.0]])
    found = normalize(history)
    assert torch.isfinite(found).all()
    assert not found[:, 0].any()
    assert found[:, 2].tolist() == [0.5, -1.0]
    for rule in (KTimesteps(3), KMomentums(3), MeanNormalizedGradient(), MultiscaleAdam(), KTimesteps(2, noise=0.1)):
        for size in (0.0, 1e-42, 1e30):
            theta = torch.zeros(2, 3)
            state = initial_state(rule, theta)
            for t in range(3):
                grad = torch.full((2, 3), size)
                step, state = rule(seen(theta, grad, None, torch.full((2,), t)), state)
                theta = theta + step
            assert torch.isfinite(theta).all(), (type(rule).__name__, size)


def test_the_reference_point_and_the_extent():
    positions = torch.tensor([[1.0], [4.0], [2.0]])
    theta, delta = positions[0], torch.tensor([0.5])
    assert (theta + move(theta, positions, delta, 0.2)).item() == pytest.approx(2.5 - 0.5 * 3.2)
    assert (theta + move(theta, positions, delta, 0.2, "current")).item() == pytest.approx(1.0 - 0.5 * 3.2)


TIMESCALES = [(0.9, 0.999), (0.5, 0.555), (0.0, 0.9)]


def algorithm_4(head_weights, eta):
    """Algorithm 4 with Adams as Kingma and Ba write them, learning rate 1; ``head_weights(steps)`` gives k weights."""

    def one(x):
        m, v = [0.0] * 3, [0.0] * 3
        path = [x]
        for t in range(1, STEPS + 1):
            g = gradient(t - 1, x)
            steps = []
            for i, (beta1, beta2) in enumerate(TIMESCALES):
                m[i] = beta1 * m[i] + (1 - beta1) * g
                v[i] = beta2 * v[i] + (1 - beta2) * g * g
                m_hat, v_hat = m[i] / (1 - beta1**t), v[i] / (1 - beta2**t)
                steps.append(m_hat / (math.sqrt(v_hat) + 1e-8))
            x = x - eta(t - 1) * sum(w * s for w, s in zip(head_weights(steps), steps, strict=True))
            path.append(x)
        return path

    return one


def make(head, **arguments):
    rule = MultiscaleAdam(head, TIMESCALES, **{"eta": 0.1} | arguments).double()
    for parameter in rule.parameters():
        nn.init.normal_(parameter, std=0.5)
    return rule


@pytest.mark.parametrize(
    ("normalization", "expected"),
    [
        ("sum", lambda w: [x / sum(w) for x in w]),
        ("absolute", lambda w: [abs(x) / sum(map(abs, w)) for x in w]),
        ("none", lambda w: w),
    ],
)
def test_linear_averages_are_algorithm_4(normalization, expected):
    rule = make(LinearAverage(normalization))
    weights = expected(rule.head.weight.tolist())
    torch.testing.assert_close(rule.head.weights.tolist(), weights)
    found = each_alone(STARTS, algorithm_4(lambda steps: weights, lambda t: 0.1))
    torch.testing.assert_close(walk(rule, STARTS), found, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("hidden_layers", [1, 2])
def test_softmax_mlp_is_algorithm_4(hidden_layers):
    rule = make(SoftmaxMLP(hidden_layers, hidden_size=5))
    layers = list(zip(rule.head.matrices, rule.head.biases, strict=True))

    def weights(steps):
        x = torch.tensor(steps, dtype=torch.float64)
        for place, (weight, bias) in enumerate(layers):
            x = weight @ (x.relu() if place else x) + bias.squeeze(1)
        return x.softmax(0).tolist()

    torch.testing.assert_close(
        walk(rule, STARTS), each_alone(STARTS, algorithm_4(weights, lambda t: 0.1)), rtol=1e-9, atol=1e-9
    )


def test_eta_may_follow_a_schedule():
    rule = make(LinearAverage(), eta=Cosine(0.1, 0.02, 5))
    weights = rule.head.weights.tolist()

    def eta(t):
        return 0.02 + 0.04 * (1 + math.cos(math.pi * min(t / 5, 1)))

    expected = each_alone(STARTS, algorithm_4(lambda steps: weights, eta))
    torch.testing.assert_close(walk(rule, STARTS), expected, rtol=1e-10, atol=1e-10)


def test_one_adam_at_the_usual_timescale_is_torch_s():
    rule = MultiscaleAdam(LinearAverage(), [(0.9, 0.999)], eta=0.05).double()
    path = walk(rule, STARTS)
    theta = nn.Parameter(path[0].clone())
    optimizer = torch.optim.Adam([theta], lr=0.05)
    for t in range(STEPS):
        theta.grad = theta.detach().clone().apply_(lambda x, t=t: gradient(t, x))
        optimizer.step()
        torch.testing.assert_close(path[t + 1], theta.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(path, walk(Adam(0.05), STARTS), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_recurrent_heads_remember(cell):
    """Weights sum to one, differ between coordinates, and depend on what was seen before."""
    head = SoftmaxRecurrent(cell, layers=2, hidden_size=4)
    head.build(3)
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    steps, other = torch.randn(3, 2, 5), torch.randn(3, 2, 5)
    first, state = head.weights(steps, head.init_state(steps[0]))
    again, _ = head.weights(steps, state)
    _, elsewhere = head(other, head.init_state(steps[0]))
    torch.testing.assert_close(first.sum(0), torch.ones(2, 5))
    assert first.std(2).min() > 0
    assert not torch.allclose(first, again)
    assert not torch.allclose(again, head.weights(steps, elsewhere)[0])
    torch.testing.assert_close(head(steps, state)[0], (again * steps).sum(0))


RULES = {
    "timesteps": lambda: KTimesteps(3, 0.05),
    "momentums": lambda: KMomentums(3, eta_min=0.05, positions=True, second_moment=True),
    "noisy": lambda: KMomentums(3, eta_min=0.05, noise=0.1),
    "LA_a": lambda: MultiscaleAdam(LinearAverage("sum"), eta=0.1),
    "LA_b": lambda: MultiscaleAdam(LinearAverage("absolute"), eta=0.1),
    "LA_c": lambda: MultiscaleAdam(LinearAverage("none"), eta=0.1),
    "MLP": lambda: MultiscaleAdam(SoftmaxMLP(2, 4), eta=0.1),
    "GRU": lambda: MultiscaleAdam(SoftmaxRecurrent("gru", hidden_size=3), eta=0.1),
    "LSTM": lambda: MultiscaleAdam(SoftmaxRecurrent("lstm", hidden_size=3), eta=0.1),
}


@pytest.mark.parametrize("name", RULES)
def test_the_meta_gradient_equals_finite_differences(name):
    """Through histories, averages and weights; the optimizees' gradients held constant by ``second_order=True``."""
    torch.manual_seed(3)
    rule, scene = RULES[name]().double(), Scene.draw(steps=6)
    for parameter in rule.parameters():
        nn.init.normal_(parameter, mean=0.3, std=0.3)

    def meta_loss():
        return backpropagate(rule, scene.problems, scene.state(rule), scene.window(), Objective(), True).meta_loss

    found = torch.autograd.grad(meta_loss(), list(rule.parameters()), allow_unused=True)
    for parameter, slope in zip(rule.parameters(), found, strict=True):
        for place in range(min(parameter.numel(), 3)):
            flat = parameter.detach().view(-1)
            value = flat[place].item()
            around = []
            for sign in (1, -1):
                flat[place] = value + sign * 1e-6
                around.append(meta_loss().item())
            flat[place] = value
            expected = (around[0] - around[1]) / 2e-6
            assert (0.0 if slope is None else slope.view(-1)[place].item()) == pytest.approx(
                expected, rel=1e-4, abs=1e-7
            )


@pytest.mark.parametrize("name", RULES)
def test_every_coordinate_alone_walks_as_all_together(name):
    if name == "noisy":
        pytest.skip("the noise of a coordinate depends on its place")
    rule = RULES[name]().double()
    together = walk(rule, STARTS)
    torch.testing.assert_close(walk(rule, [STARTS[0]])[:, 0], together[:, 0], rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(walk(rule, [[STARTS[1][2]]])[:, 0, 0], together[:, 1, 2], rtol=1e-12, atol=1e-13)


def test_noise_is_standard_normal_without_memory_and_the_same_again():
    theta = torch.randn(20, 5000)
    key = salt(theta)
    draws = torch.stack([gaussian(key, torch.full((20,), t)) for t in range(3)])
    assert torch.equal(draws[1], gaussian(key, torch.full((20,), 1)))
    assert draws.mean().item() == pytest.approx(0, abs=0.01)
    assert draws.std().item() == pytest.approx(1, abs=0.01)
    assert (draws.abs() > 2).double().mean().item() == pytest.approx(0.0455, abs=0.002)
    for left, right in ((draws[0], draws[1]), (draws[0, 0], draws[0, 1]), (draws[0, :, 1:], draws[0, :, :-1])):
        assert (left * right).mean().abs() < 0.03
    same = gaussian(salt(torch.zeros(1, 5000)), torch.tensor([0]))
    assert same.unique().numel() == 5000, "equal starts still draw different noise"


def test_noise_is_added_to_delta():
    theta = torch.zeros(1, 20_000)
    quiet, noisy = KTimesteps(2, eta_min=0.5), KTimesteps(2, eta_min=0.5, noise=0.3)
    noisy.load_state_dict(quiet.state_dict())
    inputs = seen(theta, torch.ones_like(theta), None, torch.tensor([0]))
    difference = noisy(inputs, initial_state(noisy, theta))[0] - quiet(inputs, initial_state(quiet, theta))[0]
    assert difference.std().item() == pytest.approx(0.3 * 0.5, rel=0.03)


def test_bad_arguments_are_refused():
    assert_refused(KTimesteps, "k", 0)
    assert_refused(KTimesteps, "eta_min", -1.0)
    assert_refused(KTimesteps, "noise", -0.1)
    assert_refused(KMomentums, "step_range", 0)
    assert_refused(MeanNormalizedGradient, "k", 2.5)
    assert_refused(KTimesteps, "output", "relu")
    assert_refused(MultiscaleAdam, "eta", 0)
    assert_refused(LinearAverage, "normalization", "l2")
    assert_refused(Cosine, "steps", 0, start=1.0)
    with pytest.raises(InputError, match=r"0 <= low <= high < 1 must hold, got 0.5 and 0.2"):
        KMomentums(low=0.5, high=0.2)
    with pytest.raises(InputError, match=r"pairs of decays in \[0, 1\), got \[0.9, 1.0\]"):
        MultiscaleAdam(timescales=[(0.9, 1.0)])
    with pytest.raises(InputError, match="must not be empty"):
        MultiscaleAdam(timescales=[])
