"""``l2l sweep``: one training for each value."""

import json
from pathlib import Path

import pytest
import small

from l2l_lightning.cli.main import main

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
    assert list(rows)[2:] == ["0.03", "1e-9"]
    for place, value in enumerate(("0.03", "1e-9")):
        report = json.loads((folder / f"{place}-{value}" / "validation.json").read_text())
        assert f"{report['contenders']['learned']['final_loss']['mean']:.4g}" in rows[value][2]
        assert float(rows[value][5]) == pytest.approx(report["ratio_to_best_baseline"]["mean_loss"], abs=1e-3)
        assert (folder / f"{place}-{value}" / "checkpoints" / "best.ckpt").is_file()
    assert rows["0.03"][2] != rows["1e-9"][2]


def test_values_that_are_paths_stay_inside_the_study_s_folder(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "validation.md").write_text("precious")
    arguments = ("--config", small.CONFIG, "--key", "trainer.default_root_dir", "--output_dir", tmp_path / "out")
    main(["sweep", *map(str, arguments), "--values", str(mine), *SHORT[:2], *SHORT[4:]])
    assert [path.name for path in mine.iterdir()] == ["validation.md"]
    assert (mine / "validation.md").read_text() == "precious"


def test_options_given_twice_add_up_and_each_value_has_its_own_baselines(tmp_path: Path) -> None:
    key = "data.init_args.distribution"
    arguments = ("--key", key, "--values", "normal", "--values", "uniform", "--output_dir", tmp_path / "out")
    sweep("--config", small.CONFIG, *arguments)
    rows = (tmp_path / "out" / "sweep.md").read_text().splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["normal", "uniform"]
    assert rows[0].split("|")[4] != rows[1].split("|")[4]


def test_what_is_finished_is_kept_when_a_later_value_fails(tmp_path: Path) -> None:
    arguments = ("--key", "data.init_args.dim", "--values", "5", "6", "--output_dir", tmp_path / "out")
    with pytest.raises(SystemExit, match="dim 6: The optimizee Quadratic cannot be evaluated"):
        sweep("--config", small.CONFIG, *arguments)
    assert [row.split("|")[1].strip() for row in (tmp_path / "out" / "sweep.md").read_text().splitlines()[2:]] == ["5"]


def test_a_run_without_a_validation_gets_one_sentence(tmp_path: Path) -> None:
    arguments = ("--key", "model.unroll", "--values", "5", "--output_dir", tmp_path / "out")
    with pytest.raises(SystemExit, match="unroll 5: nothing was evaluated"):
        sweep("--config", small.CONFIG, *arguments, "--trainer.limit_val_batches", "0")


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
