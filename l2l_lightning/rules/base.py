"""What an update rule is."""

from torch import Tensor, nn

from l2l_lightning.core.coordinates import CoordinateLayout
from l2l_lightning.core.state import RuleState
from l2l_lightning.core.unroll import RuleInput


class UpdateRule(nn.Module):
    """An optimizer as a pure pair: ``init_state`` and ``forward``; a learned one has parameters phi.

    Rules keep nothing on ``self`` between calls: state goes in and comes out. Every argument of ``__init__`` is kept as
    an attribute of the same name, so that a checkpoint can describe the rule.
    """

    def bind(self, layout: CoordinateLayout) -> None:
        """Learn names, shapes and slices of the parameters; only rules that need them override this."""

    def init_state(self, theta: Tensor) -> RuleState:
        """State of a problem that starts at theta (..., n): leaves (*features, ..., n), features first."""
        raise NotImplementedError(f"{type(self).__name__} must define init_state(theta).")

    def forward(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, RuleState]:
        """The step (..., n), to be added to theta, and the new state."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(inputs, state).")
