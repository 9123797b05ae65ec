"""``l2l heatmap``: averages of Adams beside their inputs."""

from pathlib import Path

import pytest
import small
import torch
import yaml

from l2l_lightning.cli.commands.heatmap import rate
from l2l_lightning.cli.main import main
from l2l_lightning.evaluation.plots import heatmap
from l2l_lightning.evaluation.report import Estimate

PAIRS = [[0.9, 0.999], [0.5, 0.555]]


@pytest.fixture(scope="module")
def average(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Configuration and checkpoint of an average of two Adams on small quadratics."""
    folder = tmp_path_factory.mktemp("average")
    configuration = yaml.safe_load(small.CONFIG.read_text())
    configuration["model"]["rule"] = {"class_path": "MultiscaleAdam", "init_args": {"timescales": PAIRS}}
    path = folder / "average.yaml"
    path.write_text(yaml.safe_dump(configuration))
    small.l2l("fit", folder, "--trainer.max_epochs", "1", "--name", "average", config=path)
    return path, folder / "average" / "version_0" / "checkpoints" / "best.ckpt"


def test_rules_and_their_inputs_over_learning_rates(average: tuple[Path, Path], tmp_path: Path) -> None:
    config, path = average
    rates = ("--rates", "0.1", "0.001", "cosine:0.3", "--output_dir", str(tmp_path / "out"))
    main(["heatmap", "--config", str(config), "--ckpt_path", str(path), *rates, "--trainer.accelerator", "cpu"])
    rows = [line.split("|")[1:-1] for line in (tmp_path / "out" / "heatmap.md").read_text().splitlines()]
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    assert list(cells)[2:] == ["average", "Adam 0.9/0.999", "Adam 0.5/0.555"]
    assert cells["mean loss"] == ["0.1", "0.001", "cosine:0.3"]
    for column in range(3):
        assert sum("*" in cells[name][column] for name in list(cells)[2:]) == 1
    means = {name: [float(cell.split()[0]) for cell in row] for name, row in list(cells.items())[2:]}
    assert all(row[1] > row[0] for row in means.values()), "a rate of 0.001 is too small for 20 steps"
    inputs = (means["Adam 0.9/0.999"][0], means["Adam 0.5/0.555"][0])
    assert min(inputs) * 0.9 < means["average"][0] < max(inputs) * 1.1
    assert (tmp_path / "out" / "heatmap.png").read_bytes().startswith(b"\x89PNG")


def test_rates_are_read_as_numbers_and_cosines() -> None:
    assert rate("0.01", 100) == 0.01
    schedule = rate("cosine:0.1:0.02", 50)
    torch.testing.assert_close(
        schedule.at(torch.tensor([0, 25, 50, 90])).float(), torch.tensor([0.1, 0.06, 0.02, 0.02])
    )


def test_what_diverged_is_drawn_without_a_shade() -> None:
    columns = {"1": {"a": Estimate(1.0, 0.1), "b": Estimate(float("inf"), float("nan"))}}
    heatmap(columns).canvas.draw()
    heatmap({"1": {"b": Estimate(float("inf"), float("nan"))}}).canvas.draw()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--rates", "fast"), "'fast' is no learning rate"),
        (("--rates", "linear:1"), "neither a number nor cosine:START"),
        (("--rates", "cosine:-1"), "start must be a positive number, got -1.0"),
        (("--ckpt_path", "nowhere.ckpt"), "nowhere.ckpt is neither a file nor a pretrained rule"),
    ],
)
def test_mistakes_get_one_sentence(
    average: tuple[Path, Path], tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    config, path = average
    with pytest.raises(SystemExit, match=sentence):
        main(["heatmap", "--config", str(config), "--ckpt_path", str(path), *arguments, "--output_dir", str(tmp_path)])
    assert not list(tmp_path.iterdir())
