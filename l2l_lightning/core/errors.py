"""The two exceptions that the command line prints as one sentence: what a user got wrong, and what ended a run."""

from collections.abc import Iterable, Sequence


class InputError(ValueError):
    """One sentence: what was wrong, where, and what would be right. The CLI prints it without a stack trace."""


class RunError(RuntimeError):
    """One sentence: why a run that was set up well cannot go on, such as a full disk, and what is left of it."""


def check_positive_int(owner: object, **values: int) -> None:
    """Raise InputError unless every value is an integer of at least 1 (``True`` is not an integer here)."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{type(owner).__name__}: {name} must be a positive integer, got {value!r}.")


def check_positive_ints(owner: object, count: int | None = None, **values: Sequence[int]) -> None:
    """Raise InputError unless every value is a list of positive integers, ``count`` of them if given."""
    for name, value in values.items():
        if not isinstance(value, Sequence) or isinstance(value, str) or (count is not None and len(value) != count):
            many = "a list of" if count is None else f"{count}"
            raise InputError(f"{type(owner).__name__}: {name} must be {many} positive integers, got {value!r}.")
        check_positive_int(owner, **{f"{name}[{i}]": item for i, item in enumerate(value)})


def check_positive(owner: object, **values: float) -> None:
    """Raise InputError unless every value is a finite number above 0."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise InputError(f"{type(owner).__name__}: {name} must be a positive number, got {value!r}.")


def check_non_negative(owner: object, **values: float) -> None:
    """Raise InputError unless every value is a finite number of at least 0."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise InputError(f"{type(owner).__name__}: {name} must be a number of at least 0, got {value!r}.")


def check_choice(owner: object, choices: Iterable[str], **values: str) -> None:
    """Raise InputError unless every value is one of the choices."""
    choices = list(choices)
    for name, value in values.items():
        if value not in choices:
            raise InputError(f"{type(owner).__name__}: {name} must be one of {', '.join(choices)}, got {value!r}.")
