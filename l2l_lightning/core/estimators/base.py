"""What an estimator of the meta-gradient is."""

from typing import ClassVar

import torch
from torch import Tensor

from l2l_lightning.core.objective import Objective
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.rule import Rule
from l2l_lightning.core.state import InnerState
from l2l_lightning.core.unroll import Unrolled
from l2l_lightning.core.window import Window

EstimatorState = dict[str, Tensor]


class Estimator:
    """Finds phi's gradient over one window.

    The gradient travels with the returned meta-loss: ``WithGradient.apply(meta_loss, *gradients, *phi)`` attaches one
    that was found without autograd. Everything random comes from the generators that are passed in.

    Attributes:
        copies: how often each of the B drawn problems is there. The copies share initial theta, instance, minibatches
            and resets, and problem b of copy c is number c B + b.
    """

    copies: ClassVar[int] = 1

    def check(self, rule: Rule) -> None:
        """Raise InputError if the estimator cannot serve this rule; by default it serves every rule."""

    def init_state(self, phi: dict[str, Tensor], problems: int, generator: torch.Generator) -> EstimatorState:
        """What the estimator keeps between windows, leaves (problems, ...); by default nothing.

        Args:
            phi: the rule's trainable parameters by name.
            problems: copies * B.
            generator: of the run's first window.
        """
        return {}

    def reset(self, state: EstimatorState, mask: Tensor, generator: torch.Generator) -> EstimatorState:
        """The state after the problems where ``mask`` (problems,) holds were reset; by default it stays as it is."""
        return state

    def window(
        self,
        rule: Rule,
        problems: Problems,
        inner: InnerState,
        window: Window,
        objective: Objective,
        state: EstimatorState,
        generator: torch.Generator,
    ) -> tuple[Unrolled, EstimatorState]:
        """Walk through one window and attach phi's gradient to its meta-loss.

        Args:
            rule: the update rule with phi.
            problems: the optimizee.
            inner: where the copies * B problems stand.
            window: of the same number of problems.
            objective: the meta-loss.
            state: the estimator's own.
            generator: of this window alone, keyed by its number.
        """
        raise NotImplementedError(f"{type(self).__name__} must define window(...).")
