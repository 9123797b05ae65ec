"""Problems for the training of update rules as a problem."""

from math import prod
from typing import Any

import torch

from l2l_lightning.core.errors import InputError
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.random import Split, Stream, keyed_generator
from l2l_lightning.core.window import Data
from l2l_lightning.data.base import ProblemDataModule
from l2l_lightning.optimizees.base import OptimizeeModule
from l2l_lightning.optimizees.meta_training import BATCH, MetaTrainingProblem, as_data, part_of


class MetaTrainingDataModule(ProblemDataModule):
    """For ``MetaTrainingProblem``: at every point of every problem new inner problems, drawn by another DataModule.

    Args:
        inner: draws what the inner problems read, ``inner.problems`` of them for every evaluation. Their unroll is that
            of the ``MetaTrainingProblem``, and the other numbers of ``inner`` have no say.
        **kwargs: those of ``ProblemDataModule``.
    """

    def __init__(self, inner: ProblemDataModule, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner = inner
        self._starts: Problems | None = None  # draw the inner problems' initial parameters

    def bind(self, optimizee: OptimizeeModule) -> None:
        """Learn what the inner problems are, and how many steps they take.

        Raises:
            InputError: for another optimizee than a ``MetaTrainingProblem``.
        """
        if not isinstance(optimizee, MetaTrainingProblem):
            raise InputError(
                f"MetaTrainingDataModule draws problems for a MetaTrainingProblem, got a {type(optimizee).__name__}."
            )
        self._starts = Problems(optimizee.optimizee)
        self.inner.unroll = optimizee.unroll
        self.inner.bind(optimizee.optimizee)

    def prepare_data(self) -> None:
        self.inner.prepare_data()

    def setup(self, stage: str) -> None:
        self.inner.setup(stage)

    def draw(self, generator: torch.Generator, problems: int) -> tuple[Data, Data]:
        """No instances, and batches (U+1, B, ...) of what ``MetaTrainingProblem`` reads."""
        assert self._starts is not None, "bind(optimizee) comes first"
        lead = (self.unroll + 1, problems, self.inner.problems)
        instance, batches = self.inner.draw(generator, prod(lead))
        theta = self._starts.draw(prod(lead), generator).to(torch.get_default_dtype())
        return {}, as_data(
            theta.unflatten(0, lead),
            {name: leaf.unflatten(0, lead) for name, leaf in instance.items()},
            {name: leaf.unflatten(1, lead).movedim(0, 2) for name, leaf in batches.items()},
        )

    def trial_data(self) -> Data:
        _, batches = self.draw(keyed_generator(Stream.DATA, Split.TUNING), 1)
        first = self.prepare({name: leaf[0] for name, leaf in batches.items()})
        return {name: leaf[0] for name, leaf in first.items()}

    def prepare(self, batch: Data) -> Data:
        inner = part_of(batch, BATCH)  # leaves (B, U+1, P, ...) of the inner U
        if not inner:
            return batch
        lead = next(iter(inner.values())).shape[:3]
        prepared = self.inner.prepare({name: leaf.flatten(0, 2) for name, leaf in inner.items()})
        rest = {name: leaf for name, leaf in batch.items() if not name.startswith(BATCH)}
        return rest | {BATCH + name: leaf.unflatten(0, lead) for name, leaf in prepared.items()}
