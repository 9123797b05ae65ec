"""One sentence for what a user got wrong on the command line or in a configuration, and for what ended a run."""

import difflib
import errno
import inspect
import re
import sys
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from jsonargparse import ActionConfigFile
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from l2l_lightning.cli.packaged_configs import ConfigFile
from l2l_lightning.core.errors import InputError, RunError, first_words
from l2l_lightning.core.estimators import Estimator
from l2l_lightning.core.horizon import Horizon, Restarts
from l2l_lightning.core.objective import Objective
from l2l_lightning.data import ProblemDataModule
from l2l_lightning.evaluation.compare import Baselines
from l2l_lightning.files.build import with_subclasses
from l2l_lightning.optimizees import OptimizeeModule
from l2l_lightning.rules import Preprocessing, UpdateRule
from l2l_lightning.training.module import MetaOptimizerModule

# Lines of jsonargparse that say nothing about the mistake itself.
_NOISE = re.compile(
    r"Problem with given class_path|Does not validate against|Subtypes:|Errors:|Given value|NoneType|"
    r"Expected a path but|^Parser key"
)


class OneSentenceParser(LightningArgumentParser):
    """Prints one sentence instead of the usage of some hundred options; ``--config`` takes packaged names too."""

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Add the argument; every configuration option becomes a ``ConfigFile``."""
        if kwargs.get("action") in ("config", ActionConfigFile):
            kwargs["action"] = ConfigFile
        return super().add_argument(*args, **kwargs)

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """Parse; numbers out of any range get one sentence, too."""
        try:
            return super().parse_args(*args, **kwargs)
        except OverflowError as error:
            raise InputError(f"A number on the command line is too large: {error}.") from error

    def instantiate_classes(self, *args: Any, **kwargs: Any) -> Any:
        """Build the objects; jsonargparse hides mistakes in one of several possible types in words of its own."""
        try:
            return super().instantiate_classes(*args, **kwargs)
        except (ValueError, TypeError) as error:
            if find(error) is None and _NOISE.search(str(error)):
                raise InputError(condense(str(error))) from error
            raise

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the sentence and exit with status 2."""
        mistake = find(ex)
        sys.stderr.write(f"l2l: error: {mistake or condense(message)}\n")
        sys.exit(2)


def find(error: BaseException | None) -> Exception | None:
    """The user's mistake, or what else ended the run, that lies behind an exception; None where it is a bug."""
    while error is not None:
        if isinstance(error, InputError | MisconfigurationException | RunError):
            return error
        if isinstance(error, OSError) and error.errno in _DISK:
            where = f": {error.filename}" if error.filename else ""
            return RunError(f"The system refuses what the run needs ({error.strerror}{where}); {GO_ON}.")
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            return RunError(f"Another process of this run has ended or does not answer; {GO_ON}.")
        if isinstance(error, MemoryError | torch.OutOfMemoryError | RuntimeError) and _asks_too_much(error):
            return InputError(
                "This needs more memory than there is; make sizes such as problems, dim, hidden_size, layers or "
                f"batch_size smaller ({first_words(error)})."
            )
        error = error.__cause__ or error.__context__
    return None


# What the disk or the system refuses: full, over the quota, read-only, not permitted, broken, too many open files.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.EMFILE, errno.ENFILE)
GO_ON = "l2l fit with --ckpt_path last goes on from the run's last checkpoint"
# What torch says of tensors that are too large, where it has no class for it.
_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|size calculation overflowed|out of memory", re.IGNORECASE
)


def _asks_too_much(error: BaseException) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or _MEMORY.search(str(error)) is not None


def condense(message: str) -> str:
    """jsonargparse's message as one line: the key, what was wrong with its value, and the nearest name that exists."""
    keys: list[str] = re.findall(r'Parser key "([^"]+)"', message)
    lines = [line.strip(" -") for line in message.splitlines()]
    reasons = [line for line in lines if line and not _NOISE.search(line)]
    text = "; ".join(dict.fromkeys(reasons)) or " ".join(message.split())
    for pattern, plain in _PLAIN_WORDS:
        text = re.sub(pattern, plain, text)
    unknown = re.search(r"(?:option '|there is no class |unrecognized arguments: )([\w.-]+)", text, re.IGNORECASE)
    if unknown:
        word = unknown[1].rpartition(".")[2]
        near = suggestion(word)
        exists = near == f"; did you mean {word}?"
        text = (
            text.replace(f"there is no class {word}", f"the class {word} does not fit here") if exists else text + near
        )
    return f"{'.'.join(keys)}: {text}" if keys else text


_PLAIN_WORDS = (
    (r"Expected a dot import path string: (\S+)", r"there is no class \1"),
    (r"Expected a typing.Literal\[(.+?)\]\. Got value: (.*)", r"must be one of \1, got \2"),
    (r"Expected a <class '([^']+)'>\. Got value: (.*)", r"must be of type \1, got \2"),
    (r"Expected a (.+)\. Got value: (.*)", r"must be of type \1, got \2"),
    (r"Expected a <class '([^']+)'>", r"must be of type \1"),
)


def suggestion(word: str) -> str:
    """``; did you mean ...?`` with the most similar class or argument of this project, empty where none is similar."""
    owners: dict[str, str] = {}
    for base in (
        UpdateRule,
        OptimizeeModule,
        ProblemDataModule,
        Horizon,
        Preprocessing,
        Objective,
        Baselines,
        Restarts,
        Estimator,
    ):
        for kind in with_subclasses(base):
            owners[kind.__name__] = ""
            owners |= dict.fromkeys(list(inspect.signature(kind).parameters), kind.__name__)
    owners |= dict.fromkeys(inspect.signature(MetaOptimizerModule).parameters, "model")
    nearest = difflib.get_close_matches(word, owners, n=1)
    if not nearest:
        return ""
    owner = owners[nearest[0]]
    return f"; did you mean {nearest[0]}{f' (of {owner})' if owner else ''}?"
