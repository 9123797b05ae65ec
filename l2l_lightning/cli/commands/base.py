"""What the commands share: their command line, their folder, and the options of each run in it."""

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch.utilities.exceptions import MisconfigurationException
from matplotlib.figure import Figure

from l2l_lightning.cli.run_folder import claim_version
from l2l_lightning.core.errors import InputError, RunError
from l2l_lightning.files import rule_file
from l2l_lightning.rules import UpdateRule

Run = Callable[[Sequence[str]], Any]  # arguments of `l2l fit | validate | test` -> the CLI that ran

ALLOW = (
    "class of your own that a rule's file may name, such as mine.MyRule: it is imported, which runs its module; may be "
    "given again"
)


class CommandParser(argparse.ArgumentParser):
    """Reads the options of ``l2l NAME``; a mistake is one sentence. Options it does not know go to every run."""

    def __init__(self, name: str, description: str) -> None:
        super().__init__(f"l2l {name}", description=description, allow_abbrev=False)

    def add_allow(self) -> None:
        """``--allow``, for commands that build rules from files."""
        self.add_argument("--allow", action="append", default=[], metavar="CLASS_PATH", help=ALLOW)

    def error(self, message: str) -> NoReturn:
        """Print the sentence and exit with status 2."""
        sys.stderr.write(f"{self.prog}: error: {message}; see {self.prog} --help.\n")
        sys.exit(2)


def new_folder(asked: str | None, default: Path) -> Path:
    """The folder asked for, or ``default/version_N`` with the next free N; nothing that exists is written into.

    Raises:
        InputError: if the folder asked for holds something or cannot be made.
    """
    if asked is None:
        return claim_version(default)
    folder = Path(asked)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--output_dir: {asked} exists already and is not empty; give a new folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--output_dir: {folder} cannot be made ({error.strerror}).") from error
    return folder


def existing_file(path: str, option: str) -> Path:
    """The path, if there is a file.

    Raises:
        InputError: if there is none.
    """
    if not Path(path).is_file():
        raise InputError(f"{option}: there is no file {path}.")
    return Path(path)


def load_rules(paths: Sequence[str], allow: Sequence[str]) -> dict[str, UpdateRule]:
    """Trained rules by the names of their runs, files or their own, with a number where a name is taken.

    Args:
        paths: training checkpoints, exported files, or names of pretrained rules.
        allow: class paths that may be imported because a file names them.

    Raises:
        InputError: for a file that is missing or cannot be read.
    """
    rules: dict[str, UpdateRule] = {}
    for path in paths:
        rule = rule_file.load(path, allow)
        home = Path(path).resolve().parent
        name = home.parent.parent.name if home.name == "checkpoints" else Path(path).stem
        rules[name if name not in rules else f"{name} {len(rules)}"] = rule
    return rules


def refuse(options: Sequence[str], *names: str) -> None:
    """Raise InputError if one of the further options is set by the study itself."""
    for option in options:
        if option.split("=")[0] in names:
            raise InputError(f"{option.split('=')[0]} is not an option of a study's runs; the study sets it itself.")


def folder_name(value: str, place: int) -> str:
    """A name that is no path, different for every place."""
    return f"{place}-{re.sub(r'[^A-Za-z0-9.+-]+', '_', value).strip('._')}"


def measured(run: Run, arguments: Sequence[str], name: str) -> Any:
    """The module after ``l2l arguments``, with the results of its evaluation.

    Raises:
        InputError: if the run cannot go on or evaluates nothing; the sentence names the run.
    """
    try:
        module = run(arguments).model
    except (InputError, MisconfigurationException, RunError) as error:
        raise InputError(f"{name}: {error}") from error
    if not module.results:
        raise InputError(f"{name}: nothing was evaluated; leave the trainer's limits on validation and test alone.")
    return module


def logged_in(folder: Path, name: str) -> list[str]:
    """Options that put a run's events and reports into ``folder/name``."""
    logger = {"save_dir": str(folder), "name": name, "version": "", "default_hp_metric": "false"}
    options = [("--trainer.logger", "TensorBoardLogger")]
    options += [(f"--trainer.logger.{key}", value) for key, value in logger.items()]
    return [word for option in options for word in option]


def publish(folder: Path, name: str, text: str, figure: Figure) -> None:
    """Write the table and the figure, in place of those of fewer runs."""
    (folder / f"{name}.md").write_text(text + "\n")
    figure.savefig(folder / f"{name}.png")


def report(folder: Path, name: str) -> None:
    """Print the table, and where it lies."""
    print(f"\n{(folder / name).with_suffix('.md').read_text()}\ntable and figure: {folder / name}.md, .png")
