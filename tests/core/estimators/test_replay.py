"""The meta-gradient by replay, in blocks and of a sample of the coordinates, against that of one pass over all."""

from math import nan

import pytest
import torch
from scenes import awake
from torch import nn
from torch.nn.utils import parameters_to_vector

from l2l_lightning import rules
from l2l_lightning.core.errors import InputError
from l2l_lightning.core.estimators import backpropagation as backpropagating
from l2l_lightning.core.estimators import replay as replaying
from l2l_lightning.core.objective import Objective
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.random import keyed_generator
from l2l_lightning.core.sampling import CoordinateSample, sample_coordinates
from l2l_lightning.core.state import fresh_state
from l2l_lightning.core.window import Window
from l2l_lightning.optimizees import FromModule

B, U = 3, 4
NETWORK = {"hidden_size": 2, "output_scale": 0.1, "preprocessing": rules.LogAndSign(5)}
PROBLEMS = Problems(
    FromModule(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)), nn.MSELoss(), "x", "y").double()
)
N = PROBLEMS.layout.n  # 6 + 3 + 6 + 2
WHOLE = CoordinateSample(torch.arange(N), torch.ones(N), PROBLEMS.layout)


class Scaled(rules.LogAndSign):
    """A preprocessing that learns."""

    def __init__(self):
        super().__init__(5)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, grad):
        return self.scale * super().forward(grad)


def lstm(layers=1, **changes):
    return awake(rules.CoordinatewiseLSTM(layers, **NETWORK | changes))


def partitioned(weights, biases, *more):
    """Two rules whose coordinates alternate."""
    parts = {"weights": weights, "biases": biases}
    return rules.PartitionedRule(parts, [*more, rules.Route("biases", name="*.bias"), rules.Route("weights")])


def multiscale(head, **changes):
    return rules.MultiscaleAdam(head, **{"eta": 0.05} | changes)


RULES = {
    "lstm": lstm,
    "lstm of two layers with a schedule": lambda: lstm(2, output_scale=rules.Cosine(0.2, 0.01, 20)),
    "lstm with a preprocessing that learns": lambda: lstm(preprocessing=Scaled()),
    "gru": lambda: awake(rules.CoordinatewiseGRU(2, **NETWORK)),
    "rnn with a schedule": lambda: awake(
        rules.CoordinatewiseRNN(1, **NETWORK | {"output_scale": rules.Cosine(0.2, 0.01, 20)})
    ),
    **{
        kind.__name__.lower(): lambda kind=kind: kind(lr=0.05, trainable=True)
        for kind in (
            rules.SGD,
            rules.Momentum,
            rules.Nesterov,
            rules.Adagrad,
            rules.RMSprop,
            rules.Adam,
            rules.Adamax,
            rules.MeanNormalizedGradient,
        )
    },
    "linear average": lambda: multiscale(rules.LinearAverage(), eta=rules.Cosine(0.05, 0.01, 20)),
    "linear average, sum": lambda: multiscale(rules.LinearAverage("sum")),
    "softmax mlp": lambda: multiscale(rules.SoftmaxMLP(2, 5)),
    "softmax gru": lambda: multiscale(rules.SoftmaxRecurrent("gru", hidden_size=3)),
    "softmax lstm": lambda: multiscale(rules.SoftmaxRecurrent("lstm", hidden_size=3)),
    "momentums": lambda: rules.KMomentums(3, eta_min=0.02, noise=0.1, second_moment=True),
    "timesteps": lambda: rules.KTimesteps(3, eta_min=0.02, positions=True, hidden_size=5),
    "two lstms": lambda: partitioned(lstm(2), lstm(output_scale=0.3)),
    "lstm and a rule without a tape": lambda: partitioned(lstm(), rules.Adam(0.05, trainable=True)),
    "lstm and a rule that does not learn": lambda: partitioned(lstm(), rules.Adam(0.05)),
    "lstm and a frozen one": lambda: partitioned(lstm(), lstm().requires_grad_(False)),
    "two rules without state": lambda: partitioned(rules.SGD(0.1, trainable=True), rules.SGD(0.3, trainable=True)),
    "parts in parts": lambda: partitioned(
        rules.PartitionedRule(
            {"first": lstm(), "rest": lstm(2)}, [rules.Route("first", name="*.0.*"), rules.Route("rest")]
        ),
        lstm(),
    ),
}
every_rule = pytest.mark.parametrize("name", RULES)


def window(number=0, bad=None):
    """Minibatches of six examples; ``bad``: (point, problem) where they are nan."""
    generator = keyed_generator(number)
    x, y = (torch.randn(U + 1, B, 6, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    if bad is not None:
        y[bad] = nan
    return Window(number, B, U, {}, {"x": x, "y": y})


def under_way(rule):
    """Problems of three ages, none at its start."""
    theta = PROBLEMS.draw(B, keyed_generator(1))
    state = fresh_state(theta, rule.init_state(theta, PROBLEMS.layout), {}, torch.full((B,), 1000))
    for number, passed in ((7, 0), (8, torch.tensor([0, 3, 11]))):
        with torch.no_grad():
            state = backpropagating.backpropagate(rule, PROBLEMS, state, window(number), Objective()).state
        state.age = state.age + passed
    return state


def start(name):
    rule = RULES[name]().double()
    return rule, under_way(rule)


def run(rule, state, objective=None, sample=None, seen=None):
    return backpropagating.backpropagate(
        rule, PROBLEMS, state, seen or window(), objective or Objective(), sample=sample
    )


def one_pass(rule, *arguments, **others):
    """With a graph of everything, by the rule's own ``forward``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rule, "tape", lambda state, layout, steps: None)
        return run(rule, *arguments, **others)


def meta_gradient(unrolled, rule):
    phi = [parameter for parameter in rule.parameters() if parameter.requires_grad]
    return parameters_to_vector(torch.autograd.grad(unrolled.meta_loss, phi, materialize_grads=True))


def in_blocks(patch, width):
    """Every later window is replayed in blocks of so many coordinates, if any."""
    if width is not None:
        patch.setattr(backpropagating, "ONE_PASS", 0)
        patch.setattr(replaying, "BLOCK", B * U * width)


def assert_same(found, expected, rule):
    torch.testing.assert_close(found.meta_loss, expected.meta_loss, rtol=1e-13, atol=0)
    torch.testing.assert_close(found.curve, expected.curve, rtol=1e-13, atol=0, equal_nan=True)
    torch.testing.assert_close(vars(found.state), vars(expected.state), rtol=1e-11, atol=1e-14)
    left, right = meta_gradient(found, rule), meta_gradient(expected, rule)
    assert right.any()
    torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-13 * right.abs().max().item())


# Ways to take the whole meta-gradient: coordinates of a block, and the sample.
WAYS = {
    "one pass": (None, None),
    "blocks of 1": (1, None),
    "blocks of 5": (5, None),
    "one block": (N, None),
    "sample": (None, WHOLE),
    "sample in blocks": (5, WHOLE),
}
every_way = pytest.mark.parametrize(("width", "sample"), WAYS.values(), ids=WAYS)


@every_rule
@every_way
def test_every_way_gives_what_a_graph_of_everything_gives(name, width, sample, monkeypatch):
    rule, state = start(name)
    expected = one_pass(rule, state)
    in_blocks(monkeypatch, width)
    assert_same(run(rule, state, sample=sample), expected, rule)


@every_way
@pytest.mark.parametrize("name", ["lstm", "adam", "two lstms"])
@pytest.mark.parametrize("transform", ["plain", "log"])
@pytest.mark.parametrize("weights", ["final", "increasing"])
def test_every_objective(name, weights, transform, width, sample, monkeypatch):
    (rule, state), objective = start(name), Objective(weights, transform)
    expected = one_pass(rule, state, objective)
    in_blocks(monkeypatch, width)
    assert_same(run(rule, state, objective, sample), expected, rule)


@every_way
@pytest.mark.parametrize("name", ["lstm", "gru", "adam", "linear average", "two lstms"])
@pytest.mark.parametrize("points", [slice(None), 2], ids=["everywhere", "at one point"])
def test_a_problem_that_diverges_counts_as_in_one_pass(name, points, width, sample, monkeypatch):
    (rule, state), seen = start(name), window(bad=(points, 1))
    expected = one_pass(rule, state, seen=seen)
    in_blocks(monkeypatch, width)
    assert expected.state.diverged.tolist() == [False, True, False]
    assert_same(run(rule, state, sample=sample, seen=seen), expected, rule)


def test_a_step_adds_to_every_later_point():
    grads, weights = torch.randn(U + 1, B, N, dtype=torch.float64), torch.rand(U + 1, B, 1, dtype=torch.float64)
    expected = [(weights * grads)[step + 1 :].sum(0) for step in range(U)]
    torch.testing.assert_close(replaying.slopes(grads, weights.squeeze(-1)), torch.stack(expected))


@pytest.mark.parametrize("sample", [None, WHOLE])
def test_blocks_are_as_wide_as_they_may_be(sample, monkeypatch):
    taken = []

    class Watched(rules.Adam):
        def subset(self, state, layout, some):
            taken.append(torch.arange(N)[some.chosen].tolist())
            return super().subset(state, layout, some)

    rule = Watched(0.05, trainable=True).double()
    state = under_way(rule)
    in_blocks(monkeypatch, 7)
    run(rule, state, sample=sample)
    assert taken == [list(range(7)), list(range(7, 14)), list(range(14, N))]


@every_rule
def test_a_window_changes_neither_its_start_nor_the_windows_before(name, monkeypatch):
    rule, state = start(name)
    before = {**state.rule, "theta": state.theta}
    copies = {key: leaf.clone() for key, leaf in before.items()}
    first = run(rule, state)
    expected = meta_gradient(run(rule, state), rule)
    after = {key: leaf.clone() for key, leaf in first.state.rule.items()}
    in_blocks(monkeypatch, 5)
    run(rule, first.state)
    torch.testing.assert_close(before, copies, rtol=0, atol=0)
    torch.testing.assert_close(first.state.rule, after, rtol=0, atol=0)
    torch.testing.assert_close(meta_gradient(first, rule), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("width", [None, 5])
def test_a_rule_that_learns_nothing_has_no_graph(width, monkeypatch):
    rule, state = start("lstm")
    rule.requires_grad_(False)
    in_blocks(monkeypatch, width)
    for sample in (None, WHOLE):
        assert not run(rule, state, sample=sample).meta_loss.requires_grad


def samples(count, draws):
    return [sample_coordinates(PROBLEMS.layout, count, keyed_generator(draw)) for draw in range(draws)]


SAMPLED = ["lstm", "gru", "adam", "softmax mlp", "momentums", "two lstms"]


@pytest.mark.parametrize("name", SAMPLED)
@pytest.mark.parametrize("width", [None, 3])
def test_a_sample_gives_the_weighted_sum_of_its_coordinates(name, width, monkeypatch):
    rule, state = start(name)
    single = [
        CoordinateSample(torch.tensor([i]), torch.ones(1), PROBLEMS.layout.cut(slice(i, i + 1))) for i in range(N)
    ]
    alone = torch.stack([meta_gradient(run(rule, state, sample=sample), rule) for sample in single])
    torch.testing.assert_close(alone.sum(0), meta_gradient(run(rule, state), rule), rtol=1e-10, atol=1e-15)
    in_blocks(monkeypatch, width)
    for sample in samples(7, 5):
        expected = sample.weight.double() @ alone[sample.coordinates]
        found = meta_gradient(run(rule, state, sample=sample), rule)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9 * expected.abs().max().item())


@pytest.mark.parametrize("name", ["lstm", "two lstms"])
def test_the_mean_over_many_samples_is_the_whole_meta_gradient(name):
    (rule, state), draws = start(name), samples(7, 200)

    def found(drawn):
        return torch.stack([meta_gradient(run(rule, state, sample=sample), rule) for sample in drawn])

    whole, weighted = meta_gradient(run(rule, state), rule), found(draws)
    error = weighted.std(0) / len(draws) ** 0.5
    assert ((weighted.mean(0) - whole).abs() <= 4 * error + 1e-12).all()
    # Were all weights one, it would show.
    unweighted = found(sample._replace(weight=torch.ones_like(sample.weight)) for sample in draws[:50])
    assert ((unweighted.mean(0) - whole).abs() > 8 * error).any()


@pytest.mark.parametrize(("second_order", "reason"), [(True, "and second_order do not"), (False, "Coupled does not")])
def test_where_a_sample_makes_no_sense_one_sentence_says_so(second_order, reason):
    class Coupled(rules.UpdateRule):
        def init_state(self, theta, layout, generator=None):
            return {}

        def forward(self, inputs, state):
            return -inputs.grad / inputs.grad.norm(dim=-1, keepdim=True), state

    rule = lstm().double() if second_order else Coupled()
    state = under_way(rule)
    with pytest.raises(InputError, match=f"meta_coordinates .*{reason}[^\n]*\\.$"):
        backpropagating.backpropagate(rule, PROBLEMS, state, window(), Objective(), second_order, WHOLE)
