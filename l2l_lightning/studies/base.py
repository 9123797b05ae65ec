"""What the studies share: their command line, their folder, and the options of each run in it."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from matplotlib.figure import Figure

from l2l_lightning.core.errors import InputError

Run = Callable[[Sequence[str]], Any]  # arguments of `l2l fit | validate | test` -> the CLI that ran


class StudyParser(argparse.ArgumentParser):
    """Reads the options of ``l2l NAME``; a mistake is one sentence. Options it does not know go to every run."""

    def __init__(self, name: str, description: str) -> None:
        super().__init__(f"l2l {name}", description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Print the sentence and exit with status 2."""
        sys.stderr.write(f"{self.prog}: error: {message}; see {self.prog} --help.\n")
        sys.exit(2)


def new_folder(asked: str | None, default: Path) -> Path:
    """The folder asked for, or ``default/version_N`` with the next free N; nothing that exists is written into.

    Raises:
        InputError: if the folder asked for holds something.
    """
    if asked is not None:
        folder = Path(asked)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"--output_dir: {asked} exists already and is not empty; give a new folder.")
    else:
        count = 0
        while (default / f"version_{count}").exists():
            count += 1
        folder = default / f"version_{count}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def existing_file(path: str, option: str) -> Path:
    """The path, if there is a file.

    Raises:
        InputError: if there is none.
    """
    if not Path(path).is_file():
        raise InputError(f"{option}: there is no file {path}.")
    return Path(path)


def logged_in(folder: Path, name: str) -> list[str]:
    """Options that put a run's events and reports into ``folder/name``."""
    logger = {"save_dir": str(folder), "name": name, "version": "", "default_hp_metric": "false"}
    options = [("--trainer.logger", "TensorBoardLogger")]
    options += [(f"--trainer.logger.{key}", value) for key, value in logger.items()]
    return [word for option in options for word in option]


def publish(folder: Path, name: str, text: str, figure: Figure) -> None:
    """Write and print the table, write the figure and say where."""
    (folder / f"{name}.md").write_text(text + "\n")
    figure.savefig(folder / f"{name}.png")
    print(f"\n{text}\n\ntable and figure: {folder / name}.md, .png")
