"""``python -m benchmarks`` runs from end to end."""

import json
import subprocess
import sys


def test_quick_run_prints_a_table_and_writes_every_reading(tmp_path):
    output = tmp_path / "results" / "quick.json"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--output", str(output)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout

    result = json.loads(output.read_text())
    assert {name: list(trainings) for name, trainings in result["readings"].items()} == {
        "Q": ["plain", "ours", "lightning"],
        "M": ["plain", "ours"],
    }
    for trainings in result["readings"].values():
        for (reading,) in trainings.values():
            assert reading["steps_per_second"] > 0
            assert 0 < reading["baseline"] < reading["peak"]
    assert result["memory_check"]["windows"] == 20
    assert printed.count("\n| ") == 7  # header, rule and one row a training
    assert "growth" in printed
