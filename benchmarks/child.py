"""Measurements in processes of their own."""

import json
import os
import subprocess
import sys
from typing import Any

# This process imports no PyTorch: a child's peak memory starts at that of the process which it was forked from.

Reading = dict[str, Any]  # see Meter.reading


def train(setting: str, training: str, threads: int, **limits: float) -> Reading:
    """One training in a process of its own."""
    reading = child("benchmarks.worker", setting, training, threads=threads, **limits)
    print(f"{setting} {training}: {reading['steps_per_second']:.1f} inner steps/s", file=sys.stderr)
    return reading


def child(module: str, *words: str, threads: int, **options: float) -> Reading:
    """What a module of the benchmark prints, in a process of its own."""
    command = [sys.executable, "-m", module, *words, "--threads", str(threads)]
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    reading: Reading = json.loads(done.stdout.splitlines()[-1])
    return reading
