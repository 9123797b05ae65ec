"""``null`` where a configuration needs a value: jsonargparse takes it for an argument that was not given."""

import importlib
import inspect
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Union

from l2l_lightning.core.errors import InputError


def check_nulls(config: Any, kind: type | None = None, where: str = "") -> None:
    """Refuse every ``null`` among the arguments of a class whose signature does not allow it.

    Args:
        config: a configuration, or a part of it: arguments, or a class with its arguments, or a list of such.
        kind: the class whose arguments these are, where ``config`` does not say it.
        where: dotted keys that lead here.

    Raises:
        InputError: with the key, for the first of them.
    """
    if isinstance(config, Sequence) and not isinstance(config, str):
        for place, item in enumerate(config):
            check_nulls(item, None, f"{where}[{place}]")
        return
    if not isinstance(config, Mapping):
        return
    if "class_path" in config:
        arguments, kind, inside = config.get("init_args") or {}, _class(config["class_path"]), f"{where}.init_args"
    else:
        arguments, inside = config, where
    needed = set(_never_null(kind)) if kind is not None else set()
    for name, value in arguments.items():
        key = f"{inside}.{name}".lstrip(".")
        if value is None and name in needed:
            raise InputError(f"{key} must not be null; leave it out for its default.")
        check_nulls(value, None, key)


def _never_null(kind: type) -> Iterator[str]:
    """Names of the arguments, those of base classes included, whose type leaves no room for None."""
    for owner in kind.__mro__:
        if "__init__" not in vars(owner):
            continue
        try:
            hints = typing.get_type_hints(vars(owner)["__init__"])
        except (NameError, TypeError):  # annotations that only a type checker can read
            continue
        for name, parameter in inspect.signature(vars(owner)["__init__"]).parameters.items():
            if name in hints and parameter.default is not None and not _allows_none(hints[name]):
                yield name


def _allows_none(annotation: Any) -> bool:
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return any(_allows_none(part) for part in typing.get_args(annotation))
    return annotation in (None, type(None), Any, object) or isinstance(annotation, typing.TypeVar)


def _class(path: Any) -> type | None:
    module, _, name = str(path).rpartition(".")
    found = getattr(importlib.import_module(module), name, None) if module else None
    return found if inspect.isclass(found) else None
