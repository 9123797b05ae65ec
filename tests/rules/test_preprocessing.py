import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scenes import assert_refused

from l2l_lightning.core.errors import InputError
from l2l_lightning.rules import Identity, LogAndSign

TINY, LARGEST = 5e-324, torch.finfo(torch.float64).max


def paper(g, p):
    """Appendix A of Andrychowicz et al. 2016, for one gradient."""
    if abs(g) >= math.exp(-p):
        return math.log(abs(g)) / p, math.copysign(1.0, g)
    return -1.0, math.exp(p) * g


def features(g, p, dtype=torch.float64):
    return LogAndSign(p)(torch.tensor([g], dtype=dtype)).squeeze(1).tolist()


def border(p, ulps):
    """e^-p and its neighbours among the floating-point numbers."""
    g = math.exp(-p)
    for _ in range(abs(ulps)):
        g = math.nextafter(g, math.copysign(math.inf, ulps))
    return g


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(0.1, 50))
@example(0.0, 10.0)
@example(-0.0, 10.0)
@example(TINY, 10.0)
@example(-TINY, 10.0)
@example(LARGEST, 10.0)
@example(-LARGEST, 50.0)
@example(1.0, 10.0)
def test_features_are_those_of_the_paper(g, p):
    assert features(g, p) == pytest.approx(paper(g, p), rel=1e-12)


@given(st.floats(0.1, 50), st.integers(-3, 3), st.sampled_from([-1, 1]))
def test_features_are_those_of_the_paper_at_the_border(p, ulps, sign):
    g = sign * border(p, ulps)
    assert features(g, p) == pytest.approx(paper(g, p), rel=1e-12)
    assert features(g, p) == pytest.approx([-1, sign], rel=1e-12)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32), st.floats(0.1, 50))
def test_float32_agrees_to_its_precision(g, p):
    assert features(g, p, torch.float32) == pytest.approx(paper(g, p), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("p", [5, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_neither_features_nor_their_slopes_are_ever_nan(p, dtype):
    info = torch.finfo(dtype)
    edges = [math.exp(-p) * (1 + ulps * info.eps) for ulps in (-1, 0, 1)]
    sizes = torch.tensor([0.0, info.tiny / 8, info.tiny, *edges, 1.0, info.max], dtype=dtype)
    grad = torch.cat((sizes, -sizes)).requires_grad_()
    values = LogAndSign(p)(grad)
    (slopes,) = torch.autograd.grad(values.sum(), grad)
    assert torch.isfinite(values).all()
    assert torch.isfinite(slopes).all()


def test_a_p_whose_exponential_overflows_is_refused():
    with pytest.raises(InputError, match="p must be at most 80, got 100"):
        LogAndSign(100.0)
    assert features(0.0, 80.0, torch.float32) == [-1, 0]


def test_features_come_first():
    grad = torch.randn(2, 3, 5)
    assert LogAndSign()(grad).shape == (LogAndSign.features, 2, 3, 5)
    assert torch.equal(Identity()(grad), grad.unsqueeze(0))
    assert Identity.features == 1


@pytest.mark.parametrize("p", [0, -1.0, math.nan, math.inf, "10", True])
def test_p_that_is_not_positive_is_refused(p):
    assert_refused(LogAndSign, "p", p)
