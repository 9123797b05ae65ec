"""The training of an update rule as a problem to be optimized."""

import copy

import torch
from torch import Tensor

from l2l_lightning.core.errors import InputError, check_positive_int
from l2l_lightning.core.estimators.backpropagation import backpropagate
from l2l_lightning.core.objective import Objective
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.random import drawn_from
from l2l_lightning.core.state import fresh_state
from l2l_lightning.core.window import Data, Window
from l2l_lightning.files.description import rebuild
from l2l_lightning.optimizees.base import OptimizeeModule
from l2l_lightning.rules import UpdateRule

THETA, INSTANCE, BATCH = "theta", "instance/", "batch/"


def as_data(theta: Tensor, instance: Data, batches: Data) -> Data:
    """What ``MetaTrainingProblem`` reads, as one dictionary of leaves of the same shapes.

    Args:
        theta: (..., P, n) initial parameters of the inner problems.
        instance: leaves (..., P, ...).
        batches: leaves (..., U+1, P, ...).
    """
    named = {INSTANCE + name: leaf for name, leaf in instance.items()}
    return {THETA: theta, **named, **{BATCH + name: leaf for name, leaf in batches.items()}}


def part_of(data: Data, prefix: str) -> Data:
    """The instances or the batches out of ``as_data``."""
    return {name.removeprefix(prefix): leaf for name, leaf in data.items() if name.startswith(prefix)}


class MetaTrainingProblem(OptimizeeModule):
    """Learning to optimize as a problem of its own: its parameters are an update rule's phi, its loss the meta-loss.

    One evaluation starts P inner problems, unrolls the rule on them for U steps by ``core.estimators`` and returns the
    meta-loss of this window, the mean over the P problems; ``MetaTrainingDataModule`` draws new ones for every
    evaluation. The optimizer of such a problem is the outer optimizer of a meta-training; a learned one is "optimizer
    cubed".

    Reads ``theta`` (P, n), the inner problems' initial parameters; ``instance/NAME`` (P, ...) and ``batch/NAME``
    (U+1, P, ...), what they read themselves.

    Args:
        rule: the update rule to be trained; every problem starts with a newly drawn phi.
        optimizee: the inner problem.
        unroll: U, inner steps.
        objective: weights and transform of the meta-loss; the plain mean over the window where none is given.
        second_order: let the gradient of phi, and all that is differentiated further out, pass through the inner
            optimizee's gradients; otherwise these are constants at every level.

    Raises:
        InputError: for an unroll that is not a positive integer, an optimizee or a rule without parameters, a rule that
            cannot be bound to the optimizee or does not keep its arguments, or data of another optimizee.
    """

    def __init__(
        self,
        rule: UpdateRule,
        optimizee: OptimizeeModule,
        unroll: int = 20,
        objective: Objective | None = None,
        second_order: bool = False,
    ) -> None:
        super().__init__()
        check_positive_int(self, unroll=unroll)
        if not list(rule.parameters()):
            raise InputError(f"MetaTrainingProblem: {type(rule).__name__} has no parameters to train.")
        self.problems = Problems(optimizee)  # no submodule: theta is not phi
        self.rule = copy.deepcopy(rule)
        self.rule.check_layout(self.problems.layout)
        self.unroll = unroll
        self.objective = objective or Objective()
        self.second_order = second_order
        self.reset_parameters(torch.Generator())  # a rule that cannot be built anew shows now

    @property
    def optimizee(self) -> OptimizeeModule:
        """The inner problem."""
        return self.problems.template  # type: ignore[return-value]

    def reset_parameters(self, generator: torch.Generator) -> None:
        """The phi of a newly built rule; what its constructor does not draw stays the same for all."""
        with drawn_from(generator, next(self.rule.parameters()).device), torch.no_grad():
            for own, new in zip(self.rule.parameters(), rebuild(self.rule).parameters(), strict=True):
                own.copy_(new)

    def forward(self, data: Data) -> Tensor:
        theta = data[THETA]
        if theta.shape[-1] != self.problems.layout.n:
            raise InputError(
                f"MetaTrainingProblem: the data's theta has {theta.shape[-1]} coordinates, but its optimizee "
                f"{type(self.optimizee).__name__} has {self.problems.layout.n}."
            )
        window = Window(0, len(theta), self.unroll, part_of(data, INSTANCE), part_of(data, BATCH))
        self.problems.to(theta.device, theta.dtype)
        lifetime = torch.full((len(theta),), self.unroll, device=theta.device)
        start = fresh_state(
            theta, self.rule.init_state(theta, self.problems.layout), window.instance, lifetime, lifetime
        )
        return backpropagate(self.rule, self.problems, start, window, self.objective, self.second_order).meta_loss
