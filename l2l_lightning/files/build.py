"""From a description back to its object, for descriptions that strangers wrote: the inverse of ``describe``.

A description decides which of the classes that this program has already imported are built, and with which plain
values. It imports nothing, a string in it stays a string, and every value must be of the type that the constructor's
signature asks for.
"""

import importlib
import inspect
import math
import sys
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Literal, NamedTuple, Union

from l2l_lightning.core.errors import InputError, brief, first_words

DEEPEST = 32
MOST_VALUES = 100_000


class Known(NamedTuple):
    """The classes that a description may name.

    Attributes:
        bases: whose imported subclasses are known, and themselves.
        allow: class paths that the user trusts; these alone are imported at need.
    """

    bases: tuple[type, ...]
    allow: Sequence[str] = ()

    def find(self, path: object, kind: type) -> type:
        """The class of this path, for a place that takes ``kind``.

        Raises:
            InputError: if it is neither known nor allowed, or of another kind.
        """
        if not isinstance(path, str):
            raise InputError(f"class_path must be the path of a class, got {brief(path)}")
        base = kind.__name__ if kind is not object else " or ".join(base.__name__ for base in self.bases)
        found = _imported(path, self.bases)
        if found is None and path in self.allow:
            try:
                found = import_class(path)
            except ImportError as error:
                raise InputError(f"the class {path} is allowed, but cannot be imported ({error})") from error
        if found is None:
            raise InputError(
                f"it names the class {brief(path)[1:-1]}, which is no registered {base}; if you trust it, import it "
                f"first or allow it with allow=[{brief(path)}] (--allow on the command line)"
            )
        if not issubclass(found, kind if kind is not object else self.bases):
            raise _MismatchError(f"must be of type {base}, got the class {found.__name__}")
        return found


class _MismatchError(InputError):
    """A value of the wrong type, where a union may have another for it."""


def check_plain(value: Any, name: str) -> None:
    """Refuse what ``describe`` does not write, before anything walks through it.

    Raises:
        InputError: for other types than numbers, strings, lists and dictionaries, numbers that are not finite or have
            more than 64 bits, or nesting that no honest description has (it may be a cycle).
    """
    waiting, seen = [(value, 0)], 0
    while waiting:
        item, depth = waiting.pop()
        seen += 1
        if depth > DEEPEST or seen > MOST_VALUES:
            raise InputError(f"{name} is nested too deeply or too large to be a description.")
        if isinstance(item, dict):
            if {type(key) for key in item} not in (set(), {str}, {int}):
                raise InputError(f"{name} must have names as keys, got {brief(list(item))}.")
            waiting += [(inner, depth + 1) for inner in item.values()]
        elif isinstance(item, list | tuple):
            waiting += [(inner, depth + 1) for inner in item]
        elif type(item) not in (type(None), bool, int, float, str):
            raise InputError(f"{name} must hold plain values alone, got one of type {type(item).__name__}.")
        elif isinstance(item, float) and not math.isfinite(item):
            raise InputError(f"{name} holds the number {item}, which is not finite.")
        elif isinstance(item, int) and abs(item) >= 2**64:
            raise InputError(f"{name} holds an integer of more than 64 bits.")


def instantiate(description: Any, kind: type, known: Known) -> Any:
    """The object of this kind that a description, which ``check_plain`` has seen, stands for.

    Raises:
        InputError: for classes that are not known, unknown or missing arguments, and values of another type than the
            constructors' signatures ask for.
    """
    return _fit(description, kind, known)


def class_paths(description: Any) -> Iterator[object]:
    """All class paths in a description, in the order in which they are found."""
    inner = description.values() if isinstance(description, dict) else description
    if isinstance(description, dict) and "class_path" in description:
        yield description["class_path"]
    if isinstance(description, dict | list | tuple):
        for item in inner:
            yield from class_paths(item)


def _fit(value: Any, hint: Any, known: Known) -> Any:
    """The value as an object of the annotated type."""
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _fit_one(value, arguments, known)
    if origin is Literal:
        fits = any(value == choice and type(value) is type(choice) for choice in arguments)
    elif hint in (bool, int, str, type(None)):
        fits = type(value) is hint and (hint is not int or -(2**63) <= value < 2**63)
    elif hint is float:
        if fits := type(value) in (int, float):
            value = float(value)
    elif origin in (list, Sequence):
        if fits := isinstance(value, list | tuple):
            value = [_fit(item, (*arguments, Any)[0], known) for item in value]
    elif origin in (dict, Mapping):
        if fits := isinstance(value, dict):
            value = {key: _fit(item, (*arguments, Any, Any)[1], known) for key, item in value.items()}
    elif hint in (Any, object) or not isinstance(hint, type):
        return _untyped(value, known)  # the constructor checks plain values of other annotations itself
    elif isinstance(value, dict) and "class_path" in value:
        return _object(value, hint, known)
    elif isinstance(value, dict) and is_dataclass(hint):
        return _call(hint, value, known)
    else:
        fits = False
    if not fits:
        raise _mismatch(value, hint)
    return value


def _fit_one(value: Any, hints: Sequence[Any], known: Known) -> Any:
    """By the first type of a union that fits."""
    for hint in hints:
        try:
            return _fit(value, hint, known)
        except _MismatchError:
            continue
    raise _mismatch(value, Union[tuple(hints)])  # noqa: UP007, made at run time


def _untyped(value: Any, known: Known) -> Any:
    """Plain values and known classes, for an argument without an annotation that says more."""
    if isinstance(value, dict):
        if "class_path" in value:
            return _object(value, object, known)
        return {key: _untyped(item, known) for key, item in value.items()}
    return [_untyped(item, known) for item in value] if isinstance(value, list | tuple) else value


def _object(description: Mapping[str, Any], kind: type, known: Known) -> Any:
    arguments = description.get("init_args", {})
    if not isinstance(arguments, dict) or not description.keys() <= {"class_path", "init_args"}:
        raise InputError(f"a class needs class_path and init_args alone, got {brief(dict(description))}")
    return _call(known.find(description["class_path"], kind), arguments, known)


def _call(kind: type, arguments: Mapping[str, Any], known: Known) -> Any:
    signature = inspect.signature(kind)
    try:
        hints = typing.get_type_hints(kind if is_dataclass(kind) else kind.__init__)  # type: ignore[misc]
    except (NameError, TypeError):  # annotations in words that mean nothing here
        hints = {}
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise InputError(f"{kind.__name__}: {first_words(error)}") from error
    fitted = {}
    for name, value in arguments.items():
        try:
            fitted[name] = _fit(value, hints.get(name, Any), known)
        except _MismatchError as error:
            raise InputError(f"{kind.__name__}: {name} {error}") from error
    return kind(**fitted)


def _mismatch(value: Any, hint: Any) -> _MismatchError:
    name = hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")
    return _MismatchError(f"must be of type {name}, got {brief(value)}")


def _imported(path: str, bases: tuple[type, ...]) -> type | None:
    """A base or subclass of this path that the program has already, the newest where a notebook defined it anew."""
    found = [kind for base in bases for kind in with_subclasses(base)]
    for kind in reversed(found):
        if f"{kind.__module__}.{kind.__qualname__}" == path:
            return kind
    module, _, name = path.rpartition(".")  # or under the name of a package that hands it on
    other = vars(sys.modules[module]).get(name) if module in sys.modules else None
    return other if isinstance(other, type) and issubclass(other, bases) else None


def with_subclasses(base: type) -> Iterator[type]:
    """A class and all its subclasses, direct and indirect, that are imported."""
    yield base
    kinds: list[type] = type.__subclasses__(base)
    for kind in kinds:
        yield from with_subclasses(kind)


def import_class(path: str) -> type:
    """The class of a dotted path, imported.

    Raises:
        ImportError: if there is none.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (AttributeError, TypeError, ValueError) as error:  # the last two for odd dots
        raise ImportError(str(error)) from error
    if not isinstance(found, type):
        raise ImportError(f"{path} is not a class")
    return found
