"""Checkpoints hold tensors and plain values only: loading one never runs code."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from l2l_lightning.core.description import Description, describe, differences
from l2l_lightning.core.errors import InputError

KEY = "l2l_lightning"


def read(path: str | Path) -> dict[str, Any]:
    """A training checkpoint, its tensors on the CPU, without unpickling anything but tensors and plain values.

    Raises:
        InputError: if the file is missing, is no checkpoint, or is not one of this project.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no checkpoint at {path}.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} is no checkpoint that can be read safely: {_first_sentence(error)}") from error
    saved_state(checkpoint, str(path))
    return checkpoint


def check_same_rule(saved: Description, rule: nn.Module) -> None:
    """Raise InputError, naming every difference, unless the checkpoint's rule has the same class and arguments."""
    found = differences(saved, describe(rule))
    if found:
        raise InputError(
            f"The checkpoint holds another rule than the configuration's model.rule ({'; '.join(found)}); "
            "use the config.yaml of the run that wrote the checkpoint."
        )


def saved_state(checkpoint: Any, name: str = "The checkpoint") -> dict[str, Any]:
    """What MetaOptimizerModule wrote into a checkpoint.

    Raises:
        InputError: if another program wrote it.
    """
    if not isinstance(checkpoint, dict) or KEY not in checkpoint:
        raise InputError(f"{name} is not a checkpoint of l2l_lightning: it was not written by `l2l fit`.")
    return checkpoint[KEY]


def _first_sentence(error: Exception) -> str:
    return str(error).strip().split("\n")[0].split(". ")[0].rstrip(".") + "."
