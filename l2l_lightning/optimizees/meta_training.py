"""The training of an update rule as a problem to be optimized."""

import torch
from torch import Tensor

from l2l_lightning.core.description import describe
from l2l_lightning.core.errors import InputError, check_positive_int
from l2l_lightning.core.instantiate import Known, instantiate
from l2l_lightning.core.objective import Objective
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.state import fresh_state
from l2l_lightning.core.unroll import unroll
from l2l_lightning.core.window import Data, Window
from l2l_lightning.optimizees.base import OptimizeeModule
from l2l_lightning.rules import PARTS, UpdateRule

THETA, INSTANCE, BATCH = "theta", "instance/", "batch/"


def as_data(theta: Tensor, instance: Data, batches: Data) -> Data:
    """What ``MetaTrainingProblem`` reads, from initial parameters, instances and batches of its inner problems."""
    named = {INSTANCE + name: leaf for name, leaf in instance.items()}
    return {THETA: theta, **named, **{BATCH + name: leaf for name, leaf in batches.items()}}


def part_of(data: Data, prefix: str) -> Data:
    """The instances or the batches out of ``as_data``."""
    return {name.removeprefix(prefix): leaf for name, leaf in data.items() if name.startswith(prefix)}


class MetaTrainingProblem(OptimizeeModule):
    """Learning to optimize as a problem of its own: its parameters are an update rule's phi, its loss the meta-loss.

    One evaluation starts P inner problems, unrolls the rule on them for U steps by ``core.unroll`` and returns the
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
        InputError: for an unroll that is not a positive integer, a rule without parameters, or, when it is evaluated,
            data of another optimizee or unroll.
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
        self.rule = rule
        self.rule.bind(self.problems.layout)
        self.unroll = unroll
        self.objective = objective or Objective()
        self.second_order = second_order

    @property
    def optimizee(self) -> OptimizeeModule:
        """The inner problem."""
        return self.problems.template  # type: ignore[return-value]

    def reset_parameters(self, generator: torch.Generator) -> None:
        """The phi of a newly built rule; constructors draw from torch's global generator, which is put back."""
        seed = torch.randint(2**63 - 1, (), generator=generator, device=generator.device)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(int(seed))
            fresh = instantiate(describe(self.rule), UpdateRule, Known(PARTS))
            for own, new in zip(self.rule.parameters(), fresh.parameters(), strict=True):
                own.copy_(new)

    def forward(self, data: Data) -> Tensor:
        theta = data[THETA]
        window = Window(0, len(theta), self.unroll, part_of(data, INSTANCE), part_of(data, BATCH))
        self._check(theta, window)
        self.problems.to(theta.device, theta.dtype)
        lifetime = torch.full((len(theta),), self.unroll, device=theta.device)
        start = fresh_state(theta, self.rule.init_state(theta), window.instance, lifetime)
        return unroll(self.rule, self.problems, start, window, self.objective, self.second_order).meta_loss

    def _check(self, theta: Tensor, window: Window) -> None:
        if theta.shape[-1] != self.problems.layout.n:
            raise InputError(
                f"MetaTrainingProblem: the DataModule draws theta of {theta.shape[-1]} coordinates, but the optimizee "
                f"has {self.problems.layout.n}; give both the same optimizee."
            )
        points = {len(leaf) for leaf in window.batches.values()} - {self.unroll + 1}
        if points:
            raise InputError(
                f"MetaTrainingProblem: the DataModule's inner batches have {points.pop() - 1} inner steps, but unroll "
                f"is {self.unroll}; give both the same unroll."
            )
