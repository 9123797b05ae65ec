"""The folder of a run: its name is its alone, one process writes into it at a time, and a run can go on from it."""

import re
import warnings
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from l2l_lightning.core.errors import InputError
from l2l_lightning.files import checkpoint

CHECKPOINTS = "checkpoints"
LOCK = ".lock"
# Workers of a killed run hold its lock until they notice, which takes them up to 5 seconds.
PATIENCE = 10.0


def claim_version(runs: Path) -> Path:
    """A new folder ``runs/version_N``; runs that start at the same time get different ones.

    Raises:
        InputError: if it cannot be made.
    """
    try:
        runs.mkdir(parents=True, exist_ok=True)
        taken = (re.fullmatch(r"version_(\d+)", path.name) for path in runs.iterdir())
        count = max((int(match[1]) for match in taken if match), default=-1) + 1
        while True:
            try:
                (runs / f"version_{count}").mkdir()
                return runs / f"version_{count}"
            except FileExistsError:
                count += 1
    except OSError as error:
        raise InputError(
            f"No folder can be made in {runs} ({error.strerror}); runs need one that can be written to: "
            "--trainer.default_root_dir, or --output_dir of the other commands."
        ) from error


def lock(folder: Path) -> FileLock:
    """The lock of a run's folder, held until it is released or the process ends, however it ends.

    Raises:
        InputError: if another process holds it, or the folder cannot be written to.
    """
    held = FileLock(folder / LOCK)
    try:
        held.acquire(timeout=PATIENCE)
    except Timeout as error:
        raise InputError(
            f"Another run is writing to {folder}; wait for its end, or give --ckpt_path the path of its checkpoint to "
            "go on in a folder of its own."
        ) from error
    except OSError as error:
        raise InputError(f"{folder} cannot be written to ({error.strerror}).") from error
    return held


def newest_checkpoint(runs: Path, name: str) -> tuple[Path, dict[str, Any]]:
    """The newest ``best.ckpt`` or ``last.ckpt`` below a folder of runs, and what it holds.

    A last checkpoint that is damaged is left aside with a warning, and the newest of its run that is whole taken.

    Args:
        runs: folder of version_0, version_1 ...
        name: ``best``, ``last``, or ``auto``, which is ``last`` here.

    Raises:
        InputError: if there is none that can be read.
    """
    name = "last" if name == "auto" else name
    found = runs_with(runs, name)
    if not found:
        raise InputError(
            f"There is no {name}.ckpt in any run below {runs}; run `l2l fit` with this configuration first."
        )
    newest = found[-1]
    if name == "best":
        return newest, checkpoint.read(newest)
    others = sorted((path for path in newest.parent.glob("*.ckpt") if path != newest), key=_written, reverse=True)
    for path in (newest, *others):
        try:
            return path, checkpoint.read(path)
        except InputError as error:
            warnings.warn(f"{error} The run's checkpoint before it is taken.", stacklevel=2)
    raise InputError(f"No checkpoint in {newest.parent} can be read.")


def runs_with(runs: Path, name: str) -> list[Path]:
    """``best.ckpt`` or ``last.ckpt`` (or last-v1.ckpt ...) of all runs, from the oldest to the newest."""
    pattern = f"{name}*.ckpt" if name == "last" else f"{name}.ckpt"
    return sorted(runs.glob(f"version_*/{CHECKPOINTS}/{pattern}"), key=_written)


def _written(path: Path) -> float:
    return path.stat().st_mtime


def remove_empty(folder: Path) -> None:
    """Take a folder away that a run claimed and then did not need."""
    if folder.is_dir() and not {path.name for path in folder.iterdir()} - {LOCK}:
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()
