"""What the inner loop asks of an update rule."""

from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol

from torch import Tensor
from torch.nn import Parameter

from l2l_lightning.core.coordinates import CoordinateLayout
from l2l_lightning.core.sampling import Coordinates
from l2l_lightning.core.state import RuleState

Scope = Literal["coordinate", "tensor", "problem"]  # from the narrowest to the widest


class RuleInput(NamedTuple):
    """Everything an update rule may look at.

    Attributes:
        theta: (..., n) coordinates.
        grad: (..., n) gradient at theta, detached unless second derivatives are kept.
        loss: (...) loss at theta, None where the caller has none.
        t: (...) int64, inner steps since the reset.
        total: (...) float, inner steps that the problem is told it will have; 0: unknown.
        layout: names, shapes, owners and kinds of the tensors in the last dimension.
    """

    theta: Tensor
    grad: Tensor
    loss: Tensor | None
    t: Tensor
    total: Tensor
    layout: CoordinateLayout


class Tape(Protocol):
    """Takes a rule's steps one after another from a state, and keeps what the gradient of phi needs."""

    @property
    def state(self) -> RuleState:
        """After the steps taken so far."""

    def __call__(self, inputs: RuleInput) -> Tensor:
        """The next update (..., n)."""

    def updates(self) -> Tensor:
        """All updates so far (U, ..., n), with a graph to the rule's parameters if the tape keeps one."""


class Rule(Protocol):
    """What ``UpdateRule`` offers to the inner loop; ``rules/base.py`` documents it."""

    @property
    def scope(self) -> Scope: ...

    def __call__(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, RuleState]: ...

    def init_state(self, theta: Tensor, layout: CoordinateLayout) -> RuleState: ...

    def parameters(self) -> Iterator[Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]: ...

    def subset(self, state: RuleState, layout: CoordinateLayout, some: Coordinates) -> RuleState: ...

    def tape(self, state: RuleState, layout: CoordinateLayout, steps: int | None) -> Tape | None: ...
