import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scenes import assert_refused

from l2l_lightning.core.objective import Objective

FORMULA = {
    "uniform": lambda t, unroll: 1 / (unroll + 1),
    "final": lambda t, unroll: float(t == unroll),
    "increasing": lambda t, unroll: 2 * t / (unroll * (unroll + 1)),
}


@given(st.sampled_from(sorted(FORMULA)), st.integers(1, 200))
def test_weights_follow_their_formula_and_sum_to_one(weights, unroll):
    found = Objective(weights).point_weights(unroll, torch.zeros(1, dtype=torch.float64)).tolist()
    assert found == pytest.approx([FORMULA[weights](t, unroll) for t in range(unroll + 1)])
    assert sum(found) == pytest.approx(1)


@pytest.mark.parametrize(("transform", "formula"), [("plain", float), ("log", math.log)])
def test_value_is_the_transform(transform, formula):
    losses = torch.tensor([1e-300, 0.3, 1.0, 1e300], dtype=torch.float64)
    assert Objective(transform=transform).value(losses).tolist() == pytest.approx([formula(x) for x in losses.tolist()])


@pytest.mark.parametrize("transform", ["plain", "log"])
def test_slope_is_the_derivative_of_value(transform):
    objective = Objective(transform=transform)
    losses = torch.tensor([0.0, 1e-300, 0.3, 1.0, 1e300], dtype=torch.float64, requires_grad=True)
    (derivative,) = torch.autograd.grad(objective.value(losses).sum(), losses)
    assert torch.equal(objective.slope(losses), derivative)


@pytest.mark.parametrize("loss", [0.0, -1.0, 5e-324])
def test_log_of_what_is_not_positive_stays_finite(loss):
    losses = torch.tensor(loss, dtype=torch.float64)
    objective = Objective(transform="log")
    assert math.isfinite(objective.value(losses))
    assert objective.slope(losses) == 0


@pytest.mark.parametrize(
    ("argument", "value"), [("weights", "Uniform"), ("weights", ""), ("transform", "sqrt"), ("transform", None)]
)
def test_unknown_word_is_refused(argument, value):
    assert_refused(Objective, argument, value)
