"""Rules that see whole tensors."""

from math import prod
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from l2l_lightning.core.coordinates import CoordinateLayout, Kind
from l2l_lightning.core.rule import RuleInput
from l2l_lightning.core.state import RuleState
from l2l_lightning.rules.base import UpdateRule
from l2l_lightning.rules.schedules import value_at


class TensorInput(NamedTuple):
    """What a ``TensorRule`` sees of one tensor of B problems.

    Attributes:
        theta: (B, *shape).
        grad: (B, *shape).
        loss: (B,) at theta, None where the caller has none.
        t: (B,) int64, inner steps since the reset.
        total: (B,) float, inner steps that the problem is told it will have; 0: unknown.
        kind: of the tensor, see ``tensor_kinds``.
        rate: (B, 1, ..., 1), the rule's ``rate_argument``; ones where it has none.
    """

    theta: Tensor
    grad: Tensor
    loss: Tensor | None
    t: Tensor
    total: Tensor
    kind: Kind
    rate: Tensor


class TensorRule(UpdateRule):
    """A rule written for one tensor of B problems; this class splits theta into tensors and joins the updates.

    In the rule's state the leaves of a tensor stand under ``number/leaf``, flattened to (B, k). Tensors of the same
    shape and kind may arrive stacked, as more problems.
    """

    scope = "tensor"

    def init_tensor(self, theta: Tensor, kind: Kind, generator: torch.Generator | None = None) -> RuleState:
        """State of one tensor theta (B, *shape): leaves (B, ...)."""
        raise NotImplementedError(f"{type(self).__name__} must define init_tensor(theta, kind, generator=None).")

    def update_tensor(self, inputs: TensorInput, state: RuleState) -> tuple[Tensor, RuleState]:
        """The update (B, *shape) of one tensor, to be added to it, and its new state."""
        raise NotImplementedError(f"{type(self).__name__} must define update_tensor(inputs, state).")

    def init_state(
        self, theta: Tensor, layout: CoordinateLayout, generator: torch.Generator | None = None
    ) -> RuleState:
        state = {}
        for place, ((_, where, shape), kind) in enumerate(zip(layout.slices, layout.kinds, strict=True)):
            own = self.init_tensor(_tensor(theta, where, shape), kind, generator)
            state.update(_flat(own, place, theta.shape[:-1]))
        return state

    def forward(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, RuleState]:
        updates, new_state = [], {}
        lead = inputs.theta.shape[:-1]  # (..., ) of the problems
        for place, ((_, where, shape), kind) in enumerate(zip(inputs.layout.slices, inputs.layout.kinds, strict=True)):
            theta, grad = (_tensor(x, where, shape) for x in (inputs.theta, inputs.grad))  # (B, *shape)
            loss, t, total = (None if x is None else x.reshape(-1) for x in (inputs.loss, inputs.t, inputs.total))
            column = (-1, *[1] * len(shape))
            seen = TensorInput(theta, grad, loss, t, total, kind, self._rate(t, theta).view(column))  # type: ignore[arg-type]
            shapes = _tails(self, shape, kind, theta)
            own = {name: state[f"{place}/{name}"].reshape(-1, *tail) for name, tail in shapes.items()}
            update, own = self.update_tensor(seen, own)
            updates.append(update.reshape(*lead, prod(shape)))
            new_state.update(_flat(own, place, lead))
        return torch.cat(updates, -1), new_state

    def _rate(self, t: Tensor, like: Tensor) -> Tensor:
        """(B,) or (1,)."""
        if self.rate_argument is None:
            return like.new_ones(1)
        rate = value_at(getattr(self, self.rate_argument), t, like)
        return rate.reshape(-1) if isinstance(rate, Tensor) else like.new_tensor([rate])


def _tensor(vector: Tensor, where: slice, shape: torch.Size) -> Tensor:
    """(..., n) -> one tensor of all problems, (B, *shape); B is 1 where there is no dimension of problems."""
    return vector[..., where].reshape(-1, *shape)


def _flat(leaves: RuleState, place: int, lead: torch.Size) -> RuleState:
    """Leaves (B, ...) of one tensor -> (..., k) under the tensor's number."""
    return {f"{place}/{name}": leaf.reshape(*lead, -1) for name, leaf in leaves.items()}


_TAILS: WeakKeyDictionary[TensorRule, dict[tuple[torch.Size, Kind], dict[str, torch.Size]]] = WeakKeyDictionary()


def _tails(rule: TensorRule, shape: torch.Size, kind: Kind, like: Tensor) -> dict[str, torch.Size]:
    """Name -> shape without B of each leaf of a tensor, which the flattened state does not tell."""
    known = _TAILS.setdefault(rule, {})
    if (shape, kind) not in known:
        with torch.no_grad():
            leaves = rule.init_tensor(torch.zeros(1, *shape, dtype=like.dtype, device=like.device), kind)
        known[shape, kind] = {name: leaf.shape[1:] for name, leaf in leaves.items()}
    return known[shape, kind]
