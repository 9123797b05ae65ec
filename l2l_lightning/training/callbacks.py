"""What a run shows while it trains and when it ends."""

import json
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.tensorboard import SummaryWriter

from l2l_lightning.evaluation import plots
from l2l_lightning.evaluation.report import as_plain_values, ratio_to_best_baseline, summarize, table
from l2l_lightning.training.module import MetaOptimizerModule


class InnerStepsPerSecond(Callback):
    """Logs ``train/inner_steps_per_second``; one inner step moves all B problems once. Validation does not count."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._windows = 0

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if self._since is None:
            self._since, self._windows = time.perf_counter(), 0

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, MetaOptimizerModule)
        assert self._since is not None
        self._windows += 1
        if trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            rate = self._windows * pl_module.unroll / (time.perf_counter() - self._since)
            pl_module.log("train/inner_steps_per_second", rate, prog_bar=True)
            self._since = None

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = None


class ContenderCurves(Callback):
    """Writes every contender's loss curve as a TensorBoard run of its own, so that they overlay in one chart.

    The chart ``<stage>/loss`` has inner steps as its axis; the learned rule's newest curve replaces the one before.
    """

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._write(trainer, pl_module, "validation")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer, pl_module, "test")

    @rank_zero_only
    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, MetaOptimizerModule)
        if not isinstance(trainer.logger, TensorBoardLogger):
            return
        for name, result in pl_module.results.items():
            folder = Path(trainer.logger.log_dir) / "curves" / name
            if not result.learned and folder.exists():
                continue  # a baseline's curve does not change
            # purge_step hides what an earlier validation wrote into this run
            with SummaryWriter(str(folder), purge_step=0) as writer:
                for step, loss in enumerate(result.curve.mean(1).tolist()):
                    writer.add_scalar(f"{stage}/loss", loss, step)


class ComparisonReport(Callback):
    """Prints the table of contenders and saves it with its figure and values beside the run's events.

    A fit reports its last validation as ``validation.*``; ``l2l validate`` and ``l2l test`` report what they measured.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        folder = trainer.log_dir  # which all processes must ask for; without a logger it is the working directory
        self._folder = None if trainer.logger is None or folder is None else Path(folder)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._report(trainer, pl_module, "validation")
        if trainer.is_global_zero and getattr(trainer.checkpoint_callback, "best_model_path", None):
            print(f"best checkpoint: {_short(trainer.checkpoint_callback.best_model_path)}")  # type: ignore[union-attr]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._report(trainer, pl_module, "validation")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._report(trainer, pl_module, "test")

    @rank_zero_only
    def _report(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, MetaOptimizerModule)
        if not pl_module.results:
            return
        summaries = summarize(pl_module.results)
        text = table(summaries)
        print(f"\n{stage}: means over held-out problems with 95 % confidence intervals\n\n{text}\n")
        ratio = ratio_to_best_baseline(summaries)
        if ratio == ratio:
            print(f"mean loss of the learned rule / best baseline: {ratio:.3f}")
        if self._folder is None:
            return
        folder = self._folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{stage}.md").write_text(text + "\n")
        (folder / f"{stage}.json").write_text(json.dumps(as_plain_values(summaries), indent=2) + "\n")
        figure = plots.curves(pl_module.results, f"{stage} loss")
        figure.savefig(folder / f"{stage}.png")
        print(f"figure: {_short(folder / f'{stage}.png')}")


def _short(path: str | Path) -> Path:
    """The path relative to the working directory where it lies below it."""
    path = Path(path).resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
