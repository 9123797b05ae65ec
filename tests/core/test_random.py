import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from l2l_lightning.core.random import keyed_generator

# Keys as the project builds them: (stream, split, seed, rank, counter), every word of 32 bits.
keys = st.tuples(*[st.integers(0, 2**32 - 1) | st.integers(0, 3)] * 5)


def draw(*key, count=4):
    return torch.rand(count, generator=keyed_generator(*key)).tolist()


@given(keys)
def test_same_key_same_stream(key):
    assert draw(*key) == draw(*key)


@given(keys, keys)
def test_different_keys_different_streams(key, other):
    assert (draw(*key) == draw(*other)) == (key == other)


def test_neighbouring_keys_never_meet():
    grid = torch.cartesian_prod(*[torch.arange(4)] * 5).tolist()
    assert len({keyed_generator(*key).initial_seed() for key in grid}) == len(grid)


@pytest.mark.parametrize("word", [-1, -(2**63), 2**64 - 1])
def test_words_of_64_bits_and_negative_ones_are_keys_too(word):
    assert draw(word, 0) == draw(word, 0) != draw(word, 1)


@pytest.mark.parametrize(
    ("key", "other"),
    [((1,), (1, 0)), ((2**32, 0), (0, 1)), ((0, 0, 5 + 2**32, 0, 7), (0, 0, 5, 1, 7 * 2**32))],
)
def test_keys_of_other_lengths_and_widths_do_not_collide(key, other):
    assert draw(*key) != draw(*other)


def test_stream_ignores_and_keeps_the_global_state():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = draw(5, 6)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert draw(5, 6) == first


def test_order_of_use_does_not_matter():
    alone = [draw(k, count=6) for k in range(3)]
    generators = [keyed_generator(k) for k in reversed(range(3))]
    interleaved = [[torch.rand(3, generator=g).tolist() for g in generators] for _ in range(2)]
    assert [[*one, *two] for one, two in zip(*interleaved, strict=True)] == alone[::-1]
