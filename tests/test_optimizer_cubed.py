"""Rules that train rules, from the command line: a learned outer optimizer, and its own training."""

import json
from pathlib import Path

import pytest
import small
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_mistakes import mistake
from test_resume import assert_same_training

from l2l_lightning import LearnedOptimizer
from l2l_lightning.cli.main import main
from l2l_lightning.core.estimators.backpropagation import backpropagate
from l2l_lightning.files import checkpoint, rule_file

CONFIG = small.CONFIG.parent / "optimizer_cubed.yaml"
SMALL = {
    "model.unroll": 2,
    "model.rule.init_args.layers": 1,
    "model.rule.init_args.hidden_size": 4,
    "model.optimizee.init_args.unroll": 3,
    "model.optimizee.init_args.rule.init_args.hidden_size": 3,
    "model.optimizee.init_args.optimizee.init_args.dim": 2,
    "model.restarts.horizon.init_args.steps": 4,
    "model.baselines.rules": "[Adam, SGD]",
    "model.baselines.learning_rates": "[0.01, 0.1]",
    "data.init_args.inner.init_args.dim": 2,
    "data.init_args.inner.init_args.problems": 3,
    "data.init_args.problems": 2,
    "data.init_args.windows_per_epoch": 4,
    "data.init_args.steps": 4,
    "data.init_args.validation_problems": 3,
    "data.init_args.test_problems": 3,
    "data.init_args.tuning_problems": 2,
    "trainer.max_epochs": 2,
    "trainer.log_every_n_steps": 2,
}


def shrunk(**changes: object) -> list[str]:
    return small.options(SMALL | changes)


@pytest.fixture(scope="module")
def third(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a small third network."""
    folder = tmp_path_factory.mktemp("cubed")
    small.l2l("fit", folder, *shrunk(), config=CONFIG)
    return folder / "optimizer_cubed/version_0"


def test_the_third_network_is_trained_and_compared_as_any_rule_is(third: Path, tmp_path: Path) -> None:
    tags = EventAccumulator(str(third)).Reload().Tags()["scalars"]
    assert {"train/meta_loss", "val/mean_loss", "val/vs_best_baseline"} <= set(tags)
    best = third / "checkpoints/best.ckpt"
    small.l2l("test", tmp_path, *shrunk(), "--ckpt_path", str(best), config=CONFIG)
    (report,) = third.glob("test/version_0/test.json")
    assert json.loads(report.read_text())["contenders"].keys() == {"learned", "Adam", "SGD"}
    described = rule_file.trained_on(best)["optimizee"]["init_args"]
    assert described["rule"]["class_path"] == "l2l_lightning.rules.KMomentums"
    assert described["optimizee"]["class_path"] == "l2l_lightning.optimizees.Quadratic"


def test_its_checkpoint_is_the_outer_optimizer_of_another_training(third: Path, tmp_path: Path) -> None:
    """Level 2 from YAML; the test after this one looks at the steps themselves."""
    config = tmp_path / "outer.yaml"
    file = third / "checkpoints/best.ckpt"
    config.write_text(
        "model:\n  optimizer:\n    class_path: LearnedOptimizer\n    init_args:\n      rule: " + str(file) + "\n"
        "trainer:\n  gradient_clip_val: 0.1\n"
    )
    small.l2l("fit", tmp_path, "--config", str(config), "--trainer.max_steps", "2")
    saved = checkpoint.read(tmp_path / "outer/version_0/checkpoints/last.ckpt")
    (group,) = saved["optimizer_states"][0]["param_groups"]
    assert group["rule"]["class_path"] == "l2l_lightning.rules.CoordinatewiseLSTM"
    assert group["rule"]["init_args"]["hidden_size"] == 4
    states = saved["optimizer_states"][0]["state"]
    assert {int(state["step"]) for state in states.values()} == {2}


def test_a_learned_outer_optimizer_steps_as_it_does_in_a_plain_loop(third: Path, tmp_path: Path) -> None:
    rule = rule_file.load(third / "checkpoints/best.ckpt")
    found, plain = (small.module(optimizer=lambda params: LearnedOptimizer(params, rule)) for _ in range(2))
    small.trainer(tmp_path, max_epochs=1).fit(found, small.data())

    optimizer = LearnedOptimizer(plain.trainable(), rule)
    for window in small.data().train_dataloader():
        plain.on_train_batch_start(window, 0)
        plain.windows += 1
        walked = backpropagate(plain.rule, plain.problems, plain.population.inner, window, plain.objective)
        plain.population.inner = walked.state
        optimizer.zero_grad()
        walked.meta_loss.backward()
        optimizer.step()
    for one, other in zip(found.trainable(), plain.trainable(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_run_with_a_learned_outer_optimizer_is_resumed_bit_by_bit(tmp_path: Path) -> None:
    outer = ("--model.optimizer", "LearnedOptimizer", "--model.optimizer.rule", "adams-linear")
    for name, limits in (("whole", [20]), ("parts", [7, 20])):
        for limit in limits:
            again = ("--ckpt_path", "last") if limit != limits[0] else ()
            small.l2l("fit", tmp_path / name, *outer, *again, "--trainer.max_steps", str(limit))
    last = [tmp_path / name / "quadratic_smoke/version_0/checkpoints/last.ckpt" for name in ("whole", "parts")]
    assert_same_training(*last)


def test_the_third_network_trains_and_resumes_bit_by_bit(tmp_path: Path) -> None:
    for name, limits in (("whole", [8]), ("parts", [3, 8])):
        for limit in limits:
            again = ("--ckpt_path", "last") if limit != limits[0] else ()
            words = [*shrunk(), *again, "--trainer.max_steps", str(limit), "--trainer.limit_val_batches", "0"]
            small.l2l("fit", tmp_path / name, *words, config=CONFIG)
    last = [tmp_path / name / "optimizer_cubed/version_0/checkpoints/last.ckpt" for name in ("whole", "parts")]
    assert_same_training(*last)


def test_it_moves_to_other_second_networks_and_to_ordinary_problems(third: Path, tmp_path: Path) -> None:
    lstm = tmp_path / "lstm.yaml"
    lstm.write_text(
        """
model:
  unroll: 2
  optimizee:
    class_path: MetaTrainingProblem
    init_args:
      unroll: 3
      rule: {class_path: CoordinatewiseLSTM, init_args: {layers: 1, hidden_size: 3}}
      optimizee: {class_path: Quadratic, init_args: {dim: 2}}
  baselines: {rules: [Adam], learning_rates: [0.01]}
data:
  class_path: MetaTrainingDataModule
  init_args:
    inner: {class_path: QuadraticDataModule, init_args: {dim: 2, problems: 3}}
    steps: 4
    test_problems: 3
    tuning_problems: 2
"""
    )
    folder = tmp_path / "transfer"
    targets = ["--to", str(lstm), str(small.CONFIG), "--output_dir", str(folder)]
    main(["transfer", "--ckpt_path", str(third / "checkpoints/best.ckpt"), *targets, "--trainer.accelerator", "cpu"])
    for name in ("lstm", "quadratic_smoke"):
        learned = json.loads((folder / name / "test.json").read_text())["contenders"]["learned"]
        assert 0 < learned["mean_loss"]["mean"] < 100
        assert learned["diverged"] == 0


def test_compare_rebuilds_the_nested_problem_that_a_checkpoint_describes(third: Path, tmp_path: Path) -> None:
    words = ["--rules", "[Adam]", "--learning_rates", "0.01", "--output_dir", str(tmp_path / "out")]
    main(["compare", "--ckpt_path", str(third / "checkpoints/best.ckpt"), *words])
    assert "MetaTrainingProblem" in (tmp_path / "out/table.md").read_text()


def test_the_folder_of_inner_images_is_the_user_s_own(mnist_root: Path, tmp_path: Path) -> None:
    """It is not in what a file is said to be trained on, and ``--root`` of ``l2l compare`` reaches it."""
    config = tmp_path / "images.yaml"
    config.write_text(
        """
model:
  unroll: 2
  rule: {class_path: CoordinatewiseLSTM, init_args: {layers: 1, hidden_size: 3}}
  optimizee:
    class_path: MetaTrainingProblem
    init_args:
      unroll: 2
      rule: {class_path: KMomentums, init_args: {k: 2, hidden_size: 2}}
      optimizee: {class_path: ImageMLP, init_args: {hidden_sizes: [3]}}
data:
  class_path: MetaTrainingDataModule
  init_args:
    inner: {class_path: MNISTDataModule, init_args: {problems: 1, batch_size: 4}}
    problems: 2
    steps: 2
    test_problems: 2
    tuning_problems: 2
"""
    )
    own = [
        "--data.init_args.inner.init_args.root",
        str(mnist_root),
        "--data.init_args.inner.init_args.download",
        "false",
    ]
    small.l2l("fit", tmp_path, *own, "--trainer.max_steps", "1", "--trainer.limit_val_batches", "0", config=config)
    file = tmp_path / "images/version_0/checkpoints/last.ckpt"
    assert str(mnist_root) not in json.dumps(rule_file.trained_on(file))
    words = ["--rules", "[Adam]", "--learning_rates", "0.01", "--output_dir", str(tmp_path / "out")]
    main(["compare", "--ckpt_path", str(file), *words, "--root", str(mnist_root)])
    assert "MetaTrainingProblem" in (tmp_path / "out/table.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("--model.optimizer.rule", "nosuch.ckpt"),
            "model.optimizer cannot be built: InputError: nosuch.ckpt is neither a",
        ),
        (
            ("--model.optimizer.rule", "momentums", "--model.optimizer.lr", "-1"),
            "lr must be a number of at least 0, got -1",
        ),
        (("--model.optimizer.role", "momentums"), "role"),
        ((), "rule"),
    ],
)
def test_a_mistake_in_a_learned_outer_optimizer_gets_one_sentence(
    capsys: pytest.CaptureFixture, tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    assert sentence in mistake(capsys, tmp_path, "--model.optimizer", "LearnedOptimizer", *arguments)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"model.optimizee": "Quadratic"},
            "MetaTrainingDataModule draws problems for a MetaTrainingProblem, got a Quadratic",
        ),
        (
            {"model.optimizee.init_args.rule": "MetaTrainingProblem"},
            "rule: the class MetaTrainingProblem does not fit here",
        ),
        ({"data.init_args.inner.init_args.dim": 3}, r"Quadratic cannot be evaluated on W (3, 3), y (3,)"),
        ({"model.optimizee.init_args.rule": "SGD"}, "MetaTrainingProblem: SGD has no parameters to train"),
        ({"model.optimizee.init_args.unroll": 0}, "MetaTrainingProblem: unroll must be a positive integer, got 0"),
    ],
)
def test_a_mistake_in_nested_training_gets_one_sentence(
    capsys: pytest.CaptureFixture, tmp_path: Path, changes: dict[str, object], sentence: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        small.l2l("fit", tmp_path, *shrunk(**changes), config=CONFIG)
    said = f"{stop.value.code}{capsys.readouterr().err}"
    assert sentence in said
    assert "Traceback" not in said


def test_nested_training_runs_in_double_precision(tmp_path: Path) -> None:
    small.l2l("fit", tmp_path, *shrunk(), "--trainer.precision", "64-true", config=CONFIG)
    saved = checkpoint.read(tmp_path / "optimizer_cubed/version_0/checkpoints/last.ckpt")
    assert saved["l2l_lightning"]["processes"][0]["inner"]["theta"].dtype == torch.float64
