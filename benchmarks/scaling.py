"""X: time and peak memory of a window against n, B and U, and how fast they grow."""

import math
from pathlib import Path
from statistics import median

from benchmarks.child import Reading, train

Point = tuple[int, int, int]  # n, B, U
GRIDS: dict[str, list[Point]] = {
    "n": [(n, 1, 20) for n in (100, 1_000, 10_000, 30_000, 100_000, 300_000)],
    "B": [(100, b, 20) for b in (1, 4, 16, 64, 256, 1024)],
    "U": [(10_000, 1, u) for u in (5, 10, 20, 40, 80)],
}
LABELS = {
    "n": "coordinates n (B = 1, U = 20)",
    "B": "problems B (n = 100, U = 20)",
    "U": "unroll U (n = 10,000, B = 1)",
}
TRAININGS = {"n": ("ours", "4096 sampled"), "B": ("ours",), "U": ("ours", "4096 sampled")}
FITTED = 3  # the largest points of a grid: those below are bound by overhead


def measure_scaling(repetitions: int, seconds: float, threads: int) -> dict[str, dict[str, list[Reading]]]:
    """Axis -> training -> one reading a point: ``seconds`` of a window and ``added`` MiB, medians over repetitions."""
    return {
        axis: {
            training: [_measure(point, training, repetitions, seconds, threads) for point in points]
            for training in TRAININGS[axis]
        }
        for axis, points in GRIDS.items()
    }


def _measure(point: Point, training: str, repetitions: int, seconds: float, threads: int) -> Reading:
    name = ",".join(map(str, point))
    readings = [train(name, training, threads, seconds=seconds) for _ in range(repetitions)]
    return {
        "seconds": median(point[2] / reading["steps_per_second"] for reading in readings),
        "added": median(reading["peak"] - reading["baseline"] for reading in readings),
    }


def exponent(axis: str, readings: list[Reading]) -> float:
    """Slope of log seconds over log size, least squares over the largest points; 1 is linear."""
    place = "nBU".index(axis)
    xs = [math.log(point[place]) for point in GRIDS[axis][-FITTED:]]
    ys = [math.log(reading["seconds"]) for reading in readings[-FITTED:]]
    mean_x, mean_y = sum(xs) / FITTED, sum(ys) / FITTED
    covariance = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return covariance / sum((x - mean_x) ** 2 for x in xs)


def scaling_rows(scaling: dict[str, dict[str, list[Reading]]]) -> list[list[str]]:
    """One row an axis and training: from the smallest to the largest point."""
    return [
        [
            f"X {axis}",
            training,
            *(f"{readings[end]['seconds']:.3g}" for end in (0, -1)),
            f"{exponent(axis, readings):.2f}",
            *(f"{readings[end]['added']:.0f}" for end in (0, -1)),
        ]
        for axis, trainings in scaling.items()
        for training, readings in trainings.items()
    ]


def draw_scaling(scaling: dict[str, dict[str, list[Reading]]], path: Path) -> None:
    """The figure: time above, memory below, one column an axis."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6), layout="constrained")
    panels = figure.subplots(2, len(GRIDS), sharey="row")
    for column, (axis, trainings) in enumerate(scaling.items()):
        sizes = [point["nBU".index(axis)] for point in GRIDS[axis]]
        for training, readings in trainings.items():
            label = "all coordinates" if training == "ours" else "4,096 coordinates sampled"
            slope = f"{label}: exponent {exponent(axis, readings):.2f}"
            panels[0, column].plot(sizes, [reading["seconds"] for reading in readings], "o-", label=slope)
            panels[1, column].plot(sizes, [reading["added"] for reading in readings], "o-", label=label)
        for panel in panels[:, column]:
            panel.set(xscale="log", yscale="log")
            panel.set_xticks(sizes, [f"{size // 1000}k" if size >= 1000 else str(size) for size in sizes])
            panel.xaxis.minorticks_off()
            panel.grid(alpha=0.3)
        panels[0, column].legend(fontsize=8)
        panels[1, column].set_xlabel(LABELS[axis])
    panels[0, 0].set_ylabel("seconds a window")
    panels[1, 0].set_ylabel("peak memory added, MiB")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
