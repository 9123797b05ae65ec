"""Averages of Adams at several timescales, with learned weights: chapter 4 of Shahid 2017."""

from collections.abc import Iterator, Sequence
from itertools import chain, pairwise, repeat
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from l2l_lightning.core.coordinates import CoordinateLayout
from l2l_lightning.core.errors import InputError, check_choice, check_parts, check_positive, check_positive_int
from l2l_lightning.core.rule import RuleInput
from l2l_lightning.core.state import RuleState
from l2l_lightning.rules.base import UpdateRule, overwrite
from l2l_lightning.rules.recurrent import Cell, GRUCell, LSTMCell, init_layers, run_layers
from l2l_lightning.rules.schedules import Schedule, check_schedule, value_at

# Table 4.1: (beta1, beta2); the thesis drops the last one for k = 5.
TIMESCALES = ((0.99, 0.9999), (0.9, 0.999), (0.8, 0.888), (0.7, 0.777), (0.6, 0.666), (0.5, 0.555))
INIT_STD = 0.01

Normalization = Literal["sum", "absolute", "none"]


class Head(nn.Module):
    """The average of k Adams, from the steps that they propose for a coordinate, and from nothing of other coordinates.

    ``forward`` gets the steps (k, ..., n) and the head's own state; it returns their average (..., n) and
    the new state.
    """

    def build(self, inputs: int) -> None:
        """Make the parameters for k inputs."""
        raise NotImplementedError(f"{type(self).__name__} must define build(inputs).")

    def init_state(self, theta: Tensor) -> RuleState:
        """State of a problem that starts at theta; none by default."""
        return {}

    def forward(self, steps: Tensor, state: RuleState) -> tuple[Tensor, RuleState]:
        raise NotImplementedError(f"{type(self).__name__} must define forward(steps, state).")


class LinearAverage(Head):
    """k weights that all coordinates share (section 4.3.1).

    Args:
        normalization: ``absolute`` (LA_b): abs(w) / sum abs(w); ``sum`` (LA_a): w / sum w; ``none`` (LA_c): w.
    """

    def __init__(self, normalization: Normalization = "absolute") -> None:
        super().__init__()
        check_choice(self, get_args(Normalization), normalization=normalization)
        self.normalization = normalization

    def build(self, inputs: int) -> None:
        self.weight = nn.Parameter(torch.randn(inputs) * INIT_STD)

    @property
    def weights(self) -> Tensor:
        """The weights in force, (k,)."""
        if self.normalization == "none":
            return self.weight
        size = self.weight.abs() if self.normalization == "absolute" else self.weight
        return size / size.sum()

    def forward(self, steps: Tensor, state: RuleState) -> tuple[Tensor, RuleState]:
        return (self.weights @ steps.flatten(1)).view(steps.shape[1:]), state


class SoftmaxMLP(Head):
    """k -> 50 (-> 50) -> k with ReLU, and a softmax: weights of each coordinate's own (section 4.3.2).

    With an unroll of 20 and the meta-loss over all its points this is what the thesis calls its "RNN", with one or two
    layers: it is not recurrent, but the meta-gradient passes through the Adams' states.

    Args:
        hidden_layers: 1 or more.
        hidden_size: units of each.
    """

    def __init__(self, hidden_layers: int = 1, hidden_size: int = 50) -> None:
        super().__init__()
        check_parts(self, hidden_layers=hidden_layers)
        check_positive_int(self, hidden_size=hidden_size)
        self.hidden_layers, self.hidden_size = hidden_layers, hidden_size

    def build(self, inputs: int) -> None:
        def sizes() -> Iterator[int]:  # never a list, whose length a stranger's file would choose
            return chain([inputs], repeat(self.hidden_size, self.hidden_layers), [inputs])

        self.matrices = nn.ParameterList(torch.randn(out, into) * INIT_STD for into, out in pairwise(sizes()))
        self.biases = nn.ParameterList(torch.zeros(out, 1) for _, out in pairwise(sizes()))

    def weights(self, steps: Tensor) -> Tensor:
        """Weights (k, ..., n), which sum to one."""
        x = steps.flatten(1)
        for layer, (weight, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            x = torch.addmm(bias, weight, x.relu_() if layer else x)
        return x.softmax(0).view(steps.shape)

    def forward(self, steps: Tensor, state: RuleState) -> tuple[Tensor, RuleState]:
        return (self.weights(steps) * steps).sum(0), state


class SoftmaxRecurrent(Head):
    """Recurrent layers over the Adams' steps, and a softmax: the thesis' future work (section 4.6).

    Args:
        cell: ``gru`` or ``lstm``.
        layers: number of layers.
        hidden_size: units of each.
    """

    cells_by_name: ClassVar[dict[str, type[Cell]]] = {"gru": GRUCell, "lstm": LSTMCell}

    def __init__(self, cell: Literal["gru", "lstm"] = "gru", layers: int = 1, hidden_size: int = 20) -> None:
        super().__init__()
        check_choice(self, self.cells_by_name, cell=cell)
        check_parts(self, layers=layers)
        check_positive_int(self, hidden_size=hidden_size)
        self.cell, self.layers, self.hidden_size = cell, layers, hidden_size

    def build(self, inputs: int) -> None:
        kind = self.cells_by_name[self.cell]
        size = self.hidden_size
        self.cells = nn.ModuleList(kind(size if layer else inputs, size) for layer in range(self.layers))
        self.weight = nn.Parameter(torch.randn(inputs, self.hidden_size) * INIT_STD)
        self.bias = nn.Parameter(torch.zeros(inputs, 1))

    def init_state(self, theta: Tensor) -> RuleState:
        return init_layers(self.cells, theta)

    def weights(self, steps: Tensor, state: RuleState) -> tuple[Tensor, RuleState]:
        """Weights (k, ..., n), which sum to one, and the new state."""
        x, new_state = run_layers(self.cells, steps, state)
        return torch.addmm(self.bias, self.weight, x).softmax(0).view(steps.shape), new_state

    def forward(self, steps: Tensor, state: RuleState) -> tuple[Tensor, RuleState]:
        weights, state = self.weights(steps, state)
        return (weights * steps).sum(0), state


class MultiscaleAdam(UpdateRule):
    """A learned average of k Adams: step = -eta * sum_i w_i m_i / (sqrt(v_i) + eps), all bias-corrected.

    Algorithms 4 and 5 of Shahid 2017. State leaves are the bias-corrected ``m`` and ``v``, (k, ..., n) each, and those
    of the head.

    Args:
        head: how the weights come about; LA_b where none is given.
        timescales: (beta1, beta2) of each Adam; the six of table 4.1 where none are given.
        eta: learning rate, a number or a schedule; it may be changed after training.
        eps: added to the root, as in ``torch.optim.Adam``.

    Raises:
        InputError: for no timescales, or decays outside [0, 1).
    """

    scope = "coordinate"
    rate_argument = "eta"
    _betas: Tensor

    def __init__(
        self,
        head: Head | None = None,
        timescales: Sequence[Sequence[float]] | None = None,
        eta: float | Schedule = 0.01,
        eps: float = 1e-8,
    ) -> None:
        super().__init__()
        check_schedule(self, eta=eta)
        check_positive(self, eps=eps)
        self.timescales = [list(pair) for pair in (TIMESCALES if timescales is None else timescales)]
        for pair in self.timescales:
            if len(pair) != 2 or not all(0 <= beta < 1 for beta in pair):
                raise InputError(f"MultiscaleAdam: timescales must be pairs of decays in [0, 1), got {pair}.")
        if not self.timescales:
            raise InputError("MultiscaleAdam: timescales must not be empty.")
        self.head = LinearAverage() if head is None else head
        self.head.build(len(self.timescales))
        self.eta, self.eps = eta, eps
        betas = torch.tensor(self.timescales, dtype=torch.float64).T
        self.register_buffer("_betas", betas, persistent=False)

    def init_state(
        self, theta: Tensor, layout: CoordinateLayout, generator: torch.Generator | None = None
    ) -> RuleState:
        shape = (len(self.timescales), *theta.shape)
        return {"m": theta.new_zeros(shape), "v": theta.new_zeros(shape), **self.head.init_state(theta)}

    def forward(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, RuleState]:
        rate1, rate2 = self._rates(inputs)
        m = torch.lerp(state["m"], inputs.grad, rate1)
        v = torch.lerp(state["v"], _square(inputs.grad), rate2)
        average, own = self.head(m / (v.sqrt() + self.eps), _of_head(state))
        return -value_at(self.eta, inputs.t, average) * average, {"m": m, "v": v, **own}

    def step_(self, inputs: RuleInput, state: RuleState) -> Tensor:
        rate1, rate2 = self._rates(inputs)
        m = state["m"].lerp_(inputs.grad, rate1)
        v = state["v"].lerp_(_square(inputs.grad), rate2)
        steps = v.sqrt().add_(self.eps)
        average, own = self.head(torch.div(m, steps, out=steps), _of_head(state))
        average = overwrite(state, own, average)
        return -value_at(self.eta, inputs.t, average) * average

    def _rates(self, inputs: RuleInput) -> Tensor:
        """(1 - beta) / (1 - beta^t), (2, k, ..., 1): averages that move at these rates are bias-corrected ones.

        Dividing by 1 - beta^t in every step would touch all k n values once more.
        """
        betas = self._betas.view(2, -1, *[1] * inputs.grad.dim())
        t = (inputs.t + 1).unsqueeze(-1)
        return ((1 - betas) / (1 - betas**t)).to(inputs.grad.dtype)


def _square(grad: Tensor) -> Tensor:
    """Squares that stay finite: one that overflows would make inf - inf."""
    return grad.square().clamp_max(torch.finfo(grad.dtype).max)


def _of_head(state: RuleState) -> RuleState:
    return {name: leaf for name, leaf in state.items() if name not in ("m", "v")}
