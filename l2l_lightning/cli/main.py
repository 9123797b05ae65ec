"""``l2l fit | validate | test``: a LightningCLI."""

import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from filelock import BaseFileLock
from jsonargparse.typing import PositiveInt
from lightning.fabric.utilities.rank_zero import _get_rank
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar, TQDMProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import CheckpointIO
from lightning.pytorch.strategies import DDPStrategy

from l2l_lightning.cli import user_errors
from l2l_lightning.cli.commands import compare, export, heatmap, inspect, plot, steps, sweep, transfer, weights
from l2l_lightning.cli.config_checks import check_nulls
from l2l_lightning.cli.run_folder import CHECKPOINTS, claim_version, lock, newest_checkpoint, remove_empty, runs_with
from l2l_lightning.core.errors import InputError
from l2l_lightning.data import ProblemDataModule
from l2l_lightning.files import checkpoint
from l2l_lightning.files.description import without
from l2l_lightning.learned_optimizer import LearnedOptimizer  # noqa: F401, configurations name it as outer optimizer
from l2l_lightning.training.atomic_checkpoint_io import AtomicCheckpointIO
from l2l_lightning.training.callbacks import ComparisonReport, ContenderCurves, InnerStepsPerSecond
from l2l_lightning.training.last_checkpoint import LastCheckpoint
from l2l_lightning.training.module import MetaOptimizerModule
from l2l_lightning.training.processes import warn_of_shared_store

# Lightning waits half an hour for a process that hangs; one that was killed is noticed at once.
PATIENCE = timedelta(minutes=10)
TRAINER_COMMANDS = {
    "fit": "Meta-train a rule; the run's folder is logs/NAME/version_N.",
    "validate": "Compare a trained rule with tuned baselines on the validation problems.",
    "test": "Compare a trained rule with tuned baselines on the test problems.",
}
COMMANDS = {
    command.__name__.rpartition(".")[2]: command
    for command in (compare, export, heatmap, inspect, plot, steps, sweep, transfer, weights)
}


class SaveConfig(SaveConfigCallback):
    """Saves the configuration beside the run; a resumed run adds a file of its own, a run without a folder none."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.logger is None:
            return
        folder, count = Path(trainer.log_dir or "."), 0
        while not self.already_saved and (folder / self.config_filename).exists():
            count += 1
            self.config_filename = f"config-resumed-{count}.yaml"
        super().setup(trainer, pl_module, stage)


class L2LCLI(LightningCLI):
    """Adds the link of the unroll, checkpoint callbacks, a folder a run, and ``--ckpt_path last | best | auto``."""

    claimed: Path | None = None
    held: BaseFileLock | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        try:
            super().__init__(*args, **kwargs)
        finally:
            if self.held is not None:
                self.held.release()
            if self.claimed is not None:
                remove_empty(self.claimed)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--name", type=str | None, help="folder of the runs below logs/; the configuration's name")
        parser.add_argument(
            "--num_threads",
            type=PositiveInt | None,
            help="threads of torch on the CPU; small problems are fastest with 1",
        )
        parser.link_arguments("model.unroll", "data.init_args.unroll")
        parser.set_defaults({"model.estimator": {"class_path": "l2l_lightning.core.estimators.Backpropagation"}})
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults({"checkpoint.monitor": "val/mean_loss", "checkpoint.filename": "best"})
        parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        # Checkpoints hold tensors and plain values only, so `weights_only` is nothing to choose.
        commands = LightningCLI.subcommands()
        return {name: commands[name] | {"weights_only"} for name in TRAINER_COMMANDS}

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, then name the run, and find and check the checkpoint before anything is built."""
        super().parse_arguments(parser, args)
        config = self.config[self.config.subcommand]
        plain = config.as_dict()
        check_nulls(plain["model"], MetaOptimizerModule, "model")
        check_nulls(plain["data"], None, "data")
        if config.name is None:
            config.name = Path(str(config.config[-1])).stem if config.config else "run"
        root = Path(config.trainer.default_root_dir or "logs")
        self.run_folder: tuple[Path, str, str | None] = (root, config.name, None)  # save_dir, name, version
        self.purge_step: int | None = None
        fits = self.config.subcommand == "fit"
        if config.ckpt_path is None:
            if not fits and config.model.init_from is None:
                warnings.warn("No --ckpt_path was given, so the learned rule is an untrained one.", stacklevel=2)
            return
        asked = str(config.ckpt_path)
        if asked == "auto" and not fits:
            raise InputError("--ckpt_path auto is for `l2l fit`; give last, best or a file.")
        if asked == "auto" and not list(runs_with(root / config.name, "last")):
            config.ckpt_path = None
            return
        config.model.init_from = None  # the checkpoint's phi replaces it
        named = asked in ("last", "best", "auto")
        path, saved = newest_checkpoint(root / config.name, asked) if named else (Path(asked), checkpoint.read(asked))
        config.ckpt_path = str(path)
        run = path.resolve().parent.parent if path.parent.name == CHECKPOINTS else None
        if not fits:
            self.run_folder = (run or root / config.name, self.config.subcommand, None)
        elif run and asked in ("last", "auto"):  # go on in the same folder
            self.run_folder = (run.parent.parent, run.parent.name, run.name)
            self.purge_step = saved["global_step"]

    def instantiate_classes(self) -> None:
        """Build everything, and tell the model what it is trained on, without folders of this machine."""
        super().instantiate_classes()
        plain = self.parser.dump(self.config, format="json", skip_none=False)
        config = json.loads(plain)[self.subcommand]
        config["data"] = without(config["data"], "root")
        config["data"]["init_args"]["unroll"] = config["model"]["unroll"]  # a link, which is not dumped
        parts = {name: config["model"][name] for name in ("optimizee", "objective")}
        self.model.trained_on |= {name: part for name, part in parts.items() if part} | {"data": config["data"]}

    def before_instantiate_classes(self) -> None:
        threads = self.config[self.subcommand].num_threads
        if threads is not None:
            torch.set_num_threads(threads)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Put the run's logger, a progress bar and safe checkpoints in, unless the configuration has its own."""
        if not _get_rank():
            warn_of_shared_store()
        config = self.config_init[self.subcommand].trainer
        if config.logger in (None, True):
            kwargs["logger"] = self._run_logger()
        callbacks = config.callbacks or []
        if config.enable_progress_bar is not False and not any(isinstance(item, ProgressBar) for item in callbacks):
            kwargs["callbacks"] = [*callbacks, TQDMProgressBar(refresh_rate=20)]
        plugins = config.plugins if isinstance(config.plugins, list) else [config.plugins] if config.plugins else []
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*plugins, AtomicCheckpointIO()]
        if config.strategy == "ddp":
            kwargs["strategy"] = DDPStrategy(timeout=PATIENCE)
        return super().instantiate_trainer(**kwargs)

    def _run_logger(self) -> TensorBoardLogger:
        """TensorBoard events in a folder that is this run's alone."""
        save_dir, name, version = self.run_folder
        if not _get_rank():  # None in a single process
            if version is None:
                self.claimed = claim_version(save_dir / name)
                version = self.claimed.name
            if self.subcommand == "fit":
                self.held = lock(save_dir / name / version)
        # What a killed run logged after its checkpoint is logged again, so TensorBoard may forget it.
        return TensorBoardLogger(save_dir, name, version, default_hp_metric=False, purge_step=self.purge_step)


def quiet_lightning() -> None:
    """Hide Lightning's advertisement, a deprecation that it causes itself, and remarks on what is meant to be so."""
    for remark in ("LeafSpec", "dirpath has changed", "LightningCLI's args parameter", "Checkpoint directory"):
        warnings.filterwarnings("ignore", message=f".*{remark}")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(lambda line: "litlogger" not in str(line.msg))


def quiet_threads() -> None:
    """TensorBoard's writer hands a full disk on to the main thread, so its own stack trace says nothing more."""

    def report(error: threading.ExceptHookArgs) -> None:
        if user_errors.find(error.exc_value) is None:
            threading.__excepthook__(error)

    threading.excepthook = report


def run(args: Sequence[str]) -> L2LCLI:
    """``l2l fit | validate | test`` with these arguments; what was built and run."""
    return L2LCLI(
        MetaOptimizerModule,
        ProblemDataModule,
        subclass_mode_data=True,
        save_config_callback=SaveConfig,
        seed_everything_default=0,
        auto_configure_optimizers=False,
        parser_class=user_errors.OneSentenceParser,
        parser_kwargs={
            "usage": f"l2l {{{','.join((*TRAINER_COMMANDS, *COMMANDS))}}} ...",
            "description": "Meta-train learned optimizers and measure them against tuned hand-made ones.",
            "epilog": "Further commands, each with a --help of its own: "
            + "; ".join(f"l2l {name}: {command.HELP}" for name, command in COMMANDS.items()),
            **{
                command: {"description": description, "usage": f"l2l {command} --config FILE [options]"}
                for command, description in TRAINER_COMMANDS.items()
            },
        },
        trainer_defaults={
            "callbacks": [InnerStepsPerSecond(), ContenderCurves(), ComparisonReport()],
            "enable_model_summary": False,
            "log_every_n_steps": 20,
            "num_sanity_val_steps": 0,
        },
        args=list(args),
    )


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of the console script; a user's mistake ends with one sentence and an exit status that is not 0."""
    sys.path.insert(0, os.getcwd())  # plug-ins from the user's own modules
    quiet_lightning()
    quiet_threads()
    args = sys.argv[1:] if args is None else args
    try:
        known = (*TRAINER_COMMANDS, *COMMANDS)
        if not args or not (args[0].startswith("-") or args[0] in known):
            raise InputError(f"give one of the commands {', '.join(known)}; l2l --help says more.")
        if args[0] in COMMANDS:
            COMMANDS[args[0]].main(args[1:], run)
        else:
            run(args)
    except Exception as error:
        mistake = user_errors.find(error)
        if mistake is None:
            raise
        sys.exit(f"l2l: error: {mistake}")
