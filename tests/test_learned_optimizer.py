"""LearnedOptimizer on parameters and gradients alone; training loops are in test_learned_optimizer_loops.py."""

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rules.test_handmade import PAIRS
from scenes import assert_refused, awake, initial_state, seen
from torch import nn
from walks import (
    ALL,
    LAYOUTS,
    LEARNED,
    ROUTES,
    SHAPES,
    assert_equal,
    assert_same_state,
    draw,
    flat,
    parameters,
    snapshot,
    walk,
)

from l2l_lightning import LearnedOptimizer
from l2l_lightning.core.errors import InputError
from l2l_lightning.rules import (
    SGD,
    Adam,
    CoordinatewiseLSTM,
    PartitionedRule,
    Route,
)

# Against torch.optim and against the rule itself


@pytest.mark.parametrize(("rule", "optimizer", "arguments"), PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunk_size", [1, 5, ALL])
def test_hand_made_rules_walk_as_torch_optim_whatever_the_chunk(rule, optimizer, arguments, dtype, chunk_size):
    ours, theirs = parameters(dtype=dtype), parameters(dtype=dtype)
    walk(LearnedOptimizer(ours, rule, chunk_size=chunk_size), ours)
    walk(optimizer(theirs, **arguments), theirs)
    exact = {"rtol": 1e-12, "atol": 1e-13} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(flat(ours), flat(theirs), **exact)
    assert (flat(ours) - flat(parameters(dtype=dtype))).abs().min() > 1e-5, "all moved"


tensors = st.tuples(
    st.lists(st.integers(0, 4), max_size=4).map(tuple), *[st.sampled_from(list(LAYOUTS)) for _ in ("theta", "grad")]
)


@given(st.lists(tensors, min_size=1, max_size=4), st.integers(1, 30))
def test_shapes_layouts_and_chunks_change_nothing(kinds, chunk_size):
    shapes = [shape for shape, _, _ in kinds]
    theirs = parameters(*shapes, dtype=torch.float64)
    ours = [nn.Parameter(LAYOUTS[layout](p.detach().clone())) for p, (_, layout, _) in zip(theirs, kinds, strict=True)]
    strides = [param.stride() for param in ours]
    optimizers = LearnedOptimizer(ours, Adam(0.1), chunk_size=chunk_size), torch.optim.Adam(theirs, 0.1)
    for t in range(3):
        for mine, their, grad, (_, _, layout) in zip(ours, theirs, draw(t, shapes, torch.float64), kinds, strict=True):
            mine.grad, their.grad = LAYOUTS[layout](grad), grad
        for optimizer in optimizers:
            optimizer.step()
    for mine, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, their, rtol=1e-12, atol=1e-13)
    assert [param.stride() for param in ours] == strides


@pytest.mark.parametrize("make", LEARNED.values(), ids=LEARNED)
@pytest.mark.parametrize("chunk_size", [1, 5, ALL])
def test_a_rule_answers_as_if_called_on_the_flat_vector(make, chunk_size):
    rule, params = make(), parameters()
    optimizer = LearnedOptimizer(params, rule, chunk_size=chunk_size)
    walk(optimizer, params)
    theta = flat(parameters())
    state = initial_state(rule, theta)
    with torch.no_grad():
        for t in range(6):
            step, state = rule(seen(theta, flat(draw(t, SHAPES)), None, torch.tensor(t)), state)
            theta = theta + step
    exact = {"rtol": 0, "atol": 0 if chunk_size == ALL else 1e-6}
    torch.testing.assert_close(flat(params), theta, **exact)
    for name, leaf in state.items():
        features = leaf.shape[:-1]
        own = [optimizer.state[param][name].reshape(*features, -1) for param in params if param.numel()]
        torch.testing.assert_close(torch.cat(own, -1), leaf, **exact)


@pytest.mark.parametrize("chunk_size", [4, ALL])
def test_a_step_may_be_an_old_leaf(chunk_size):
    class Late(SGD):
        def init_state(self, theta, layout, generator=None):
            return {"next": torch.zeros_like(theta)}

        def forward(self, inputs, state):
            return state["next"], {"next": -self.lr * inputs.grad}

    params = parameters()
    walk(LearnedOptimizer(params, Late(0.1), chunk_size=chunk_size), params)
    moved = sum(flat(draw(t, SHAPES)) for t in range(5))
    torch.testing.assert_close(flat(params), flat(parameters()) - 0.1 * moved)


def test_no_call_sees_more_coordinates_than_a_chunk_has():
    seen = []

    class Watching(SGD):
        scope = "coordinate"

        def forward(self, inputs, state):
            seen.append(inputs.theta.shape[-1])
            return super().forward(inputs, state)

    params = parameters((2,), (5,), (3, 7), (4,), ())
    walk(LearnedOptimizer(params, Watching(), chunk_size=8), params, [0])
    assert sorted(seen) == [5, 5, 7, 8, 8], "small ones together, the large one in parts"


def test_the_given_rule_stays_as_it_is():
    rule = awake(CoordinatewiseLSTM(hidden_size=2))
    params = parameters(dtype=torch.float64)
    walk(LearnedOptimizer(params, rule), params)
    assert all(p.requires_grad and p.dtype == torch.float32 and p.grad is None for p in rule.parameters())


# Groups


def test_groups_have_rules_rates_and_directions_of_their_own():
    ours, theirs = parameters((3,), (4,), (5,)), parameters((3,), (4,), (5,))
    groups = [{"params": ours[:1], "rule": SGD(0.1)}, {"params": ours[1:2], "lr": 0.5, "maximize": True}]
    optimizer = LearnedOptimizer([*groups, {"params": ours[2:]}], Adam(0.01), lr=2.0)
    walk(optimizer, ours)
    for other in (
        torch.optim.SGD(theirs[:1], 0.2),
        torch.optim.Adam(theirs[1:2], 0.005, maximize=True),
        torch.optim.Adam(theirs[2:], 0.02),
    ):
        walk(other, theirs)
    torch.testing.assert_close(flat(ours), flat(theirs))


@pytest.mark.parametrize("kind", [float, torch.tensor])
def test_a_schedule_scales_the_steps(kind):
    ours, theirs = parameters(), parameters()
    optimizers = LearnedOptimizer(ours, Adam(0.01), lr=kind(1.0)), torch.optim.Adam(theirs, 0.01)
    for optimizer, params in zip(optimizers, (ours, theirs), strict=True):
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
        for t in range(5):
            walk(optimizer, params, [t])
            schedule.step()
    torch.testing.assert_close(flat(ours), flat(theirs))
    assert isinstance(optimizers[0].param_groups[0]["lr"], type(kind(1.0)))


def test_parameters_join_late_or_miss_steps_and_count_their_own():
    """As in torch: a parameter starts at its first gradient, and one without a gradient waits."""
    absent = {(0, 0), (1, 0), (3, 1), *((t, 2) for t in range(6))}
    walked = {}
    for make in (lambda p: LearnedOptimizer(p, Adam(0.01), chunk_size=6), lambda p: torch.optim.Adam(p, 0.01)):
        params = parameters((3,), (4,), (2,), (5,))
        params[2].requires_grad_(False)
        optimizer = make(params[:3])
        walk(optimizer, params, range(2), absent)
        optimizer.add_param_group({"params": params[3:], "lr": optimizer.param_groups[0]["lr"] / 2})
        walk(optimizer, params, range(2, 6), absent)
        walked[type(optimizer)] = flat(params)
        assert [int(optimizer.state[param]["step"]) for param in params if param in optimizer.state] == [4, 5, 4]
    torch.testing.assert_close(walked[LearnedOptimizer], walked[torch.optim.Adam])


def test_groups_of_one_optimizer_may_be_given_to_another():
    params = parameters((3,))
    groups = [{"params": params, "rule": SGD(0.5)}]
    walk(LearnedOptimizer(groups, Adam()), params)
    walk(LearnedOptimizer(groups, Adam()), params)
    theirs = parameters((3,))
    for _ in range(2):
        walk(torch.optim.SGD(theirs, 0.5), theirs)
    assert_equal(params, theirs)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"lr": -1.0}, "lr must be"),
        ({"rule": "no such rule"}, "no such rule is neither"),
        ({"params": parameters((2,), dtype=torch.complex64)}, "complex"),
        ({"rule": PartitionedRule({"a": SGD()}, [Route("a")])}, "needs the parameters' names"),
    ],
)
def test_a_group_that_is_refused_leaves_no_trace(changes, sentence):
    params = parameters((3,))
    optimizer = LearnedOptimizer(params, SGD(0.1))
    before = optimizer.state_dict()["param_groups"]
    with pytest.raises(InputError, match=sentence):
        optimizer.add_param_group({"params": parameters((2,))} | changes)
    assert optimizer.state_dict()["param_groups"] == before
    walk(optimizer, params)


def test_routes_by_name_send_parameters_to_the_rules():
    def model():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))

    rules = {"bias": Adam(0.1), "rest": awake(CoordinatewiseLSTM(hidden_size=3, output_scale=0.1))}
    whole, parts = model(), model()
    walk(LearnedOptimizer(whole.named_parameters(), PartitionedRule(rules, ROUTES)), list(whole.parameters()))
    biases = {name: param for name, param in parts.named_parameters() if name.endswith("bias")}
    weights = {name: param for name, param in parts.named_parameters() if name not in biases}
    for label, members in (("bias", biases), ("rest", weights)):
        optimizer = LearnedOptimizer(members.items(), rules[label])
        walk(optimizer, list(parts.parameters()))
    torch.testing.assert_close(flat(whole.parameters()), flat(parts.parameters()))


@pytest.mark.parametrize(
    ("routes", "named", "sentence"),
    [
        (ROUTES, False, "A PartitionedRule needs the parameters' names; pass model.named_parameters()"),
        ([Route("bias", name="*bias")], True, "no route matches the parameter 'weight'"),
        (
            [Route("bias", module="Linear"), Route("rest")],
            True,
            "names alone where modules are unknown, but one has module 'Linear'",
        ),
    ],
)
def test_routes_that_cannot_be_followed_are_refused(routes, named, sentence):
    model, rule = nn.Linear(2, 2), PartitionedRule({"bias": SGD(), "rest": SGD()}, routes)
    with pytest.raises(InputError, match=sentence):
        LearnedOptimizer(model.named_parameters() if named else model.parameters(), rule)


# Precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_and_remembered_in_single(dtype):
    rule, params = Adam(0.01), parameters(dtype=dtype)
    optimizer = LearnedOptimizer(params, rule, chunk_size=10)
    walk(optimizer, params)
    theta, state = flat(parameters(dtype=dtype)), initial_state(rule, flat(parameters()))
    for t in range(6):
        grad = flat(draw(t, SHAPES, dtype)).float()
        step, state = rule(seen(theta.float(), grad, None, torch.tensor(t)), state)
        theta = (theta.float() + step).to(dtype)
    assert torch.equal(flat(params), theta)
    assert {leaf.dtype for leaves in optimizer.state.values() for leaf in leaves.values()} == {
        torch.float32,
        torch.int64,
    }


def test_parameters_of_all_types_share_a_group():
    types = [torch.bfloat16, torch.float64, torch.float16, torch.float32]

    def mixed():
        return [nn.Parameter(p.data.to(dtype)) for p, dtype in zip(parameters(*[(3,)] * 4), types, strict=True)]

    together, alone = mixed(), mixed()
    rule = LEARNED["lstm"]()
    walk(LearnedOptimizer(together, rule), together)
    for place in range(4):
        walk(LearnedOptimizer(alone[place : place + 1], rule), alone)
    assert [param.dtype for param in together] == types
    for left, right in zip(together, alone, strict=True):
        torch.testing.assert_close(left, right)


# Closures


def test_a_closure_comes_first_with_gradients_and_its_loss_returns():
    (param,) = parameters((3,))
    start = param.detach().clone()
    optimizer = LearnedOptimizer([param], SGD(0.1))

    def closure():
        assert torch.is_grad_enabled()
        assert torch.equal(param, start), "nothing has moved yet"
        optimizer.zero_grad()
        loss = param.square().sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    torch.testing.assert_close(loss.detach(), start.square().sum())
    torch.testing.assert_close(param.detach(), 0.8 * start)
    assert optimizer.step() is None


@pytest.mark.parametrize(("answer", "seen"), [(torch.tensor(2.0), 2.0), (None, None), (torch.ones(2), None)])
def test_rules_see_the_loss_of_the_closure_if_it_is_a_number(answer, seen):
    class Curious(SGD):
        def forward(self, inputs, state):
            assert (None if inputs.loss is None else inputs.loss.item()) == seen
            return super().forward(inputs, state)

    params = parameters((2,))
    params[0].grad = torch.ones(2)
    assert LearnedOptimizer(params, Curious()).step(lambda: answer) is answer
    assert not torch.equal(params[0], parameters((2,))[0])


# Refusals


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_gradient_that_is_not_finite_costs_its_parameter_one_step(value, dtype):
    """As if it had had no gradient there; counted always, told once and at the caller's line."""
    params, expected = parameters((3,), (4, 2), dtype=dtype), parameters((3,), (4, 2), dtype=dtype)
    optimizer = LearnedOptimizer(params, Adam(0.1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for t in range(5):
            for param, grad in zip(params, draw(t, [(3,), (4, 2)], dtype), strict=True):
                param.grad = grad
            if t in (1, 3):
                params[1].grad[2, 1] = value
            optimizer.step()
    walk(LearnedOptimizer(expected, Adam(0.1)), expected, range(5), {(1, 1), (3, 1)})
    assert_equal(params, expected)
    assert optimizer.skipped == 2
    assert [str(warning.message).split(";")[0] for warning in caught] == [
        "LearnedOptimizer: the gradients of 1 parameters are not finite"
    ]
    assert caught[0].filename == __file__


def test_a_gradient_that_is_not_finite_stops_everything_where_that_is_asked_for():
    params = parameters((3,), (2,))
    optimizer = LearnedOptimizer([{"params": [param]} for param in params], Adam(), not_finite="error")
    walk(optimizer, params)
    before, state = flat(params), snapshot(optimizer)
    params[1].grad[0] = torch.nan
    with pytest.raises(InputError, match="the gradients of 1 parameters are not finite"):
        optimizer.step()
    assert torch.equal(flat(params), before), "nor did the group before it move"
    assert_same_state(snapshot(optimizer), state)


def test_sparse_gradients_are_refused_before_anything_moves():
    dense, embedding = nn.Linear(2, 1), nn.Embedding(5, 2, sparse=True)
    optimizer = LearnedOptimizer([{"params": dense.parameters()}, {"params": embedding.parameters()}], SGD())
    before = flat(dense.parameters())
    dense(embedding(torch.tensor([1, 2]))).sum().backward()
    with pytest.raises(InputError, match=r"sparse gradients; make the embedding dense"):
        optimizer.step()
    assert torch.equal(flat(dense.parameters()), before)


def test_complex_parameters_are_refused():
    with pytest.raises(InputError, match=r"complex parameters; use torch.view_as_real"):
        LearnedOptimizer(parameters((2,), dtype=torch.complex64), SGD())


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("lr", -0.1),
        ("lr", torch.nan),
        ("lr", "0.1"),
        ("chunk_size", 0),
        ("chunk_size", 1.5),
        ("not_finite", "ignore"),
        ("rule", Adam),
        ("rule", None),
    ],
)
def test_bad_arguments_are_refused(argument, value):
    others = {"params": parameters((2,)), "rule": SGD()}
    others.pop(argument, None)
    assert_refused(LearnedOptimizer, argument, value, **others)


def test_a_negative_rate_is_refused_as_a_tensor_and_in_a_group_too():
    with pytest.raises(InputError, match=r"lr must be a number of at least 0, got -1.0"):
        LearnedOptimizer(parameters((2,)), SGD(), lr=torch.tensor(-1.0))
    with pytest.raises(InputError, match=r"lr must be a number of at least 0, got -2.0"):
        LearnedOptimizer([{"params": parameters((2,)), "lr": -2.0}], SGD())
