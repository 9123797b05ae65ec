"""A tape of U steps of stacked LSTM layers with a linear head over R rows, with a hand-written backward pass.

Features come first, rows last: gates are contiguous and a layer is one product. Two layers of 20 units spend two thirds
of their time outside of the products, and memory beyond the second cache is four times slower. So everything else works
in place, in memory that was used just before.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

GATES = 51_200  # numbers in the gates of one block of rows
SPARE = 8  # tapes whose memory is kept for the next ones,
SPARE_NUMBERS = 2**28  # and the numbers in all but the newest of them


class Weights(NamedTuple):
    """One layer: gates i, f, o, g from above, H rows each."""

    ih: Tensor  # (4H, I)
    hh: Tensor  # (4H, H)
    bias: Tensor  # (4H, 1)


def block_width(weight: Tensor, rows: int) -> int:
    """How many rows to work on at once: all of them on a GPU, as many as stay in a cache on a CPU."""
    return max(1, rows if weight.is_cuda else min(rows, GATES // len(weight)))


class LSTMTape:
    """Steps of a network in place and without autograd; ``gradients`` goes the way back where they were kept.

    Args:
        hidden: h and c (H, R) of every layer before the first step.
        weights: of every layer.
        head: (1, H), from the last layer's h to the output.
        inputs: I, features of a row.
        steps: U, None to keep nothing of past steps.
    """

    def __init__(
        self,
        hidden: Sequence[tuple[Tensor, Tensor]],
        weights: Sequence[Weights],
        head: Tensor,
        inputs: int,
        steps: int | None,
    ) -> None:
        self.weights, self.head, self.taken = weights, head, 0
        self._head = head.clone()  # as the weights are: the way back belongs to the phi of the steps
        self._weights = [torch.cat(own, 1) for own in weights]
        sizes = (inputs, *(len(h) for h, _ in hidden))
        rows = hidden[0][0].shape[1]
        self._memory = _Memory(_Shape(sizes, rows, block_width(self._weights[0], rows), steps), like=head)
        for block in self._memory.blocks:
            for layer, (h, c) in zip(block.layers, hidden, strict=True):
                layer.h[0], layer.c[0] = h[:, block.rows], c[:, block.rows]

    @property
    def hidden(self) -> list[tuple[Tensor, Tensor]]:
        """h and c (H, R) of every layer after the steps taken so far."""
        layers = zip(*(block.layers for block in self._memory.blocks), strict=True)
        return [
            (
                torch.cat([part.h[self.taken % len(part.h)] for part in parts], 1),
                torch.cat([part.c[self.taken % len(part.c)] for part in parts], 1),
            )
            for parts in layers
        ]

    def step(self, features: Tensor) -> Tensor:
        """Features (I, R) of the next step -> outputs (R,)."""
        outputs = features.new_empty(1, features.shape[1])
        for block in self._memory.blocks:
            below = features[:, block.rows]
            for layer, weight in zip(block.layers, self._weights, strict=True):
                at = layer.points[self.taken % len(layer.points)]
                at.x.copy_(below)
                torch.mm(weight, at.xh1, out=at.gates)
                at.sigmoids.sigmoid_()
                at.g.tanh_()
                torch.mul(at.f, at.c, out=at.c_next).addcmul_(at.i, at.g)
                torch.tanh(at.c_next, out=at.tanh_c)
                below = torch.mul(at.o, at.tanh_c, out=at.h_next)
            torch.mm(self._head, below, out=outputs[:, block.rows])
        self.taken += 1
        return outputs.squeeze(0)

    def outputs(self, outputs: Tensor) -> Tensor:
        """What ``step`` returned, stacked (U, R), with a graph to the weights and the head."""
        flat = [part for own in self.weights for part in own]
        return _Taped.apply(self, outputs, self.head, *flat)

    def gradients(self, doutputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Of sum(doutputs * outputs), (U, R): by the head, and by each layer's weights side by side (4H, I + H + 1)."""
        dhead = torch.zeros_like(self.head)
        dweights = [torch.zeros_like(weight) for weight in self._weights]
        to_inputs = [weight[:, :-1].T for weight in self._weights]
        for block in self._memory.blocks:
            layers, scratch = block.layers, block.scratch
            for back in scratch:
                back.dxh.zero_()
                back.dc.zero_()
            for step in reversed(range(self.taken)):
                doutput = doutputs[step : step + 1, block.rows]
                dhead.addmm_(doutput, layers[-1].h[step + 1].T)
                scratch[-1].dh.addmm_(self._head.T, doutput)
                for number in reversed(range(len(layers))):
                    at, back = layers[number].points[step], scratch[number]
                    dh, dc, dtanh = back.dh, back.dc, back.dtanh
                    torch.mul(dh, at.o, out=dtanh)
                    torch.ops.aten.tanh_backward.grad_input(dtanh, at.tanh_c, grad_input=dtanh)
                    dc += dtanh
                    torch.mul(dc, at.g, out=back.di)
                    torch.mul(dc, at.c, out=back.df)
                    torch.mul(dh, at.tanh_c, out=back.do)
                    torch.mul(dc, at.i, out=back.dg)
                    sigmoids = back.dsigmoids
                    torch.ops.aten.sigmoid_backward.grad_input(sigmoids, at.sigmoids, grad_input=sigmoids)
                    torch.ops.aten.tanh_backward.grad_input(back.dg, at.g, grad_input=back.dg)
                    dc *= at.f
                    dweights[number].addmm_(back.dgates, at.xh1.T)
                    torch.mm(to_inputs[number], back.dgates, out=back.dxh)
                    if number:
                        scratch[number - 1].dh.add_(back.dx)
        return dhead, dweights


class _Taped(torch.autograd.Function):
    """Connects what a tape recorded with the parameters that it was recorded with."""

    @staticmethod
    def forward(ctx: FunctionCtx, tape: LSTMTape, outputs: Tensor, head: Tensor, *flat: Tensor) -> Tensor:
        # Autograd lets go of saved tensors right after the way back, of everything else only with the graph. By then
        # the next window would have taken memory of its own.
        holder = outputs.new_empty(0)
        holder.tape = tape  # type: ignore[attr-defined]
        ctx.save_for_backward(holder)
        return outputs.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, doutputs: Tensor) -> tuple[Tensor | None, ...]:
        tape: LSTMTape = ctx.saved_tensors[0].tape  # type: ignore[attr-defined]
        dhead, dweights = tape.gradients(doutputs)
        sizes = ([part.shape[1] for part in own] for own in tape.weights)
        parts = [
            part.contiguous() for dweight, own in zip(dweights, sizes, strict=True) for part in dweight.split(own, 1)
        ]
        return None, None, dhead, *parts


class _Point(NamedTuple):
    """Views of what one layer computes in one step, (as many rows as the name says, R)."""

    xh1: Tensor
    x: Tensor
    gates: Tensor
    sigmoids: Tensor
    i: Tensor
    f: Tensor
    o: Tensor
    g: Tensor
    c: Tensor
    tanh_c: Tensor
    h_next: Tensor
    c_next: Tensor


class _Shape(NamedTuple):
    """Of everything that a tape needs.

    Attributes:
        sizes: inputs of the first layer, then the units of every layer.
        rows: R.
        width: rows of one block.
        steps: U, None where nothing of past steps is kept.
    """

    sizes: tuple[int, ...]
    rows: int
    width: int
    steps: int | None

    @property
    def numbers(self) -> int:
        """How many numbers the layers hold, scratch aside."""
        steps = self.steps or 0
        return self.rows * sum(
            (steps + 1) * (below + 2 * size + 1) + steps * 5 * size for below, size in pairwise(self.sizes)
        )


class _Scratch:
    """What one layer writes into for a moment: on the way back, and in steps that keep nothing. All blocks share it."""

    def __init__(self, inputs: int, hidden: int, rows: int, like: Tensor) -> None:
        self.dgates = like.new_empty(4 * hidden, rows)
        self.dsigmoids = self.dgates[: 3 * hidden]
        self.di, self.df, self.do, self.dg = self.dgates.chunk(4)
        self.dxh = like.new_empty(inputs + hidden, rows)
        self.dx, self.dh = self.dxh.split((inputs, hidden))
        self.dc, self.dtanh = like.new_empty(hidden, rows), like.new_empty(hidden, rows)


class _Layer:
    """What one layer writes into for one block of rows.

    Views are cut once: a slice costs as much as an operation on some hundred rows.

    Attributes:
        xh1: (U + 1, I + H + 1, R) input, h and ones, the columns that one product turns into gates. Where nothing is
            kept there is one of them, and of everything else.
        h: (U + 1, H, R), a part of them.
        c: (U + 1, H, R).
        points: views for every step.
    """

    def __init__(self, steps: int | None, inputs: int, hidden: int, scratch: _Scratch) -> None:
        rows, new = scratch.dc.shape[1], scratch.dc.new_empty
        if steps is None:
            self.xh1, self.c = new(1, inputs + hidden + 1, rows), new(1, hidden, rows)
            gates, tanh_c = scratch.dgates.unsqueeze(0), scratch.dtanh.unsqueeze(0)
        else:
            self.xh1, self.c = new(steps + 1, inputs + hidden + 1, rows), new(steps + 1, hidden, rows)
            gates, tanh_c = new(steps, 4 * hidden, rows), new(steps, hidden, rows)
        x, self.h, ones = self.xh1.split((inputs, hidden, 1), 1)
        ones.fill_(1)
        now = (self.xh1, x, gates, gates[:, : 3 * hidden], *gates.chunk(4, 1), self.c, tanh_c)
        self.points = [
            # One step that keeps nothing is followed by itself.
            _Point(*(leaf[t] for leaf in now), *(leaf[(t + 1) % len(leaf)] for leaf in (self.h, self.c)))
            for t in range(steps or 1)
        ]


class _Block(NamedTuple):
    """Some of the rows, and the memory of their layers."""

    rows: slice
    layers: list[_Layer]
    scratch: list[_Scratch]


class _Memory:
    """The memory of one tape, handed on to the next one of the same shape when it goes.

    Memory that the system has just given, or that was last used long ago, costs more than the arithmetic on it.
    """

    _free: ClassVar[list[tuple[tuple, list[_Block]]]] = []

    def __init__(self, shape: _Shape, like: Tensor) -> None:
        self._key = shape, like.dtype, like.device
        self.blocks: list[_Block] = []
        found = next((memory for memory in self._free if memory[0] == self._key), None)
        if found is not None:
            self._free.remove(found)
        self.blocks = self._cut(shape, like.detach()) if found is None else found[1]

    @torch.inference_mode(False)  # else the next tape might not be allowed to write
    def _cut(self, shape: _Shape, like: Tensor) -> list[_Block]:
        sizes = list(pairwise(shape.sizes))
        blocks: list[_Block] = []
        scratch: dict[int, list[_Scratch]] = {}
        for start in range(0, shape.rows, shape.width):
            rows = min(shape.width, shape.rows - start)
            if rows not in scratch:
                scratch[rows] = [_Scratch(*pair, rows, like) for pair in sizes]
            pairs = zip(sizes, scratch[rows], strict=True)
            layers = [_Layer(shape.steps, *pair, own) for pair, own in pairs]
            blocks.append(_Block(slice(start, start + rows), layers, scratch[rows]))
        return blocks

    def __del__(self) -> None:
        if self.blocks:  # else there was no memory
            self._free.append((self._key, self.blocks))
            kept = accumulate(key[0].numbers for key, _ in reversed(self._free))
            fitting = sum(numbers <= SPARE_NUMBERS for numbers in kept)
            del self._free[: -min(max(fitting, 1), SPARE)]
