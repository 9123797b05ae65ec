import pytest
import torch
from scenes import Scene, assert_refused, awake, initial_state, seen
from torch import nn
from torch.func import functional_call, grad, vmap

from l2l_lightning.core.coordinates import CoordinateLayout
from l2l_lightning.core.estimators.backpropagation import backpropagate
from l2l_lightning.core.objective import Objective
from l2l_lightning.rules import (
    SGD,
    Adam,
    CoordinatewiseGRU,
    CoordinatewiseLSTM,
    CoordinatewiseRNN,
    Identity,
    KMomentums,
    LinearAverage,
    MultiscaleAdam,
    Nesterov,
    PartitionedRule,
)
from l2l_lightning.rules.handmade import HandmadeRule
from l2l_lightning.rules.recurrent import GRUCell, LSTMCell, RNNCell

INPUTS, H, R = 3, 4, 6
# Where torch's gates stand among ours: it keeps an LSTM's as i, f, g, o, and we as i, f, o, g.
CELLS = [(LSTMCell, nn.LSTMCell, [0, 1, 3, 2]), (GRUCell, nn.GRUCell, [0, 1, 2]), (RNNCell, nn.RNNCell, [0])]
NETWORKS = [CoordinatewiseLSTM, CoordinatewiseGRU, CoordinatewiseRNN]

every_cell = pytest.mark.parametrize(("kind", "torch_kind", "order"), CELLS)
every_cell_of_ours = pytest.mark.parametrize("kind", [kind for kind, *_ in CELLS])
every_network = pytest.mark.parametrize("kind", NETWORKS)


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def make(kind):
    """A cell with biases that are not zero."""
    cell = kind(INPUTS, H).double()
    nn.init.normal_(cell.bias)
    return cell


def inputs_of(kind):
    return double(INPUTS, R), *(double(H, R) for _ in kind.leaves)


@every_cell
def test_cell_and_all_its_gradients_equal_torchs(kind, torch_kind, order):
    cell, (x, *hidden) = make(kind), inputs_of(kind)

    def reordered(gates):
        return torch.cat([gates.chunk(kind.gates)[gate] for gate in order])

    weights = {
        "weight_ih": reordered(cell.weight_ih),
        "weight_hh": reordered(cell.weight_hh),
        "bias_ih": reordered(cell.bias).squeeze(1),
        "bias_hh": torch.zeros(kind.gates * H, dtype=torch.float64),
    }
    rows = tuple(leaf.T for leaf in hidden)
    theirs = functional_call(torch_kind(INPUTS, H).double(), weights, (x.T, rows if len(rows) > 1 else rows[0]))
    expected = [leaf.T for leaf in (theirs if isinstance(theirs, tuple) else (theirs,))]
    found = cell(x, *hidden)
    torch.testing.assert_close(list(found), expected, rtol=1e-12, atol=1e-14)

    leaves = [x, *hidden, *cell.parameters()]
    pull = [torch.randn(H, R, dtype=torch.float64) for _ in found]
    torch.testing.assert_close(
        torch.autograd.grad(found, leaves, pull), torch.autograd.grad(expected, leaves, pull), rtol=1e-11, atol=1e-13
    )


@every_cell_of_ours
def test_gradients_equal_finite_differences(kind):
    cell, inputs = make(kind), inputs_of(kind)
    names = [name for name, _ in cell.named_parameters()]

    def run(*leaves):
        parameters = dict(zip(names, leaves[len(inputs) :], strict=True))
        return functional_call(cell, parameters, leaves[: len(inputs)])

    leaves = [*inputs, *(parameter.detach().clone().requires_grad_() for parameter in cell.parameters())]
    assert torch.autograd.gradcheck(run, leaves)


@every_cell_of_ours
def test_each_problem_may_have_its_own_phi(kind):
    """vmap over weights, forward and backward: what an estimator with perturbed phi needs."""
    cells = [make(kind) for _ in range(3)]
    inputs = [tuple(leaf.detach() for leaf in inputs_of(kind)) for _ in cells]
    stacked, _ = torch.func.stack_module_state(cells)
    data = tuple(torch.stack(leaves) for leaves in zip(*inputs, strict=True))

    def loss(parameters, *inputs):
        return sum(leaf.square().sum() for leaf in functional_call(cells[0], parameters, inputs))

    found = vmap(grad(loss))(stacked, *data)
    for b, cell in enumerate(cells):
        one = loss(dict(cell.named_parameters()), *inputs[b])
        for name, expected in zip(stacked, torch.autograd.grad(one, list(cell.parameters())), strict=True):
            torch.testing.assert_close(found[name][b], expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("constant_input", [False, True])
def test_second_derivatives_of_the_handwritten_backward(constant_input):
    cell, inputs = make(LSTMCell), list(inputs_of(LSTMCell))
    inputs[0].requires_grad_(not constant_input)
    assert torch.autograd.gradgradcheck(lambda *given: cell(*given), inputs)


def test_second_derivative_behind_a_constant_readout_counts():
    cell, (x, h, c) = make(LSTMCell), inputs_of(LSTMCell)
    (slope,) = torch.autograd.grad(cell(x, h, c)[0].sum(), x, create_graph=True)
    assert slope.requires_grad
    slope.sum().backward()
    assert x.grad.abs().sum() > 0


def walk(rule, grads):
    """Steps (T, ..., n) for gradients (T, ..., n)."""
    state, steps = initial_state(rule, grads[0]), []
    with torch.no_grad():
        for t, grad in enumerate(grads):
            step, state = rule(seen(torch.zeros_like(grad), grad, None, torch.full(grad.shape[:-1], t)), state)
            steps.append(step)
    return torch.stack(steps)


@every_network
def test_permuted_coordinates_take_permuted_steps(kind):
    rule, grads = awake(kind(hidden_size=5).double()), torch.randn(4, 3, 7, dtype=torch.float64)
    order = torch.randperm(7)
    torch.testing.assert_close(walk(rule, grads[..., order]), walk(rule, grads)[..., order], rtol=1e-13, atol=1e-15)


@every_network
def test_every_coordinate_alone_walks_as_all_together(kind):
    rule, grads = awake(kind(hidden_size=5).double()), torch.randn(4, 2, 3, dtype=torch.float64)
    together = walk(rule, grads)
    for b in range(2):
        torch.testing.assert_close(walk(rule, grads[:, b]), together[:, b], rtol=1e-13, atol=1e-15)
        for alone in (slice(i, i + 1) for i in range(3)):
            steps = walk(rule, grads[:, b, alone])
            torch.testing.assert_close(steps, together[:, b, alone], rtol=1e-13, atol=1e-15)


@every_network
@pytest.mark.parametrize("shape", [(5,), (3, 5)])
def test_state_puts_features_first_and_keeps_its_shape(kind, shape):
    rule, theta = kind(layers=2, hidden_size=4), torch.randn(shape)
    state = initial_state(rule, theta)
    step, after = rule(seen(theta, theta, None, torch.zeros(shape[:-1])), state)
    assert step.shape == shape
    assert list(state) == [f"{leaf}{layer}" for layer in range(2) for leaf in kind.cell.leaves]
    for name, leaf in after.items():
        assert leaf.shape == state[name].shape == (4, *shape)
        assert not state[name].any()
        assert leaf.any()


@every_network
def test_network_is_layers_head_and_scale(kind):
    """The paper's picture, written out for two layers."""
    rule, grad = awake(kind(layers=2, hidden_size=4, output_scale=0.3, preprocessing=Identity())), torch.randn(5)
    zeros = [torch.zeros(4, 5) for _ in kind.cell.leaves]
    first = rule.cells[0](grad.unsqueeze(0), *zeros)[0]
    second = rule.cells[1](first, *zeros)[0]
    expected = 0.3 * (rule.head_weight @ second + rule.head_bias).squeeze(0)
    step, _ = rule(seen(grad, grad, None, torch.tensor(0)), initial_state(rule, grad))
    torch.testing.assert_close(step, expected)


@every_network
def test_only_forget_gates_start_with_a_bias(kind):
    rule = kind(layers=2, hidden_size=4)
    for cell in rule.cells:
        biases = cell.bias.view(kind.cell.gates, 4).mean(1).tolist()
        assert biases == ([0, 1, 0, 0] if kind is CoordinatewiseLSTM else [0] * kind.cell.gates)
        assert 0.3 < max(cell.weight_ih.abs().max(), cell.weight_hh.abs().max()) <= 0.5  # uniform within 1/sqrt(H)


@every_network
def test_an_untrained_network_leaves_theta_where_it_is_and_its_head_can_learn(kind):
    rule, grad = kind(hidden_size=4), torch.randn(5)
    step, _ = rule(seen(grad, grad, None, torch.tensor(0)), initial_state(rule, grad))
    assert not step.any()
    (step @ grad).backward()
    assert rule.head_weight.grad.any()


def test_forget_bias_is_an_argument():
    for cell in CoordinatewiseLSTM(hidden_size=2, forget_bias=-3.0).cells:
        assert cell.bias.flatten().tolist() == [0, 0, -3, -3, 0, 0, 0, 0]


@every_network
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("layers", value) for value in (0, 1.0)),
        *(("hidden_size", value) for value in (-1, True)),
        *(("output_scale", value) for value in (0, float("inf"), "1")),
    ],
)
def test_bad_sizes_are_refused(kind, argument, value):
    assert_refused(kind, argument, value)


class Clipped(CoordinatewiseLSTM):
    """A subclass with a step of its own."""

    def forward(self, inputs, state):
        step, state = super().forward(inputs, state)
        return step.clamp(-0.005, 0.005), state


class NormalizedSGD(SGD):
    """Couples coordinates."""

    def forward(self, inputs, state):
        return -inputs.grad / inputs.grad.norm(dim=-1, keepdim=True), state


def test_shortcuts_of_a_class_are_not_taken_for_a_subclass_that_steps_otherwise():
    scene = Scene.draw()
    rule = awake(Clipped(hidden_size=3, output_scale=1.0)).double()
    walked = backpropagate(rule, scene.problems, scene.state(rule), scene.window(), Objective())
    assert (walked.state.theta - scene.theta).abs().max() <= 5 * 0.005 + 1e-12
    assert rule.tape(initial_state(rule, scene.theta), CoordinateLayout.flat(scene.theta.shape[-1]), 5) is None
    assert Clipped.scope != "coordinate"
    assert NormalizedSGD.scope != "coordinate"
    assert type("Whole", (PartitionedRule,), {"forward": lambda *_: None}).scope != "coordinate"
    assert type("Own", (HandmadeRule,), {"forward": lambda *_: None}).scope != "coordinate"
    other_cell = type("Other", (CoordinatewiseLSTM,), {"cell": type("OtherCell", (LSTMCell,), {})})
    assert (
        other_cell().tape(initial_state(other_cell(), scene.theta), CoordinateLayout.flat(scene.theta.shape[-1]), 5)
        is None
    )
    assert all(
        kind.scope == "coordinate" for kind in (SGD, Nesterov, Adam, CoordinatewiseLSTM, KMomentums, MultiscaleAdam)
    )

    class Halved(MultiscaleAdam):
        def forward(self, inputs, state):
            step, state = super().forward(inputs, state)
            return step / 2, state

    inputs = seen(scene.theta, scene.theta, None, torch.zeros(3, dtype=torch.long))
    halved = Halved().double()
    state = initial_state(halved, scene.theta)
    whole, _ = MultiscaleAdam.forward(halved, inputs, state)
    with torch.no_grad():
        torch.testing.assert_close(halved.step_(inputs, state), whole / 2)


def test_an_average_s_head_may_hand_its_leaves_on():
    class Delayed(LinearAverage):
        """The average of two steps ago."""

        def init_state(self, theta):
            return {"a1": torch.zeros_like(theta), "a2": torch.zeros_like(theta)}

        def forward(self, steps, state):
            average, _ = super().forward(steps, {})
            return state["a2"], {"a1": average, "a2": state["a1"]}

    rule, theta = MultiscaleAdam(Delayed()), torch.zeros(4)
    state = pure = initial_state(rule, theta)
    state = {name: leaf.clone() for name, leaf in state.items()}
    with torch.no_grad():
        for t in range(5):
            inputs = seen(theta, torch.randn(4), None, torch.tensor(t))
            expected, pure = rule(inputs, pure)
            torch.testing.assert_close(rule.step_(inputs, state), expected)
            torch.testing.assert_close(state, pure)
