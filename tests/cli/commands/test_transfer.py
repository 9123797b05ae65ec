"""``l2l transfer`` and ``model.init_from``: a rule on problems it was not trained on."""

import json
from pathlib import Path

import pytest
import small
import torch
import yaml

from l2l_lightning.cli.main import main
from l2l_lightning.files import checkpoint

CONFIGS = small.CONFIG.parent
MNIST_SMALL = {"steps": 10, "validation_problems": 2, "test_problems": 2, "tuning_problems": 1, "batch_size": 16}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """best.ckpt of quadratic_smoke.yaml."""
    folder = tmp_path_factory.mktemp("trained")
    small.l2l("fit", folder)
    return folder / "quadratic_smoke" / "version_0" / "checkpoints" / "best.ckpt"


def target(folder: Path, name: str, **data: object) -> Path:
    """quadratic_smoke.yaml with another rule, which must not matter, and other data."""
    configuration = yaml.safe_load(small.CONFIG.read_text())
    configuration["model"]["rule"] = {"class_path": "CoordinatewiseGRU"}
    configuration["data"]["init_args"] |= data
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(configuration))
    return path


def mnist_target(folder: Path, root: Path) -> Path:
    configuration = yaml.safe_load((CONFIGS / "transfer" / "mnist_to_relu.yaml").read_text())
    configuration["model"]["unroll"] = 5
    configuration["model"]["baselines"] = {
        "class_path": "Baselines",
        "init_args": {"rules": ["Adam"], "learning_rates": [0.01, 0.1]},
    }
    configuration["data"]["init_args"] |= {"root": str(root), **MNIST_SMALL}
    path = folder / "relu.yaml"
    path.write_text(yaml.safe_dump(configuration))
    return path


def transfer(*arguments: object) -> None:
    main(["transfer", *map(str, arguments), "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"])


def test_one_table_and_one_figure_over_all_targets(
    trained: Path, tmp_path: Path, mnist_root: Path, capsys: pytest.CaptureFixture
) -> None:
    targets = [target(tmp_path, "longer", steps=60), mnist_target(tmp_path, mnist_root)]
    before = {path: path.read_bytes() for path in trained.parent.parent.rglob("*") if path.is_file()}
    transfer("--ckpt_path", trained, "--to", *targets)
    folder = trained.parent.parent / "transfer" / "version_0"
    table = (folder / "transfer.md").read_text()
    printed = capsys.readouterr().out
    assert table in printed
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert [row[0] for row in rows[2:]] == ["longer", "relu"]
    assert [row[1] for row in rows[2:]] == ["5", "15,910"]
    assert (folder / "transfer.png").read_bytes().startswith(b"\x89PNG")
    for row, name in zip(rows[2:], ("longer", "relu"), strict=True):
        report = json.loads((folder / name / "test.json").read_text())
        ratios = report["ratio_to_best_baseline"]
        assert float(row[5]) == pytest.approx(ratios["mean_loss"], abs=1e-3)
        assert float(row[6]) == pytest.approx(ratios["final_loss"], abs=1e-3)
        assert f"{report['contenders']['learned']['mean_loss']['mean']:.4g}" in row[2]
    assert {path: path.read_bytes() for path in before} == before

    transfer("--ckpt_path", trained, "--to", targets[0])
    assert (folder.parent / "version_1" / "transfer.md").is_file()


def test_the_rule_on_the_target_is_the_trained_one(trained: Path, tmp_path: Path) -> None:
    """On the problems of its own training the transferred rule does as `l2l test` says it does."""
    small.l2l("test", tmp_path, "--ckpt_path", str(trained), "--trainer.logger", "false")
    small.l2l("test", tmp_path, "--ckpt_path", str(trained))
    (own,) = trained.parent.parent.glob("test/version_*/test.json")
    transfer("--ckpt_path", trained, "--to", target(tmp_path, "same"), "--output_dir", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "same" / "test.json").read_text())
    assert found["contenders"]["learned"] == json.loads(own.read_text())["contenders"]["learned"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((), "the following arguments are required: --ckpt_path, --to"),
        (("--ckpt_path", "nowhere.ckpt", "--to", "a.yaml"), "--ckpt_path: there is no file nowhere.ckpt"),
        (("--ckpt_path", "{trained}", "--to", "nowhere.yaml"), "--to: there is no file nowhere.yaml"),
        (("--ckpt_path", "{config}", "--to", "{config}"), "is not a checkpoint that can be read safely"),
        (("--ckpt_path", "{trained}", "--to", "{config}", "{config}"), "need file names of their own"),
        (("--ckpt_path", "{trained}", "--to", "{config}", "--output_dir", "{full}"), "exists already and is not empty"),
        (("--ckpt_path", "{trained}", "--to", "{config}", "--output_dir", "{full}/mine.txt/x"), "cannot be made"),
        (("--ckpt_path", "{trained}", "--to", "{config}", "--config", "{config}"), "the study sets it itself"),
    ],
)
def test_mistakes_get_one_sentence(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture, arguments: tuple[str, ...], sentence: str
) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    places = {"trained": trained, "config": small.CONFIG, "full": tmp_path}
    with pytest.raises(SystemExit) as caught:
        transfer(*(argument.format(**places) for argument in arguments))
    said = capsys.readouterr().err + str(caught.value)
    assert sentence in said
    assert "Traceback" not in said
    assert caught.value.code != 0
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_checkpoint_validates_on_another_optimizee_and_its_inner_state_is_said_to_be_ignored(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ("--model.optimizee.init_args.dim", "7", "--data.init_args.dim", "7")
    small.l2l("validate", tmp_path, *arguments, "--ckpt_path", str(trained))
    assert "trained on another optimizee; the inner state in the checkpoint" in caplog.text


def test_init_from_starts_a_training_of_another_optimizee_from_phi_alone(trained: Path, tmp_path: Path) -> None:
    def phi(path: Path) -> dict[str, torch.Tensor]:
        return checkpoint.read(path)["state_dict"]

    seven = ("--model.optimizee.init_args.dim", "7", "--data.init_args.dim", "7")
    still = ("--model.optimizer.init_args.lr", "1e-30", "--trainer.max_epochs", "1")
    small.l2l("fit", tmp_path, *seven, *still, "--model.init_from", str(trained))
    found = checkpoint.read(tmp_path / "quadratic_smoke" / "version_0" / "checkpoints" / "last.ckpt")
    assert all(torch.equal(value, phi(trained)[name]) for name, value in found["state_dict"].items())
    saved = found["l2l_lightning"]
    assert saved["processes"][0]["inner"]["theta"].shape[-1] == 7
    assert saved["windows"] == found["global_step"]


def test_init_from_refuses_another_rule_with_both_shapes(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"hidden_size: 8 against 9; phi's head_weight: \(1, 8\) against \(1, 9\)"):
        small.l2l("fit", tmp_path, "--model.rule.init_args.hidden_size", "9", "--model.init_from", str(trained))
    with pytest.raises(SystemExit, match=r"There is no checkpoint at nowhere\.ckpt"):
        small.l2l("fit", tmp_path, "--model.init_from", "nowhere.ckpt")
    assert not (tmp_path / "quadratic_smoke").exists()


def test_a_checkpoint_replaces_init_from_so_that_its_file_may_be_gone(trained: Path, tmp_path: Path) -> None:
    small.l2l("validate", tmp_path, "--model.init_from", "gone.ckpt", "--ckpt_path", str(trained))
