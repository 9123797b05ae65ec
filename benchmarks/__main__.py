"""Runs every training in fresh processes, turn by turn, and prints one table."""

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

# This process imports no PyTorch: a child's peak memory starts at that of the process which it was forked from.

TRAININGS = {"Q": ("plain", "ours", "lightning"), "M": ("plain", "ours")}
WORKLOADS = {
    "Q": "quadratics of dim 10, B = 128, unroll 20",
    "M": "MNIST MLP of 15,910 parameters, batch 128, B = 1, unroll 20",
}

STEPS = {
    "T": "one step of a rule without graph on the MNIST MLP of M, alone and with the network's gradient",
    "S": "one step of LearnedOptimizer, in ns a parameter",
}
SIZES = (10_000, 100_000, 1_000_000)  # parameters, for S

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


def measure_steps(setting: str, repetitions: int, threads: int) -> dict[str, Reading]:
    """Column -> contender -> ``seconds`` of a step, and for S ``bytes`` of its state."""
    columns = ["rule", "inner"] if setting == "T" else [str(size) for size in SIZES]
    return {column: child("benchmarks.steps", column, threads=threads, repetitions=repetitions) for column in columns}


def step_rows(setting: str, columns: dict[str, Reading]) -> list[list[str]]:
    """One row a contender: T in microseconds and times Adam's, S in nanoseconds and bytes a parameter."""
    rows = []
    for name in next(iter(columns.values())):
        cells = []
        for column, readings in columns.items():
            seconds = readings[name]["seconds"]
            if setting == "T":
                cells += [f"{1e6 * seconds:.0f}", f"{seconds / readings['Adam']['seconds']:.2f}"]
            else:
                cells.append(f"{1e9 * seconds / int(column):.1f}")
        if setting == "S":
            cells.append(f"{readings[name]['bytes'] / int(column):.0f}")
        rows.append([setting, name, *cells])
    return rows


def measure(setting: str, repetitions: int, seconds: float, threads: int) -> dict[str, list[Reading]]:
    """Readings of every training; they take turns, so that the noise of a shared machine hits all of them."""
    readings: dict[str, list[Reading]] = {training: [] for training in TRAININGS[setting]}
    for _ in range(repetitions):
        for training, mine in readings.items():
            mine.append(train(setting, training, threads, seconds=seconds))
    return readings


def speed_rows(setting: str, readings: dict[str, list[Reading]]) -> list[list[str]]:
    """One row a training: medians over the repetitions."""

    def values(training: str, name: str) -> list[float]:
        return [reading[name] for reading in readings[training]]

    rows = []
    for training in readings:
        speed, plain = values(training, "steps_per_second"), values("plain", "steps_per_second")
        # Each repetition against its own neighbour: a slow minute of the machine cancels.
        ratio = median(mine / yardstick for mine, yardstick in zip(speed, plain, strict=True))
        baseline, peak = median(values(training, "baseline")), median(values(training, "peak"))
        spread = f"{min(speed):.1f} - {max(speed):.1f}"
        memory = [f"{baseline:.0f}", f"{peak:.0f}", f"{peak - baseline:.0f}"]
        rows.append([setting, training, f"{median(speed):.1f}", spread, f"{ratio:.2f}", *memory])
    return rows


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """An aligned table; numbers to the right, the first two columns to the left."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        aligned = [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(aligned)} |"

    rule = ["-" * w if i < 2 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join(line(cells) for cells in (header, rule, *rows))


def machine() -> dict[str, str | int | None]:
    """Model and logical cores of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        model = platform.processor() or platform.machine()
    return {"cpu": model, "cores": os.cpu_count()}


def versions() -> dict[str, str]:
    """Python and the packages that matter for speed."""
    packages = ("torch", "lightning", "l2l_lightning")
    return {"python": platform.python_version()} | {package: version(package) for package in packages}


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Speed and memory of meta-training a coordinatewise LSTM: ours against a plain PyTorch loop.",
        epilog="; ".join(f"{name}: {text}" for name, text in (WORKLOADS | STEPS).items()),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    everything = [*WORKLOADS, *STEPS]
    parser.add_argument("--settings", nargs="+", choices=everything, default=everything, help="what to measure")
    parser.add_argument("--repetitions", type=int, default=5, help="processes for each training")
    parser.add_argument("--seconds", type=float, default=6.0, help="measured time of one repetition")
    parser.add_argument("--windows", type=int, default=2000, help="length of the memory check on Q; 0 leaves it out")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all readings there, as JSON")
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run of one or two minutes; its numbers mean little"
    )
    args = parser.parse_args()
    if args.quick:
        args.repetitions, args.seconds, args.windows = 1, 0.5, min(args.windows, 20)
    if args.repetitions < 1 or args.threads < 1 or args.seconds <= 0:
        parser.error("--repetitions, --threads and --seconds must be positive")
    if 0 < args.windows < 10 or args.windows < 0:
        parser.error("--windows must be 0 or at least 10")
    return args


def main() -> None:
    """Measure, print, save."""
    args = parse_arguments()
    trainings = [name for name in args.settings if name in WORKLOADS]
    readings = {name: measure(name, args.repetitions, args.seconds, args.threads) for name in trainings}
    steps = {name: measure_steps(name, args.repetitions, args.threads) for name in args.settings if name in STEPS}
    memory = train("Q", "lightning", args.threads, windows=args.windows) if args.windows and trainings else None

    print(", ".join(f"{name} {value}" for name, value in (machine() | versions() | {"threads": args.threads}).items()))
    for name in args.settings:
        print(f"{name}: {(WORKLOADS | STEPS)[name]}")
    print(f"medians of {args.repetitions} repetitions; memory in MiB, before = after imports and data set\n")
    if trainings:
        header = ["setting", "training", "inner steps/s", "min - max", "/ plain", "before", "peak", "added"]
        print(markdown(header, [row for name in trainings for row in speed_rows(name, readings[name])]))
    for name, columns in steps.items():
        sizes = [f"ns at {size:,}" for size in SIZES]
        heads = ["step, us", "/ Adam", "with gradient, us", "/ Adam"] if name == "T" else [*sizes, "bytes of state"]
        print("\n" + markdown(["setting", "step", *heads], step_rows(name, columns)))
    if memory:
        growth = 100 * (memory["end"] / memory["settled"] - 1)
        print(
            f"\nQ through Lightning: {memory['settled']:.0f} MiB after {args.windows // 10} windows, "
            f"{memory['end']:.0f} MiB after {args.windows}: growth {growth:+.1f} %"
        )
    if args.output:
        result = {
            "machine": machine(),
            "versions": versions(),
            "threads": args.threads,
            "seconds": args.seconds,
            "readings": readings,
            "steps": steps,
            "memory_check": memory,
        }
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
