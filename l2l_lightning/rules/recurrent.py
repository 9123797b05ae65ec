"""Recurrent networks that act on every coordinate alone and share their weights over all of them.

Features come first: a hidden layer of all problems and coordinates is one matrix (H, R) with R = B * n rows of the
textbook's batch as columns, so that every gate is contiguous and a layer is one product.
"""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from l2l_lightning.core.errors import check_positive_int
from l2l_lightning.core.state import RuleState
from l2l_lightning.core.unroll import RuleInput
from l2l_lightning.rules.base import UpdateRule
from l2l_lightning.rules.preprocessing import LogAndSign, Preprocessing
from l2l_lightning.rules.schedules import Schedule, check_schedule, value_at


class Cell(nn.Module):
    """One recurrent layer: input (I, R) and hidden leaves (H, R) -> hidden leaves (H, R), the first being the output.

    Weights start uniform in +-1/sqrt(H), as in ``torch.nn.LSTMCell``, biases at zero.

    Attributes:
        leaves: names of the hidden leaves.
        gates: number of blocks of H rows in the weight.
    """

    leaves: ClassVar[tuple[str, ...]]
    gates: ClassVar[int]

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        bound = hidden_size**-0.5
        self.hidden_size = hidden_size
        self.weight_ih = nn.Parameter(torch.empty(self.gates * hidden_size, input_size).uniform_(-bound, bound))
        self.weight_hh = nn.Parameter(torch.empty(self.gates * hidden_size, hidden_size).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(self.gates * hidden_size, 1))

    def forward(self, x: Tensor, *hidden: Tensor) -> tuple[Tensor, ...]:
        raise NotImplementedError


class RNNCell(Cell):
    """h' = tanh(W_ih x + W_hh h + b)  (Elman 1990)."""

    leaves = ("h",)
    gates = 1

    def forward(self, x: Tensor, *hidden: Tensor) -> tuple[Tensor, ...]:
        (h,) = hidden
        weight = torch.cat((self.weight_ih, self.weight_hh), 1)
        return (torch.addmm(self.bias, weight, torch.cat((x, h))).tanh(),)


class GRUCell(Cell):
    """Cho et al. 2014 in the form of ``torch.nn.GRUCell``, with one bias a gate.

    r, z = sigmoid(W_ih x + W_hh h + b);  n = tanh(W_in x + b_n + r * (W_hn h));  h' = (1 - z) * n + z * h.
    """

    leaves = ("h",)
    gates = 3

    def forward(self, x: Tensor, *hidden: Tensor) -> tuple[Tensor, ...]:
        (h,) = hidden
        from_input = torch.addmm(self.bias, self.weight_ih, x)
        from_hidden = self.weight_hh @ h
        both = 2 * self.hidden_size
        r, z = (from_input[:both] + from_hidden[:both]).sigmoid().chunk(2)
        candidate = torch.addcmul(from_input[both:], r, from_hidden[both:]).tanh()
        return (torch.lerp(candidate, h, z),)


class LSTMCell(Cell):
    """Hochreiter and Schmidhuber 1997 with forget gates; gates in the order i, f, o, g.

    i, f, o = sigmoid(W_ih x + W_hh h + b);  g = tanh(likewise);  c' = f * c + i * g;  h' = o * tanh(c').
    """

    leaves = ("h", "c")
    gates = 4

    def forward(self, x: Tensor, *hidden: Tensor) -> tuple[Tensor, ...]:
        h, c = hidden
        # Batched tensors of functorch cannot be written in place, and compilers prefer to see the equations.
        plain = torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling()
        step = _lstm if plain else _LSTMFunction.apply
        return step(x, h, c, self.weight_ih, self.weight_hh, self.bias)


def _lstm(x: Tensor, h: Tensor, c: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The equations of ``LSTMCell``: h' and c'."""
    i, f, o, g = (torch.addmm(bias, weight_ih, x) + weight_hh @ h).chunk(4)
    c_next = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c_next.tanh(), c_next


class _LSTMFunction(torch.autograd.Function):
    """``_lstm`` with as little memory traffic as possible: the gates in place, the backward pass from what is saved.

    Autograd's own graph of the same equations spends most of its time on slices and temporaries.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        x, h, c, weight_ih, weight_hh, bias = inputs
        gates = torch.addmm(bias, weight_ih, x).addmm_(weight_hh, h)  # (4H, R)
        sigmoids = 3 * len(c)
        gates[:sigmoids].sigmoid_()
        gates[sigmoids:].tanh_()
        i, f, o, g = gates.chunk(4)
        c_next = (f * c).addcmul_(i, g)
        ctx.save_for_backward(*inputs, gates, c_next)
        return c_next.tanh().mul_(o), c_next

    @staticmethod
    def backward(ctx: FunctionCtx, dh: Tensor, dc_next: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, gates, c_next = ctx.saved_tensors  # type: ignore[attr-defined]
        if torch.is_grad_enabled():  # somebody wants second derivatives, and the saved gates have no graph
            return torch.func.vjp(_lstm, *inputs)[1]((dh, dc_next))
        x, h, c, weight_ih, weight_hh, _ = inputs
        i, f, o, g = gates.chunk(4)
        tanh_c = c_next.tanh()
        dc = torch.ops.aten.tanh_backward(dh * o, tanh_c).add_(dc_next)
        dgates = torch.empty_like(gates)
        di, df, do, dg = dgates.chunk(4)
        torch.mul(dc, g, out=di)
        torch.mul(dc, c, out=df)
        torch.mul(dh, tanh_c, out=do)
        torch.mul(dc, i, out=dg)
        sigmoids = slice(3 * len(c))
        torch.ops.aten.sigmoid_backward.grad_input(dgates[sigmoids], gates[sigmoids], grad_input=dgates[sigmoids])
        torch.ops.aten.tanh_backward.grad_input(dg, g, grad_input=dg)
        needs_x, needs_h, *_ = ctx.needs_input_grad  # type: ignore[attr-defined]
        return (
            weight_ih.T @ dgates if needs_x else None,
            weight_hh.T @ dgates if needs_h else None,
            dc.mul_(f),
            dgates @ x.T,
            dgates @ h.T,
            dgates.sum(1, keepdim=True),
        )


def init_layers(cells: Iterable[nn.Module], theta: Tensor) -> RuleState:
    """Zeros for every hidden leaf of stacked cells: (H, ..., n) under the leaf's name and the layer's number."""
    return {
        f"{leaf}{layer}": theta.new_zeros(cell.hidden_size, *theta.shape)  # type: ignore[call-overload]
        for layer, cell in enumerate(cells)
        for leaf in cell.leaves  # type: ignore[union-attr]
    }


def run_layers(cells: Iterable[nn.Module], features: Tensor, state: RuleState) -> tuple[Tensor, RuleState]:
    """Features (F, ..., n) -> the last cell's output (H, rows), and the new state."""
    x, shape, new_state = features.flatten(1), features.shape[1:], {}
    for layer, cell in enumerate(cells):
        names = [f"{leaf}{layer}" for leaf in cell.leaves]  # type: ignore[union-attr]
        hidden = cell(x, *(state[name].flatten(1) for name in names))
        new_state.update({name: leaf.view(-1, *shape) for name, leaf in zip(names, hidden, strict=True)})
        x = hidden[0]
    return x, new_state


class CoordinatewiseNetwork(UpdateRule):
    """Preprocessed gradient -> recurrent layers -> linear head -> step, for every coordinate alone.

    Section 2.1 of Andrychowicz et al. 2016. State leaves are (hidden_size, ..., n), one or two a layer. The head starts
    at zero, so that an untrained rule leaves theta where it is.

    Args:
        layers: number of recurrent layers.
        hidden_size: units of each layer.
        output_scale: factor on the head's output, a number or a schedule; 0.01 keeps the first steps small.
        preprocessing: how gradients are presented to the network; LogAndSign with p = 10 where none is given.

    Raises:
        InputError: for sizes that are not positive integers or a scale that is not positive.
    """

    rate_argument = "output_scale"
    cell: ClassVar[type[Cell]]

    def __init__(
        self,
        layers: int = 2,
        hidden_size: int = 20,
        output_scale: float | Schedule = 0.01,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__()
        check_positive_int(self, layers=layers, hidden_size=hidden_size)
        check_schedule(self, output_scale=output_scale)
        self.layers = layers
        self.hidden_size = hidden_size
        self.output_scale = output_scale
        self.preprocessing = LogAndSign() if preprocessing is None else preprocessing
        sizes = [self.preprocessing.features] + [hidden_size] * layers
        self.cells = nn.ModuleList(self.cell(size, hidden_size) for size in sizes[:-1])
        # Zero: a random head drives all coordinates the same way, and problems saturate before anything is learned.
        self.head_weight = nn.Parameter(torch.zeros(1, hidden_size))
        self.head_bias = nn.Parameter(torch.zeros(1, 1))

    def init_state(self, theta: Tensor) -> RuleState:
        return init_layers(self.cells, theta)

    def forward(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, RuleState]:
        x, new_state = run_layers(self.cells, self.preprocessing(inputs.grad), state)
        step = torch.addmm(self.head_bias, self.head_weight, x)
        return step.view(inputs.grad.shape) * value_at(self.output_scale, inputs.step, step), new_state


class CoordinatewiseRNN(CoordinatewiseNetwork):
    """``CoordinatewiseNetwork`` with plain tanh layers."""

    cell = RNNCell


class CoordinatewiseGRU(CoordinatewiseNetwork):
    """``CoordinatewiseNetwork`` with gated recurrent units."""

    cell = GRUCell


class CoordinatewiseLSTM(CoordinatewiseNetwork):
    """The LSTM optimizer of Andrychowicz et al. 2016: ``CoordinatewiseNetwork`` with LSTM layers.

    Args:
        layers: number of recurrent layers.
        hidden_size: units of each layer.
        output_scale: factor on the head's output, a number or a schedule.
        preprocessing: how gradients are presented to the network; LogAndSign with p = 10 where none is given.
        forget_bias: initial bias of the forget gates; 1 lets the state pass at the start of training.
    """

    cell = LSTMCell

    def __init__(
        self,
        layers: int = 2,
        hidden_size: int = 20,
        output_scale: float | Schedule = 0.01,
        preprocessing: Preprocessing | None = None,
        forget_bias: float = 1.0,
    ) -> None:
        super().__init__(layers, hidden_size, output_scale, preprocessing)
        self.forget_bias = forget_bias
        for cell in self.cells:
            nn.init.constant_(cell.bias[hidden_size : 2 * hidden_size], forget_bias)  # type: ignore[index]
