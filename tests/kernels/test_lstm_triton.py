"""The kernel in Triton's interpreter, in a process of its own: Triton must be imported with TRITON_INTERPRET set."""

import importlib.util
import math
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from unittest import mock

import pytest
import torch
import walks
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from scenes import initial_state, seen
from torch import nn
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx

from l2l_lightning import LearnedOptimizer
from l2l_lightning.kernels import lstm_triton
from l2l_lightning.rules import CoordinatewiseLSTM, Identity, LogAndSign, recurrent
from l2l_lightning.rules.schedules import Cosine

CLOSE = {"rtol": 1e-5, "atol": 1e-6, "equal_nan": True}
NEEDS_TRITON = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")


@pytest.fixture(scope="module")
def interpreter():
    """A process whose kernels run in Triton's interpreter, on the CPU."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            processes.submit(int).result()
        yield processes


def make(seed=0, scale=1.0, **arguments):
    """A rule none of whose weights is zero, with steps of about 1."""
    generator = torch.Generator().manual_seed(seed)
    rule = CoordinatewiseLSTM(output_scale=scale, **arguments)
    for parameter in rule.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return rule


def gradients(seed, low, high, *shape):
    """Of both signs, with magnitudes between 10^low and 10^high."""
    generator = torch.Generator().manual_seed(seed)
    exponents = torch.empty(shape).uniform_(low, high, generator=generator)
    return 10**exponents * torch.empty(shape).bernoulli_(generator=generator).sub(0.5).sign()


@torch.no_grad()
def walk(rule, grads, fused):
    """Steps and states for each of the gradients (T, ..., n), from random h and c that do not lie side by side."""
    generator = torch.Generator().manual_seed(0)
    pairs = {name: torch.stack((leaf, leaf), -1) for name, leaf in initial_state(rule, grads[0]).items()}
    state = {name: pair.uniform_(-1, 1, generator=generator)[..., 0] for name, pair in pairs.items()}
    steps, states = [], []
    for t, grad in enumerate(grads):
        assert rule.fuses(grad) == fused
        before = {name: leaf.clone() for name, leaf in state.items()}
        step, after = rule(seen(torch.zeros_like(grad), grad, None, torch.full(grad.shape[:-1], t)), state)
        torch.testing.assert_close(state, before, rtol=0, atol=0, equal_nan=True)
        state = after
        steps.append(step)
        states.append(state)
    return steps, states


def assert_same_walk(interpreter, rule, grads):
    found = interpreter.submit(walk, rule, grads, True).result()
    torch.testing.assert_close(found, walk(rule, grads, False), **CLOSE)


@NEEDS_TRITON
@settings(max_examples=20, phases=[Phase.generate])  # shrinking takes minutes in the interpreter
@given(
    seed=st.integers(0, 99),
    rows=st.integers(1, 300),
    hidden=st.integers(1, 3),
    p=st.none() | st.floats(0.5, 80),
    low=st.floats(-20, 2),
)
def test_steps_and_states_are_those_of_torch(interpreter, seed, rows, hidden, p, low):
    rule = make(seed, hidden_size=hidden, preprocessing=Identity() if p is None else LogAndSign(p))
    assert_same_walk(interpreter, rule, gradients(seed, low, low + 4, 3, rows))


@NEEDS_TRITON
@pytest.mark.parametrize(
    ("hidden", "rows", "steps"),
    [(20, 129, 1), (32, 3, 1), (2, 1, 8), (2, 128, 2), (1, 2**16 + 3, 1)],
)
def test_sizes_at_the_edge(interpreter, hidden, rows, steps):
    assert_same_walk(interpreter, make(hidden_size=hidden), gradients(1, -6, 1, steps, rows))


@NEEDS_TRITON
@pytest.mark.parametrize("preprocessing", [LogAndSign(0.5), LogAndSign(10), LogAndSign(80.0), Identity()])
def test_gradients_at_the_edge(interpreter, preprocessing):
    floor = math.exp(-getattr(preprocessing, "p", 0))
    sizes = [0.0, 1e-45, 1e-40, 1.2e-38, 1e-30, floor / 2, floor, 2 * floor, 1.0, 1e20, 1e38, math.inf, math.nan]
    sizes = torch.tensor(sizes if isinstance(preprocessing, LogAndSign) else sizes[:-3])
    grads = torch.stack((torch.cat((sizes, -sizes)), torch.cat((-sizes, sizes))))
    assert_same_walk(interpreter, make(hidden_size=3, preprocessing=preprocessing), grads)


@torch.no_grad()
def faint_steps():
    """Without biases, from h = c = 0 and a gradient far below 1."""
    rule, grad = make(hidden_size=3, preprocessing=Identity()), gradients(2, -6, -5, 50)
    for bias in (rule.head_bias, *(cell.bias for cell in rule.cells)):
        nn.init.zeros_(bias)
    return rule(seen(grad, grad, None, torch.tensor(0)), initial_state(rule, grad))[:1]


@NEEDS_TRITON
def test_a_small_signal_keeps_its_digits(interpreter):
    """Where tanh is taken from an exponential, 1 - exp leaves nothing of it."""
    (found,) = interpreter.submit(faint_steps).result()
    (expected,) = faint_steps()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


@NEEDS_TRITON
def test_problems_side_by_side_with_a_schedule_each(interpreter):
    rule = make(hidden_size=2, scale=Cosine(1.0, 0.1, steps=3))
    grads = gradients(3, -4, 1, 3, 4, 2, 5)
    assert_same_walk(interpreter, rule, grads)
    assert_same_walk(interpreter, rule, grads.transpose(1, 3))


def optimize(rule, chunk_size, fused):
    params = walks.parameters()
    optimizer = LearnedOptimizer(params, rule, chunk_size=chunk_size)
    with mock.patch.object(recurrent, "fused_step", wraps=lstm_triton.fused_step) as kernel:
        walks.walk(optimizer, params, range(3))
    assert bool(kernel.call_count) == fused
    return [param.detach() for param in params], [
        optimizer.state[param][name] for param in params if optimizer.state[param] for name in lstm_triton.LEAVES
    ]


@NEEDS_TRITON
@pytest.mark.parametrize("chunk_size", [10, walks.ALL])
def test_optimizer_hands_over_parts_of_leaves(interpreter, chunk_size):
    rule = make(hidden_size=2, scale=0.1)
    found = interpreter.submit(optimize, rule, chunk_size, True).result()
    torch.testing.assert_close(found, optimize(rule, chunk_size, False), **CLOSE)


# What the kernel serves


class OwnPreprocessing(LogAndSign):
    pass


class OwnTensor(torch.Tensor):
    pass


def looks_inside(transform):
    """What ``fits`` answers to a gradient inside of a transform."""
    rule, answers = make(), []

    def watched(grad):
        answers.append(rule.fuses(grad))
        return grad

    transform(watched)(torch.ones(2, 3))
    return answers[0]


@torch.no_grad()
def served():
    """What ``fits`` answers, case by case."""
    grad = torch.ones(3)
    answers = {
        "log and sign": make().fuses(grad),
        "identity": make(preprocessing=Identity()).fuses(grad),
        "32 units": make(hidden_size=32).fuses(grad),
        "33 units": make(hidden_size=33).fuses(grad),
        "one layer": make(layers=1).fuses(grad),
        "three layers": make(layers=3).fuses(grad),
        "double": make().double().fuses(grad.double()),
        "gradient in double": make().fuses(grad.double()),
        "rule in double": make().double().fuses(grad),
        "rule elsewhere": make().to("meta").fuses(grad),
        "other preprocessing": make(preprocessing=OwnPreprocessing()).fuses(grad),
        "other tensor": make().fuses(grad.as_subclass(OwnTensor)),
        "vmap": looks_inside(vmap),
        "recording": looks_inside(lambda watched: lambda grad: make_fx(watched)(grad)),
    }
    with torch.enable_grad():
        answers["graph"] = make().fuses(grad)
    with mock.patch("torch.compiler.is_compiling", return_value=True):
        answers["compiling"] = make().fuses(grad)
    return answers


@NEEDS_TRITON
def test_kernel_serves_what_it_was_written_for_and_nothing_else(interpreter):
    answers = interpreter.submit(served).result()
    assert {name for name, answer in answers.items() if answer} == {"log and sign", "identity", "32 units"}


class OtherCell(recurrent.LSTMCell):
    def forward(self, x, *hidden):
        return tuple(2 * leaf for leaf in super().forward(x, *hidden))


class OtherLSTM(CoordinatewiseLSTM):
    cell = OtherCell


@NEEDS_TRITON
def test_a_subclass_with_another_cell_keeps_it(interpreter):
    rule, grads = OtherLSTM(hidden_size=2), gradients(4, -3, 0, 2, 5)
    torch.testing.assert_close(interpreter.submit(walk, rule, grads, False).result(), walk(rule, grads, False))


@torch.no_grad()
def test_kernel_does_not_serve_on_a_cpu():
    assert not make().fuses(torch.ones(3))


def test_nothing_imports_triton_on_a_cpu():
    script = """
import sys, torch
from l2l_lightning import LearnedOptimizer
from l2l_lightning.core.coordinates import CoordinateLayout
from l2l_lightning.kernels import lstm_triton
from l2l_lightning.rules import CoordinatewiseLSTM, RuleInput
assert "triton" not in sys.modules
rule, grad = CoordinatewiseLSTM(), torch.ones(3)
with torch.no_grad():
    layout = CoordinateLayout.flat(3)
    inputs = RuleInput(grad, grad, None, torch.tensor(0), torch.tensor(0.0), layout)
    rule(inputs, rule.init_state(grad, layout))
assert "triton" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_without_triton_nothing_is_tried():
    absent = mock.patch.dict(sys.modules, {"triton": None})
    with absent, mock.patch.object(lstm_triton, "_launch", side_effect=ImportError) as launch:
        assert not lstm_triton._works.__wrapped__(torch.device("cpu"))
    assert not launch.called


@NEEDS_TRITON
def test_triton_that_cannot_build_is_left_alone_with_a_warning():
    failing = mock.patch.object(lstm_triton, "_launch", side_effect=RuntimeError("no C compiler"))
    with failing, pytest.warns(UserWarning, match="without a fused kernel.*RuntimeError: no C compiler"):
        assert not lstm_triton._works.__wrapped__(torch.device("cpu"))


# On a GPU


@NEEDS_TRITON
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("preprocessing", [LogAndSign(), Identity()])
@pytest.mark.parametrize("hidden", [1, 20, 24, 32])
@pytest.mark.parametrize("chunk_size", [1000, 16384, 10**6])
def test_optimizer_on_a_gpu_walks_as_without_the_kernel(preprocessing, hidden, chunk_size):
    """Matrices beyond 2^16 coordinates, where a thread has several of them, and small ones in one chunk."""
    rule, shapes = make(hidden_size=hidden, preprocessing=preprocessing, scale=0.1), [(300, 331), (7,), (), (13, 5)]
    found = []
    for fused in (True, False):
        params = [nn.Parameter(value.cuda()) for value in walks.draw(0, shapes)]
        optimizer = LearnedOptimizer(params, rule, chunk_size=chunk_size)
        kernel = mock.patch.object(recurrent, "fused_step", wraps=lstm_triton.fused_step)
        with kernel as taken, mock.patch.object(recurrent, "fits", lstm_triton.fits if fused else lambda *_: False):
            for t in range(5):
                for place, param in enumerate(params):
                    param.grad = gradients(10 * t + place, -8, 2, *param.shape).cuda()
                optimizer.step()
        assert bool(taken.call_count) == fused
        states = [optimizer.state[param][name] for param in params for name in lstm_triton.LEAVES]
        found.append([param.detach() for param in params] + states)
    torch.testing.assert_close(*found, rtol=1e-5, atol=5e-6)
