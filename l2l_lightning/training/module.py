"""Meta-training as a LightningModule."""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from l2l_lightning.core.errors import InputError, RunError, check_positive_int, check_seed
from l2l_lightning.core.estimators import Backpropagation, Estimator
from l2l_lightning.core.horizon import Restarts
from l2l_lightning.core.objective import Objective
from l2l_lightning.core.population import Counts, Draws, Population
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.random import Split, Stream, keyed_generator
from l2l_lightning.core.window import Window
from l2l_lightning.data.base import ProblemDataModule
from l2l_lightning.evaluation.compare import LEARNED, Baselines, HeldOutComparison, Race, Result
from l2l_lightning.evaluation.report import ratio_to_best_baseline, summarize
from l2l_lightning.files import checkpoint as checkpoints
from l2l_lightning.files.description import describe, outline
from l2l_lightning.optimizees.base import OptimizeeModule
from l2l_lightning.rules.base import UpdateRule
from l2l_lightning.training.losses_by_age import LossesByAge
from l2l_lightning.training.processes import gather, say_processes
from l2l_lightning.training.skipped_steps import SkippedSteps


def _adam(parameters: Iterable[Tensor]) -> Optimizer:
    return torch.optim.Adam(parameters, lr=1e-3)


class MetaOptimizerModule(L.LightningModule):
    """Trains an update rule on B problems side by side, one truncated unroll a training step.

    ``training_step`` returns the meta-loss of one window; Lightning does the rest. Problems whose lifetime is over, and
    those that diverged, are replaced in ``on_train_batch_start``. Validation and test let the learned rule and tuned
    hand-made ones run on the same held-out problems.

    With several processes (``trainer.strategy=ddp``) each has B problems of its own and phi's gradient is averaged;
    what is logged of training is of all processes. Held-out problems are the same in each.

    Logged: ``train/meta_loss``, ``train/inner_loss/age_A`` (mean loss at the end of windows that started at ages from A
    inner steps on), ``train/resets``, of which ``train/divergences`` and ``train/early_resets`` (solved or run away),
    and ``train/skipped_steps`` (totals since the start),
    ``train/grad_norm`` of phi; ``val/final_loss``, ``val/mean_loss`` (over the trajectory), ``val/diverged``,
    ``val/vs_best_baseline`` (ratio of mean losses, below 1 is better), ``val/<metric>``; in a test ``test/`` likewise.

    Args:
        rule: the update rule; its parameters phi are all that is trained and saved.
        optimizee: the problem to be optimized; a template, neither trained by the outer optimizer nor saved.
        unroll: U, inner steps in one window.
        restarts: when problems restart, and what they are told; after 100 inner steps where nothing is given.
        objective: weights and transform of the meta-loss; the plain mean over the window where none is given.
        max_skipped_steps: end the training after this many meta-gradients in a row that were not finite.
        estimator: how phi's gradient is found; ``Backpropagation`` where none is given.
        compile: compile the optimizee's losses and gradients with torch.compile, which takes some seconds at the start;
            pays off in trainings of minutes.
        baselines: hand-made contenders and the grid of their learning rates; all of them where none is given.
        rates: of the learned rule (its ``eta``, ``eta_min``, ``lr`` or ``output_scale``): before each validation and
            test the best of them on the tuning problems is taken, as for the baselines; its own where none are given.
        optimizer: outer optimizer; Adam with a rate of 1e-3 where none is given.
        lr_scheduler: schedule of the outer learning rate, stepped after every window.
        init_from: a training checkpoint from which phi starts, of any optimizee.
        seed: of the problems' initial parameters and lifetimes; None takes that of ``seed_everything``.

    Raises:
        InputError: for an unroll that is not a positive integer, or a checkpoint that does not fit the rule.
    """

    def __init__(
        self,
        rule: UpdateRule,
        optimizee: OptimizeeModule,
        unroll: int = 20,
        restarts: Restarts | None = None,
        objective: Objective | None = None,
        max_skipped_steps: int = 100,
        estimator: Estimator | None = None,
        compile: bool = False,
        baselines: Baselines | None = None,
        rates: list[float] | None = None,
        optimizer: Callable[[Iterable], Optimizer] = _adam,
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        init_from: str | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_positive_int(self, unroll=unroll, max_skipped_steps=max_skipped_steps)
        check_seed(self, seed)
        self.estimator = estimator or Backpropagation()
        self.estimator.check(rule)
        self.rule = rule
        if init_from is not None:
            checkpoints.load_phi(init_from, rule)
        self.problems = Problems(optimizee)
        rule.check_layout(self.problems.layout)
        self.unroll = unroll
        self.restarts = restarts or Restarts()
        self.restarts.horizon.announce(unroll)
        self.population = Population(self.problems, rule, self.estimator, self.restarts, unroll)
        self.skips = SkippedSteps()
        self.max_skipped_steps = max_skipped_steps
        self.objective = objective or Objective()
        self.compiles, self._compiled = compile, False
        self.outer_optimizer = optimizer
        self.outer_scheduler = lr_scheduler
        if self.trainable():
            self._outer(self.trainable())  # what is wrong with its arguments shows now, not when the run has begun
        self.seed = torch.initial_seed() if seed is None else seed

        # Where phi comes from, in plain values, for those who meet it far from this run; `l2l fit` knows the data, too.
        described = {
            "optimizee": optimizee,
            "horizon": self.restarts.horizon,
            "objective": self.objective,
            "estimator": self.estimator,
            "unroll": unroll,
        }
        self.trained_on: dict[str, Any] = {name: outline(thing) for name, thing in described.items()}
        self.windows = 0
        self.comparison = HeldOutComparison(rule, self.problems, baselines or Baselines(), rates or ())
        self.results: dict[str, Result] = {}  # of the newest validation or test
        self._race: Race | None = None

    def configure_optimizers(self) -> OptimizerLRScheduler:
        parameters = self.trainable()
        if not parameters:
            raise InputError(f"model.rule: {type(self.rule).__name__} has no parameters to train.")
        optimizer, scheduler = self._outer(parameters)
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _outer(self, parameters: list[nn.Parameter]) -> tuple[Optimizer, LRScheduler | None]:
        """The outer optimizer of these parameters, and its schedule."""
        name = "optimizer"
        try:
            optimizer = self.outer_optimizer(parameters)
            name = "lr_scheduler"
            return optimizer, None if self.outer_scheduler is None else self.outer_scheduler(optimizer)
        except Exception as error:  # whatever others' classes raise for their arguments
            words = " ".join(str(error).split()).rstrip(".")
            raise InputError(f"model.{name} cannot be built: {type(error).__name__}: {words}.") from error

    def trainable(self) -> list[nn.Parameter]:
        """Those parameters phi that the outer optimizer moves."""
        return [parameter for parameter in self.rule.parameters() if parameter.requires_grad]

    def setup(self, stage: str) -> None:
        """Let the DataModule know its reader, and try the optimizee on its extremes: a rare label may come up any time.

        Raises:
            InputError: if the two do not go together.
        """
        datamodule = getattr(self.trainer, "datamodule", None)
        if isinstance(datamodule, ProblemDataModule):
            datamodule.bind(self.problems.template)  # type: ignore[arg-type]
            trial = datamodule.trial_data()
            if trial:
                self.problems.try_on(trial)

    # Training

    def on_train_start(self) -> None:
        self._move_problems()
        self._compiled = False
        self.population.start(self.device, resumed=self.trainer.ckpt_path is not None)

    def _move_problems(self) -> None:
        """The optimizee is no submodule, so Lightning does not move it."""
        self.problems.to(self.device, self.dtype)  # type: ignore[arg-type]

    def on_train_batch_start(self, batch: Window, batch_idx: int) -> None:
        """Replace the problems that are due; the first window starts them all."""
        self._check_unroll(batch)
        self.population.renew(batch, self.windows, self._draws(batch))
        if self.compiles and not self._compiled:
            self._compiled = True
            inner = self.population.inner
            assert inner is not None
            window = batch.repeat(self.estimator.copies)
            seconds = self.problems.compile(inner.theta, window.data(0, inner.instance))
            if seconds is not None:
                rank_zero_info(f"Compiled the optimizee's losses and gradients in {seconds:.1f} s.")

    def _draws(self, window: Window) -> Draws:
        """The generators of one window."""

        def generator(stream: Stream) -> torch.Generator:
            key = (stream, Split.TRAIN, self.seed, self.global_rank, window.number)
            return keyed_generator(*key, device=self.device)

        return generator

    def training_step(self, batch: Window, batch_idx: int) -> STEP_OUTPUT:
        """The meta-loss of one window, with the curve (U+1, B) and the ages (B,) beside it for callbacks."""
        assert self.population.inner is not None
        age = self.population.inner.age
        walked = self.population.walk(batch, self.objective, self._draws(batch))
        self.windows += 1
        if self._logs_now:
            self.log("train/meta_loss", walked.meta_loss, prog_bar=True, sync_dist=True)
            totals = {f"train/{name}": float(count) for name, count in asdict(self.population.counts).items()}
            self.log_dict(totals, sync_dist=True, reduce_fx="sum")
            self.log("train/skipped_steps", float(self.skips.skipped_steps))
        return {"loss": walked.meta_loss, "curve": walked.curve, "age": age}

    def configure_callbacks(self) -> list[Callback]:
        return [LossesByAge()]

    @property
    def _logs_now(self) -> bool:
        """Logging costs time in every step, so it is done only when Lightning passes it on."""
        return (self.trainer.global_step + 1) % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Skip the step, and count it, where the meta-gradient is not finite; too many in a row end the training."""
        norm = self.skips.norm(self.rule.parameters())
        if norm is None:
            self.trainer.should_stop |= self._stuck  # with a last checkpoint, and then in on_train_end
        elif self._logs_now:
            self.log("train/grad_norm", norm)

    @property
    def _stuck(self) -> bool:
        return self.skips.skipped_in_a_row >= self.max_skipped_steps

    def on_train_end(self) -> None:
        """Say why the training ended where it is stuck.

        Raises:
            RunError: after ``max_skipped_steps`` meta-gradients in a row that were not finite.
        """
        if self._stuck:
            raise RunError(
                f"The meta-gradient was not finite in {self.skips.skipped_in_a_row} windows in a row, so the training "
                f"ended after window {self.windows}; no step was taken on them, and the run's last checkpoint is "
                "good. Smaller steps of the rule, a shorter unroll or model.restarts.reset_norm may help."
            )

    def _check_unroll(self, window: Window) -> None:
        if window.unroll != self.unroll:
            raise InputError(
                f"The DataModule's windows have {window.unroll} inner steps, but model.unroll is {self.unroll}; "
                "give both the same unroll."
            )

    # Validation and test

    def on_validation_start(self) -> None:
        self._move_problems()

    def on_test_start(self) -> None:
        self._move_problems()

    def validation_step(self, batch: Window, batch_idx: int) -> None:
        self._advance_race(batch, batch_idx, Split.VALIDATION)

    def test_step(self, batch: Window, batch_idx: int) -> None:
        self._advance_race(batch, batch_idx, Split.TEST)

    def on_validation_epoch_end(self) -> None:
        self._finish_race(Split.VALIDATION, "val")

    def on_test_epoch_end(self) -> None:
        self._finish_race(Split.TEST, "test")

    @property
    def _datamodule(self) -> ProblemDataModule:
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(datamodule, ProblemDataModule):
            raise InputError("Validation and test need a ProblemDataModule: trainer.fit(module, datamodule=...).")
        return datamodule

    # Lightning validates under inference_mode, whose tensors cannot take part in the optimizees' gradients.
    @torch.inference_mode(False)
    def _advance_race(self, window: Window, batch_idx: int, split: Split) -> None:
        self._check_unroll(window)
        window = window.clone()
        if batch_idx == 0:
            tuning = None if self.trainer.sanity_checking else self._datamodule.held_out_windows(Split.TUNING)
            self._race = self.comparison.start(window, split, self._datamodule.steps, tuning)
        assert self._race is not None
        self._race.advance(window)

    @torch.inference_mode(False)
    def _finish_race(self, split: Split, prefix: str) -> None:
        assert self._race is not None
        data = self._datamodule.held_out_data(split, self.device)
        self.results, self._race = self.comparison.finish(self._race, split, data), None

        summaries = summarize(self.results)
        learned = summaries[LEARNED]
        shown = {"mean_loss": learned.mean_loss.mean, "vs_best_baseline": ratio_to_best_baseline(summaries)}
        others = {"final_loss": learned.final_loss.mean, "diverged": float(learned.diverged)}
        others |= {name: estimate.mean for name, estimate in learned.metrics.items()}
        for figures, prog_bar in ((shown, True), (others, False)):
            # All processes measure the same; rank 0's number is logged, and a mean of equals does no harm.
            self.log_dict({f"{prefix}/{name}": x for name, x in figures.items()}, prog_bar=prog_bar, sync_dist=True)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[checkpoints.KEY] = {
            "format": checkpoints.FORMAT,
            "rule": describe(self.rule),
            "trained_on": self.trained_on,
            "seed": self.seed,
            "windows": self.windows,
            **asdict(self.skips),
            "baseline_rates": self.comparison.rates,
            "processes": gather(self.population.state_dict()),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another rule's checkpoint; take over the training state where the run goes on.

        Each process goes on with the problems that it had. Where there are more processes than those that wrote the
        checkpoint, the others start problems of their own; where there are fewer, some problems are left behind.

        Raises:
            InputError: if the checkpoint is not one of this project or its rule differs.
        """
        saved = checkpoints.saved_state(checkpoint)
        resumed = self._trainer is not None and self._trainer.state.fn == "fit"
        checkpoints.check_rule(checkpoint, self.rule, exact=resumed)
        processes = saved["processes"]
        if not resumed:
            inner = processes[0]["inner"]
            if inner is not None and inner["theta"].shape[-1] != self.problems.layout.n:
                rank_zero_info(f"The checkpoint was trained on another optimizee; {checkpoints.IGNORED}")
            return
        self.seed, self.windows = saved["seed"], saved["windows"]
        self.skips = SkippedSteps(**{name: saved[name] for name in asdict(self.skips)})
        self.comparison.rates = saved["baseline_rates"]
        say_processes(len(processes), self.trainer.world_size)
        if self.global_rank == 0:
            totals = [process["totals"] for process in processes]
            self.population.counts = Counts(**{name: sum(own[name] for own in totals) for name in totals[0]})
        if self.global_rank < len(processes):
            own = processes[self.global_rank]
            self.population.load(own["inner"], own["estimator"])
