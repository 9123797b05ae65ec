"""One step of a two-layer ``CoordinatewiseLSTM`` on a GPU in a single pass over memory, without a graph.

Operation by operation the network moves its state many times. Here every program takes a block of coordinates all the
way from the gradient to the step: it reads and writes the state once, and the gates never leave its registers.

Triton comes with torch on Linux, but it is no dependency and slow to import. Nothing imports it before a kernel is
needed: the kernel's functions are plain ones until ``_compiled`` hands them over.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import triton.language as tl

LEAVES = ("h0", "c0", "h1", "c1")
THREADS = 128  # of one program
MOST_UNITS = 32  # of a layer; with more of them the 2H inputs of the second layer do not stay in registers


def fits(grad: Tensor, weights: Sequence[Tensor]) -> bool:
    """Whether ``fused_step`` can take the step for this gradient, and nobody watches single operations.

    Args:
        grad: (..., n).
        weights: W_ih, W_hh and bias of every layer, then those of the head.
    """
    return (
        not torch.compiler.is_compiling()
        and (grad.is_cuda or os.environ.get("TRITON_INTERPRET") == "1")
        and type(grad) is Tensor
        and grad.dtype == weights[-1].dtype == torch.float32
        and grad.device == weights[-1].device
        and len(weights) == 8  # two layers and the head
        and weights[1].shape[1] <= MOST_UNITS
        and not torch.is_grad_enabled()
        and not torch._C._are_functorch_transforms_active()
        and not torch._C._len_torch_dispatch_stack()  # make_fx would not record the kernel
        and _works(grad.device)
    )


def fused_step(
    grad: Tensor, state: dict[str, Tensor], weights: Sequence[Tensor], p: float | None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The head's output (..., n) before its scale, and the new state, for a gradient (..., n) that ``fits``.

    Args:
        grad: (..., n).
        state: ``LEAVES``, (H, ..., n) each.
        weights: as in ``fits``.
        p: of ``LogAndSign``; None where the network sees the gradient itself.
    """
    leaves = [state[name].flatten(1) for name in LEAVES]
    step, new = _launch(grad.flatten(), leaves, weights, p)
    new_state = {name: leaf.view(-1, *grad.shape) for name, leaf in zip(LEAVES, new, strict=True)}
    return step.view(grad.shape), new_state


def _launch(
    grad: Tensor, leaves: Iterable[Tensor], weights: Iterable[Tensor], p: float | None
) -> tuple[Tensor, list[Tensor]]:
    """Outputs (R,) and new leaves (H, R) for gradients (R,); p of ``LogAndSign``, None for the gradient itself."""
    # A leaf may be a part of a longer one: its rows are contiguous, but do not follow each other.
    old = [leaf if leaf.stride(1) == 1 else leaf.contiguous() for leaf in leaves]
    step, new = grad.new_empty(grad.shape), [leaf.new_empty(leaf.shape) for leaf in old]
    rows, hidden = len(grad), len(old[0])
    # Every weight is loaded for all coordinates of a thread at once, as many as its 255 registers hold; but on few
    # coordinates more threads count for more.
    block = THREADS * (1 if rows <= 2**16 else 4 if hidden <= 20 else 2)
    with torch.cuda.device_of(grad):  # Triton runs on the current device, whatever its arguments are on
        _compiled()[(-(-rows // block),)](
            grad.contiguous(),
            *old,
            *(leaf.stride(0) for leaf in old),
            *(weight.contiguous() for weight in weights),
            step,
            *new,
            rows,
            float(p or 0),
            math.exp(p or 0),
            logarithm=p is not None,
            hidden=hidden,
            block=block,
            num_warps=THREADS // 32,
            enable_fp_fusion=True,  # said aloud, for the default changes with Triton's version
        )
    return step, new


@functools.cache
def _works(device: torch.device) -> bool:
    """Whether Triton can build and run the kernel, which takes a C compiler too: tried once on one coordinate."""
    if importlib.util.find_spec("triton") is None:
        return False
    one, gates = torch.zeros(1, 1, device=device), torch.zeros(4, 1, device=device)
    try:
        _launch(one[0], [one] * 4, [gates] * 6 + [one] * 2, None)
    except Exception as error:
        warnings.warn(
            f"CoordinatewiseLSTM takes its steps on {device} without a fused kernel, which is slower: Triton cannot "
            f"run it ({type(error).__name__}: {error}).",
            stacklevel=2,
        )
        return False
    return True


@functools.cache
def _compiled() -> Any:
    """``_step`` as Triton's function."""
    import triton
    import triton.language

    names = globals()  # where Triton and its interpreter look up what a kernel calls
    names["tl"] = triton.language
    names.update({function.__name__: triton.jit(function) for function in PARTS})
    # One binary serves any number of rows, and all accesses go in the same layout: one coordinate, one thread.
    variable = [name for name, kind in _step.__annotations__.items() if kind == "tl.tensor"]
    return triton.jit(_step, do_not_specialize=variable)


def _sigmoid(x: tl.tensor) -> tl.tensor:
    return 1 / (1 + tl.exp(-x))


def _tanh(x: tl.tensor) -> tl.tensor:
    """Cephes, tanhf.c (Moshier): a series around 0, where the exponential would cancel."""
    size, square = tl.abs(x), x * x
    series = tl.fma(square, -5.70498872745e-3, 2.06390887954e-2)
    series = tl.fma(square, series, -5.37397155531e-2)
    series = tl.fma(square, series, 1.33314422036e-1)
    series = tl.fma(square, series, -3.33332819422e-1)
    far = 1 - 2 / (tl.exp(2 * size) + 1)
    return tl.where(size < 0.625, tl.fma(square * series, x, x), tl.where(x < 0, -far, far))


def _features(grad: tl.tensor, p: tl.tensor, scale: tl.tensor, logarithm: tl.constexpr) -> tl.tuple:
    """``LogAndSign`` with scale = e^p, or ``Identity``; as in torch, NaN stays NaN."""
    if logarithm:
        log = tl.maximum(tl.log(tl.abs(grad)) / p, -1.0, propagate_nan=tl.PropagateNan.ALL)  # -1 for log(0) too
        features = (log, tl.clamp(grad * scale, -1.0, 1.0, propagate_nan=tl.PropagateNan.ALL))
    else:
        features = (grad,)  # type: ignore[assignment]
    return features


def _rows(leaf: tl.tensor, stride: tl.tensor, at: tl.tensor, inside: tl.tensor, hidden: tl.constexpr) -> tl.tuple:
    """All rows of a leaf in registers: H times (block,)."""
    rows = ()
    for unit in tl.static_range(hidden):
        rows += (tl.load(leaf + unit * stride + at, mask=inside, other=0.0),)  # type: ignore[assignment]
    return rows


def _gate(row: tl.tensor, x: tl.tuple, h: tl.tuple, ih: tl.tensor, hh: tl.tensor, bias: tl.tensor) -> tl.tensor:
    """One row of W_ih x + W_hh h + b: (block,)."""
    total = tl.load(bias + row)
    for k in tl.static_range(len(x)):
        total = tl.fma(tl.load(ih + row * len(x) + k), x[k], total)
    for k in tl.static_range(len(h)):
        total = tl.fma(tl.load(hh + row * len(h) + k), h[k], total)
    return total


def _unit(
    unit: tl.tensor, x: tl.tuple, h: tl.tuple, c: tl.tensor, ih: tl.tensor, hh: tl.tensor, bias: tl.tensor
) -> tl.tuple:
    """``lstm`` for one unit: h' and c' (block,)."""
    i = _sigmoid(_gate(unit, x, h, ih, hh, bias))
    f = _sigmoid(_gate(unit + len(h), x, h, ih, hh, bias))
    o = _sigmoid(_gate(unit + 2 * len(h), x, h, ih, hh, bias))
    g = _tanh(_gate(unit + 3 * len(h), x, h, ih, hh, bias))
    c_next = f * c + i * g
    return o * _tanh(c_next), c_next


def _step(
    grad: tl.tensor,
    h0: tl.tensor,
    c0: tl.tensor,
    h1: tl.tensor,
    c1: tl.tensor,
    h0_stride: tl.tensor,
    c0_stride: tl.tensor,
    h1_stride: tl.tensor,
    c1_stride: tl.tensor,
    ih0: tl.tensor,
    hh0: tl.tensor,
    bias0: tl.tensor,
    ih1: tl.tensor,
    hh1: tl.tensor,
    bias1: tl.tensor,
    head_weight: tl.tensor,
    head_bias: tl.tensor,
    step: tl.tensor,
    h0_next: tl.tensor,
    c0_next: tl.tensor,
    h1_next: tl.tensor,
    c1_next: tl.tensor,
    rows: tl.tensor,
    p: tl.tensor,
    scale: tl.tensor,
    logarithm: tl.constexpr,
    hidden: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """A block of coordinates from gradients (R,) and leaves (H, R) to outputs (R,) and new leaves (H, R).

    Units come one after the other, and a unit's sums over its inputs are written out: 20 units need no padding to 32,
    as a product of tiles would, and every product is in full precision.
    """
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < rows
    stride = rows.to(tl.int64)  # 64 bits: H * R may be more than 2^31

    x = _features(tl.load(grad + at, mask=inside, other=0.0), p, scale, logarithm)
    h = _rows(h0, h0_stride.to(tl.int64), at, inside, hidden)
    for unit in range(hidden):
        c = tl.load(c0 + unit * c0_stride.to(tl.int64) + at, mask=inside, other=0.0)
        h_next, c_next = _unit(unit, x, h, c, ih0, hh0, bias0)
        tl.store(h0_next + unit * stride + at, h_next, mask=inside)
        tl.store(c0_next + unit * stride + at, c_next, mask=inside)

    tl.debug_barrier()  # a loop cannot put its results in different registers; they come back from the cache
    x = _rows(h0_next, stride, at, inside, hidden)
    h = _rows(h1, h1_stride.to(tl.int64), at, inside, hidden)
    output = tl.full((block,), 0.0, tl.float32) + tl.load(head_bias)
    for unit in range(hidden):
        c = tl.load(c1 + unit * c1_stride.to(tl.int64) + at, mask=inside, other=0.0)
        h_next, c_next = _unit(unit, x, h, c, ih1, hh1, bias1)
        tl.store(h1_next + unit * stride + at, h_next, mask=inside)
        tl.store(c1_next + unit * stride + at, c_next, mask=inside)
        output = tl.fma(tl.load(head_weight + unit), h_next, output)
    tl.store(step + at, output, mask=inside)


PARTS = (_sigmoid, _tanh, _features, _rows, _gate, _unit)
