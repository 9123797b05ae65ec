"""``python -m benchmarks`` runs from end to end."""

import json
import math
import subprocess
import sys
from math import inf

import pytest

from benchmarks import levels, scaling, steps
from benchmarks.meter import Meter
from benchmarks.settings import UNROLL, quadratics
from benchmarks.worker import TRAININGS


def test_quick_run_prints_a_table_and_writes_every_reading(tmp_path):
    output = tmp_path / "results" / "quick.json"
    command = [
        sys.executable,
        "-m",
        "benchmarks",
        "--quick",
        "--settings",
        "Q",
        "--trainings",
        "ours",
        "--output",
        str(output),
    ]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout

    result = json.loads(output.read_text())
    assert list(result["readings"]["Q"]) == ["plain", "ours"]
    for (reading,) in result["readings"]["Q"].values():
        assert reading["steps_per_second"] > 0
        assert 0 < reading["baseline"] < reading["peak"]
    assert result["memory_check"]["windows"] == 20
    assert printed.count("\n| ") == 4  # header, rule and one row a training
    assert "growth" in printed


@pytest.mark.parametrize("training", TRAININGS)
def test_a_training_stops_where_the_meter_says(training):
    meter = Meter(UNROLL, seconds=inf, windows=11)
    TRAININGS[training](quadratics(problems=4), meter)
    assert meter.reading()["windows"] == 11


def test_scaling_finds_exponents_and_draws_a_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "_measure", lambda point, *_: {"seconds": math.prod(point) ** 2, "added": 1.0})
    found = scaling.measure_scaling(1, 0.1, 1)
    assert [scaling.exponent(axis, found[axis]["ours"]) for axis in "nBU"] == pytest.approx([2, 2, 2])
    scaling.draw_scaling(found, tmp_path / "deep" / "scaling.png")
    assert (tmp_path / "deep" / "scaling.png").stat().st_size > 10_000
    assert [row[0] for row in scaling.scaling_rows(found)] == ["X n", "X n", "X B", "X U", "X U"]


def test_optimizers_that_do_not_fit_into_memory_are_left_out(monkeypatch):
    monkeypatch.setattr(steps, "TOGETHER", 10)
    monkeypatch.setattr(steps, "BYTES", {"LSTM (20, 20)": 1e12})
    found = steps.measure(100, 1, 0.001)
    assert "LSTM (20, 20)" not in found
    assert found["LA, k = 6"]["seconds"] > 0


@pytest.mark.parametrize(("level", "second_order"), [(1, False), (2, False), (3, False), (2, True), (3, True)])
def test_steps_of_all_levels_are_measured(level, second_order, monkeypatch):
    for name in ("TRAININGS", "INNER", "UNROLL", "DIM"):
        monkeypatch.setattr(levels, name, 2)
    reading = levels.measure(level, second_order, seconds=0.01, threads=1)
    assert reading["windows"] >= 3
    assert reading["steps_per_second"] > 0
