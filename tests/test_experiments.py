"""The promises of the README: learned optimizers that beat every tuned hand-made one on problems never seen."""

import json
from pathlib import Path

import pytest
import small

CONFIGS = small.CONFIG.parent


def ratios(folder: Path, name: str, *arguments: str) -> dict[str, float]:
    """Train and test a configuration: the learned rule's losses over those of the best tuned baseline."""
    config = CONFIGS / f"{name}.yaml"
    small.l2l("fit", folder, *arguments, config=config)
    small.l2l("test", folder, *arguments, "--ckpt_path", "best", config=config)
    (report,) = folder.glob(f"{name}/version_0/test/version_0/test.json")
    return json.loads(report.read_text())["ratio_to_best_baseline"]


def test_half_a_minute_on_quadratics_beats_every_tuned_baseline_over_the_trajectory(tmp_path: Path) -> None:
    schedule = ("--trainer.max_epochs", "2", "--model.lr_scheduler.init_args.T_max", "500")
    assert ratios(tmp_path, "quadratic_lstm", *schedule)["mean_loss"] < 0.9


@pytest.mark.slow
def test_quadratics_reach_three_quarters_of_the_best_baseline_s_mean_loss(tmp_path: Path) -> None:
    found = ratios(tmp_path, "quadratic_lstm")
    assert found["mean_loss"] < 0.75
    assert found["final_loss"] < 0.6


@pytest.mark.slow
def test_mnist_beats_every_tuned_baseline_over_the_trajectory(tmp_path: Path, mnist_root: Path) -> None:
    assert ratios(tmp_path, "mnist_mlp_lstm", "--data.init_args.root", str(mnist_root))["mean_loss"] < 1.0


def test_half_a_minute_makes_an_outer_optimizer_that_beats_tuned_adam(tmp_path: Path) -> None:
    """Optimizer cubed on smaller networks, 60 windows; scored on 16 trainings of new rules on new problems."""
    smaller = {
        "model.unroll": 10,
        "model.rule.init_args.layers": 1,
        "model.rule.init_args.hidden_size": 10,
        "model.optimizee.init_args.unroll": 10,
        "model.optimizee.init_args.rule.init_args.eta_min": 0.03,
        "model.optimizee.init_args.optimizee.init_args.dim": 5,
        "model.restarts.horizon.init_args.steps": 30,
        "model.baselines.rules": "[Adam]",
        "model.baselines.learning_rates": "[0.01, 0.03, 0.1]",
        "model.optimizer.init_args.lr": 0.01,
        "model.lr_scheduler.init_args.T_max": 60,
        "data.init_args.inner.init_args.dim": 5,
        "data.init_args.steps": 30,
        "data.init_args.windows_per_epoch": 60,
        "data.init_args.validation_problems": 16,
        "data.init_args.test_problems": 16,
        "data.init_args.tuning_problems": 8,
        "trainer.max_epochs": 1,
    }
    assert ratios(tmp_path, "optimizer_cubed", *small.options(smaller))["mean_loss"] < 1.0


@pytest.mark.slow
def test_an_lstm_that_trains_rules_beats_every_tuned_outer_optimizer(tmp_path: Path) -> None:
    found = ratios(tmp_path, "optimizer_cubed")
    assert found["mean_loss"] < 0.97
    assert found["final_loss"] < 0.97
