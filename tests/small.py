"""A meta-training of seconds, through Lightning and through the command line."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from l2l_lightning.cli.main import main
from l2l_lightning.core.estimators import Backpropagation
from l2l_lightning.core.horizon import FixedHorizon, Restarts
from l2l_lightning.data import QuadraticDataModule
from l2l_lightning.evaluation.compare import Baselines
from l2l_lightning.optimizees import Quadratic
from l2l_lightning.rules import Adam, CoordinatewiseLSTM, Nesterov
from l2l_lightning.training.module import MetaOptimizerModule

CONFIG = Path(__file__).parents[1] / "configs" / "quadratic_smoke.yaml"


def module(**changes: Any) -> MetaOptimizerModule:
    """A small module; the fields of ``Restarts`` and the arguments of ``Backpropagation`` may be given by name."""
    torch.manual_seed(0)
    arguments: dict[str, Any] = {
        "rule": CoordinatewiseLSTM(layers=1, hidden_size=5, output_scale=0.1),
        "optimizee": Quadratic(dim=3),
        "unroll": 5,
        "baselines": Baselines([Adam(), Nesterov()], [0.01, 0.1]),
        "seed": 0,
    }
    arguments |= changes
    restarts = {field.name: arguments.pop(field.name) for field in fields(Restarts) if field.name in arguments}
    gradient = {name: arguments.pop(name) for name in ("second_order", "meta_coordinates") if name in arguments}
    arguments["restarts"] = Restarts(**{"horizon": FixedHorizon(20)} | restarts)
    if gradient:
        arguments["estimator"] = Backpropagation(**gradient)
    return MetaOptimizerModule(**arguments)


def data(**changes: Any) -> QuadraticDataModule:
    arguments: dict[str, Any] = {
        "dim": 3,
        "unroll": 5,
        "problems": 8,
        "windows_per_epoch": 6,
        "steps": 20,
        "validation_problems": 6,
        "test_problems": 6,
        "tuning_problems": 4,
        "seed": 0,
    }
    return QuadraticDataModule(**arguments | changes)


def trainer(folder: Path, *callbacks: Callback, **changes: Any) -> L.Trainer:
    arguments: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 2,
        "enable_checkpointing": False,
        "logger": False,
    }
    return L.Trainer(default_root_dir=folder, callbacks=list(callbacks), **arguments | changes)


def options(values: Mapping[str, object]) -> list[str]:
    """The words of the command line for these options."""
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def l2l(command: str, folder: Path, *arguments: str, config: Path | None = CONFIG) -> None:
    """``l2l command --config ...`` in this process, runs below ``folder``."""
    configuration = ["--config", str(config)] if config else []
    fixed = ["--trainer.default_root_dir", str(folder), "--trainer.accelerator", "cpu"]
    main([command, *configuration, *fixed, "--trainer.enable_progress_bar", "false", *arguments])
