"""``python -m benchmarks`` runs from end to end."""

import json
import subprocess
import sys
from math import inf

import pytest

from benchmarks.meter import Meter
from benchmarks.settings import UNROLL, quadratics
from benchmarks.worker import TRAININGS


def test_quick_run_prints_a_table_and_writes_every_reading(tmp_path):
    output = tmp_path / "results" / "quick.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--settings", "M", "--output", str(output)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout

    result = json.loads(output.read_text())
    assert list(result["readings"]["M"]) == ["plain", "ours"]
    for (reading,) in result["readings"]["M"].values():
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
