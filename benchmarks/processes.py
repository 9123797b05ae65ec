"""What several processes on one machine bring: problem steps a second beside a single process, which take turns.

    python -m benchmarks.processes 1 2

Every process has B problems of its own and one thread, as ``torchrun`` starts them; a step of one problem is one
problem step. The efficiency is the ratio to as many times a single process.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from benchmarks.tables import markdown

RATE = "train/inner_steps_per_second"


def inner_steps_per_second(config: str, count: int, windows: int) -> float:
    """Of a training over ``count`` processes: the median over its logged values; one inner step moves all problems."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m"] if count > 1 else []
        command = [sys.executable, "-m", *launcher, "l2l_lightning.cli", "fit", "--config", config]
        options = {
            "trainer.default_root_dir": folder,
            "trainer.accelerator": "cpu",
            "trainer.devices": str(count),
            "trainer.strategy": "ddp" if count > 1 else "auto",
            "trainer.enable_progress_bar": "false",
            "trainer.limit_val_batches": "0",
            "trainer.max_epochs": "-1",
            "trainer.max_steps": str(windows),
            "name": "run",
            "num_threads": "1",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        subprocess.run([*command, *words], check=True, capture_output=True)
        events = EventAccumulator(str(Path(folder) / "run" / "version_0")).Reload()
        return median(event.value for event in events.Scalars(RATE))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser("python -m benchmarks.processes", description=__doc__.partition("\n")[0])
    parser.add_argument("counts", type=int, nargs="+", help="numbers of processes, measured beside a single one")
    parser.add_argument("--config", default="configs/quadratic_lstm.yaml", help="what is trained")
    parser.add_argument("--windows", type=int, default=400, help="of each training")
    parser.add_argument("--repetitions", type=int, default=3)
    args = parser.parse_args()
    if min(args.counts) < 1 or args.windows < 20 or args.repetitions < 1:
        parser.error("counts and --repetitions must be at least 1, --windows at least 20")
    readings: dict[int, list[float]] = {count: [] for count in sorted({1, *args.counts})}
    for _ in range(args.repetitions):
        for count, found in readings.items():
            found.append(inner_steps_per_second(args.config, count, args.windows))
    rates = {count: median(found) for count, found in readings.items()}
    rows = [
        [str(count), f"{rate:.0f}", f"{count * rate / rates[1]:.2f}", f"{rate / rates[1]:.0%}"]
        for count, rate in rates.items()
    ]
    print(markdown(["processes", "inner steps a second", "problem steps, ratio", "efficiency"], rows))


if __name__ == "__main__":
    main()
