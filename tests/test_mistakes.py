"""A user's mistakes on the command line: one sentence each, an exit status that is not 0, nothing left behind."""

from pathlib import Path

import pytest
import small
import torch

from l2l_lightning.cli.main import main
from l2l_lightning.files import checkpoint

CONFIGS = small.CONFIG.parent


def mistake(capsys: pytest.CaptureFixture, folder: Path, *arguments: str, command: str = "fit") -> str:
    """What is printed, which must be one line, for a command that must fail and leave nothing behind."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        small.l2l(command, folder, *arguments)
    assert stop.value.code not in (0, None)
    assert sorted(folder.rglob("*")) == before
    said = stop.value.code if isinstance(stop.value.code, str) else capsys.readouterr().err.strip()
    lines = [line for line in said.splitlines() if not line.startswith("Seed set")]
    assert len(lines) == 1, lines
    assert lines[0].startswith("l2l: error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--model.rule", "NoSuchRule"), "model.rule: there is no class NoSuchRule"),
        (("--model.optimizee", "Quadratik"), "did you mean Quadratic?"),
        (("--model.rule.init_args.hiden_size", "3"), "'hiden_size' is not accepted; did you mean hidden_size"),
        (("--model.horizn", "3"), "--model.horizn 3; did you mean horizon"),
        (("--model.rule.init_args.hidden_size", "-3"), "hidden_size must be a positive integer, got -3"),
        (("--model.rule.init_args.hidden_size", "2.5"), "hidden_size: must be of type int, got 2.5"),
        (("--data.init_args.problems", "0"), "problems must be a positive integer, got 0"),
        (("--data.init_args.dim", "-1"), "dim must be a positive integer, got -1"),
        (("--model.unroll", "0"), "unroll must be a positive integer, got 0"),
        (
            ("--model.restarts.horizon.init_args.steps", "-20"),
            "FixedHorizon: steps must be a positive integer, got -20",
        ),
        (("--model.objective", "Objective", "--model.objective.transform", "lag"), "must be one of 'plain', 'log'"),
        (("--model.baselines.learning_rates", "[-1.0]"), "learning_rates must be a positive number, got -1.0"),
        (("--trainer.max_epochs", "many"), "trainer.max_epochs: must be of type int"),
        (("--num_threads", "0"), "num_threads: "),
        (("--model.rule.init_args.hidden_size", "null"), "model.rule.init_args.hidden_size must not be null"),
        (("--model.unroll", "null"), "model.unroll: must be of type int, got None"),
        (("--data", "null"), "arguments are required: fit.data"),
        (("--config", "nosuch.yaml"), "nosuch.yaml"),
    ],
)
def test_a_mistake_in_the_configuration_gets_one_sentence(
    capsys: pytest.CaptureFixture, tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    assert sentence in mistake(capsys, tmp_path, *arguments)


@pytest.mark.parametrize("arguments", [[], ["fitt"]])
def test_a_missing_or_unknown_command_names_those_there_are(arguments: list[str]) -> None:
    names = "fit, validate, test, compare, export, heatmap, inspect, plot, steps, sweep, transfer, weights"
    with pytest.raises(SystemExit, match=f"give one of the commands {names}"):
        main(arguments)


def test_a_misspelt_key_in_a_file_gets_one_sentence(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(small.CONFIG.read_text().replace("unroll:", "unrol:"))
    assert "'model.unrol'; did you mean unroll" in mistake(capsys, tmp_path, "--config", str(bad))


def test_a_horizon_that_is_no_multiple_of_the_unroll_is_rounded_up_and_said(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="horizon of 17 inner steps .* rounded up to 20"):
        small.l2l("fit", tmp_path, "--model.restarts.horizon.init_args.steps", "17", "--trainer.max_steps", "1")


def test_an_optimizee_that_does_not_fit_its_data_gets_one_sentence(
    capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=r"Quadratic cannot be evaluated on W \(5, 5\), y \(5,\)"):
        small.l2l("fit", tmp_path, "--model.optimizee.init_args.dim", "4")


def test_missing_mnist_with_downloads_off_gets_one_sentence(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    with pytest.raises(
        SystemExit, match=r"no readable MNIST in '.*nowhere'.*DataModule's root .* or its download to true"
    ):
        small.l2l(
            "fit",
            tmp_path,
            *("--data.init_args.root", str(tmp_path / "nowhere"), "--data.init_args.download", "false"),
            config=CONFIGS / "mnist_mlp_lstm.yaml",
        )


def test_last_without_a_run_gets_one_sentence(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert "no last.ckpt in any run below" in mistake(capsys, tmp_path, "--ckpt_path", "last")


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_a_checkpoint_that_is_none_gets_one_sentence(
    capsys: pytest.CaptureFixture, tmp_path: Path, command: str
) -> None:
    (tmp_path / "text.ckpt").write_text("no checkpoint at all")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    for name, sentence in (
        ("nosuch", "no checkpoint at"),
        ("text", "is not a checkpoint"),
        ("other", "not a checkpoint of"),
    ):
        said = mistake(capsys, tmp_path, "--ckpt_path", str(tmp_path / f"{name}.ckpt"), command=command)
        assert sentence in said


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.target,))


def test_a_checkpoint_with_code_in_it_is_refused_and_not_run(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    target = tmp_path / "written"
    torch.save({"state_dict": {}, checkpoint.KEY: Malicious(target)}, tmp_path / "bad.ckpt")
    assert "is not a checkpoint that can be read safely" in mistake(
        capsys, tmp_path, "--ckpt_path", str(tmp_path / "bad.ckpt")
    )
    assert not target.exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--model.rule", "CoordinatewiseGRU"), "CoordinatewiseLSTM against CoordinatewiseGRU"),
        (("--model.rule.init_args.hidden_size", "9"), "hidden_size: 8 against 9"),
        (("--model.rule.init_args.hidden_size", "9"), r"phi's head_weight: \(1, 8\) against \(1, 9\) and"),
    ],
)
def test_the_checkpoint_of_another_rule_is_refused(
    run: Path, tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(SystemExit, match=sentence):
        small.l2l("validate", tmp_path, *arguments, "--ckpt_path", str(run / "checkpoints" / "best.ckpt"))


def test_an_argument_that_leaves_the_shapes_alone_is_warned_of_in_validation_and_refused_in_resuming(
    run: Path, tmp_path: Path
) -> None:
    changed = ("--model.rule.init_args.output_scale", "0.2")
    sentence = "output_scale: 0.1 against 0.2"
    with pytest.warns(UserWarning, match=rf"differs from the one that was trained \({sentence}\)"):
        small.l2l("validate", tmp_path, *changed, "--ckpt_path", str(run / "checkpoints" / "best.ckpt"))
    with pytest.raises(SystemExit, match=sentence):
        small.l2l("fit", tmp_path, *changed, "--ckpt_path", str(run / "checkpoints" / "last.ckpt"))


def test_resuming_with_another_number_of_problems_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"holds 16 problems of 5 coordinates, but this configuration has 4 of 5"):
        small.l2l(
            "fit",
            tmp_path,
            *("--data.init_args.problems", "4", "--trainer.max_epochs", "9"),
            *("--ckpt_path", str(run / "checkpoints" / "last.ckpt")),
        )
