"""The tape of LSTM steps against the plain equations under autograd, and the memory that tapes hand on."""

import gc
from contextlib import contextmanager
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from l2l_lightning.rules import lstm_tape
from l2l_lightning.rules.lstm_tape import LSTMTape, Weights
from l2l_lightning.rules.recurrent import lstm, lstm_step

TIGHT = {"rtol": 1e-11, "atol": 1e-13}


@pytest.fixture(autouse=True)
def pool(monkeypatch):
    """Memory that waits for the next tape; none at the start of each test."""
    monkeypatch.setattr(lstm_tape._Memory, "_free", [])
    return lstm_tape._Memory._free


class Network(NamedTuple):
    """Layers with everything that a walk needs, all of it random."""

    hidden: list[tuple[Tensor, Tensor]]
    weights: list[Weights]
    head: Tensor
    x: Tensor  # (U, I, R)
    pull: Tensor  # (U, R), the gradient by the outputs

    @classmethod
    def draw(cls, layers=2, inputs=2, units=3, rows=5, steps=4, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        sizes = [inputs] + [units] * (layers - 1)
        shapes = [((4 * units, size), (4 * units, units), (4 * units, 1)) for size in sizes]
        weights = [Weights(*(normal(*shape).requires_grad_() for shape in own)) for own in shapes]
        hidden = [(normal(units, rows), normal(units, rows)) for _ in sizes]
        return cls(hidden, weights, normal(1, units).requires_grad_(), normal(steps, inputs, rows), normal(steps, rows))

    @property
    def leaves(self):
        return [self.head, *(part for own in self.weights for part in own)]

    def single(self):
        """The same in single precision."""
        hidden = [(h.float(), c.float()) for h, c in self.hidden]
        weights = [Weights(*(part.detach().float().requires_grad_() for part in own)) for own in self.weights]
        return Network(hidden, weights, self.head.detach().float().requires_grad_(), self.x.float(), self.pull.float())

    def tape(self, keeps=True):
        steps, inputs, _ = self.x.shape
        return LSTMTape(self.hidden, self.weights, self.head, inputs, steps if keeps else None)

    def gradients(self, outputs, **options):
        return torch.autograd.grad(outputs, self.leaves, self.pull, **options)


networks = st.builds(
    Network.draw,
    layers=st.integers(1, 3),
    inputs=st.integers(1, 3),
    units=st.integers(1, 5),
    rows=st.integers(1, 11),
    steps=st.integers(1, 6),
    seed=st.integers(0, 10**6),
)
widths = st.integers(1, 12)


@contextmanager
def blocks_of(network, width):
    """A block has so many rows, and no memory waits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lstm_tape, "GATES", 4 * len(network.hidden[0][0]) * width)
        patch.setattr(lstm_tape._Memory, "_free", [])
        yield


def equations(network):
    """Outputs (U, R) with a graph, and hidden leaves after every step."""
    hidden, outputs, visited = network.hidden, [], []
    for x in network.x:
        following = []
        for (h, c), weights in zip(hidden, network.weights, strict=True):
            following.append(lstm(x, h, c, weights))
            x = following[-1][0]
        hidden = following
        visited.append(hidden)
        outputs.append((network.head @ x).squeeze(0))
    return torch.stack(outputs), visited


@torch.no_grad()
def walk(tape, network):
    """All steps: outputs (U, R), without a graph."""
    return torch.stack([tape.step(x) for x in network.x])


def taped(network):
    """The outputs (U, R) with a graph; nothing but this graph keeps the tape alive."""
    tape = network.tape()
    return tape.outputs(walk(tape, network))


def assert_as_plain(network, outputs):
    """Outputs and all gradients are those of the equations."""
    expected, _ = equations(network)
    torch.testing.assert_close(outputs, expected, **TIGHT)
    torch.testing.assert_close(network.gradients(outputs), network.gradients(expected), **TIGHT)


@given(network=networks, width=widths)
def test_outputs_and_every_gradient_are_those_of_the_equations(network, width):
    with blocks_of(network, width):
        assert_as_plain(network, taped(network))


@given(network=networks, width=widths)
def test_in_single_precision_they_are_as_good_as_the_rounding(network, width):
    expected, _ = equations(network)
    single = network.single()
    with blocks_of(network, width):
        outputs = taped(single)
        found = single.gradients(outputs)
    assert all(leaf.dtype == torch.float32 for leaf in (outputs, *found))
    for single_one, double_one in zip((outputs, *found), (expected, *network.gradients(expected)), strict=True):
        scale = max(1.0, double_one.abs().max().item())
        torch.testing.assert_close(single_one.double(), double_one, rtol=1e-4, atol=1e-5 * scale)


@given(network=networks, width=widths, keeps=st.booleans())
def test_hidden_leaves_after_every_step(network, width, keeps):
    outputs, visited = equations(network)
    with blocks_of(network, width):
        tape = network.tape(keeps)
        for x, output, hidden in zip(network.x, outputs, visited, strict=True):
            with torch.no_grad():
                torch.testing.assert_close(tape.step(x), output.detach(), **TIGHT)
            torch.testing.assert_close(tape.hidden, [(h.detach(), c.detach()) for h, c in hidden], **TIGHT)


@pytest.mark.parametrize("keeps", [True, False])
def test_what_a_tape_gives_away_or_gets_is_not_its_memory(keeps):
    network = Network.draw()
    before = [(h.clone(), c.clone()) for h, c in network.hidden]
    tape = network.tape(keeps)
    with torch.no_grad():
        output = tape.step(network.x[0])
        given_away = [output, *(leaf for pair in tape.hidden for leaf in pair)]
        copies = [leaf.clone() for leaf in given_away]
        walk(tape, network._replace(x=network.x[1:]))
    torch.testing.assert_close(given_away, copies, rtol=0, atol=0)
    torch.testing.assert_close(network.hidden, before, rtol=0, atol=0)


@given(network=networks, width=widths)
def test_a_step_without_graph_equals_the_equations(network, width):
    (h, c), weights, x = network.hidden[0], network.weights[0], network.x[0]
    with blocks_of(network, width), torch.no_grad():
        torch.testing.assert_close(lstm_step(x, h, c, weights), lstm(x, h, c, weights), **TIGHT)


def test_a_loss_that_spreads_one_number_over_all_outputs():
    network = Network.draw()
    found, expected = (
        torch.autograd.grad(each.sum(), network.leaves) for each in (taped(network), equations(network)[0])
    )
    torch.testing.assert_close(found, expected, **TIGHT)


def test_the_way_back_may_be_gone_twice_and_for_some_of_the_weights():
    network = Network.draw()
    outputs = taped(network)
    first = network.gradients(outputs, retain_graph=True)
    torch.testing.assert_close(network.gradients(outputs, retain_graph=True), first, rtol=0, atol=0)
    some = torch.autograd.grad(outputs, network.leaves[2:4], network.pull)
    torch.testing.assert_close(some, first[2:4], rtol=0, atol=0)
    network.head.requires_grad_(False)
    others = torch.autograd.grad(taped(network), network.leaves[1:], network.pull)
    torch.testing.assert_close(others, first[1:], rtol=0, atol=0)


def test_second_derivatives_are_refused():
    network = Network.draw()
    (first,) = torch.autograd.grad(taped(network).square().sum(), network.head, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


twins = [Network.draw(seed=seed) for seed in range(4)]


@pytest.mark.parametrize("keeps", [True, False])
def test_tapes_that_step_in_turns_do_not_disturb_each_other(keeps):
    tapes = [network.tape(keeps) for network in twins]
    with torch.no_grad():
        in_turns = [[tape.step(network.x[t]) for tape, network in zip(tapes, twins, strict=True)] for t in range(4)]
    for tape, network, own in zip(tapes, twins, zip(*in_turns, strict=True), strict=True):
        outputs = torch.stack(own)
        torch.testing.assert_close(outputs, equations(network)[0].detach(), **TIGHT)
        if keeps:
            assert_as_plain(network, tape.outputs(outputs))


@given(order=st.permutations(range(4)), dropped=st.sets(st.integers(0, 3)))
def test_graphs_alive_are_never_written_over(order, dropped):
    """Four tapes of one shape; some go, others step in their memory, and the rest goes back in any order."""
    graphs = {number: taped(network) for number, network in enumerate(twins)}
    for number in dropped:
        del graphs[number]
        assert_as_plain(twins[number], taped(twins[number]))  # made, finished and gone meanwhile
        walk(twins[number].tape(), twins[number])
    for number in order:
        if number in graphs:
            assert_as_plain(twins[number], graphs.pop(number))


@pytest.mark.parametrize("rows", [2, 5, 100])
def test_what_the_memory_held_before_does_not_matter(rows, pool, monkeypatch):
    network = Network.draw(layers=3)
    monkeypatch.setattr(lstm_tape, "GATES", 12 * rows)
    walk(network.tape(), network)
    for block in pool[0][1]:
        for layer, scratch in zip(block.layers, block.scratch, strict=True):
            for leaf in (layer.xh1[:, :-1], layer.c, *layer.points[0], *vars(scratch).values()):
                leaf.fill_(torch.nan)
            layer.xh1[:, -1] = 1
    outputs = taped(network)
    assert not pool  # it is this memory that was used
    assert_as_plain(network, outputs)


def test_memory_is_handed_back_by_the_graph_and_used_again(pool):
    places = set()
    for network in twins:
        tape = network.tape()
        places.add(tape._memory.blocks[0].layers[0].xh1.data_ptr())
        outputs = tape.outputs(walk(tape, network))
        del tape
        assert not pool  # the graph still needs it
        network.gradients(outputs)
        del outputs
        assert len(pool) == 1
    assert len(places) == 1


def test_memory_of_another_kind_is_left_alone(pool):
    changes = ({}, {"rows": 6}, {"units": 4}, {"layers": 1}, {"inputs": 3}, {"steps": 5})
    kinds = [*(Network.draw(**change) for change in changes), twins[0].single()]
    for network in kinds * 2:
        walk(network.tape(), network)
    walk(kinds[0].tape(keeps=False), kinds[0])
    assert len(pool) == len(kinds) + 1


def test_memory_in_waiting_does_not_grow(pool):
    for rows in (*range(1, 30), *range(1, 30)):
        network = Network.draw(layers=1, units=1, rows=rows, steps=1)
        walk(network.tape(), network)
        assert len(pool) <= lstm_tape.SPARE
    assert [key[0].rows for key, _ in pool] == list(range(30 - lstm_tape.SPARE, 30))  # the newest


def test_memory_of_many_tapes_at_once_does_not_wait_for_ever(pool):
    tapes = [twins[0].tape() for _ in range(3 * lstm_tape.SPARE)]
    tapes.clear()
    gc.collect()
    assert len(pool) <= lstm_tape.SPARE


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_tape_too_large_for_the_machine_says_only_that(pool):
    network = Network.draw()
    with pytest.raises(RuntimeError, match="allocat"):
        LSTMTape(network.hidden, network.weights, network.head, 2, 10**13)
    gc.collect()
    assert not pool


@pytest.mark.parametrize("keeps", [True, False])
def test_after_inference_mode_the_same_memory_serves_training(pool, keeps):
    network = Network.draw()
    with torch.inference_mode():
        quiet = walk(network.tape(keeps), network)
    torch.testing.assert_close(quiet.clone(), equations(network)[0].detach(), **TIGHT)
    for _ in range(2):
        assert_as_plain(network, taped(network))
    torch.testing.assert_close(walk(network.tape(keeps=False), network), quiet.clone(), **TIGHT)
    with torch.inference_mode():
        torch.testing.assert_close(walk(network.tape(keeps), network), quiet, rtol=0, atol=0)
