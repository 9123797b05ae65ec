"""Rules as files to be passed on."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from scenes import initial_state, seen

from l2l_lightning.cli.main import main
from l2l_lightning.core.errors import InputError
from l2l_lightning.files import rule_file
from l2l_lightning.files.checkpoint import load_rule


@pytest.fixture
def checkpoint(run: Path) -> Path:
    return run / "checkpoints" / "last.ckpt"


@pytest.fixture
def file(checkpoint: Path, tmp_path: Path) -> Path:
    rule_file.export(checkpoint, tmp_path / "rule.safetensors")
    return tmp_path / "rule.safetensors"


def rewritten(file: Path, tensors: dict[str, torch.Tensor] | None = None, **changes: object) -> Path:
    """The file with other tensors, and a description that says so."""
    description, own = rule_file.read(file)
    tensors = own if tensors is None else tensors
    description |= {"sha256": rule_file.digest(tensors)} | changes
    save_file(tensors, file, metadata={"l2l_lightning": json.dumps(description)})
    return file


def test_the_rule_comes_back_as_it_was(checkpoint: Path, file: Path) -> None:
    rules = load_rule(checkpoint), rule_file.load(checkpoint), rule_file.load(file)
    theta, grad = torch.zeros(2, 3), torch.randn(2, 3)
    inputs = seen(theta, grad, None, torch.zeros(2, dtype=torch.long))
    steps = [rule(inputs, initial_state(rule, theta))[0] for rule in rules]
    assert steps[0].abs().sum() > 0
    assert all(torch.equal(step, steps[0]) for step in steps)


def test_the_description_says_what_it_was_trained_on(file: Path) -> None:
    description, tensors = rule_file.read(file)
    assert description["rule"]["class_path"].endswith("CoordinatewiseLSTM")
    trained_on = description["trained_on"]
    assert trained_on["data"]["class_path"].endswith("QuadraticDataModule")
    assert trained_on["optimizee"]["init_args"]["dim"] == 5
    assert trained_on["horizon"]["init_args"] == {"steps": 20}
    assert (trained_on["windows"], trained_on["unroll"]) == (30, 5)
    assert rule_file.trained_on(file) == trained_on
    assert description["sha256"] == rule_file.digest(tensors)


def test_the_command_line_exports_and_inspects(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "out.safetensors"
    main(["export", "--ckpt_path", str(checkpoint), "--output", str(path)])
    assert "CoordinatewiseLSTM" in capsys.readouterr().out
    main(["inspect", str(path)])
    out = capsys.readouterr().out
    assert '"trained_on"' in out
    assert "head_weight: (1, 8) float32" in out
    with pytest.raises(SystemExit, match="cannot be written"):  # never in place of another file
        main(["export", "--ckpt_path", str(checkpoint), "--output", str(path)])
    with pytest.raises(SystemExit, match=r"an exported rule is a \.safetensors file"):
        main(["export", "--ckpt_path", str(checkpoint), "--output", str(tmp_path / "out.pt")])
    with pytest.raises(SystemExit, match="is no exported rule"):
        main(["inspect", str(checkpoint)])


def test_a_truncated_file_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for length in (0, 5, 100, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(InputError, match="is not an exported rule that can be read"):
            rule_file.load(file)


def test_changed_numbers_are_noticed(file: Path) -> None:
    whole = bytearray(file.read_bytes())
    whole[-1] ^= 1
    file.write_bytes(whole)
    with pytest.raises(InputError, match="is damaged"):
        rule_file.load(file)


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "written",))

    for name in ("rule.safetensors", "rule.ckpt"):
        torch.save({"l2l_lightning": Malicious()}, tmp_path / name)
        with pytest.raises(InputError):
            rule_file.load(tmp_path / name)
    assert not (tmp_path / "written").exists()


def test_descriptions_that_lie_are_refused(file: Path) -> None:
    rule = rule_file.read(file)[0]["rule"]
    larger = rule | {"init_args": rule["init_args"] | {"hidden_size": 10**6}}
    with pytest.raises(InputError, match="its tensors do not fit its rule"):  # and nothing of that size is allocated
        rule_file.load(rewritten(file, rule=larger))
    for path in ("os.system", "no.such.Rule", "l2l_lightning.optimizees.Quadratic"):
        with pytest.raises(InputError, match="its rule cannot be built"):
            rule_file.load(rewritten(file, rule={"class_path": path, "init_args": {}}))
    tensors = {name: torch.full_like(leaf, torch.nan) for name, leaf in load_file(file).items()}
    with pytest.raises(InputError, match="not finite"):
        rule_file.load(rewritten(file, tensors))


def test_files_of_a_newer_format_are_refused(file: Path) -> None:
    with pytest.raises(InputError, match="has format 99"):
        rule_file.load(rewritten(file, format=99))


def test_files_of_others_and_unknown_names_are_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="was not written by `l2l export`"):
        rule_file.load(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="neither a file nor a pretrained rule"):
        rule_file.load("no-such-rule")
