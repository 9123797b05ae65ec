"""Runs every training in fresh processes, turn by turn, and prints one table."""

import argparse
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path

from benchmarks.child import Reading, child, train
from benchmarks.scaling import draw_scaling, measure_scaling, scaling_rows
from benchmarks.tables import markdown, speed_rows, step_rows

# The first training of a setting is the yardstick of the others.
TRAININGS = {
    "Q": ("plain", "ours", "compiled", "lightning"),
    "M": ("plain", "ours", "compiled", "4096 sampled", "1024 sampled"),
    "M8": ("plain", "ours", "4096 sampled"),
    "C": ("no learning", "4096 sampled", "ours"),
}
WORKLOADS = {
    "Q": "quadratics of dim 10, B = 128, unroll 20",
    "M": "MNIST MLP of 15,910 parameters, batch 128, B = 1, unroll 20; sampled: coordinates in the meta-gradient",
    "M8": "the same with B = 8",
    "C": "ConvCifar_0 of 1,068,298 parameters, batch 32, B = 1, unroll 20; no learning: no meta-gradient at all",
}

STEPS = {
    "T": "one step of a rule without graph on the MNIST MLP of M, alone and with the network's gradient",
    "S": "one step of LearnedOptimizer, in ns a parameter",
}
SIZES = (10_000, 100_000, 1_000_000, 10_000_000, 100_000_000)  # parameters, for S
SCALING = {"X": "a sum of squares, seconds of a window against n, B and U; exponent 1 is linear"}
EVERYTHING = WORKLOADS | STEPS | SCALING


def measure_steps(setting: str, repetitions: int, threads: int) -> dict[str, Reading]:
    """Column -> contender -> ``seconds`` of a step, and for S ``bytes`` of its state."""
    columns = ["rule", "inner"] if setting == "T" else [str(size) for size in SIZES]
    return {column: child("benchmarks.steps", column, threads=threads, repetitions=repetitions) for column in columns}


def measure(
    setting: str, trainings: list[str], repetitions: int, seconds: float, threads: int
) -> dict[str, list[Reading]]:
    """Readings of the setting's trainings; they take turns, so that the noise of a shared machine hits all of them."""
    yardstick, *others = TRAININGS[setting]
    chosen = [yardstick, *(training for training in others if not trainings or training in trainings)]
    readings: dict[str, list[Reading]] = {training: [] for training in chosen}
    for _ in range(repetitions):
        for training, mine in readings.items():
            mine.append(train(setting, training, threads, seconds=seconds))
    return readings


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
        epilog="; ".join(f"{name}: {text}" for name, text in EVERYTHING.items()),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    names = list(EVERYTHING)
    parser.add_argument("--settings", nargs="+", choices=names, help="what to measure; all of them where none is given")
    kinds = list(dict.fromkeys(training for kinds in TRAININGS.values() for training in kinds[1:]))
    parser.add_argument("--trainings", nargs="+", choices=kinds, default=[], help="beside the first one; none: all")
    parser.add_argument("--repetitions", type=int, default=5, help="processes for each training")
    parser.add_argument("--seconds", type=float, default=6.0, help="measured time of one repetition")
    parser.add_argument("--windows", type=int, default=5000, help="length of the memory check on Q; 0 leaves it out")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all readings there, as JSON")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the scaling there")
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run of Q and T in two minutes; its numbers mean little"
    )
    args = parser.parse_args()
    args.settings = args.settings or (["Q", "T"] if args.quick else names)
    if args.quick:
        args.repetitions, args.seconds, args.windows = 1, 0.5, min(args.windows, 20)
    if args.repetitions < 1 or args.threads < 1 or args.seconds <= 0:
        parser.error("--repetitions, --threads and --seconds must be positive")
    if args.figure and "X" not in args.settings:
        parser.error("--figure draws the setting X")
    if 0 < args.windows < 10 or args.windows < 0:
        parser.error("--windows must be 0 or at least 10")
    return args


def main() -> None:
    """Measure, print, save."""
    args = parse_arguments()
    trainings = [name for name in args.settings if name in WORKLOADS]
    readings = {name: measure(name, args.trainings, args.repetitions, args.seconds, args.threads) for name in trainings}
    steps = {name: measure_steps(name, args.repetitions, args.threads) for name in args.settings if name in STEPS}
    scaling = measure_scaling(args.repetitions, args.seconds, args.threads) if "X" in args.settings else {}
    checked = args.windows and "Q" in args.settings
    memory = train("Q", "lightning", args.threads, windows=args.windows) if checked else None

    print(", ".join(f"{name} {value}" for name, value in (machine() | versions() | {"threads": args.threads}).items()))
    for name in args.settings:
        print(f"{name}: {EVERYTHING[name]}")
    print(f"medians of {args.repetitions} repetitions; memory in MiB, before = after imports and data set\n")
    if trainings:
        header = ["setting", "training", "inner steps/s", "min - max", "/ first", "before", "peak", "added"]
        print(markdown(header, [row for name in trainings for row in speed_rows(name, readings[name])]))
    for name, columns in steps.items():
        sizes = [f"ns at {size:,}" for size in SIZES]
        heads = ["step, us", "/ Adam", "with gradient, us", "/ Adam"] if name == "T" else [*sizes, "bytes of state"]
        print("\n" + markdown(["setting", "step", *heads], step_rows(name, columns)))
    if scaling:
        heads = ["s at smallest", "s at largest", "exponent", "MiB at smallest", "MiB at largest"]
        print("\n" + markdown(["setting", "training", *heads], scaling_rows(scaling)))
        if args.figure:
            draw_scaling(scaling, args.figure)
            print(f"\nfigure: {args.figure}")
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
            "scaling": scaling,
            "memory_check": memory,
        }
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
