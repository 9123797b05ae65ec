"""Files as a stranger might craft them, and what must become of those who open them."""

import copy
import functools
import json
import pickle
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import small
import tally
import torch
from safetensors.torch import save_file

from l2l_lightning.core.errors import InputError
from l2l_lightning.files import rule_file as rule_files

SECONDS = 10.0  # a fraction of one where the machine has nothing else to do
RULES = "l2l_lightning.rules."
LSTM = RULES + "recurrent.CoordinatewiseLSTM"
TALLY = "crafted and mutated files refused"


@functools.cache
def trained() -> Path:
    """A folder with the checkpoint and the exported file of a training of seconds: rule.ckpt, rule.safetensors."""
    folder = Path(tempfile.mkdtemp())
    module, trainer = small.module(), small.trainer(folder, max_epochs=1, limit_val_batches=0)
    trainer.fit(module, datamodule=small.data())
    trainer.save_checkpoint(folder / "rule.ckpt")
    rule_files.export(folder / "rule.ckpt", folder / "rule.safetensors")
    return folder


def saved() -> dict[str, Any]:
    """The checkpoint's content, to be changed."""
    return copy.deepcopy(_checkpoint())


@functools.cache
def _checkpoint() -> dict[str, Any]:
    return torch.load(trained() / "rule.ckpt", weights_only=True)


def described() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Description and tensors of the exported file, to be changed."""
    return copy.deepcopy(_exported())


@functools.cache
def _exported() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    return rule_files.read(trained() / "rule.safetensors")


def checkpoint(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def rule_file(path: Path, tensors: dict[str, torch.Tensor] | None = None, **changes: Any) -> Path:
    """An exported file with these tensors and changes of its description, and a hash that fits."""
    description, own = described()
    tensors = own if tensors is None else tensors
    return raw_rule_file(path, description | {"sha256": rule_files.digest(tensors)} | changes, tensors)


def raw_rule_file(path: Path, description: Any, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    save_file(described()[1] if tensors is None else tensors, path, metadata={"l2l_lightning": json.dumps(description)})
    return path


def header_file(path: Path, header: bytes, body: bytes = b"", length: int | None = None) -> Path:
    """A .safetensors file byte by byte."""
    path.write_bytes((len(header) if length is None else length).to_bytes(8, "little") + header + body)
    return path


def repacked(path: Path, pickled: bytes) -> Path:
    """The real checkpoint's archive with another pickle."""
    with zipfile.ZipFile(trained() / "rule.ckpt") as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, pickled if name.endswith("data.pkl") else source.read(name))
    return path


def pickled(thing: Any) -> bytes:
    return pickle.dumps(thing, protocol=2)


def refused(action: Callable[[], Any], *words: str) -> str:
    """The one sentence with which an action refuses a file, soon."""
    start = time.process_time()  # others work on the same cores
    with pytest.raises(InputError) as caught:
        action()
    assert time.process_time() - start < SECONDS
    sentence = str(caught.value)
    assert len(sentence.splitlines()) == 1
    assert sentence.isprintable(), "nothing in it steers a terminal"
    assert sentence.endswith(".")
    assert len(sentence) < 2_000
    for word in words:
        assert word in sentence
    tally.count(TALLY)
    return sentence


def read_or_refused(action: Callable[[], Any]) -> bool:
    """Whether an action refuses a file; it must come back soon in any case, with nothing but an InputError."""
    start, sentence = time.process_time(), None
    try:
        action()
    except InputError as error:
        sentence = str(error)
    assert time.process_time() - start < SECONDS
    assert sentence is None or len(sentence.splitlines()) == 1
    tally.count("mutated files that are still good" if sentence is None else TALLY)
    return sentence is not None


def rule(kind: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": kind, "init_args": arguments}


def both(folder: Path, description: Any) -> tuple[Path, Path]:
    """A checkpoint and an exported file with this description of their rule."""
    content = saved()
    content["l2l_lightning"]["rule"] = description
    first = checkpoint(folder / "bad.ckpt", content)
    return first, rule_file(folder / "bad.safetensors", rule=description)
