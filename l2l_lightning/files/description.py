"""An object's class and arguments as plain values, so that a checkpoint can say what it holds."""

import inspect
import sys
from dataclasses import fields, is_dataclass
from typing import Any

from torch import nn

from l2l_lightning.core.errors import InputError

Description = dict[str, Any]


def describe(thing: Any) -> Any:
    """Plain values stay, dataclasses become dictionaries, objects ``{"class_path": ..., "init_args": {...}}``.

    Arguments are read by the convention of scikit-learn: every argument of ``__init__`` is kept as an attribute of the
    same name.

    Raises:
        InputError: if an argument is not kept so.
    """
    if thing is None or isinstance(thing, bool | int | float | str):
        return thing
    if isinstance(thing, list | tuple):
        return [describe(item) for item in thing]
    if isinstance(thing, dict | nn.ModuleDict):
        return {key: describe(value) for key, value in thing.items()}
    if is_dataclass(thing):
        return {item.name: describe(getattr(thing, item.name)) for item in fields(thing)}
    arguments = {name: describe(value) for name, value in _arguments(thing).items()}
    return {"class_path": public_path(type(thing)), "init_args": arguments}


def public_path(cls: type) -> str:
    """The shortest import path of a class, such as ``l2l_lightning.rules.SGD``.

    Files name classes by it, so a class may move to another module of its package. Packages count if they are imported
    and hold the class under its own name; without one the path is that of the defining module.
    """
    modules = cls.__module__.split(".")
    for length in range(1, len(modules)):
        package = ".".join(modules[:length])
        if package in sys.modules and vars(sys.modules[package]).get(cls.__qualname__) is cls:
            return f"{package}.{cls.__qualname__}"
    return f"{cls.__module__}.{cls.__qualname__}"


def rebuild(thing: Any) -> Any:
    """A newly built object of the same classes and arguments: what constructors draw, such as weights, is drawn anew.

    Raises:
        InputError: if an argument is not kept as an attribute of the same name.
    """
    if thing is None or isinstance(thing, bool | int | float | str) or is_dataclass(thing):
        return thing
    if isinstance(thing, list | tuple):
        return [rebuild(item) for item in thing]
    if isinstance(thing, dict | nn.ModuleDict):
        return {key: rebuild(value) for key, value in thing.items()}
    return type(thing)(**{name: rebuild(value) for name, value in _arguments(thing).items()})


def _arguments(thing: Any) -> dict[str, Any]:
    """Name -> value of each argument of ``__init__``."""
    kind = type(thing)
    # Without an __init__ of its own a module has no arguments, though nn.Module's signature takes any.
    inherited = kind.__init__ in (nn.Module.__init__, object.__init__)
    names = [] if inherited else list(inspect.signature(kind.__init__).parameters)[1:]
    for name in names:
        if not hasattr(thing, name):
            raise InputError(
                f"{kind.__name__} must keep its argument {name!r} as self.{name}, so that a checkpoint can describe it."
            )
    return {name: getattr(thing, name) for name in names}


def outline(thing: Any) -> Any:
    """``describe``, or the class alone of an object that cannot be described."""
    try:
        return describe(thing)
    except InputError:
        return {"class_path": public_path(type(thing)), "init_args": None}


def without(description: Any, *arguments: str) -> Any:
    """A description without these arguments, those of objects inside it included."""
    if isinstance(description, list | tuple):
        return [without(item, *arguments) for item in description]
    if not isinstance(description, dict):
        return description
    kept = {key: without(value, *arguments) for key, value in description.items()}
    if isinstance(kept.get("init_args"), dict):
        kept["init_args"] = {name: value for name, value in kept["init_args"].items() if name not in arguments}
    return kept


def differences(expected: Any, found: Any, where: str = "") -> list[str]:
    """One phrase for each value in which two descriptions differ, such as ``hidden_size: 20 against 40``."""
    if isinstance(expected, dict) and isinstance(found, dict):
        if expected.get("class_path") != found.get("class_path"):
            names = [str(side.get("class_path")).rpartition(".")[2] for side in (expected, found)]
            return [f"{where or 'class'}: {names[0]} against {names[1]}"]
        phrases = []
        for key in sorted(expected.keys() | found.keys()):
            inner = where if key in ("init_args", "class_path") else f"{where}.{key}".lstrip(".")
            phrases += differences(expected.get(key), found.get(key), inner)
        return phrases
    return [] if expected == found else [f"{where}: {expected} against {found}"]
