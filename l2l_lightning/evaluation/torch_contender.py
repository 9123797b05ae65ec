"""The optimizers of ``torch.optim`` as contenders."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from l2l_lightning.core.coordinates import CoordinateLayout
from l2l_lightning.core.errors import InputError, check_positive
from l2l_lightning.core.rule import RuleInput
from l2l_lightning.core.state import RuleState
from l2l_lightning.rules.base import UpdateRule


class TorchOptimizer(UpdateRule):
    """An optimizer of ``torch.optim`` by its name, with tensors of the optimizee's own shapes, problem by problem.

    It keeps its state itself, so it serves comparisons alone: one walk after each ``init_state``, no resets.

    Args:
        name: class in ``torch.optim``, such as ``AdamW``.
        lr: its learning rate.
        arguments: its further arguments, such as ``{weight_decay: 0.1}``.

    Raises:
        InputError: if there is no such class, it cannot work with the arguments, or it needs more than gradients.
    """

    rate_argument = "lr"

    def __init__(self, name: str, lr: float = 1e-3, arguments: dict[str, Any] | None = None) -> None:
        super().__init__()
        check_positive(self, lr=lr)
        self.name, self.lr, self.arguments = name, lr, arguments or {}
        kind = getattr(torch.optim, name, None)
        if not (isinstance(kind, type) and issubclass(kind, Optimizer)):
            raise InputError(f"torch.optim has no optimizer {name!r}.")
        if name in ("LBFGS", "SparseAdam"):
            raise InputError(f"torch.optim.{name} cannot take part: it needs more than one dense gradient a step.")
        self._kind: Callable[..., Optimizer] = kind
        if "lr" in self.arguments:
            raise InputError(f"torch.optim.{name}: lr is no argument here; it is tuned.")
        self._try()
        self._layout: CoordinateLayout | None = None
        self._optimizer: Optimizer | None = None
        self._copies: list[list[nn.Parameter]] = []

    def init_state(
        self, theta: Tensor, layout: CoordinateLayout, generator: torch.Generator | None = None
    ) -> RuleState:
        """No state, but a fresh optimizer; theta must be (B, n)."""
        self._layout = layout
        rates = torch.as_tensor(self.lr).expand(len(theta), 1).flatten().tolist()  # one a problem while tuned
        self._copies = [[nn.Parameter(piece.clone()) for piece in self._pieces(row)] for row in theta]
        self._optimizer = self._build(self._copies, rates)
        return {}

    def forward(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, RuleState]:
        assert self._optimizer is not None, "init_state comes first"
        rows = zip(self._copies, inputs.theta, inputs.grad, strict=True)
        for parameters, theta, grad in rows:
            pieces = zip(parameters, self._pieces(theta), self._pieces(grad), strict=True)
            for parameter, here, slope in pieces:
                parameter.data.copy_(here)
                parameter.grad = slope.contiguous()
        self._optimizer.step()
        moved = [torch.cat([parameter.detach().flatten() for parameter in row]) for row in self._copies]
        return torch.stack(moved) - inputs.theta, {}

    def _try(self) -> None:
        """One step on zeros, so that a wrong argument shows before anything is measured."""
        parameter = nn.Parameter(torch.zeros(2, 2))
        parameter.grad = torch.zeros(2, 2)
        try:
            self._build([[parameter]], [self.lr]).step()
        except (TypeError, ValueError, RuntimeError, AssertionError) as error:
            raise InputError(f"torch.optim.{self.name} cannot be used with {self.arguments}: {error}") from error

    def _pieces(self, row: Tensor) -> list[Tensor]:
        if self._layout is None:
            return [row]
        return list(self._layout.unflatten(row).values())

    def _build(self, parameters: list[list[nn.Parameter]], rates: list[float]) -> Optimizer:
        groups = [{"params": own, "lr": rate} for own, rate in zip(parameters, rates, strict=True)]
        return self._kind(groups, lr=rates[0], **self.arguments)
