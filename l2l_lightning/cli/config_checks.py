"""What the parser does not check: files that cannot be read, duplicate keys, and ``null`` where a value must be."""

import inspect
import typing
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from l2l_lightning.core.errors import InputError, first_words
from l2l_lightning.files.build import import_class


class UniqueKeyLoader(yaml.SafeLoader):
    """A YAML loader that rejects duplicate keys."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(problem=f"duplicate key {key.value!r}", problem_mark=key.start_mark)
                seen.add(key.value)
        return node


def check_file(path: Path) -> None:
    """Check one configuration file.

    Raises:
        InputError: if it is not text, not YAML, has a key twice in one mapping, or is not a mapping of names.
    """
    try:
        content = yaml.load(path.read_text("utf-8"), UniqueKeyLoader)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text: {error.reason} at byte {error.start}.") from error
    except yaml.MarkedYAMLError as error:
        where = "" if error.problem_mark is None else f" in line {error.problem_mark.line + 1}"
        raise InputError(f"{path} is not a configuration: {error.problem}{where}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # RecursionError: nested some hundred levels deep
        raise InputError(f"{path} is not a configuration: {first_words(error)}.") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{path} is not a configuration, which has keys such as model, data and trainer.")


def check_nulls(config: Any, kind: type | None = None, where: str = "") -> None:
    """Reject ``null`` for arguments that cannot be None; jsonargparse takes it for an argument that was not given.

    Args:
        config: a class with its arguments, the arguments of ``kind``, or a list of classes.
        kind: the class, where ``config`` does not name it.
        where: dotted keys that lead here.

    Raises:
        InputError: naming the first such argument.
    """
    if isinstance(config, list):
        for place, item in enumerate(config):
            check_nulls(item, None, f"{where}[{place}]")
    if not isinstance(config, dict):
        return
    if "class_path" in config:
        kind = None
        with suppress(ImportError):  # the path may be that of a function that makes the object
            kind = import_class(config["class_path"])
        config, where = config.get("init_args") or {}, f"{where}.init_args"
    required = _never_none(kind) if kind else set()
    for name, value in config.items():
        if value is None and name in required:
            raise InputError(f"{where}.{name} must not be null; leave it out for its default.")
        check_nulls(value, None, f"{where}.{name}")


def _never_none(kind: type) -> set[str]:
    """Names of the constructor's arguments, inherited ones included, that cannot be None."""
    names = set()
    for owner in kind.__mro__:
        constructor: Any = vars(owner).get("__init__")
        with suppress(NameError, TypeError, ValueError):  # annotations for type checkers only, no constructor
            hints = typing.get_type_hints(constructor)
            for name, parameter in inspect.signature(constructor).parameters.items():
                hint = hints.get(name, Any)
                if parameter.default is not None and not {None, type(None), Any, object} & {
                    hint,
                    *typing.get_args(hint),
                }:
                    names.add(name)
    return names
