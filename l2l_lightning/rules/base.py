"""What an update rule is."""

import copy
from typing import ClassVar, Self

from torch import Tensor, nn

from l2l_lightning.core.coordinates import CoordinateLayout
from l2l_lightning.core.errors import InputError
from l2l_lightning.core.rule import Record, RuleInput
from l2l_lightning.core.sampling import Coordinates
from l2l_lightning.core.state import RuleState
from l2l_lightning.rules.schedules import Schedule, check_schedule


class UpdateRule(nn.Module):
    """An optimizer as a pure pair: ``init_state`` and ``forward``; a learned one has parameters phi.

    Rules keep nothing on ``self`` between calls: state goes in and comes out. Every argument of ``__init__`` is kept as
    an attribute of the same name, so that a checkpoint can describe the rule.

    Attributes:
        rate_argument: name of the argument that scales the steps and may be tuned after training, None without one.
        coordinatewise: whether a coordinate's steps depend on its own gradients alone, never on those of other
            coordinates; then the meta-gradient may be taken from some of the coordinates, or in blocks of them.
    """

    rate_argument: ClassVar[str | None] = None
    coordinatewise: bool = False

    def __init_subclass__(cls, **kwargs: object) -> None:
        """What a class says of its ``forward``, or does in its place, does not hold for another ``forward``."""
        super().__init_subclass__(**kwargs)
        for name in ("coordinatewise", "record", "step_"):
            owner = next(kind for kind in cls.__mro__ if name in vars(kind))
            if owner.forward is not cls.forward:  # type: ignore[attr-defined]
                setattr(cls, name, vars(UpdateRule)[name])

    def with_rate(self, rate: float | Schedule) -> Self:
        """A copy with another ``rate_argument``.

        Raises:
            InputError: for a rate that is not positive, or a rule without one.
        """
        if self.rate_argument is None:
            raise InputError(f"{type(self).__name__} has no rate that could be tuned.")
        check_schedule(self, **{self.rate_argument: rate})
        other = copy.deepcopy(self)
        setattr(other, self.rate_argument, rate)
        return other

    def bind(self, layout: CoordinateLayout) -> None:
        """Learn names, shapes and slices of the parameters; only rules that need them override this."""

    def for_parameter(self, name: str, module: str) -> "UpdateRule":
        """The rule that updates this parameter of a module of this class; a rule for all of them is its own answer."""
        return self

    def subset(self, state: RuleState, index: Coordinates) -> tuple["UpdateRule", RuleState]:
        """The rule for m of the coordinates, and their state, leaves (*features, ..., m); for ``coordinatewise`` rules.

        ``index`` is a slice of theta's last dimension or (m,) int64, ascending; a coordinate may come twice.
        """
        return self, {name: leaf[..., index] for name, leaf in state.items()}

    def record(self, state: RuleState, steps: int | None) -> Record | None:
        """A faster way than ``forward`` to take steps from a state, None where there is none.

        ``coordinatewise`` rules that look at nothing but gradients may step in place, and write down what they need for
        a hand-written way back through this number of steps (None: no way back).
        """
        return None

    def init_state(self, theta: Tensor) -> RuleState:
        """State of a problem that starts at theta (..., n): leaves (*features, ..., n), features first."""
        raise NotImplementedError(f"{type(self).__name__} must define init_state(theta).")

    def forward(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, RuleState]:
        """The step (..., n), to be added to theta, and the new state."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(inputs, state).")

    def step_(self, inputs: RuleInput, state: RuleState) -> Tensor:
        """``forward`` for callers who want no graph and need the old state no more: the new one is written over it."""
        step, new_state = self(inputs, state)
        return overwrite(state, new_state, step)


def overwrite(state: RuleState, new_state: RuleState, step: Tensor) -> Tensor:
    """Write the new leaves over the old ones, whose memory they and the step may share, and return the step."""
    old = {leaf.untyped_storage().data_ptr() for leaf in state.values()}
    step, *leaves = (
        tensor.clone() if tensor.untyped_storage().data_ptr() in old else tensor
        for tensor in (step, *new_state.values())
    )
    for name, leaf in zip(new_state, leaves, strict=True):
        state[name].copy_(leaf)
    return step
