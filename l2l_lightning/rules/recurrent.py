"""Recurrent networks that act on every coordinate alone and share their weights over all of them.

Features come first: a hidden layer of all problems and coordinates is one matrix (H, R) with R = B * n rows of the
textbook's batch as columns, so that every gate is contiguous and a layer is one product.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from l2l_lightning.core.errors import check_positive, check_positive_int
from l2l_lightning.core.state import RuleState
from l2l_lightning.core.unroll import RuleInput
from l2l_lightning.rules.base import UpdateRule
from l2l_lightning.rules.preprocessing import LogAndSign, Preprocessing


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
        weight = torch.cat((self.weight_ih, self.weight_hh), 1)
        return _LSTMFunction.apply(torch.cat((x, h)), c, weight, self.bias)[:2]


class _LSTMFunction(torch.autograd.Function):
    """One LSTM step with its gates saved, so that the backward pass is two matrix products and little else.

    Autograd's own graph of the same equations spends most of its time on slices and temporaries.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(xh: Tensor, c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        hidden_size = c.shape[0]
        gates = torch.addmm(bias, weight, xh)  # (4H, R)
        gates[: 3 * hidden_size].sigmoid_()
        gates[3 * hidden_size :].tanh_()
        i, f, o, g = gates.chunk(4)
        c_next = torch.addcmul(f * c, i, g)
        tanh_c = c_next.tanh()
        return o * tanh_c, c_next, gates, tanh_c

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
        gates, tanh_c = output[2:]
        ctx.mark_non_differentiable(gates, tanh_c)
        ctx.save_for_backward(*inputs, gates, tanh_c)

    @staticmethod
    def backward(ctx: FunctionCtx, dh: Tensor, dc_next: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        xh, c, weight, bias, gates, tanh_c = ctx.saved_tensors  # type: ignore[attr-defined]
        if torch.is_grad_enabled():  # somebody wants second derivatives: the saved gates have no graph
            return torch.func.vjp(_lstm, xh, c, weight, bias)[1]((dh, dc_next))
        i, f, o, g = gates.chunk(4)
        dc = dc_next + torch.ops.aten.tanh_backward(dh * o, tanh_c)
        dsigmoid = torch.ops.aten.sigmoid_backward(torch.cat((dc * g, dc * c, dh * tanh_c)), gates[: 3 * len(c)])
        dgates = torch.cat((dsigmoid, torch.ops.aten.tanh_backward(dc * i, g)))
        dxh = weight.T @ dgates if ctx.needs_input_grad[0] else None  # type: ignore[attr-defined]
        return dxh, dc * f, dgates @ xh.T, dgates.sum(1, keepdim=True)


def _lstm(xh: Tensor, c: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """The equations of ``LSTMCell`` as autograd sees them: h' and c'."""
    i, f, o, g = torch.addmm(bias, weight, xh).chunk(4)
    c_next = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c_next.tanh(), c_next


class CoordinatewiseNetwork(UpdateRule):
    """Preprocessed gradient -> recurrent layers -> linear head -> step, for every coordinate alone.

    Section 2.1 of Andrychowicz et al. 2016. State leaves are (hidden_size, ..., n), one or two a layer.

    Args:
        layers: number of recurrent layers.
        hidden_size: units of each layer.
        output_scale: factor on the head's output; 0.01 keeps the first steps small.
        preprocessing: how gradients are presented to the network; LogAndSign with p = 10 where none is given.

    Raises:
        InputError: for sizes that are not positive integers or a scale that is not positive.
    """

    cell: ClassVar[type[Cell]]

    def __init__(
        self,
        layers: int = 2,
        hidden_size: int = 20,
        output_scale: float = 0.01,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__()
        check_positive_int(self, layers=layers, hidden_size=hidden_size)
        check_positive(self, output_scale=output_scale)
        self.layers = layers
        self.hidden_size = hidden_size
        self.output_scale = output_scale
        self.preprocessing = LogAndSign() if preprocessing is None else preprocessing
        sizes = [self.preprocessing.features] + [hidden_size] * layers
        self.cells = nn.ModuleList(self.cell(size, hidden_size) for size in sizes[:-1])
        bound = hidden_size**-0.5
        self.head_weight = nn.Parameter(torch.empty(1, hidden_size).uniform_(-bound, bound))
        self.head_bias = nn.Parameter(torch.zeros(1, 1))

    def init_state(self, theta: Tensor) -> RuleState:
        return {
            f"{leaf}{layer}": theta.new_zeros(self.hidden_size, *theta.shape)
            for layer in range(self.layers)
            for leaf in self.cell.leaves
        }

    def forward(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, RuleState]:
        shape = inputs.grad.shape
        x = self.preprocessing(inputs.grad).flatten(1)
        new_state = {}
        for layer, cell in enumerate(self.cells):
            names = [f"{leaf}{layer}" for leaf in self.cell.leaves]
            hidden = cell(x, *(state[name].flatten(1) for name in names))
            new_state.update({name: leaf.unflatten(1, shape) for name, leaf in zip(names, hidden, strict=True)})
            x = hidden[0]
        step = torch.addmm(self.head_bias, self.head_weight, x) * self.output_scale
        return step.view(shape), new_state


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
        output_scale: factor on the head's output.
        preprocessing: how gradients are presented to the network; LogAndSign with p = 10 where none is given.
        forget_bias: initial bias of the forget gates; 1 lets the state pass at the start of training.
    """

    cell = LSTMCell

    def __init__(
        self,
        layers: int = 2,
        hidden_size: int = 20,
        output_scale: float = 0.01,
        preprocessing: Preprocessing | None = None,
        forget_bias: float = 1.0,
    ) -> None:
        super().__init__(layers, hidden_size, output_scale, preprocessing)
        self.forget_bias = forget_bias
        for cell in self.cells:
            nn.init.constant_(cell.bias[hidden_size : 2 * hidden_size], forget_bias)  # type: ignore[index]
