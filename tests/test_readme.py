"""The README's code runs as it stands there."""

import re
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()


USE, PLUG_IN, CHECK, TRAINING = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
(CONFIGURATION,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)


def test_a_learned_optimizer_takes_a_step() -> None:
    names: dict = {}
    exec(USE, names)
    assert names["optimizer"].state_dict()["state"][0]["step"] == 1


def test_the_plug_in_trains_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUG_IN)
    (tmp_path / "mine.yaml").write_text(CONFIGURATION)
    command = [Path(sys.executable).parent / "l2l", "fit", "--config", "mine.yaml", "--trainer.accelerator", "cpu"]
    command += ["--trainer.max_epochs", "1", "--data.init_args.windows_per_epoch", "5"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "logs" / "mine" / "version_0" / "checkpoints" / "best.ckpt").is_file()
    assert "| learned" in done.stdout


def test_the_plug_in_passes_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(PLUG_IN)
    monkeypatch.syspath_prepend(tmp_path)
    exec(CHECK, {})


def test_the_python_example_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trainer = L.Trainer
    monkeypatch.setattr(L, "Trainer", lambda **given: trainer(**given, limit_train_batches=3, accelerator="cpu"))
    exec(TRAINING, {})
