"""What the inner loop asks of an update rule."""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from torch import Tensor
from torch.nn import Parameter

from l2l_lightning.core.sampling import Coordinates
from l2l_lightning.core.state import RuleState


class RuleInput(NamedTuple):
    """Everything an update rule may look at.

    Attributes:
        theta: (..., n) coordinates.
        grad: (..., n) gradient at theta, detached unless second derivatives are kept.
        loss: (...) loss at theta, None where the caller has none.
        step: (...) int64, inner steps since the reset.
    """

    theta: Tensor
    grad: Tensor
    loss: Tensor | None
    step: Tensor


class Record(Protocol):
    """A rule that takes steps from a state without autograd and knows its own way back."""

    @property
    def state(self) -> RuleState:
        """After the steps taken so far."""

    def __call__(self, inputs: RuleInput) -> Tensor:
        """The next step (..., n)."""

    def steps(self) -> Tensor:
        """All steps taken (U, ..., n), with a graph to the rule's parameters that has no second derivatives."""


Rule = Callable[[RuleInput, RuleState], tuple[Tensor, RuleState]]  # to (step, new state)


class CoordinatewiseRule(Protocol):
    """What ``UpdateRule`` offers beside its call, for meta-gradients without a graph of the whole walk."""

    coordinatewise: bool

    def __call__(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, RuleState]: ...

    def parameters(self) -> Iterator[Parameter]: ...

    def subset(self, state: RuleState, index: Coordinates) -> tuple["CoordinatewiseRule", RuleState]: ...

    def record(self, state: RuleState, steps: int | None) -> Record | None: ...
