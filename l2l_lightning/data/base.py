"""DataModules that stream windows of problems."""

from collections.abc import Callable, Iterator
from functools import partial

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from l2l_lightning.core.errors import InputError, check_non_negative_int, check_positive_int, check_seed
from l2l_lightning.core.horizon import round_up
from l2l_lightning.core.random import Split, Stream, keyed_generator
from l2l_lightning.core.window import Data, Window
from l2l_lightning.optimizees.base import OptimizeeModule


class WindowStream:
    """A stream of windows cut into epochs: a dataloader for Lightning that knows its position.

    Window k depends on k alone, so the stream goes on exactly where a checkpoint left it. It is not a ``DataLoader``,
    for every rank draws problems of its own and Lightning must not put a ``DistributedSampler`` into it.

    Args:
        draw: k -> window k, on the CPU.
        epoch: windows in one pass.
        endless: whether the next pass goes on with new windows, as in training, or starts again, as in validation.
        prepare: given to every window, see ``Window.prepare``; it stays in this process.
        num_workers: processes that draw windows ahead; 0 draws in this one.
    """

    def __init__(
        self,
        draw: Callable[[int], Window],
        epoch: int,
        endless: bool,
        prepare: Callable[[Data], Data] | None = None,
        num_workers: int = 0,
    ) -> None:
        self.dataset = _Windows(draw)
        self.epoch = epoch
        self.endless = endless
        self.prepare = prepare
        self.num_workers = num_workers
        self.position = 0

    def __len__(self) -> int:
        return self.epoch

    def __iter__(self) -> Iterator[Window]:
        if not self.endless:
            self.position = 0
        sampler = range(self.position, self.position + self.epoch)
        loader = DataLoader(
            self.dataset,
            sampler=sampler,
            batch_size=None,
            num_workers=self.num_workers,
            collate_fn=_as_is,  # type: ignore[arg-type]
        )
        for window in loader:
            self.position += 1
            yield window._replace(prepare=self.prepare)

    def state_dict(self) -> dict[str, int]:
        """The number of windows handed out so far."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on behind the windows already handed out."""
        self.position = state["position"]


class _Windows(Dataset[Window]):
    def __init__(self, draw: Callable[[int], Window]) -> None:
        self.draw = draw

    def __getitem__(self, index: int) -> Window:
        return self.draw(index)


def _as_is(window: Window) -> Window:
    return window


def check_drawn(data: "ProblemDataModule", drawn: object, problems: int) -> None:
    """Refuse what ``draw`` must not return.

    Raises:
        InputError: unless it is a pair of dictionaries, of instances (B, ...) and of batches (U+1, B, ...).
    """
    owner, points = type(data).__name__, data.unroll + 1
    if not (isinstance(drawn, tuple) and len(drawn) == 2 and all(isinstance(part, dict) for part in drawn)):
        raise InputError(
            f"{owner}.draw must return two dictionaries, instances and batches, got one thing of type "
            f"{type(drawn).__name__}."
        )
    for part, lead, shape in ((drawn[0], (problems,), "(B, ...)"), (drawn[1], (points, problems), "(U+1, B, ...)")):
        for name, leaf in part.items():
            if leaf.shape[: len(lead)] != lead:
                raise InputError(
                    f"{owner}.draw: {name!r} must have shape {shape}, here beginning with {lead}, got "
                    f"{tuple(leaf.shape)}."
                )


class ProblemDataModule(L.LightningDataModule):
    """Streams windows of B problems: endless ones for training, fixed held-out ones for validation, test and tuning.

    Subclasses say what a window holds in ``draw``. Training problems depend on the seed and the rank; the held-out
    problems are the same for every seed, so that runs can be compared.

    Args:
        unroll: U, inner steps in one window.
        problems: B, training problems side by side.
        windows_per_epoch: training windows between two validations.
        steps: inner steps of each held-out problem.
        validation_problems: held-out problems for model selection.
        test_problems: held-out problems for the final report.
        tuning_problems: problems on which the baselines' learning rates are chosen.
        seed: of the training problems; None takes that of ``seed_everything``.
        num_workers: processes that draw windows ahead.

    Raises:
        InputError: for numbers that are not positive integers.
    """

    def __init__(
        self,
        unroll: int = 20,
        problems: int = 128,
        windows_per_epoch: int = 100,
        steps: int = 100,
        validation_problems: int = 128,
        test_problems: int = 128,
        tuning_problems: int = 128,
        seed: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        check_positive_int(
            self,
            unroll=unroll,
            problems=problems,
            windows_per_epoch=windows_per_epoch,
            steps=steps,
            validation_problems=validation_problems,
            test_problems=test_problems,
            tuning_problems=tuning_problems,
        )
        check_non_negative_int(self, num_workers=num_workers)
        check_seed(self, seed)
        self.unroll = unroll
        self.problems = problems
        self.windows_per_epoch = windows_per_epoch
        self.steps = round_up(steps, unroll, f"{type(self).__name__}: the held-out horizon")
        self.held_out_problems = {
            Split.VALIDATION: validation_problems,
            Split.TEST: test_problems,
            Split.TUNING: tuning_problems,
        }
        self.seed = torch.initial_seed() if seed is None else seed
        self.num_workers = num_workers

    def bind(self, optimizee: OptimizeeModule) -> None:
        """Learn who reads the data, before any are drawn; only DataModules that need to know override this."""

    def draw(self, generator: torch.Generator, problems: int) -> tuple[Data, Data]:
        """Instances (B, ...) and batches (U+1, B, ...) of one window, on the CPU, from this generator alone."""
        raise NotImplementedError(f"{type(self).__name__} must define draw(generator, problems).")

    def prepare(self, batch: Data) -> Data:
        """Turn the batches of one point into what the optimizee reads, on the device they are on."""
        return batch

    def trial_data(self) -> Data:
        """Data of one problem, leaves without its dimension, that a misfitting optimizee fails on; none by default."""
        return {}

    def held_out_data(self, split: Split, device: torch.device) -> Iterator[Data]:
        """Data, shared by all problems, on which final parameters are scored; none by default."""
        return iter(())

    def window(self, split: Split, index: int) -> Window:
        """Window ``index`` of a split, on the CPU."""
        if split == Split.TRAIN:
            rank = self.trainer.global_rank if self.trainer else 0
            generator, problems = keyed_generator(Stream.DATA, split, self.seed, rank, index), self.problems
        else:
            generator, problems = keyed_generator(Stream.DATA, split, index), self.held_out_problems[split]
        drawn = self.draw(generator, problems)
        check_drawn(self, drawn, problems)
        return Window(index, problems, self.unroll, *drawn)

    def train_dataloader(self) -> WindowStream:
        draw = partial(self.window, Split.TRAIN)
        stream = WindowStream(draw, self.windows_per_epoch, True, self.prepare, self.num_workers)
        if self.trainer:
            # Lightning restores a loader's own state in the middle of an epoch only, but its progress always.
            stream.position = self.trainer.fit_loop.epoch_loop.total_batch_idx + 1
        return stream

    def held_out_windows(self, split: Split) -> WindowStream:
        """The windows of one trajectory of all problems of a split."""
        draw = partial(self.window, split)
        return WindowStream(draw, self.steps // self.unroll, False, self.prepare, self.num_workers)

    def val_dataloader(self) -> WindowStream:
        return self.held_out_windows(Split.VALIDATION)

    def test_dataloader(self) -> WindowStream:
        return self.held_out_windows(Split.TEST)

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.seed = state_dict["seed"]
