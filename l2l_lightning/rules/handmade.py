"""Hand-made optimizers as update rules, with the definitions and defaults of ``torch.optim``."""

import math
from typing import Self

import torch
from torch import Tensor, nn

from l2l_lightning.core.coordinates import CoordinateLayout
from l2l_lightning.core.errors import InputError, check_non_negative, check_positive
from l2l_lightning.core.rule import RuleInput
from l2l_lightning.core.state import RuleState
from l2l_lightning.rules.base import UpdateRule
from l2l_lightning.rules.schedules import Schedule


class HandmadeRule(UpdateRule):
    """A rule whose only parameter is its learning rate.

    Args:
        lr: learning rate.
        trainable: meta-train the rate; it is kept positive as exp of its logarithm.

    Raises:
        InputError: for a rate that is not positive or a coefficient outside its range.
    """

    rate_argument = "lr"
    state_leaves: tuple[str, ...] = ()

    def __init__(self, lr: float, trainable: bool = False) -> None:
        super().__init__()
        check_positive(self, lr=lr)
        self.lr = lr
        self.trainable = trainable
        if trainable:
            self.log_lr = nn.Parameter(torch.tensor(math.log(lr)))

    @property
    def rate(self) -> Tensor | float:
        """The learning rate in force."""
        return self.log_lr.exp() if self.trainable else self.lr

    def with_rate(self, rate: float) -> Self:  # type: ignore[override]
        """A copy with another, untrained learning rate, which is a plain number here."""
        check_positive(self, lr=rate)
        return super().with_rate(rate)

    def _copy_with_rate(self, rate: float | Schedule | Tensor) -> Self:
        other = super()._copy_with_rate(rate)
        other.trainable = False
        if self.trainable:
            del other.log_lr
        return other

    def init_state(
        self, theta: Tensor, layout: CoordinateLayout, generator: torch.Generator | None = None
    ) -> RuleState:
        return {name: torch.zeros_like(theta) for name in self.state_leaves}

    def _check_decay(self, **values: float) -> None:
        check_non_negative(self, **values)
        for name, value in values.items():
            if value >= 1:
                raise InputError(f"{type(self).__name__}: {name} must be in [0, 1), got {value!r}.")


def mean_square(decay: float, mean: Tensor, grad: Tensor) -> Tensor:
    """decay * mean + (1 - decay) * grad^2; ``torch.lerp`` would make inf - inf of a square that overflows."""
    return decay * mean + (1 - decay) * grad.square()


def bias_correction(beta: float | Tensor, inputs: RuleInput) -> Tensor:
    """1 - beta^t with t = 1 at the first step, shape (..., 1)."""
    t = (inputs.t + 1).to(inputs.theta.dtype).unsqueeze(-1)
    return 1 - beta**t


class SGD(HandmadeRule):
    """theta <- theta - lr * grad.

    Args:
        lr: learning rate.
        trainable: meta-train the rate.
    """

    scope = "coordinate"

    def __init__(self, lr: float = 0.01, trainable: bool = False) -> None:
        super().__init__(lr, trainable)

    def forward(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, RuleState]:
        return -self.rate * inputs.grad, state


class Momentum(HandmadeRule):
    """Heavy ball (Polyak 1964) as ``torch.optim.SGD(momentum=...)``: m <- mu * m + grad, step = -lr * m.

    Args:
        lr: learning rate.
        momentum: mu.
        trainable: meta-train the rate.
    """

    scope = "coordinate"

    state_leaves = ("momentum",)

    def __init__(self, lr: float = 0.01, momentum: float = 0.9, trainable: bool = False) -> None:
        super().__init__(lr, trainable)
        self._check_decay(momentum=momentum)
        self.momentum = momentum

    def forward(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, RuleState]:
        m = self.momentum * state["momentum"] + inputs.grad
        return -self.rate * m, {"momentum": m}


class Nesterov(Momentum):
    """``torch.optim.SGD(nesterov=True)``: m <- mu * m + grad, step = -lr * (grad + mu * m)  (Sutskever et al. 2013).

    Args:
        lr: learning rate.
        momentum: mu.
        trainable: meta-train the rate.
    """

    scope = "coordinate"

    def forward(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, RuleState]:
        m = self.momentum * state["momentum"] + inputs.grad
        return -self.rate * (inputs.grad + self.momentum * m), {"momentum": m}


class Adagrad(HandmadeRule):
    """Duchi et al. 2011: s <- s + grad^2, step = -lr * grad / (sqrt(s) + eps).

    Args:
        lr: learning rate.
        eps: added to the root.
        trainable: meta-train the rate.
    """

    scope = "coordinate"

    state_leaves = ("sum",)

    def __init__(self, lr: float = 0.01, eps: float = 1e-10, trainable: bool = False) -> None:
        super().__init__(lr, trainable)
        check_non_negative(self, eps=eps)
        self.eps = eps

    def forward(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, RuleState]:
        total = torch.addcmul(state["sum"], inputs.grad, inputs.grad)
        return -self.rate * inputs.grad / (total.sqrt() + self.eps), {"sum": total}


class RMSprop(HandmadeRule):
    """Tieleman and Hinton 2012: v <- alpha * v + (1 - alpha) * grad^2, step = -lr * grad / (sqrt(v) + eps).

    Args:
        lr: learning rate.
        alpha: decay of the running mean of squares.
        eps: added to the root.
        trainable: meta-train the rate.
    """

    scope = "coordinate"

    state_leaves = ("square",)

    def __init__(self, lr: float = 0.01, alpha: float = 0.99, eps: float = 1e-8, trainable: bool = False) -> None:
        super().__init__(lr, trainable)
        self._check_decay(alpha=alpha)
        check_non_negative(self, eps=eps)
        self.alpha, self.eps = alpha, eps

    def forward(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, RuleState]:
        v = mean_square(self.alpha, state["square"], inputs.grad)
        return -self.rate * inputs.grad / (v.sqrt() + self.eps), {"square": v}


class Adam(HandmadeRule):
    """Kingma and Ba 2015, algorithm 1: step = -lr * m_hat / (sqrt(v_hat) + eps).

    Args:
        lr: learning rate.
        beta1: decay of the mean of gradients.
        beta2: decay of the mean of squares.
        eps: added to the root.
        trainable: meta-train the rate.
    """

    scope = "coordinate"

    state_leaves = ("mean", "square")

    def __init__(
        self, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, trainable: bool = False
    ) -> None:
        super().__init__(lr, trainable)
        self._check_decay(beta1=beta1, beta2=beta2)
        check_non_negative(self, eps=eps)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def forward(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, RuleState]:
        m = torch.lerp(inputs.grad, state["mean"], self.beta1)
        v = mean_square(self.beta2, state["square"], inputs.grad)
        m_hat = m / bias_correction(self.beta1, inputs)
        v_hat = v / bias_correction(self.beta2, inputs)
        return -self.rate * m_hat / (v_hat.sqrt() + self.eps), {"mean": m, "square": v}


class Adamax(HandmadeRule):
    """Kingma and Ba 2015, algorithm 2: u <- max(beta2 * u, |grad| + eps), step = -lr / (1 - beta1^t) * m / u.

    Args:
        lr: learning rate.
        beta1: decay of the mean of gradients.
        beta2: decay of the largest magnitude.
        eps: added to the magnitude, as ``torch.optim.Adamax`` does.
        trainable: meta-train the rate.
    """

    scope = "coordinate"

    state_leaves = ("mean", "largest")

    def __init__(
        self, lr: float = 0.002, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, trainable: bool = False
    ) -> None:
        super().__init__(lr, trainable)
        self._check_decay(beta1=beta1, beta2=beta2)
        check_positive(self, eps=eps)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps

    def forward(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, RuleState]:
        m = torch.lerp(inputs.grad, state["mean"], self.beta1)
        u = torch.maximum(self.beta2 * state["largest"], inputs.grad.abs() + self.eps)
        return -self.rate * m / (bias_correction(self.beta1, inputs) * u), {"mean": m, "largest": u}
