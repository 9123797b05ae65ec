"""Rules over tensors and over whole problems: the same update in training and in ``LearnedOptimizer``."""

import pytest
import torch
from scenes import initial_state, seen
from torch import nn

from l2l_lightning import LearnedOptimizer
from l2l_lightning.core.coordinates import CoordinateLayout, tensor_kinds
from l2l_lightning.core.errors import InputError
from l2l_lightning.rules import SGD, Adam, PartitionedRule, Route, TensorRule, UpdateRule

FACTORS = {"first": 1.0, "middle": 2.0, "last": 3.0, "vector": 4.0, "lone": 5.0}


class RootMeanSquare(TensorRule):
    """Divides a tensor's momentum by its running RMS; matrices also by the RMS of each row, kept as (B, rows)."""

    rate_argument = "lr"

    def __init__(self, lr: float = 0.1, kinds: bool = False) -> None:
        super().__init__()
        self.lr, self.kinds = lr, kinds
        self.decay = nn.Parameter(torch.tensor(0.5))

    def init_tensor(self, theta, kind, generator=None):
        rows = theta.new_zeros(*theta.shape[:2]) if theta.dim() > 2 else theta.new_zeros(len(theta), 1)
        return {"m": torch.zeros_like(theta), "square": theta.new_zeros(len(theta)), "rows": rows}

    def update_tensor(self, inputs, state):
        every = tuple(range(1, inputs.grad.dim()))
        m = self.decay * state["m"] + inputs.grad
        square = self.decay * state["square"] + inputs.grad.square().mean(every)
        rows = state["rows"] + (inputs.grad.square().mean(every[1:]) if len(every) > 1 else 1)
        shape = (-1, *[1] * len(every))
        wide = rows.view(*rows.shape, *[1] * (len(every) - 1)) if len(every) > 1 else rows.view(shape)
        factor = FACTORS[inputs.kind] if self.kinds else 1.0
        update = -inputs.rate * factor * m / (square.view(shape).sqrt() + wide.sqrt() + 1e-8)
        return update, {"m": m, "square": square, "rows": rows}


class Normalized(UpdateRule):
    """Momentum over the norm of the whole gradient: of scope "problem"."""

    def init_state(self, theta, layout, generator=None):
        return {"m": torch.zeros_like(theta)}

    def forward(self, inputs, state):
        m = 0.9 * state["m"] + inputs.grad
        return -0.1 * m / m.norm(dim=-1, keepdim=True), {"m": m}


class LearnedAdam(Adam):
    """Of scope "coordinate"."""


RULES_OF_EACH_SCOPE = {"coordinate": LearnedAdam(0.1), "tensor": RootMeanSquare(), "problem": Normalized()}
SHAPES = {"a": (3, 4), "b": (4,), "c": (4, 3), "d": (3,), "e": (3, 4), "f": (2, 2, 3)}


def layout_of(names, shapes=SHAPES):
    sizes = tuple(torch.Size(shapes[name]) for name in names)
    return CoordinateLayout(tuple(names), sizes, ("Linear",) * len(names), tensor_kinds(sizes))


def grads(steps=4):
    generator = torch.Generator().manual_seed(3)
    return [{name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()} for _ in range(steps)]


def trained(rule, names=tuple(SHAPES)):
    """The thetas of one problem that walks as in training, by name."""
    layout = layout_of(names)
    theta = torch.zeros(1, layout.n)
    state = initial_state(rule, theta, layout)
    for t, grad in enumerate(grads()):
        flat = layout.flatten({name: value.unsqueeze(0) for name, value in grad.items()})
        with torch.no_grad():
            update, state = rule(seen(theta, flat, torch.zeros(1), torch.tensor([t]), layout), state)
        theta = theta + update
    return {name: value[0] for name, value in layout.unflatten(theta).items()}


def stepped(rule, names=tuple(SHAPES), groups=1, steps=None, **options):
    params = {name: nn.Parameter(torch.zeros(SHAPES[name])) for name in names}
    named = list(params.items())
    parts = [named] if groups == 1 else [named[:2], named[2:]]
    optimizer = LearnedOptimizer([{"params": part} for part in parts], rule, **options)
    for grad in grads() if steps is None else grads()[:steps]:
        for name, param in params.items():
            param.grad = grad[name].clone()
        optimizer.step()
    return {name: param.detach() for name, param in params.items()}, optimizer


def assert_same(found, expected):
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scope", RULES_OF_EACH_SCOPE)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("chunk_size", [1, 7, 65536])
def test_the_optimizer_moves_as_training_does_with_any_chunk_and_groups(scope, groups, chunk_size):
    rule = RULES_OF_EACH_SCOPE[scope]
    assert (rule.scope == scope) or scope == "coordinate"
    found, _ = stepped(rule, groups=groups, chunk_size=chunk_size)
    assert_same(found, trained(rule))


@pytest.mark.parametrize("scope", RULES_OF_EACH_SCOPE)
def test_the_order_of_parameters_does_not_matter(scope):
    rule = RULES_OF_EACH_SCOPE[scope]
    assert_same(stepped(rule, tuple(reversed(SHAPES)))[0], trained(rule))


@pytest.mark.parametrize("groups", [1, 2])
def test_kinds_are_those_of_the_whole_model(groups):
    rule = RootMeanSquare(kinds=True)
    found, _ = stepped(rule, groups=groups)
    assert_same(found, trained(rule))
    plain = trained(RootMeanSquare())
    expected = {"a": 1, "b": 4, "c": 2, "d": 4, "e": 2, "f": 3}
    for name, factor in expected.items():
        torch.testing.assert_close(found[name], factor * plain[name], rtol=1e-4, atol=1e-6)


def test_problems_side_by_side_walk_as_each_alone():
    rule, layout = RootMeanSquare(), layout_of(SHAPES)
    flat = torch.randn(5, 3, layout.n, generator=torch.Generator().manual_seed(0))

    def walk(rows):
        theta = torch.zeros(rows.shape[1:])
        state = initial_state(rule, theta, layout)
        for t, grad in enumerate(rows):
            update, state = rule(seen(theta, grad, None, torch.full(theta.shape[:-1], t), layout), state)
            theta = theta + update
        return theta

    together = walk(flat)
    for b in range(3):
        torch.testing.assert_close(together[b], walk(flat[:, b]), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(together[b : b + 1], walk(flat[:, b : b + 1]), rtol=1e-5, atol=1e-6)


def test_rates_side_by_side_are_those_one_by_one():
    rule, layout = RootMeanSquare(), layout_of(SHAPES)
    theta, grad = torch.zeros(2, layout.n), torch.randn(2, layout.n)
    state = initial_state(rule, theta, layout)
    inputs = seen(theta, grad, None, torch.zeros(2, dtype=torch.int64), layout)
    both, _ = rule.with_rates(torch.tensor([0.3, 0.01]))(inputs, state)
    for b, rate in enumerate((0.3, 0.01)):
        torch.testing.assert_close(both[b], rule.with_rate(rate)(inputs, state)[0][b])


def test_a_tensor_without_a_gradient_keeps_its_state():
    for rule in RULES_OF_EACH_SCOPE.values():
        _, optimizer = stepped(rule, steps=2)
        param = optimizer.param_groups[0]["params"][0]
        before = {name: leaf.clone() for name, leaf in optimizer.state[param].items()}
        theta = param.detach().clone()
        param.grad = None
        optimizer.step()
        assert torch.equal(param, theta)
        assert all(torch.equal(optimizer.state[param][name], leaf) for name, leaf in before.items())


def test_a_state_dict_of_a_tensor_rule_loads_again():
    _, optimizer = stepped(RootMeanSquare(), steps=2)
    _, other = stepped(RootMeanSquare(), steps=0)
    other.load_state_dict(optimizer.state_dict())
    for mine, theirs in zip(optimizer.param_groups[0]["params"], other.param_groups[0]["params"], strict=True):
        assert optimizer.state[mine].keys() == other.state[theirs].keys()
        assert all(torch.equal(leaf, other.state[theirs][name]) for name, leaf in optimizer.state[mine].items())


def test_a_partition_has_the_widest_scope_of_its_parts_and_hands_on_layouts():
    rule = PartitionedRule(
        {"matrices": RootMeanSquare(kinds=True), "vectors": SGD(0.5)},
        [Route("vectors", name="[bd]"), Route("matrices")],
    )
    assert rule.scope == "tensor"
    assert PartitionedRule({"all": SGD()}, [Route("all")]).scope == "coordinate"
    assert PartitionedRule({"all": Normalized()}, [Route("all")]).scope == "problem"
    found, _ = stepped(rule)
    assert_same(found, trained(rule))
    expected = -0.5 * sum(grad["b"] for grad in grads())
    torch.testing.assert_close(found["b"], expected)


def test_what_a_rule_needs_is_said_in_a_sentence():
    class NeedsTotal(SGD):
        needs = frozenset({"total"})

    class NeedsLoss(SGD):
        needs = frozenset({"loss"})

    params = [nn.Parameter(torch.zeros(2))]
    with pytest.raises(InputError, match=r"NeedsTotal needs to know its steps; set total_steps\.$"):
        LearnedOptimizer(params, NeedsTotal())
    LearnedOptimizer(params, NeedsTotal(), total_steps=10)
    params[0].grad = torch.ones(2)
    with pytest.raises(InputError, match="closure"):
        LearnedOptimizer(params, NeedsLoss()).step()


def test_a_rule_that_keeps_other_numbers_is_refused_by_the_optimizer():
    class Lone(Normalized):
        def init_state(self, theta, layout, generator=None):
            return {"m": torch.zeros_like(theta), "norm": theta.new_zeros(*theta.shape[:-1], 3)}

    param = nn.Parameter(torch.zeros(2))
    param.grad = torch.ones(2)
    with pytest.raises(InputError, match="'norm' of Lone does not hold one number a coordinate"):
        LearnedOptimizer([param], Lone()).step()


def test_the_total_reaches_the_rule():
    class Told(SGD):
        scope = "coordinate"

        def forward(self, inputs, state):
            return inputs.total.unsqueeze(-1).expand_as(inputs.grad), state

    param = nn.Parameter(torch.zeros(2))
    param.grad = torch.ones(2)
    for total, expected in ((None, 0.0), (40, 40.0)):
        param.data.zero_()
        LearnedOptimizer([param], Told(), total_steps=total).step()
        assert param.tolist() == [expected, expected]
