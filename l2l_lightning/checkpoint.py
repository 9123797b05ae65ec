"""Checkpoints hold tensors and plain values only: loading one never runs code."""

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l2l_lightning.core.description import Description, describe, differences
from l2l_lightning.core.errors import InputError
from l2l_lightning.rules.base import UpdateRule

KEY = "l2l_lightning"
IGNORED = "the inner state in the checkpoint belongs to its own training and is ignored."


def read(path: str | Path) -> dict[str, Any]:
    """A training checkpoint, its tensors on the CPU, without unpickling anything but tensors and plain values.

    Raises:
        InputError: if the file is missing, is no checkpoint, or is not one of this project.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no checkpoint at {path}.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()  # torch does not compare checksums
        if damaged:
            raise ValueError(f"its part {damaged} is damaged")
    except Exception as error:  # whatever the bytes of a stranger's file make of the reader
        raise InputError(f"{path} is no checkpoint that can be read safely: {_first_sentence(error)}") from error
    saved_state(checkpoint, str(path))
    return checkpoint


def check_rule(checkpoint: dict[str, Any], rule: nn.Module, exact: bool) -> None:
    """Refuse a checkpoint whose phi does not fit the rule.

    Arguments that leave class and shapes alone, such as the scale of the output or the routes of a partition, may
    differ where phi goes to another use; a warning names them. Where a run goes on (``exact``) they may not.

    Raises:
        InputError: for another class, for other shapes, or with ``exact`` for any other argument; all are named.
    """
    expected, found = describe(rule), saved_state(checkpoint)["rule"]
    arguments = differences(found, expected)
    shapes = _shape_differences(phi(checkpoint), rule.state_dict())
    if shapes or found["class_path"] != expected["class_path"] or (exact and arguments):
        raise InputError(
            f"The checkpoint holds another rule than the configuration's model.rule ({'; '.join(arguments + shapes)});"
            " use the config.yaml of the run that wrote the checkpoint."
        )
    if arguments:
        warnings.warn(
            f"The rule differs from the one that was trained ({'; '.join(arguments)}); the configuration's values "
            "hold.",
            stacklevel=2,
        )


def load_phi(path: str | Path, rule: nn.Module) -> None:
    """Let a rule start from the phi of a training checkpoint, in place.

    Raises:
        InputError: if the file cannot be read or holds another rule.
    """
    from lightning.pytorch.utilities import rank_zero_info  # takes seconds, which users of a trained rule need not wait

    checkpoint = read(path)
    check_rule(checkpoint, rule, exact=False)
    rule.load_state_dict(phi(checkpoint))
    rank_zero_info(f"phi starts from {path}; {IGNORED}")


def load_rule(path: str | Path) -> UpdateRule:
    """The trained rule of a checkpoint, built from its own description.

    Raises:
        InputError: if the file cannot be read or its rule cannot be built.
    """
    checkpoint = read(path)
    return build_rule(saved_state(checkpoint)["rule"], phi(checkpoint), str(path))


def build_rule(description: Description, tensors: dict[str, Tensor], name: str) -> UpdateRule:
    """A rule from its description and its phi; nothing larger than phi itself is allocated before both are compared.

    Raises:
        InputError: if the class cannot be found or built, or phi does not fit it.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--rule", type=UpdateRule)

    def build() -> UpdateRule:
        return parser.instantiate(parser.parse_object({"rule": description})).rule

    try:
        with torch.device("meta"):
            expected = build().state_dict()
        shapes = _shape_differences(tensors, expected)
        if shapes:
            raise InputError(f"{name}: its tensors do not fit its rule ({'; '.join(shapes)}).")
        rule = build()
    except InputError:
        raise
    except (ArgumentError, ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
        raise InputError(f"{name}: its rule cannot be built: {' '.join(str(error).split())}") from error
    rule.load_state_dict(tensors)
    return rule


def phi(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The rule's parameters without the LightningModule's prefix."""
    return {name.removeprefix("rule."): value for name, value in checkpoint["state_dict"].items()}


def _shape_differences(saved: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """A phrase for the first parameter whose shape differs, and how many more there are."""

    def shape(phi: dict[str, Tensor], name: str) -> str:
        return str(tuple(phi[name].shape)) if name in phi else "nothing"

    names = list(dict.fromkeys([*saved, *expected]))
    differing = [name for name in names if shape(saved, name) != shape(expected, name)]
    if not differing:
        return []
    first, more = differing[0], f" and {len(differing) - 1} more" if len(differing) > 1 else ""
    return [f"phi's {first}: {shape(saved, first)} against {shape(expected, first)}{more}"]


def saved_state(checkpoint: Any, name: str = "The checkpoint") -> dict[str, Any]:
    """What MetaOptimizerModule wrote into a checkpoint.

    Raises:
        InputError: if another program wrote it.
    """
    if not isinstance(checkpoint, dict) or KEY not in checkpoint:
        raise InputError(f"{name} is not a checkpoint of l2l_lightning: it was not written by `l2l fit`.")
    return checkpoint[KEY]


def _first_sentence(error: Exception) -> str:
    sentence = str(error).strip().split("\n")[0].split(". ")[0].rstrip(".")
    return f"{sentence if ' ' in sentence else 'its bytes are not those of one'}."
