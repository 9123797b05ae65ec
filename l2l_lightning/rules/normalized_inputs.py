"""Steps from normalized histories of positions and gradients: chapter 3 of Shahid 2017.

x_{t+1} = x_ref - delta * (x_diff + eta_min), with x_diff the extent of the history of positions and delta in [-1, 1]
from the history of gradients, normalized coordinate by coordinate. Where gradients agree the history stretches, where
they disagree it shrinks: x_diff is a learning rate of its own.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from l2l_lightning.core.coordinates import CoordinateLayout
from l2l_lightning.core.errors import (
    InputError,
    check_choice,
    check_non_negative,
    check_parts,
    check_positive,
    check_positive_int,
)
from l2l_lightning.core.rule import RuleInput
from l2l_lightning.core.state import RuleState
from l2l_lightning.rules.base import UpdateRule
from l2l_lightning.rules.handmade import HandmadeRule, bias_correction, mean_square
from l2l_lightning.rules.noise import gaussian, salt
from l2l_lightning.rules.schedules import Schedule, check_schedule, value_at

Reference = Literal["midpoint", "current"]
Output = Literal["softmax", "tanh"]
MAGNITUDES = 10
SECOND_DECAY = 0.999


def normalize(history: Tensor) -> Tensor:
    """Histories (k, ..., n) divided by the largest magnitude of each coordinate; zeros stay zeros."""
    largest = history.abs().amax(0)  # vector_norm takes fifty times as long along the first dimension
    return history / largest.clamp_min(torch.finfo(history.dtype).tiny)


def move(
    theta: Tensor, positions: Tensor, delta: Tensor, eta_min: Tensor | float, reference: Reference = "midpoint"
) -> Tensor:
    """Equations 3.1 to 3.5 as a step from theta (..., n), given positions (k, ..., n) and delta (..., n)."""
    low, high = positions.amin(0), positions.amax(0)
    start = (high + low) / 2 if reference == "midpoint" else theta
    return start - theta - delta * (high - low + eta_min)


class Timesteps:
    """The last k positions and gradients, newest first, as one leaf for each.

    A step renames leaves and copies none. Before the first step the history holds the first position and gradient
    alone, as the thesis' ``populate`` has it.

    Args:
        k: length of the history, the current point included.
    """

    def __init__(self, k: int) -> None:
        self.k = k

    def init_state(self, theta: Tensor) -> RuleState:
        """k - 1 past positions, k - 1 past gradients, and the first gradient, each (..., n)."""
        past = range(1, self.k)
        zeros = torch.zeros_like(theta)
        return {
            **{f"x{lag}": theta for lag in past},
            **{f"g{lag}": zeros for lag in past},
            "g_first": zeros,
        }

    def update(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, Tensor, RuleState]:
        """Positions and gradients (k, ..., n), newest first, and the state of the next step."""
        step = inputs.t.unsqueeze(-1)
        first = torch.where(step == 0, inputs.grad, state["g_first"])
        x = [inputs.theta] + [state[f"x{lag}"] for lag in range(1, self.k)]
        g = [inputs.grad] + [state[f"g{lag}"] for lag in range(1, self.k)]
        new_state = {
            **{f"x{lag}": x[lag - 1] for lag in range(1, self.k)},
            **{f"g{lag}": g[lag - 1] for lag in range(1, self.k)},
            "g_first": first,
        }
        lags = torch.arange(self.k, device=step.device).view(-1, *[1] * step.dim())
        unknown = (lags > step).to(first.dtype)  # zeros so far; where() takes ten times as long
        return torch.stack(x), torch.stack(g) + unknown * first, new_state


class Momentums:
    """Exponential averages of positions and gradients at k timescales (algorithm 3).

    H <- m H + (1 - m) U, started at the first position and gradient.

    Args:
        decays: the k values m.
    """

    def __init__(self, decays: Tensor) -> None:
        self.decays = decays

    def init_state(self, theta: Tensor) -> RuleState:
        """Averages of positions and of gradients, (k, ..., n) each."""
        positions = theta.expand(len(self.decays), *theta.shape).clone()
        return {"x": positions, "g": torch.zeros_like(positions)}

    def update(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, Tensor, RuleState]:
        """Positions and gradients (k, ..., n), shortest memory first, and the state of the next step."""
        started = (inputs.t > 0).unsqueeze(-1)
        decays = self.decays.to(inputs.grad).view(-1, *[1] * inputs.grad.dim()) * started
        x = torch.lerp(inputs.theta, state["x"], decays)
        g = torch.lerp(inputs.grad, state["g"], decays)
        return x, g, {"x": x, "g": g}


class MeanNormalizedGradient(HandmadeRule):
    """Algorithm 1: delta is the mean of the normalized gradients of the last k steps. Its learning rate is eta_min.

    Args:
        lr: eta_min, which keeps the history from collapsing.
        k: length of the history, at most 10,000.
        sign_only: look at the gradients' signs alone.
        reference: where steps start: the middle of the history, or the current position.
        decay: a factor on eta_min that changes with the inner step, such as ``Cosine(1, 0.1, 1000)``.
        trainable: meta-train eta_min.
    """

    scope = "coordinate"

    def __init__(
        self,
        lr: float = 1e-3,
        k: int = 5,
        sign_only: bool = False,
        reference: Reference = "midpoint",
        decay: Schedule | None = None,
        trainable: bool = False,
    ) -> None:
        super().__init__(lr, trainable)
        check_parts(self, k=k)
        check_choice(self, get_args(Reference), reference=reference)
        self.k, self.sign_only, self.reference, self.decay = k, sign_only, reference, decay

    def init_state(
        self, theta: Tensor, layout: CoordinateLayout, generator: torch.Generator | None = None
    ) -> RuleState:
        return Timesteps(self.k).init_state(theta)

    def forward(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, RuleState]:
        positions, grads, state = Timesteps(self.k).update(inputs, state)
        delta = (grads.sign() if self.sign_only else normalize(grads)).mean(0)
        factor = 1.0 if self.decay is None else value_at(self.decay, inputs.t, grads)
        return move(inputs.theta, positions, delta, self.rate * factor, self.reference), state


def _expectation(logits: Tensor) -> Tensor:
    """Of 0, 1/9, ... 1 under the softmax of logits (10, rows): (rows,). The quotient of two sums beats ``softmax``."""
    likely = (logits - logits.detach().amax(0)).exp_()
    values = torch.linspace(0, 1, len(logits), dtype=logits.dtype, device=logits.device)
    total, count = torch.stack((values, torch.ones_like(values))) @ likely
    return total / count


class NormalizedInputs(UpdateRule):
    """A network with 50 hidden ReLU units makes delta of a normalized history of gradients (section 3.3, algorithm 2).

    ``softmax`` reads delta from 12 outputs: the expectation of a sign times the expectation of a magnitude out of 0,
    1/9, ... 1. ``tanh`` has one output.

    Args:
        k: length of the history.
        eta_min: least extent of the history, a number or a schedule; to be tuned anew for evaluation.
        reference: where steps start: the middle of the history, or the current position.
        output: how delta is read.
        hidden_size: units of the hidden layer.
        positions: let the network see the normalized positions, too.
        second_moment: divide gradients by the root of their mean square, as Adam does, instead of their largest
            magnitude; decay 0.999 and one more leaf (..., n).
        step_range: delta lies between plus and minus this number.
        noise: standard deviation of the Gaussian noise on delta.

    Raises:
        InputError: for numbers that are not positive, or an unknown word.
    """

    scope = "coordinate"
    rate_argument = "eta_min"

    def __init__(
        self,
        k: int = 5,
        eta_min: float | Schedule = 1e-4,
        reference: Reference = "midpoint",
        output: Output = "softmax",
        hidden_size: int = 50,
        positions: bool = False,
        second_moment: bool = False,
        step_range: float = 1.0,
        noise: float = 0.0,
    ) -> None:
        super().__init__()
        check_parts(self, k=k)
        check_positive_int(self, hidden_size=hidden_size)
        check_schedule(self, eta_min=eta_min)
        check_choice(self, get_args(Reference), reference=reference)
        check_choice(self, get_args(Output), output=output)
        check_positive(self, step_range=step_range)
        check_non_negative(self, noise=noise)
        self.k, self.eta_min, self.reference = k, eta_min, reference
        self.output, self.hidden_size, self.positions = output, hidden_size, positions
        self.second_moment, self.step_range, self.noise = second_moment, step_range, noise
        features = 2 * k if positions else k
        outputs = 2 + MAGNITUDES if output == "softmax" else 1
        self.hidden = nn.Linear(features, hidden_size)
        self.readout = nn.Linear(hidden_size, outputs)

    @property
    def history(self) -> Timesteps | Momentums:
        """What the rule remembers."""
        raise NotImplementedError

    def init_state(
        self, theta: Tensor, layout: CoordinateLayout, generator: torch.Generator | None = None
    ) -> RuleState:
        state = self.history.init_state(theta)
        if self.second_moment:
            state["v"] = torch.zeros_like(theta)
        if self.noise:
            state["salt"] = salt(theta)
        return state

    def forward(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, RuleState]:
        positions, grads, new_state = self.history.update(inputs, state)
        if self.second_moment:
            new_state["v"] = mean_square(SECOND_DECAY, state["v"], inputs.grad)
            seen = grads / ((new_state["v"] / bias_correction(SECOND_DECAY, inputs)).sqrt() + 1e-8)
        else:
            seen = normalize(grads)
        delta = self.delta(torch.cat((seen, normalize(positions))) if self.positions else seen)
        if self.noise:
            new_state["salt"] = state["salt"]
            delta = delta + self.noise * gaussian(state["salt"], inputs.t).to(delta.dtype)
        eta_min = value_at(self.eta_min, inputs.t, grads)
        return move(inputs.theta, positions, delta, eta_min, self.reference), new_state

    def delta(self, features: Tensor) -> Tensor:
        """The network's answer (..., n) to normalized inputs (F, ..., n)."""
        x = features.flatten(1)  # features first, as everywhere: (F, rows)
        x = torch.addmm(self.hidden.bias.unsqueeze(1), self.hidden.weight, x).relu_()
        x = torch.addmm(self.readout.bias.unsqueeze(1), self.readout.weight, x)
        # A softmax over two signs is a tanh.
        delta = x[0].tanh() if self.output == "tanh" else ((x[0] - x[1]) / 2).tanh() * _expectation(x[2:])
        return self.step_range * delta.view(features.shape[1:])


class KTimesteps(NormalizedInputs):
    """``NormalizedInputs`` on the last k positions and gradients (section 3.4); memory 2 k n."""

    @property
    def history(self) -> Timesteps:
        return Timesteps(self.k)


class KMomentums(NormalizedInputs):
    """``NormalizedInputs`` on averages of positions and gradients at k timescales (section 3.5); memory 2 k n.

    Args:
        k: number of timescales.
        low: decay of the shortest memory.
        high: decay of the longest; those between are spaced linearly.
        eta_min: least extent of the history, a number or a schedule; to be tuned anew for evaluation.
        reference: where steps start: the current position (equation 3.5), or the middle of the history.
        output: ``softmax`` over signs and magnitudes, or ``tanh``.
        hidden_size: units of the hidden layer.
        positions: let the network see the normalized positions, too.
        second_moment: divide gradients by the root of their mean square instead of their largest magnitude.
        step_range: delta lies between plus and minus this number.
        noise: standard deviation of the Gaussian noise on delta.

    Raises:
        InputError: unless 0 <= low <= high < 1.
    """

    _decays: Tensor

    def __init__(
        self,
        k: int = 10,
        low: float = 0.2,
        high: float = 0.99,
        eta_min: float | Schedule = 1e-4,
        reference: Reference = "current",
        output: Output = "softmax",
        hidden_size: int = 50,
        positions: bool = False,
        second_moment: bool = False,
        step_range: float = 1.0,
        noise: float = 0.0,
    ) -> None:
        super().__init__(k, eta_min, reference, output, hidden_size, positions, second_moment, step_range, noise)
        if not 0 <= low <= high < 1:
            raise InputError(f"KMomentums: 0 <= low <= high < 1 must hold, got {low} and {high}.")
        self.low, self.high = low, high
        self.register_buffer("_decays", torch.linspace(low, high, k, dtype=torch.float64), persistent=False)

    @property
    def history(self) -> Momentums:
        return Momentums(self._decays)
