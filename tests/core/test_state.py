import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from l2l_lightning.core.state import InnerState, fresh_state, reset_problems

B, N = 4, 3
FEATURES = {"mean": (), "h": (2,), "deep": (2, 3)}


def filled(value):
    """A state whose every entry says where it comes from."""
    return InnerState(
        theta=torch.full((B, N), value),
        rule={name: torch.full((*features, B, N), value) for name, features in FEATURES.items()},
        instance={"W": torch.full((B, N, N), value), "y": torch.full((B, N), value), "c": torch.full((B,), value)},
        age=torch.full((B,), 10 * int(value == 1)),
        lifetime=torch.full((B,), 100 * (1 + int(value == 1))),
        total=torch.full((B,), value),
        diverged=torch.full((B,), value == 1),
    )


def leaves(state):
    """Every leaf with its problems first."""
    problems_first = {name: leaf.movedim(-2, 0) for name, leaf in state.rule.items()}
    parts = {name: value for name, value in vars(state).items() if name not in ("rule", "instance")}
    return {**problems_first, **state.instance, **parts}


@given(st.lists(st.booleans(), min_size=B, max_size=B))
def test_reset_changes_exactly_the_masked_problems_in_every_leaf(mask):
    old, fresh = filled(1.0), filled(2.0)
    result = leaves(reset_problems(old, fresh, torch.tensor(mask)))
    for name, leaf in leaves(old).items():
        for b, renewed in enumerate(mask):
            assert torch.equal(result[name][b], leaves(fresh if renewed else old)[name][b]), name
        assert result[name].dtype == leaf.dtype


def test_reset_leaves_no_trace_of_nan():
    result = reset_problems(filled(float("nan")), filled(2.0), torch.ones(B, dtype=torch.bool))
    assert all(torch.isfinite(leaf).all() for leaf in leaves(result).values())


def test_reset_does_not_write_into_its_arguments():
    old = filled(1.0)
    reset_problems(old, filled(2.0), torch.ones(B, dtype=torch.bool))
    assert all(torch.equal(leaf, leaves(filled(1.0))[name]) for name, leaf in leaves(old).items())


def test_fresh_problems_have_no_age():
    state = fresh_state(torch.zeros(B, N), {}, {}, torch.full((B,), 20))
    assert state.age.tolist() == [0] * B
    assert state.age.dtype == torch.int64
    assert not state.diverged.any()
    assert not state.due.any()


@pytest.mark.parametrize(
    ("age", "diverged", "due"),
    [(0, False, False), (19, False, False), (20, False, True), (40, False, True), (0, True, True)],
)
def test_a_problem_is_due_at_the_end_of_its_life_or_when_it_diverged(age, diverged, due):
    state = fresh_state(torch.zeros(1, N), {}, {}, torch.tensor([20]))
    state.age, state.diverged = torch.tensor([age]), torch.tensor([diverged])
    assert state.due.tolist() == [due]


def test_state_dict_survives_a_safe_load():
    state, file = filled(1.0), io.BytesIO()
    torch.save(state.state_dict(), file)
    file.seek(0)
    loaded = InnerState(**torch.load(file, weights_only=True))
    assert leaves(loaded).keys() == leaves(state).keys()
    assert all(torch.equal(leaf, leaves(state)[name]) for name, leaf in leaves(loaded).items())


def test_to_moves_every_leaf():
    assert {leaf.device.type for leaf in leaves(filled(1.0).to("meta")).values()} == {"meta"}
