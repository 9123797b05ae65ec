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
