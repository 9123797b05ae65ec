"""Random coordinates that stand for all: how many of each tensor, which, and with what weights."""

from itertools import pairwise
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from l2l_lightning.core.coordinates import CoordinateLayout, tensor_kinds
from l2l_lightning.core.random import keyed_generator
from l2l_lightning.core.sampling import sample_coordinates, sample_sizes


def layout(*shapes):
    names = tuple(f"tensor{place}" for place in range(len(shapes)))
    return CoordinateLayout(
        names, tuple(map(torch.Size, shapes)), ("Linear",) * len(shapes), tensor_kinds(list(map(torch.Size, shapes)))
    )


some_sizes = st.lists(st.integers(1, 5000), min_size=1, max_size=12)


@given(sizes=some_sizes, count=st.integers(1, 20_000))
def test_sizes_add_up_and_every_tensor_is_drawn_from(sizes, count):
    drawn = sample_sizes(sizes, count)
    assert all(1 <= taken <= size for taken, size in zip(drawn, sizes, strict=True))
    assert sum(drawn) == min(max(count, len(sizes)), sum(sizes))


@given(sizes=some_sizes, count=st.integers(12, 20_000))
def test_larger_tensors_get_more_but_a_smaller_share(sizes, count):
    pairs = sorted(zip(sizes, sample_sizes(sizes, count), strict=True))
    for (small, few), (large, many) in pairwise(pairs):
        assert many >= few - 1  # the rounding
        assert many / large <= (few + 1) / small


@pytest.mark.parametrize(
    ("sizes", "count", "drawn"),
    [
        ([100, 10_000], 110, [10, 100]),
        ([10_000, 1, 100], 111, [100, 1, 10]),
        ([4, 10_000], 5102, [4, 5098]),  # what a small tensor cannot take
        ([7, 7, 7], 2, [1, 1, 1]),
        ([7, 7, 7], 4, [2, 1, 1]),
        ([20, 21], 40, [20, 20]),
        ([50], 20, [20]),
    ],
)
def test_sizes_go_with_the_roots(sizes, count, drawn):
    assert sample_sizes(sizes, count) == drawn


shapes = st.lists(st.lists(st.integers(1, 8), max_size=3), min_size=1, max_size=6)


@given(shapes=shapes, count=st.integers(1, 1500), seed=st.integers(0, 10**6))
def test_one_coordinate_of_every_stretch(shapes, count, seed):
    whole = layout(*shapes)
    found, weight, _ = sample_coordinates(whole, count, keyed_generator(seed))
    assert found.dtype == torch.int64
    assert found.shape == weight.shape
    assert (found.diff() >= 0).all()
    sizes = [prod(shape) for shape in shapes]
    for (_, where, _), size, drawn in zip(whole.slices, sizes, sample_sizes(sizes, count), strict=True):
        own = (found >= where.start) & (found < where.stop)
        assert int(own.sum()) == drawn
        torch.testing.assert_close(weight[own], torch.full((drawn,), size / drawn))
        for place, coordinate in enumerate((found[own] - where.start).tolist()):
            assert int(place * size / drawn) <= coordinate <= (place + 1) * size / drawn


@given(shapes=shapes, beyond=st.integers(0, 5))
def test_no_fewer_than_there_are_is_all_of_them(shapes, beyond):
    whole = layout(*shapes)
    found, weight, _ = sample_coordinates(whole, whole.n + beyond, keyed_generator(0))
    assert found.tolist() == list(range(whole.n))
    assert weight.tolist() == [1] * whole.n


@pytest.mark.parametrize(("seed", "count"), [(0, 8), (1, 17), (2, 33)])
def test_every_coordinate_weighs_one_in_the_mean(seed, count):
    """Stretches are not whole numbers of coordinates here, so that some coordinates lie in two of them."""
    whole, draws = layout((7, 3), (7,), (2, 5), ()), 4000
    generator = keyed_generator(seed)
    sums = torch.zeros(draws, whole.n, dtype=torch.float64)
    for row in sums:
        found, weight, _ = sample_coordinates(whole, count, generator)
        row.index_add_(0, found, weight.double())
    error = sums.std(0) / draws**0.5
    assert ((sums.mean(0) - 1).abs() <= 4 * error + 1e-6).all()
    assert error.max() < 0.06
    torch.testing.assert_close(
        sums.sum(1), torch.full((draws,), float(whole.n), dtype=torch.float64), rtol=1e-6, atol=0
    )


def test_a_coordinate_may_come_twice_and_then_counts_twice():
    whole = layout((3,))
    found = [sample_coordinates(whole, 2, keyed_generator(seed))[0].tolist() for seed in range(50)]
    assert [1, 1] in found
    assert all(one in (0, 1) and other in (1, 2) for one, other in found)


def test_the_generator_alone_decides():
    whole = layout((40, 30), (30,))
    draws = [sample_coordinates(whole, 100, keyed_generator(seed))[0].tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]


def test_a_tensor_without_coordinates_gives_none():
    found, weight, _ = sample_coordinates(layout((0, 2), (6,)), 3, keyed_generator(0))
    assert found.shape == weight.shape == (3,)
    assert found.max() < 6
