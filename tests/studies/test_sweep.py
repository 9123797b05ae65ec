"""``l2l sweep``: one training for each value."""

import json
from pathlib import Path

import pytest
import small

from l2l_lightning.cli import main

SHORT = ("--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false")


def sweep(*arguments: object) -> None:
    main(["sweep", *map(str, arguments), *SHORT])


def test_one_training_a_value_one_table_and_one_figure(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    key = "model.optimizer.init_args.lr"
    sweep("--config", small.CONFIG, "--key", key, "--values", "0.03", "1e-9", "--output_dir", tmp_path / "out")
    folder = tmp_path / "out"
    table = (folder / "sweep.md").read_text()
    assert table in capsys.readouterr().out
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    rows = {row[1].strip(): row for row in (line.split("|") for line in table.splitlines())}
    assert {"lr 0.03", "lr 1e-9", "Adam", "Nesterov"} <= set(rows)
    for value in ("0.03", "1e-9"):
        report = json.loads((folder / value / "validation.json").read_text())["contenders"]["learned"]
        assert f"{report['final_loss']['mean']:.4g}" in rows[f"lr {value}"][3]
        assert (folder / value / "checkpoints" / "best.ckpt").is_file()
    assert rows["lr 0.03"][3] != rows["lr 1e-9"][3]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--config", "nowhere.yaml", "--key", "k", "--values", "1"), "--config: there is no file nowhere.yaml"),
        (("--config", "{config}", "--key", "k", "--values"), "--values: expected at least one argument"),
        (("--config", "{config}", "--key", "k", "--values", "1", "1"), "each value may be given once"),
        (("--config", "{config}", "--key", "model.unrool", "--values", "1"), "did you mean unroll"),
        (("--config", "{config}", "--key", "model.unroll", "--values", "-1"), "unroll must be a positive integer"),
    ],
)
def test_mistakes_get_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture, arguments: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        sweep("--output_dir", tmp_path / "out", *(argument.format(config=small.CONFIG) for argument in arguments))
    assert sentence in capsys.readouterr().err + str(caught.value)
    assert caught.value.code != 0
