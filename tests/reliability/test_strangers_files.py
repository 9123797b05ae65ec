"""A stranger's files run no code, and are refused in one sentence where they are not what they say."""

import builtins
import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

import pytest
import small
import strangers
import tally
import torch
from strangers import refused

from l2l_lightning import LearnedOptimizer
from l2l_lightning.cli.main import main
from l2l_lightning.files import checkpoint, rule_file

# Code in pickles

CODE = {
    "touch": lambda target: (Path.touch, (target,)),
    "system": lambda target: (os.system, (f"touch {target}",)),
    "eval": lambda target: (builtins.eval, (f"open({str(target)!r}, 'w')",)),
    "exec": lambda target: (builtins.exec, (f"open({str(target)!r}, 'w')",)),
    "popen": lambda target: (subprocess.check_call, (["touch", str(target)],)),
    "import": lambda target: (pickle.loads, (strangers.pickled(Code("touch", target)),)),
    "state": lambda target: (torch.nn.Linear, (1, 1), {"x": Code("touch", target)}),
    "hook": lambda target: (torch._utils._rebuild_parameter, (torch.zeros(1), True, Code("touch", target))),
}


class Code:
    """Writes a file when it is unpickled."""

    def __init__(self, kind: str, target: Path) -> None:
        self.kind, self.target = kind, target

    def __reduce__(self) -> tuple:
        return CODE[self.kind](self.target)


class Storage(torch.Tensor):
    """A tensor whose storage is code."""

    code: Code

    def __reduce_ex__(self, protocol: int) -> tuple:
        return (torch._utils._rebuild_tensor_v2, (self.code, 0, (1,), (1,), False, {}))


def in_storage(code: Code) -> dict[str, Any]:
    tensor = torch.zeros(1).as_subclass(Storage)
    tensor.code = code
    return strangers.saved() | {"state_dict": {"rule.head_bias": tensor}}


def packed(path: Path, way: str, code: Code) -> Path:
    """A file with the code in it, in one of several ways."""
    whole = strangers.saved()
    contents = {
        "alone": code,
        "in a list": [code],
        "as l2l_lightning": whole | {"l2l_lightning": code},
        "in state_dict": whole | {"state_dict": whole["state_dict"] | {"rule.head_bias": code}},
        "in trained_on": whole | {"l2l_lightning": whole["l2l_lightning"] | {"trained_on": {"data": code}}},
        "in Lightning's part": whole | {"callbacks": {"x": code}},
        "in a storage": in_storage(code),
    }
    format_, _, place = way.partition(": ")
    content = contents[place]
    if format_ == "zip":
        torch.save(content, path)
    elif format_ == "legacy":
        torch.save(content, path, _use_new_zipfile_serialization=False)
    elif format_ == "bare":
        path.write_bytes(pickle.dumps(content))
    else:
        strangers.repacked(path, strangers.pickled(content))
    return path


PLACES = ("alone", "in a list", "as l2l_lightning", "in state_dict", "in trained_on", "in Lightning's part")
WAYS = [f"{format_}: {place}" for format_ in ("zip", "legacy", "bare", "repacked") for place in PLACES]
WAYS += ["zip: in a storage", "legacy: in a storage"]
READERS = {
    "checkpoint.read": checkpoint.read,
    "checkpoint.load_rule": checkpoint.load_rule,
    "exported.load": rule_file.load,
    "exported.read": rule_file.read,
    "exported.trained_on": rule_file.trained_on,
    "export": lambda path: rule_file.export(path, path.with_name("out.safetensors")),
    "init_from": lambda path: small.module(init_from=str(path)),
    "LearnedOptimizer": lambda path: LearnedOptimizer([torch.zeros(2, requires_grad=True)], path),
    "group": lambda path: LearnedOptimizer([{"params": [torch.zeros(2)], "rule": str(path)}], "adams-linear"),
}


def test_the_crafted_code_would_write_a_file(tmp_path: Path) -> None:
    for kind in CODE:
        target = tmp_path / kind
        pickle.loads(strangers.pickled(Code(kind, target)))
        assert target.exists(), kind


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.parametrize("way", WAYS)
def test_no_reader_runs_code(tmp_path: Path, way: str, suffix: str) -> None:
    for kind in CODE:
        target = tmp_path / "written"
        path = packed(tmp_path / f"{kind}.{suffix}", way, Code(kind, target))
        before = sorted(tmp_path.iterdir())
        for read in READERS.values():
            refused(lambda read=read, path=path: read(path), str(path))
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("way", ["zip: as l2l_lightning", "legacy: alone"])
def test_no_command_runs_code(tmp_path: Path, way: str, capsys: pytest.CaptureFixture) -> None:
    path = str(packed(tmp_path / "bad.ckpt", way, Code("touch", tmp_path / "written")))
    renamed = str(packed(tmp_path / "bad.safetensors", way, Code("touch", tmp_path / "written")))
    before = sorted(tmp_path.rglob("*"))
    config = ["--config", str(small.CONFIG)]
    commands = [
        ["fit", *config, "--ckpt_path", path, "--trainer.default_root_dir", str(tmp_path)],
        ["fit", *config, "--model.init_from", path, "--trainer.default_root_dir", str(tmp_path)],
        ["test", *config, "--ckpt_path", path, "--trainer.default_root_dir", str(tmp_path)],
        ["compare", "--ckpt_path", path, "--output_dir", str(tmp_path / "out")],
        ["compare", "--ckpt_path", renamed, "--output_dir", str(tmp_path / "out")],
        ["export", "--ckpt_path", path, "--output", str(tmp_path / "out.safetensors")],
        ["inspect", path],
        ["inspect", renamed],
        ["steps", "--ckpt_path", path],
        ["weights", "--ckpt_path", renamed],
        ["transfer", "--ckpt_path", path, "--to", str(small.CONFIG), "--output_dir", str(tmp_path / "out")],
        ["heatmap", *config, "--ckpt_path", path, "--output_dir", str(tmp_path / "out")],
    ]
    for command in commands:
        with pytest.raises(SystemExit) as stop:
            main(command)
        assert str(stop.value.code).startswith("l2l: error: "), command
        assert len(str(stop.value.code).splitlines()) == 1, command
        assert sorted(tmp_path.rglob("*")) == before, command
        tally.count(strangers.TALLY)


# What a checkpoint says


@pytest.mark.parametrize(
    "key", ["state_dict", "l2l_lightning", "rule", "seed", "baseline_rates", "processes", "windows"]
)
def test_a_missing_key_is_refused(tmp_path: Path, key: str) -> None:
    content = strangers.saved()
    (content if key in content else content["l2l_lightning"]).pop(key)
    path = strangers.checkpoint(tmp_path / "bad.ckpt", content)
    refused(lambda: checkpoint.read(path), str(path))


# Phi


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_phi_that_is_not_finite_is_refused(tmp_path: Path, value: float) -> None:
    content = strangers.saved()
    content["state_dict"]["rule.head_bias"].fill_(value)
    path = strangers.checkpoint(tmp_path / "bad.ckpt", content)
    rule = small.module().rule
    before = {name: leaf.clone() for name, leaf in rule.state_dict().items()}
    for read in (
        checkpoint.load_rule,
        rule_file.load,
        lambda path: checkpoint.load_phi(path, rule),
        lambda path: checkpoint.check_rule(checkpoint.read(path), rule, exact=True),
        lambda path: rule_file.export(path, tmp_path / "out.safetensors"),
        READERS["LearnedOptimizer"],
    ):
        refused(lambda read=read: read(path), "not finite")
    assert not (tmp_path / "out.safetensors").exists()
    assert all(torch.equal(leaf, before[name]) for name, leaf in rule.state_dict().items())
    tensors = strangers.described()[1]
    tensors["head_bias"].fill_(value)
    refused(lambda: rule_file.load(strangers.rule_file(tmp_path / "bad.safetensors", tensors)), "not finite")


def crafted_phi(kind: str) -> torch.Tensor:
    own = strangers.described()[1]["head_weight"]
    return {
        "shape": lambda: torch.zeros(3, 3),
        "scalar": lambda: torch.tensor(1.0),
        "integers": lambda: own.long(),
        "complex": lambda: own.to(torch.complex64),
        "bool": lambda: own.bool(),
    }[kind]()


@pytest.mark.parametrize("kind", ["shape", "scalar", "integers", "complex", "bool"])
def test_phi_of_another_kind_is_refused(tmp_path: Path, kind: str) -> None:
    wrong = crafted_phi(kind)
    tensors = strangers.described()[1] | {"head_weight": wrong}
    path = strangers.rule_file(tmp_path / "bad.safetensors", tensors)
    refused(lambda: rule_file.load(path), "do not fit its rule", "head_weight")
    content = strangers.saved()
    content["state_dict"]["rule.head_weight"] = wrong
    path = strangers.checkpoint(tmp_path / "bad.ckpt", content)
    refused(lambda: checkpoint.load_rule(path), "do not fit its rule", "head_weight")
    refused(lambda: checkpoint.load_phi(path, small.module().rule), "another rule", "head_weight")


@pytest.mark.parametrize(
    "names", [{"more": torch.zeros(2)}, {"\x1b]0;owned\x07": torch.zeros(2)}, {"n" * 9999: torch.zeros(1)}]
)
def test_parameters_that_no_rule_has_are_refused(tmp_path: Path, names: dict[str, torch.Tensor]) -> None:
    path = strangers.rule_file(tmp_path / "bad.safetensors", strangers.described()[1] | names)
    refused(lambda: rule_file.load(path), "do not fit its rule")


def test_parameters_that_share_memory_are_exported_one_by_one(tmp_path: Path) -> None:
    content = strangers.saved()
    shared = torch.arange(105.0)
    content["state_dict"]["rule.cells.0.weight_hh"] = shared[:100].view(20, 5)
    content["state_dict"]["rule.cells.0.weight_ih"] = shared[5:45].view(2, 20).T
    path = strangers.checkpoint(tmp_path / "rule.ckpt", content)
    rule_file.export(path, tmp_path / "out.safetensors")
    found = rule_file.load(tmp_path / "out.safetensors").state_dict()
    assert torch.equal(found["cells.0.weight_ih"], content["state_dict"]["rule.cells.0.weight_ih"])
    assert torch.equal(found["cells.0.weight_hh"], content["state_dict"]["rule.cells.0.weight_hh"])


def test_a_rule_in_half_precision_is_exported(tmp_path: Path) -> None:
    content = strangers.saved()
    content["state_dict"] = {name: leaf.bfloat16() for name, leaf in content["state_dict"].items()}
    rule_file.export(strangers.checkpoint(tmp_path / "rule.ckpt", content), tmp_path / "out.safetensors")
    found = rule_file.load(tmp_path / "out.safetensors").state_dict()
    assert torch.equal(found["head_weight"], content["state_dict"]["rule.head_weight"].float())
