"""The two exceptions that the command line prints as one sentence: what a user got wrong, and what ended a run."""

import reprlib
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path


class InputError(ValueError):
    """One sentence: what was wrong, where, and what would be right. The CLI prints it without a stack trace."""


class RunError(RuntimeError):
    """One sentence: why a run that was set up well cannot go on, such as a full disk, and what is left of it."""


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 100
_REPR.maxlevel = 2


def brief(value: object) -> str:
    """A short ``repr`` on one line, without control characters."""
    try:
        return " ".join(_REPR.repr(value).split())
    except ValueError:  # Python prints no integers of more than some thousand digits
        return f"a huge {type(value).__name__}"


def first_words(error: BaseException, most: int = 200) -> str:
    """An exception's first sentence on one line, after the exception's name where the words alone say little."""
    words = " ".join(str(error).split()).partition(". ")[0].rstrip(".")
    words = "".join(letter if letter.isprintable() else "?" for letter in words)
    words = words if len(words) <= most else f"{words[:most]} ..."
    telling = " " in words and not isinstance(error, LookupError)
    return words if telling else f"{type(error).__name__} {words}".strip()


def user_line(error: BaseException) -> str:
    """`` (mine.py, line 12)``: the innermost line of a user's own code behind an error; empty without one."""
    package = str(Path(__file__).parents[1])
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith((package, sys.base_prefix, sys.prefix, "<")):
            return f" ({Path(frame.filename).name}, line {frame.lineno})"
    return ""


MOST = 10**12  # of anything that is counted: products of a few such numbers are still ones that torch understands
MOST_PARTS = 1_000  # of what is built or stepped through one by one, such as layers
LARGEST = 3.4e38  # what single precision holds


def check_positive_int(owner: object, **values: int) -> None:
    """Raise InputError unless every value is an integer from 1 to 10^12 (``True`` is not an integer here)."""
    _check_int(owner, 1, MOST, "a positive integer", values)


def check_parts(owner: object, **values: int) -> None:
    """Raise InputError unless every value is an integer from 1 to 1,000."""
    _check_int(owner, 1, MOST_PARTS, "a positive integer", values)


def check_non_negative_int(owner: object, **values: int) -> None:
    """Raise InputError unless every value is an integer from 0 to 10^12."""
    _check_int(owner, 0, MOST, "an integer of at least 0", values)


def check_seed(owner: object, seed: int | None) -> None:
    """Raise InputError unless the seed is None or an integer of 64 bits."""
    if seed is not None:
        _check_int(owner, -(2**63), 2**64 - 1, "an integer of 64 bits", {"seed": seed})


def _check_int(owner: object, least: int, most: int, kind: str, values: dict[str, int]) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            limit = f" of at most {most:,}" if isinstance(value, int) and value > most else ""
            raise InputError(f"{type(owner).__name__}: {name} must be {kind}{limit}, got {brief(value)}.")


def check_positive_ints(owner: object, count: int | None = None, **values: Sequence[int]) -> None:
    """Raise InputError unless every value is a list of positive integers, ``count`` of them if given."""
    for name, value in values.items():
        if not isinstance(value, Sequence) or isinstance(value, str) or (count is not None and len(value) != count):
            many = "a list of" if count is None else f"{count}"
            raise InputError(f"{type(owner).__name__}: {name} must be {many} positive integers, got {brief(value)}.")
        check_positive_int(owner, **{f"{name}[{i}]": item for i, item in enumerate(value)})


def check_positive(owner: object, **values: float) -> None:
    """Raise InputError unless every value is a number above 0 that single precision holds."""
    _check_number(owner, "a positive number", lambda value: value > 0, values)


def check_non_negative(owner: object, **values: float) -> None:
    """Raise InputError unless every value is a number of at least 0 that single precision holds."""
    _check_number(owner, "a number of at least 0", lambda value: value >= 0, values)


def check_finite(owner: object, **values: float) -> None:
    """Raise InputError unless every value is a number that single precision holds."""
    _check_number(owner, "a finite number", lambda value: True, values)


def _check_number(owner: object, kind: str, holds: Callable[[float], bool], values: dict[str, float]) -> None:
    for name, value in values.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not -LARGEST <= value <= LARGEST or not holds(value):
            limit = f" of at most {LARGEST}" if number and value > LARGEST else ""
            raise InputError(f"{type(owner).__name__}: {name} must be {kind}{limit}, got {brief(value)}.")


def check_choice(owner: object, choices: Iterable[str], **values: str) -> None:
    """Raise InputError unless every value is one of the choices."""
    choices = list(choices)
    for name, value in values.items():
        if not isinstance(value, str) or value not in choices:
            raise InputError(f"{type(owner).__name__}: {name} must be one of {', '.join(choices)}, got {brief(value)}.")
