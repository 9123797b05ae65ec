"""YAML that says a thing once, in a size that a configuration has; the rest is refused as what is not YAML."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import set_loader
from jsonargparse._loaders_dumpers import yaml_load

from l2l_lightning.core.errors import InputError

MOST_NODES = 100_000  # of a text whose aliases are written out
MOST_LEVELS = 50
LARGEST = 2**64
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load(text: str) -> Any:
    """As jsonargparse reads YAML.

    Raises:
        yaml.YAMLError: if the text is not YAML, gives a key twice, is nested deeper than 50 levels, holds an integer
            of more than 64 bits, or has more than 100,000 nodes once its aliases are written out.
    """
    level = 0
    for event in yaml.parse(text, Loader=LOADER):  # before anything recurses: in C that ends in a segmentation fault
        level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if level > MOST_LEVELS:
            raise _refusal("it is nested too deeply", event)
    root = yaml.compose(text, Loader=LOADER)
    if root is not None:
        _count(root, {})
    return yaml_load(text)


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """The number of nodes below and with this one; aliases are the same node once more."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MOST_NODES  # an alias within itself has no end
    count = 1
    if isinstance(node, yaml.ScalarNode):
        _check_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        count += sum(_count(item, known) for item in node.value)
    else:
        _check_keys(node)
        count += sum(_count(part, known) for pair in node.value for part in pair)
    if count > MOST_NODES:
        raise _refusal("its aliases make it too large", node)
    known[id(node)] = count
    return count


def _check_scalar(node: yaml.ScalarNode) -> None:
    digits = node.value.lstrip("+-").replace("_", "")
    if node.tag == "tag:yaml.org,2002:int" and (len(digits) > 66 or (digits.isdigit() and int(digits) >= LARGEST)):
        raise _refusal("the number has more than 64 bits", node)


def _check_keys(node: yaml.MappingNode) -> None:
    seen = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.value in seen:
            raise _refusal(f"the key {key.value!r} is there twice", key)
        seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))


def _refusal(problem: str, where: yaml.Node | yaml.Event) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)


def check_file(path: Path) -> None:
    """Refuse a configuration file that cannot be read at all, before the parser opens it.

    Raises:
        InputError: if the file is no text, or not YAML for ``load``; with the line where that shows.
    """
    try:
        content = load(path.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text: {error.reason} at byte {error.start}.") from error
    except yaml.MarkedYAMLError as error:
        where = "" if error.problem_mark is None else f" in line {error.problem_mark.line + 1}"
        raise InputError(f"{path} is not a configuration: {error.problem}{where}.") from error
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not a configuration: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{path} is not a configuration, which has keys such as model, data and trainer.")


def install() -> None:
    """Let jsonargparse read YAML with ``load``."""
    set_loader("yaml", load, (yaml.YAMLError,))
