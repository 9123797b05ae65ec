import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scenes import assert_refused

from l2l_lightning.core.errors import InputError
from l2l_lightning.core.horizon import FixedHorizon, GrowingHorizon, RandomHorizon, Stage, stagger
from l2l_lightning.core.random import keyed_generator

GROWING = GrowingHorizon([Stage(0, 20, 40), Stage(10, 60, 80), Stage(30, 200, 200)])


def round_up(steps, unroll):
    return -(-steps // unroll) * unroll


@given(st.integers(1, 300), st.integers(0, 300), st.integers(1, 50), st.integers(0, 2**32))
def test_lifetimes_are_whole_windows_within_the_bounds(low, extra, unroll, seed):
    lifetimes = RandomHorizon(low, low + extra).draw(50, 0, unroll, keyed_generator(seed))
    assert lifetimes.shape == (50,)
    assert lifetimes.dtype == torch.int64
    assert (lifetimes % unroll == 0).all()
    assert lifetimes.min() >= round_up(low, unroll)
    assert lifetimes.max() <= round_up(low + extra, unroll)


def test_every_lifetime_between_the_bounds_is_drawn_alike():
    counts = RandomHorizon(10, 50).draw(5000, 0, 10, keyed_generator(0)).bincount()[10::10]
    assert counts.shape == (5,)
    assert counts.tolist() == pytest.approx([1000] * 5, abs=150)  # five standard deviations


@pytest.mark.parametrize(("steps", "lifetime"), [(100, 100), (101, 120), (1, 20)])
def test_fixed_horizon_is_one_lifetime(steps, lifetime):
    assert FixedHorizon(steps).draw(3, 7, 20, keyed_generator(0)).tolist() == [lifetime] * 3


@pytest.mark.parametrize(
    ("window", "bounds"),
    [(0, (20, 40)), (9, (20, 40)), (10, (60, 80)), (29, (60, 80)), (30, (200, 200)), (10**6, (200, 200))],
)
def test_growing_horizon_switches_at_its_windows(window, bounds):
    assert GROWING.bounds(window) == bounds
    lifetimes = GROWING.draw(200, window, 20, keyed_generator(0))
    assert (lifetimes.min(), lifetimes.max()) == bounds


@pytest.mark.parametrize(
    ("horizon", "unroll", "rounded"),
    [
        (FixedHorizon(100), 20, {}),
        (FixedHorizon(90), 20, {90: 100}),
        (RandomHorizon(25, 45), 20, {25: 40, 45: 60}),
        (RandomHorizon(20, 45), 20, {45: 60}),
        (GROWING, 20, {}),
        (GROWING, 30, {20: 30, 40: 60, 80: 90, 200: 210}),
        (GrowingHorizon([Stage(0, 5, 15), Stage(1, 15, 15), Stage(2, 5, 20)]), 10, {5: 10, 15: 20}),
    ],
)
def test_every_bound_that_is_rounded_up_is_announced_once(horizon, unroll, rounded):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        horizon.announce(unroll)
    assert [str(warning.message) for warning in caught] == [
        f"The horizon of {steps} inner steps is no multiple of the unroll of {unroll}; it is rounded up to {up}."
        for steps, up in rounded.items()
    ]


def test_drawing_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FixedHorizon(90).draw(3, 0, 20, keyed_generator(0))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=60), st.integers(1, 50))
def test_stagger_keeps_whole_windows_and_at_least_one(windows, unroll):
    lifetimes = torch.tensor(windows) * unroll
    first = stagger(lifetimes, unroll)
    assert first.dtype == torch.int64
    assert (first % unroll == 0).all()
    assert (first >= unroll).all()
    assert (first <= lifetimes).all()
    exact = lifetimes * torch.arange(1, len(windows) + 1) / len(windows)
    assert (first - exact > -1e-3).all()
    assert (first - exact < unroll * 1.001).all()


@pytest.mark.parametrize(
    ("count", "windows"),
    [(4, 4), (8, 4), (4, 8), (10, 5), (1, 3), (16, 1), (5, 3), (13, 13)],  # 9/13 * 13 is above 9 in float32
)
def test_stagger_spreads_evenly(count, windows):
    first = stagger(torch.full((count,), windows * 20), 20)
    assert (first // 20).tolist() == [-(-windows * (b + 1) // count) for b in range(count)]


@pytest.mark.parametrize("value", [0, -20, 2.5, True, "100"])
def test_lifetimes_that_are_no_positive_integers_are_refused(value):
    assert_refused(FixedHorizon, "steps", value)
    assert_refused(RandomHorizon, "low", value, high=100)
    assert_refused(RandomHorizon, "high", value, low=1)
    assert_refused(Stage, "low", value, after=0, high=100)


@pytest.mark.parametrize("value", [-1, 0.5, True])
def test_a_stage_starts_at_a_whole_window(value):
    assert_refused(Stage, "after", value, low=1, high=2)


def test_low_above_high_is_refused():
    with pytest.raises(InputError, match=r"^RandomHorizon: low must not be above high, got 3 and 2\.$"):
        RandomHorizon(3, 2)


@pytest.mark.parametrize("starts", [[], [1], [0, 0], [0, 5, 3]])
def test_stages_out_of_order_are_refused(starts):
    with pytest.raises(InputError, match=r"^GrowingHorizon: stages must start at after=0 .* got \["):
        GrowingHorizon([Stage(after, 1, 2) for after in starts])
