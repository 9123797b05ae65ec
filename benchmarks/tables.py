"""Rows and tables from readings."""

from statistics import median

from benchmarks.child import Reading


def speed_rows(setting: str, readings: dict[str, list[Reading]]) -> list[list[str]]:
    """One row a training: medians over the repetitions."""

    def values(training: str, name: str) -> list[float]:
        return [reading[name] for reading in readings[training]]

    rows = []
    for training in readings:
        speed, yardstick = values(training, "steps_per_second"), values(next(iter(readings)), "steps_per_second")
        # Each repetition against its own neighbour: a slow minute of the machine cancels.
        ratio = median(mine / other for mine, other in zip(speed, yardstick, strict=True))
        baseline, peak = median(values(training, "baseline")), median(values(training, "peak"))
        spread = f"{min(speed):.1f} - {max(speed):.1f}"
        memory = [f"{baseline:.0f}", f"{peak:.0f}", f"{peak - baseline:.0f}"]
        rows.append([setting, training, f"{median(speed):.1f}", spread, f"{ratio:.2f}", *memory])
    return rows


def step_rows(setting: str, columns: dict[str, Reading]) -> list[list[str]]:
    """One row a contender: T in microseconds and times Adam's, S in nanoseconds and bytes a parameter."""
    rows = []
    for name in next(iter(columns.values())):
        cells = []
        for column, readings in columns.items():
            if name not in readings:
                cells.append("-")
                continue
            seconds = readings[name]["seconds"]
            if setting == "T":
                cells += [f"{1e6 * seconds:.0f}", f"{seconds / readings['Adam']['seconds']:.2f}"]
            else:
                cells.append(f"{1e9 * seconds / int(column):.1f}")
        if setting == "S":
            column, readings = next(iter(columns.items()))
            cells.append(f"{readings[name]['bytes'] / int(column):.0f}")
        rows.append([setting, name, *cells])
    return rows


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """An aligned table; numbers to the right, the first two columns to the left."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: list[str]) -> str:
        aligned = [c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(aligned)} |"

    rule = ["-" * w if i < 2 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join(line(cells) for cells in (header, rule, *rows))
