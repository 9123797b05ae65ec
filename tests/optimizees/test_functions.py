"""Functions of one vector against their closed forms."""

import math

import pytest
import torch
from scenes import assert_refused

from l2l_lightning.core.errors import InputError
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.random import keyed_generator
from l2l_lightning.optimizees import Booth, Rastrigin, Rosenbrock, StyblinskiTang, SumOfSquares


def rosenbrock_gradient(x):
    gradient = torch.zeros_like(x)
    for i in range(len(x) - 1):
        gradient[i] += -2 * (1 - x[i]) - 400 * x[i] * (x[i + 1] - x[i] ** 2)
        gradient[i + 1] += 200 * (x[i + 1] - x[i] ** 2)
    return gradient


# Optimizee, its value at a point worked out by hand, its gradient.
CASES = {
    "SumOfSquares": (SumOfSquares(dim=4), ([1.0, -2.0, 0.0, 3.0], 14.0), lambda x: 2 * x),
    "Rosenbrock": (Rosenbrock(), ([-1.0, 2.0], 4 + 100 * 1), rosenbrock_gradient),
    "chain": (Rosenbrock(dim=3), ([0.0, 1.0, 3.0], (1 + 100) + (0 + 100 * 4)), rosenbrock_gradient),
    "Booth": (
        Booth(),
        ([0.0, 0.0], 49 + 25),
        lambda x: torch.stack((10 * x[0] + 8 * x[1] - 34, 8 * x[0] + 10 * x[1] - 38)),
    ),
    "Rastrigin": (
        Rastrigin(dim=3),
        ([0.5, 1.0, 0.0], 20.25 + 1.0),
        lambda x: 2 * x + 20 * math.pi * torch.sin(2 * math.pi * x),
    ),
    "StyblinskiTang": (
        StyblinskiTang(dim=2),
        ([1.0, 0.0], -5 + 2 * 39.16616570377142),
        lambda x: (4 * x**3 - 32 * x + 5) / 2,
    ),
}

every_function = pytest.mark.parametrize(("function", "example", "gradient"), CASES.values(), ids=CASES)


@every_function
def test_value_and_gradient_are_the_closed_form(function, example, gradient):
    problems = Problems(function)
    problems.to("cpu", torch.float64)
    point, value = torch.tensor(example[0], dtype=torch.float64), example[1]
    drawn = problems.draw(5, keyed_generator(0))
    losses, grads = problems.losses_and_grads(torch.cat((point.unsqueeze(0), drawn)), {})
    assert losses[0].item() == pytest.approx(value, rel=1e-12)
    expected = torch.stack([gradient(x) for x in (point, *drawn)])
    torch.testing.assert_close(grads, expected, rtol=1e-10, atol=1e-10)


@every_function
def test_the_minimum_is_zero_and_lower_than_everything_in_the_box(function, example, gradient):
    problems = Problems(function)
    problems.to("cpu", torch.float64)
    losses, grads = problems.losses_and_grads(function.double().minimizer().double().unsqueeze(0), {})
    assert losses.item() == pytest.approx(0, abs=1e-9)
    assert grads.abs().max() < 1e-6
    assert (problems.losses(problems.draw(500, keyed_generator(0)), {}) > 0).all()


@every_function
def test_problems_start_uniformly_in_the_box(function, example, gradient):
    theta = Problems(function).draw(4000, keyed_generator(0))
    assert function.low <= theta.min() < theta.max() < function.high
    width = function.high - function.low
    assert theta.mean() == pytest.approx((function.low + function.high) / 2, abs=0.03 * width)
    assert theta.std() == pytest.approx(width / 12**0.5, rel=0.05)


def test_the_thesis_s_defaults():
    assert (SumOfSquares().dim, SumOfSquares().low, SumOfSquares().high) == (1000, -10, 10)
    assert (Rosenbrock().a, Rosenbrock().b) == (1, 100)


def test_rosenbrock_with_another_a_has_its_minimum_at_a_and_its_square():
    function = Rosenbrock(a=2.0, b=7.0)
    assert function.minimizer().tolist() == [2, 4]
    assert function.value(torch.tensor([2.0, 4.0]), {}) == 0
    assert function.value(torch.tensor([1.0, 0.0]), {}) == 1 + 7


def test_bad_arguments_are_refused():
    assert_refused(SumOfSquares, "dim", 0)
    with pytest.raises(InputError, match="low must be below high, got 3 and 3"):
        Rastrigin(low=3, high=3)
    with pytest.raises(InputError, match="low must be a finite number, got nan"):
        Booth(low=float("nan"))
    for arguments in ({"dim": 1}, {"dim": 3, "a": 2.0}):
        with pytest.raises(InputError, match="Rosenbrock: dim must be 2, or more where a is 1"):
            Rosenbrock(**arguments)
