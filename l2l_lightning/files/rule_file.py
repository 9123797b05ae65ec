"""Rules as files to be passed on: safetensors with a description in JSON; loading one never runs code.

The metadata of the file has one key, ``l2l_lightning``: format, version of the package, ``rule`` (class and arguments),
``trained_on`` (optimizee, data, horizon, objective, unroll, windows) and ``sha256`` of the tensors.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from l2l_lightning.core.errors import InputError, first_words
from l2l_lightning.files import checkpoint
from l2l_lightning.files.build import check_plain
from l2l_lightning.files.checkpoint import FORMAT
from l2l_lightning.files.untrusted import check_described, check_finite
from l2l_lightning.rules.base import UpdateRule

LARGEST_HEADER = 1_000_000  # bytes; descriptions have some thousand
PRETRAINED = Path(__file__).parent / "pretrained"


def pretrained_names() -> list[str]:
    """Names of the rules that come with the package."""
    return sorted(path.stem for path in PRETRAINED.glob("*.safetensors"))


def load(source: str | Path, allow: Sequence[str] = ()) -> UpdateRule:
    """A trained rule from a training checkpoint, an exported file, or by the name of a pretrained one.

    Args:
        source: file or name.
        allow: class paths that may be imported because a file names them. Without it a rule is only built of classes
            that this package or the program itself has imported before.

    Raises:
        InputError: if there is no such file or name, or it cannot be read or trusted.
    """
    path = find(source)
    if path.suffix != ".safetensors":
        return checkpoint.load_rule(path, allow)
    description, tensors = read(path)
    return checkpoint.build_rule(description["rule"], tensors, str(path), allow)


def trained_on(source: str | Path) -> dict[str, Any]:
    """What a rule was trained on (optimizee, data, horizon ...), as far as its file knows.

    Raises:
        InputError: if there is no such file or name, or it cannot be read.
    """
    path = find(source)
    if path.suffix == ".safetensors":
        return read(path)[0].get("trained_on", {})
    return checkpoint.saved_state(checkpoint.read(path)).get("trained_on", {})


def find(source: str | Path) -> Path:
    """The file of a path or of a pretrained rule's name.

    Raises:
        InputError: if there is neither.
    """
    if Path(source).is_file():
        return Path(source)
    if str(source) in pretrained_names():
        return PRETRAINED / f"{source}.safetensors"
    raise InputError(
        f"{source} is neither a file nor a pretrained rule; those that come with the package are: "
        f"{', '.join(pretrained_names())}."
    )


def export(path: str | Path, output: str | Path, allow: Sequence[str] = ()) -> dict[str, Any]:
    """Write the rule of a training checkpoint into a new file; its description. ``allow`` is that of ``load``.

    Raises:
        InputError: if the checkpoint cannot be read, or the output exists already or cannot be written.
    """
    saved = checkpoint.read(path)
    state, tensors = checkpoint.saved_state(saved), checkpoint.phi(saved)
    description = {
        "format": FORMAT,
        "version": version("l2l_lightning"),
        "rule": state["rule"],
        "trained_on": state.get("trained_on", {}) | {"windows": state.get("windows", 0), "seed": state["seed"]},
        "sha256": digest(tensors),
    }
    checkpoint.build_rule(state["rule"], tensors, str(path), allow)  # what could not be loaded again is not written
    output = Path(output)
    if output.suffix != ".safetensors":
        raise InputError(f"--output: an exported rule is a .safetensors file, got {output}.")
    try:
        output.open("xb").close()  # never in place of another file
        alone = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
        save_file(alone, output, metadata={checkpoint.KEY: json.dumps(description)})
    except OSError as error:
        raise InputError(f"--output: {output} cannot be written ({error.strerror}).") from error
    return description


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Description and tensors of an exported file.

    Raises:
        InputError: if it is not one, is of a newer format, or its tensors are not those that were exported.
    """
    try:
        with open(path, "rb") as file:
            if int.from_bytes(file.read(8), "little") > LARGEST_HEADER:
                raise InputError(f"its header is larger than {LARGEST_HEADER:,} bytes")
        with safe_open(path, framework="pt") as file:
            description = json.loads((file.metadata() or {}).get(checkpoint.KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
    except Exception as error:  # whatever the bytes of a stranger's file make of the readers
        raise InputError(f"{path} is not an exported rule that can be read: {first_words(error)}.") from error
    if not isinstance(description, dict) or not {"format", "rule", "sha256"} <= description.keys():
        raise InputError(f"{path} was not written by `l2l export`: its description is missing.")
    check_plain(description, f"{path}: its description")
    checkpoint.check_format(description["format"], str(path))
    check_described(description, str(path))
    if digest(tensors) != description["sha256"]:
        raise InputError(f"{path} is damaged: its tensors are not those that were exported.")
    check_finite(tensors, str(path))
    return description, tensors


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, types, shapes and values."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
