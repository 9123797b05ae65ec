"""Estimates, the table and the values that are saved."""

import json

import pytest
import torch
from scipy import stats

from l2l_lightning.evaluation import plots
from l2l_lightning.evaluation.compare import LEARNED, Result
from l2l_lightning.evaluation.report import (
    Estimate,
    as_plain_values,
    ratio_to_best_baseline,
    summarize,
    table,
)

STEPS, PROBLEMS = 11, 5


def result(level: float, rate: float | None = 0.1) -> Result:
    decay = torch.linspace(1, 0.1, STEPS).unsqueeze(1)
    curve, metrics = level * decay * torch.linspace(0.5, 1.5, PROBLEMS), {"accuracy": torch.full((PROBLEMS,), 0.9)}
    return Result(rate, curve, metrics, learned=rate is None, seconds_per_step=1e-3)


def results() -> dict[str, Result]:
    diverged = result(3.0, rate=1.0)
    diverged.curve[4:, 2] = torch.inf
    return {LEARNED: result(0.5, rate=None), "Adam": result(1.0), "SGD": diverged}


def test_the_interval_is_student_s() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 8.0])
    estimate = Estimate.of(values)
    low, high = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    assert (estimate.mean - estimate.ci95, estimate.mean + estimate.ci95) == pytest.approx((low, high))


def test_intervals_cover_the_truth_about_95_times_in_100() -> None:
    covered = 0
    for draw in torch.randn(400, 8):
        estimate = Estimate.of(draw)
        covered += abs(estimate.mean) <= estimate.ci95
    assert 0.92 < covered / 400 < 0.98


def test_divergence_shows_as_such() -> None:
    summary = summarize(results())["SGD"]
    assert (summary.diverged, summary.problems) == (1, PROBLEMS)
    assert summary.final_loss.mean == torch.inf
    assert "inf" in table({"SGD": summary})
    assert "1/5" in table({"SGD": summary})


def test_the_best_comes_first_and_the_ratio_is_to_the_best_baseline() -> None:
    summaries = summarize(results())
    assert list(summaries) == [LEARNED, "Adam", "SGD"]
    assert ratio_to_best_baseline(summaries) == pytest.approx(0.5)
    assert ratio_to_best_baseline(summaries, "final_loss") == pytest.approx(0.5)
    assert torch.isnan(torch.tensor(ratio_to_best_baseline({LEARNED: summaries[LEARNED]})))


def test_the_table_is_aligned_markdown() -> None:
    lines = table(summarize(results())).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split(" | ")[-2].strip() == "accuracy"
    assert lines[2].startswith("| learned   | -")


def test_saved_values_are_strict_json_without_infinities() -> None:
    text = json.dumps(as_plain_values(summarize(results())), allow_nan=False)
    saved = json.loads(text)
    assert saved["contenders"]["SGD"]["final_loss"] == {"mean": None, "ci95": None}
    assert saved["ratio_to_best_baseline"]["mean_loss"] == pytest.approx(0.5)


def test_the_figure_has_a_line_for_every_contender_and_marks_divergence() -> None:
    figure = plots.curves(results(), "title")
    (axes,) = figure.axes
    labels = [line.get_label() for line in axes.lines]
    assert labels == [LEARNED, "Adam (0.1)", "SGD (1), diverged"]
    assert [len(line.get_xdata()) for line in axes.lines] == [STEPS, STEPS, 4]
    assert axes.get_yscale() == "log"
