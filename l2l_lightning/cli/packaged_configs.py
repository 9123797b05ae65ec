"""Configurations by file or by the name of one that comes with the package, such as ``quadratic_lstm``."""

import difflib
from pathlib import Path
from typing import Any

from jsonargparse import ActionConfigFile

from l2l_lightning.cli.config_checks import check_file
from l2l_lightning.core.errors import InputError

_PACKAGE = Path(__file__).parents[1]


def packaged() -> dict[str, Path]:
    """The packaged configurations by name, folders included: ``thesis/mnist_la_b``.

    setup.py copies the repository's ``configs/`` into the wheel. In a checkout they are where they are kept.
    """
    inside = _PACKAGE / "configs"
    root = inside if inside.is_dir() else _PACKAGE.parent / "configs"
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in sorted(root.rglob("*.yaml"))}


def find(given: str, option: str = "--config") -> Path:
    """The file as given, otherwise the packaged configuration of that name.

    Args:
        given: a file's path, or a name such as ``quadratic_lstm``.
        option: where the user gave it, for the message.

    Raises:
        InputError: if there is neither; the sentence names up to three similar names.
    """
    if Path(given).is_file():
        return Path(given)
    configurations = packaged()
    if given in configurations:
        return configurations[given]
    name = given.removeprefix("configs/").removesuffix(".yaml")
    near = difflib.get_close_matches(name, configurations, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ", and no packaged configuration has a similar name."
    raise InputError(f"{option}: there is no file {given}{hint}")


class ConfigFile(ActionConfigFile):
    """The action of ``--config``: finds the configuration and checks its YAML before the parser opens it."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        path = find(values)
        check_file(path)
        super().__call__(parser, cfg, str(path), option_string)
