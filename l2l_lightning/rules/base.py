"""What an update rule is."""

import copy
from collections.abc import Set
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from l2l_lightning.core.coordinates import CoordinateLayout
from l2l_lightning.core.errors import InputError
from l2l_lightning.core.rule import RuleInput, Scope, Tape
from l2l_lightning.core.sampling import Coordinates
from l2l_lightning.core.state import RuleState
from l2l_lightning.rules.schedules import Schedule, check_schedule


class UpdateRule(nn.Module):
    """An optimizer as a pure pair: ``init_state`` and ``forward``; a learned one has parameters phi.

    Rules keep nothing on ``self`` between calls: state goes in and comes out. Every argument of ``__init__`` is kept as
    an attribute of the same name, so that a checkpoint can describe the rule.

    Attributes:
        rate_argument: name of the argument that scales the steps and may be tuned after training, None without one.
        scope: what one call must see. ``coordinate``: a coordinate's steps depend on its own gradients alone, never on
            those of other coordinates, so theta may be cut anywhere; ``tensor``: whole tensors, see ``TensorRule``;
            ``problem``: all tensors at once. A class that overrides ``forward`` is of scope ``problem`` unless it says
            otherwise, and loses ``tape`` and ``step_`` of the class that it is derived from.
        needs: ``loss`` and ``total`` where the rule cannot do without them.
    """

    rate_argument: ClassVar[str | None] = None
    scope: Scope = "problem"
    needs: ClassVar[Set[str]] = frozenset()

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("scope", "tape", "step_"):
            owner = next(base for base in cls.__mro__ if name in vars(base))
            if owner.forward is not cls.forward:  # type: ignore[attr-defined]
                setattr(cls, name, vars(UpdateRule)[name])

    def with_rate(self, rate: float | Schedule) -> Self:
        """A copy with another ``rate_argument``.

        Raises:
            InputError: for a rate that is not positive, or a rule without one.
        """
        other = self._copy_with_rate(rate)
        check_schedule(self, **{str(self.rate_argument): rate})
        return other

    def with_rates(self, rates: Tensor) -> Self:
        """A copy in which problem b has the rate ``rates[b]``, (B,); for tuning many rates side by side.

        Raises:
            InputError: for a rule without a rate.
        """
        return self._copy_with_rate(rates.unsqueeze(-1))

    def _copy_with_rate(self, rate: float | Schedule | Tensor) -> Self:
        if self.rate_argument is None:
            raise InputError(f"{type(self).__name__} has no rate that could be tuned.")
        other = copy.deepcopy(self)
        setattr(other, self.rate_argument, rate)
        return other

    def check_layout(self, layout: CoordinateLayout) -> None:
        """Raise InputError if the rule cannot serve these tensors; by default it serves all."""

    def subset(self, state: RuleState, layout: CoordinateLayout, some: Coordinates) -> RuleState:
        """The state of m of the coordinates, leaves (*features, ..., m); for rules of scope ``coordinate``."""
        return {name: leaf[..., some.chosen] for name, leaf in state.items()}

    def tape(self, state: RuleState, layout: CoordinateLayout, steps: int | None) -> Tape | None:
        """A faster way than ``forward`` to take steps from a state, None where there is none.

        Rules of scope ``coordinate`` that look at nothing but gradients may step in place, and keep what a hand-written
        backward pass through this number of steps needs (None: no backward pass).
        """
        return None

    def init_state(
        self, theta: Tensor, layout: CoordinateLayout, generator: torch.Generator | None = None
    ) -> RuleState:
        """State of problems that start at theta (..., n): leaves (*features, ..., k), features first.

        k is n for rules of scope ``coordinate``, and for others whatever the rule wants. Without a generator the start
        is deterministic.
        """
        raise NotImplementedError(f"{type(self).__name__} must define init_state(theta, layout, generator=None).")

    def forward(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, RuleState]:
        """The update (..., n), to be added to theta, and the new state."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(inputs, state).")

    def step_(self, inputs: RuleInput, state: RuleState) -> Tensor:
        """``forward`` for callers who want no graph and need the old state no more: the new one is written over it."""
        update, new_state = self(inputs, state)
        return overwrite(state, new_state, update)


def overwrite(state: RuleState, new_state: RuleState, update: Tensor) -> Tensor:
    """Write the new leaves over the old ones, whose memory they and the update may share, and return the update."""
    old = {leaf.untyped_storage().data_ptr() for leaf in state.values()}
    update, *leaves = (
        tensor.clone() if tensor.untyped_storage().data_ptr() in old else tensor
        for tensor in (update, *new_state.values())
    )
    for name, leaf in zip(new_state, leaves, strict=True):
        state[name].copy_(leaf)
    return update
