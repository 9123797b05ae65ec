"""Checkpoints hold tensors and plain values only: loading one never runs code."""

import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from l2l_lightning.core.errors import InputError, brief, first_words
from l2l_lightning.files.build import Known, instantiate
from l2l_lightning.files.description import Description, describe, differences
from l2l_lightning.files.untrusted import at_most, check_described, check_finite
from l2l_lightning.rules import PARTS
from l2l_lightning.rules.base import UpdateRule

KEY = "l2l_lightning"
FORMAT = 2  # of checkpoints and exported rules; 1 named classes by their defining modules
SAVED = ("rule", "seed", "windows", "baseline_rates", "processes")  # beside the format
IGNORED = "the inner state in the checkpoint belongs to its own training and is ignored."


def read(path: str | Path) -> dict[str, Any]:
    """A training checkpoint, its tensors on the CPU; unpickles nothing but tensors and plain values.

    Raises:
        InputError: if the file is missing or damaged, or is not a checkpoint of this project.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no checkpoint at {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():  # torch does not compare checksums
                raise zipfile.BadZipFile(f"its part {damaged} is damaged")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make their readers fail in any way
        raise InputError(f"{path} is not a checkpoint that can be read safely: {first_words(error)}.") from error
    saved_state(checkpoint, str(path))
    return checkpoint


def check_rule(checkpoint: dict[str, Any], rule: nn.Module, exact: bool) -> None:
    """Refuse a checkpoint whose phi does not fit the rule.

    Arguments that leave class and shapes alone, such as the scale of the output or the routes of a partition, may
    differ where phi goes to another use; a warning names them. Where a run goes on (``exact``) they may not.

    Raises:
        InputError: for another class, for other shapes, or with ``exact`` for any other argument, all named; for phi
            that is not finite.
    """
    expected, found, own_phi = describe(rule), saved_state(checkpoint)["rule"], phi(checkpoint)
    arguments = differences(found, expected)
    shapes = _shape_differences(own_phi, rule.state_dict())
    if shapes or found["class_path"] != expected["class_path"] or (exact and arguments):
        raise InputError(
            f"The checkpoint holds another rule than the configuration's model.rule ({'; '.join(arguments + shapes)});"
            " use the config.yaml of the run that wrote the checkpoint."
        )
    check_finite(own_phi, "The checkpoint")
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


def load_rule(path: str | Path, allow: Sequence[str] = ()) -> UpdateRule:
    """The trained rule of a checkpoint, built from its own description; ``allow`` as in ``build_rule``.

    Raises:
        InputError: if the file cannot be read or its rule cannot be built.
    """
    checkpoint = read(path)
    return build_rule(saved_state(checkpoint)["rule"], phi(checkpoint), str(path), allow)


def build_rule(
    description: Description, tensors: dict[str, Tensor], name: str, allow: Sequence[str] = ()
) -> UpdateRule:
    """A rule from its description and its phi; nothing larger than phi itself is allocated before both are compared.

    Args:
        description: class and arguments.
        tensors: phi.
        name: of the file, for messages.
        allow: class paths of the user's own that may be imported; every other class must be an update rule, or a part
            of one, that the program has already.

    Raises:
        InputError: if the class is not known or cannot be built, or phi does not fit it or is not finite.
    """
    if isinstance(allow, str):  # in which any part of it would be found
        raise InputError(f"allow must be a list of class paths, got the string {allow!r}.")
    known = Known(PARTS, allow)
    try:
        with torch.device("meta"), at_most(10 * (len(tensors) + 10)):
            expected = instantiate(description, UpdateRule, known).state_dict()
        fits = not (shapes := _shape_differences(tensors, expected))
        rule = instantiate(description, UpdateRule, known) if fits else None
    except Exception as error:  # whatever a stranger's arguments make of a constructor
        raise InputError(f"{name}: its rule cannot be built: {first_words(error, 500)}.") from error
    if rule is None:
        raise InputError(f"{name}: its tensors do not fit its rule ({'; '.join(shapes)}).")
    check_finite(tensors, name)
    rule.load_state_dict(tensors)
    return rule


def check_format(found: object, name: str) -> None:
    """Refuse files of another format.

    Raises:
        InputError: if the format is not the one that this version writes.
    """
    if found != FORMAT or isinstance(found, bool):
        shown = "no format number" if found is None else f"format {brief(found)}"
        raise InputError(
            f"{name} has {shown}, but this version reads format {FORMAT}: train the rule again, or use the version "
            "that wrote the file."
        )


def phi(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The rule's parameters without the LightningModule's prefix."""
    return {name.removeprefix("rule."): value for name, value in checkpoint["state_dict"].items()}


def _shape_differences(saved: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """A phrase for the first parameter whose shape or kind of numbers differs, and how many more there are."""

    def shape(phi: dict[str, Tensor], name: str) -> str:
        if name not in phi:
            return "nothing"
        return f"{tuple(phi[name].shape)}{'' if phi[name].is_floating_point() else f' {phi[name].dtype}'}"

    names = list(dict.fromkeys([*saved, *expected]))
    differing = [name for name in names if shape(saved, name) != shape(expected, name)]
    if not differing:
        return []
    first, more = differing[0], f" and {len(differing) - 1} more" if len(differing) > 1 else ""
    return [f"phi's {brief(first)[1:-1]}: {shape(saved, first)} against {shape(expected, first)}{more}"]


def saved_state(checkpoint: Any, name: str = "The checkpoint") -> dict[str, Any]:
    """The entry of MetaOptimizerModule in a checkpoint.

    Raises:
        InputError: if there is none, or parts of the checkpoint are missing.
    """
    saved = checkpoint.get(KEY) if isinstance(checkpoint, dict) else None
    if not isinstance(saved, dict):
        raise InputError(f"{name} is not a checkpoint of l2l_lightning: it was not written by `l2l fit`.")
    check_format(saved.get("format"), name)
    missing = sorted({"state_dict", *SAVED} - {*checkpoint, *saved})
    if missing:
        raise InputError(f"{name} is damaged: it has no {missing[0]}.")
    check_described(saved, name)
    return saved
