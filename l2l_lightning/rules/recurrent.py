"""Recurrent networks that act on every coordinate alone and share their weights over all of them.

Features come first: a hidden layer of all problems and coordinates is one matrix (H, R) with R = B * n rows of the
textbook's batch as columns, so that every gate is contiguous and a layer is one product.
"""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from l2l_lightning.core.coordinates import CoordinateLayout
from l2l_lightning.core.errors import check_finite, check_parts, check_positive_int
from l2l_lightning.core.rule import RuleInput, Tape
from l2l_lightning.core.state import RuleState
from l2l_lightning.kernels.lstm_triton import fits, fused_step
from l2l_lightning.rules.base import UpdateRule
from l2l_lightning.rules.lstm_tape import LSTMTape, Weights, block_width
from l2l_lightning.rules.preprocessing import Identity, LogAndSign, Preprocessing
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


def lstm(x: Tensor, h: Tensor, c: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """One layer, one step: input (I, R) and hidden leaves (H, R) -> h' and c' (H, R).

    Hochreiter and Schmidhuber 1997 with forget gates.
    i, f, o = sigmoid(W_ih x + W_hh h + b);  g = tanh(likewise);  c' = f * c + i * g;  h' = o * tanh(c').
    """
    i, f, o, g = (torch.addmm(weights.bias, weights.ih, x) + weights.hh @ h).chunk(4)
    c_next = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c_next.tanh(), c_next


def lstm_step(x: Tensor, h: Tensor, c: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """``lstm`` for callers who want no graph."""
    weight, rows, sigmoids = torch.cat(weights, 1), x.shape[1], 3 * len(c)
    h_next, c_next = torch.empty_like(h), torch.empty_like(c)
    width = block_width(weight, rows)
    for start in range(0, rows, width):
        x_, h_, c_, h_next_, c_next_ = (leaf[:, start : start + width] for leaf in (x, h, c, h_next, c_next))
        gates = weight @ torch.cat((x_, h_, x.new_ones(1, x_.shape[1])))  # the row of ones carries the bias
        gates[:sigmoids].sigmoid_()
        gates[sigmoids:].tanh_()
        i, f, o, g = gates.chunk(4)
        torch.mul(f, c_, out=c_next_).addcmul_(i, g)
        torch.mul(c_next_.tanh(), o, out=h_next_)
    return h_next, c_next


class LSTMCell(Cell):
    """Hochreiter and Schmidhuber 1997 with forget gates, see ``lstm``."""

    leaves = ("h", "c")
    gates = 4

    @property
    def weights(self) -> Weights:
        """W_ih, W_hh and b."""
        return Weights(self.weight_ih, self.weight_hh, self.bias)

    def forward(self, x: Tensor, *hidden: Tensor) -> tuple[Tensor, ...]:
        # Batched tensors of functorch cannot be written in place, and compilers prefer to see the equations.
        plain = torch.is_grad_enabled() or torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling()
        h, c = hidden
        return (lstm if plain else lstm_step)(x, h, c, self.weights)


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
        InputError: for more than 1,000 layers, sizes that are not positive integers, or a scale that is not positive.
    """

    scope = "coordinate"
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
        check_parts(self, layers=layers)
        check_positive_int(self, hidden_size=hidden_size)
        check_schedule(self, output_scale=output_scale)
        self.layers = layers
        self.hidden_size = hidden_size
        self.output_scale = output_scale
        self.preprocessing = LogAndSign() if preprocessing is None else preprocessing
        features = self.preprocessing.features
        self.cells = nn.ModuleList(
            self.cell(hidden_size if layer else features, hidden_size) for layer in range(layers)
        )
        # Zero: a random head drives all coordinates the same way, and problems saturate before anything is learned.
        self.head_weight = nn.Parameter(torch.zeros(1, hidden_size))
        self.head_bias = nn.Parameter(torch.zeros(1, 1))

    def init_state(
        self, theta: Tensor, layout: CoordinateLayout, generator: torch.Generator | None = None
    ) -> RuleState:
        return init_layers(self.cells, theta)

    def forward(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, RuleState]:
        x, new_state = run_layers(self.cells, self.preprocessing(inputs.grad), state)
        step = torch.addmm(self.head_bias, self.head_weight, x)
        return step.view(inputs.grad.shape) * value_at(self.output_scale, inputs.t, step), new_state


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

    scope = "coordinate"
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
        check_finite(self, forget_bias=forget_bias)
        self.forget_bias = forget_bias
        for cell in self.cells:
            nn.init.constant_(cell.bias[hidden_size : 2 * hidden_size], forget_bias)  # type: ignore[index]

    def forward(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, RuleState]:
        if not self.fuses(inputs.grad):
            return super().forward(inputs, state)
        p = self.preprocessing.p if isinstance(self.preprocessing, LogAndSign) else None
        step, new_state = fused_step(inputs.grad, state, self._weights, p)
        return step * value_at(self.output_scale, inputs.t, step), new_state

    @property
    def _weights(self) -> list[Tensor]:
        """W_ih, W_hh and bias of every layer, then those of the head."""
        return [*(part for cell in self.cells for part in cell.weights), self.head_weight, self.head_bias]  # type: ignore[union-attr]

    def fuses(self, grad: Tensor) -> bool:
        """Whether a kernel takes the step for this gradient (..., n) in one pass over memory."""
        known = self.cell is LSTMCell and type(self.preprocessing) in (LogAndSign, Identity)
        return known and fits(grad, self._weights)

    def tape(self, state: RuleState, layout: CoordinateLayout, steps: int | None) -> Tape | None:
        learns_features = any(parameter.requires_grad for parameter in self.preprocessing.parameters())
        if self.cell is not LSTMCell or (steps is not None and learns_features):
            return None
        return _NetworkTape(self, state, steps)


class _NetworkTape:
    """The steps of a ``CoordinatewiseLSTM`` on an ``LSTMTape``; see ``Tape``."""

    def __init__(self, rule: CoordinatewiseLSTM, state: RuleState, steps: int | None) -> None:
        hidden = [(state[f"h{layer}"].flatten(1), state[f"c{layer}"].flatten(1)) for layer in range(rule.layers)]
        weights = [cell.weights for cell in rule.cells]
        self._rule, self._shape = rule, state["h0"].shape[1:]
        self._tape = LSTMTape(hidden, weights, rule.head_weight, rule.preprocessing.features, steps)  # type: ignore[arg-type]
        self._keeps = steps is not None
        self._outputs: list[Tensor] = []
        self._scales: list[float | Tensor] = []

    def __call__(self, inputs: RuleInput) -> Tensor:
        rule = self._rule
        output = self._tape.step(rule.preprocessing(inputs.grad).flatten(1))
        scale = value_at(rule.output_scale, inputs.t, output)
        if self._keeps:
            self._outputs.append(output)
            self._scales.append(scale)
        return (output + rule.head_bias[0]).view(self._shape) * scale

    @property
    def state(self) -> RuleState:
        hidden = enumerate(self._tape.hidden)
        return {
            f"{name}{layer}": leaf.view(-1, *self._shape)
            for layer, leaves in hidden
            for name, leaf in zip(LSTMCell.leaves, leaves, strict=True)
        }

    def updates(self) -> Tensor:
        scale = torch.stack(self._scales) if isinstance(self._scales[0], Tensor) else self._scales[0]  # type: ignore[arg-type]
        outputs = self._tape.outputs(torch.stack(self._outputs)) + self._rule.head_bias
        return outputs.view(-1, *self._shape) * scale
