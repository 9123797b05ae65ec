"""Figures of merit with confidence intervals, as a table and as plain values."""

from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from l2l_lightning.evaluation.compare import LEARNED, Result


@dataclass
class Estimate:
    """A mean over problems.

    Attributes:
        mean: the mean; inf where a problem diverged.
        ci95: half the width of its 95 % confidence interval by Student's t; nan for fewer than two problems or where a
            problem diverged.
    """

    mean: float
    ci95: float

    @classmethod
    def of(cls, values: Tensor) -> "Estimate":
        """Estimate from one value a problem, (V,)."""
        count = len(values)
        mean = float(values.double().mean())
        if count < 2 or not torch.isfinite(values).all():
            return cls(mean, float("nan"))
        return cls(mean, float(stats.t.ppf(0.975, count - 1) * values.double().std() / count**0.5))

    def __str__(self) -> str:
        return f"{self.mean:.4g}" if self.ci95 != self.ci95 else f"{self.mean:.4g} ± {self.ci95:.2g}"


@dataclass
class Summary:
    """What the table shows of one contender.

    Attributes:
        learning_rate: tuned rate, None for a learned rule.
        final_loss: loss at the last point.
        mean_loss: mean over the points of the trajectory.
        diverged: number of problems whose loss or gradient was not finite at some point.
        problems: number of problems.
        metrics: the optimizee's metrics on held-out data.
        learned: whether it is a learned rule; the others are baselines.
    """

    learning_rate: float | None
    final_loss: Estimate
    mean_loss: Estimate
    diverged: int
    problems: int
    metrics: dict[str, Estimate]
    learned: bool

    @classmethod
    def of(cls, result: Result) -> "Summary":
        """Summarize curves (T+1, V)."""
        final = result.curve[-1]
        return cls(
            result.learning_rate,
            Estimate.of(final),
            Estimate.of(result.curve.mean(0)),
            int((~torch.isfinite(final)).sum()),
            len(final),
            {name: Estimate.of(values) for name, values in result.metrics.items()},
            result.learned,
        )


def summarize(results: dict[str, Result]) -> dict[str, Summary]:
    """Summaries by name, best mean loss first."""
    summaries = {name: Summary.of(result) for name, result in results.items()}
    return dict(sorted(summaries.items(), key=lambda item: item[1].mean_loss.mean))


def best_baseline(summaries: dict[str, Summary], figure: str = "mean_loss") -> str | None:
    """Name of the baseline with the smallest ``mean_loss`` or ``final_loss``, None without baselines."""
    baselines = [name for name, summary in summaries.items() if not summary.learned]
    return min(baselines, key=lambda name: getattr(summaries[name], figure).mean, default=None)


def ratio_to_best_baseline(summaries: dict[str, Summary], figure: str = "mean_loss") -> float:
    """The best learned rule's ``mean_loss`` or ``final_loss`` over the smallest of any baseline; nan without both."""
    best = best_baseline(summaries, figure)
    learned = [getattr(summary, figure).mean for summary in summaries.values() if summary.learned]
    if best is None or not learned:
        return float("nan")
    least = getattr(summaries[best], figure).mean
    return min(learned) / least if least else float("nan")


def table(summaries: dict[str, Summary], further: dict[str, dict[str, str]] | None = None) -> str:
    """An aligned table, which is also Markdown; ``further`` columns by contender."""
    metrics = list(dict.fromkeys(name for summary in summaries.values() for name in summary.metrics))
    more = {} if further is None else further
    heads = next(iter(more.values()), {})
    rows = [["contender", "learning rate", "final loss", "mean loss", *metrics, "diverged", *heads]]
    for name, summary in summaries.items():
        rate = "-" if summary.learning_rate is None else f"{summary.learning_rate:g}"
        figures = [summary.final_loss, summary.mean_loss, *(summary.metrics[metric] for metric in metrics)]
        rows.append([name, rate, *map(str, figures), _diverged(summary), *more.get(name, {}).values()])
    return aligned(rows)


def transfer_table(targets: dict[str, dict[str, Summary]], coordinates: dict[str, int]) -> str:
    """The learned rule beside the best baseline of each target, and how their mean and final losses compare."""
    rows = [
        [
            "target",
            "coordinates",
            "learned mean loss",
            "best baseline (rate)",
            "its mean loss",
            "ratio",
            "ratio of final losses",
            "learned diverged",
        ]
    ]
    for target, summaries in targets.items():
        learned = summaries[LEARNED]
        figures = [f"{coordinates[target]:,}", str(learned.mean_loss), *_comparison(summaries), _diverged(learned)]
        rows.append([target, *figures])
    return aligned(rows)


def sweep_table(title: str, values: dict[str, dict[str, Summary]]) -> str:
    """The learned rule of each value, and how it compares with the best baseline on that value's problems."""
    rows = [[title, "final loss", "mean loss", "best baseline (rate)", "ratio", "ratio of final losses", "diverged"]]
    for value, summaries in values.items():
        learned, (baseline, _, *ratios) = summaries[LEARNED], _comparison(summaries)
        rows.append([value, str(learned.final_loss), str(learned.mean_loss), baseline, *ratios, _diverged(learned)])
    return aligned(rows)


def values_table(title: str, columns: dict[str, dict[str, Estimate]]) -> str:
    """One row a contender and one column a value; the least of each column is marked with a star."""
    names = list(next(iter(columns.values())))
    rows = [[title, *columns]]
    for name in names:
        best = {value: min(estimates, key=lambda key: estimates[key].mean) for value, estimates in columns.items()}
        cells = [f"{estimates[name]}{' *' if best[value] == name else ''}" for value, estimates in columns.items()]
        rows.append([name, *cells])
    return aligned(rows)


def _comparison(summaries: dict[str, Summary]) -> list[str]:
    """Best baseline with its rate, its mean loss, and the ratios of mean and final losses."""
    best = best_baseline(summaries)
    baseline = ["-", "-"]
    if best is not None:
        baseline = [f"{best} ({summaries[best].learning_rate:g})", str(summaries[best].mean_loss)]
    return [*baseline, *(f"{ratio_to_best_baseline(summaries, figure):.3f}" for figure in ("mean_loss", "final_loss"))]


def _diverged(summary: Summary) -> str:
    return f"{summary.diverged}/{summary.problems}"


def aligned(rows: list[list[str]]) -> str:
    """Rows, the first being the head, as Markdown."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def steps_to(results: dict[str, Result], loss: float | None) -> dict[str, int | None]:
    """Inner steps until a contender's mean loss first is at most ``loss``; None where it never is, or without one."""
    goal = float("-inf") if loss is None else loss
    reached = {name: (result.curve.double().mean(1) <= goal).nonzero() for name, result in results.items()}
    return {name: int(steps[0]) if len(steps) else None for name, steps in reached.items()}


def target_loss(summaries: dict[str, Summary]) -> float | None:
    """The final loss of the best baseline, None without one or where it diverged."""
    best = best_baseline(summaries)
    loss = float("inf") if best is None else summaries[best].final_loss.mean
    return loss if isfinite(loss) else None


def comparison_summary(targets: dict[str, dict[str, Result]], settings: dict[str, Any]) -> dict[str, Any]:
    """What ``l2l compare`` writes as ``summary.json``; docs/compare.md has its schema."""
    summary: dict[str, Any] = {"targets": {}, "settings": settings}
    for target, results in targets.items():
        summaries = summarize(results)
        values = as_plain_values(summaries)
        best, goal = best_baseline(summaries), target_loss(summaries)
        for name, steps in steps_to(results, goal).items():
            second = _clocked(results[name])
            values["contenders"][name] |= {
                "seconds_per_step": second,
                "steps_to_target": steps,
                "seconds_to_target": None if steps is None or second is None else steps * second,
            }
        summary["targets"][target] = values | {"best_baseline": best, "target_loss": goal}
    return summary


def _clocked(result: Result) -> float | None:
    """Seconds of a step, None where they were not measured."""
    return result.seconds_per_step if isfinite(result.seconds_per_step) else None


def comparison_table(targets: dict[str, dict[str, Result]]) -> str:
    """A table a target, with the steps and the time to the final loss of the best baseline."""
    parts = []
    for target, results in targets.items():
        summaries = summarize(results)
        goal = target_loss(summaries)
        further = {}
        for name, steps in steps_to(results, goal).items():
            seconds = _clocked(results[name])
            further[name] = {
                "ms a step": "-" if seconds is None else f"{1e3 * seconds:.2f}",
                "steps to target": "-" if steps is None else str(steps),
                "seconds to target": "-" if steps is None or seconds is None else f"{steps * seconds:.3g}",
            }
        lines = [f"## {target}", "", table(summaries, further), ""]
        if goal is not None:
            lines += [f"Target: the final loss of {best_baseline(summaries)}, {goal:.4g}.", ""]
        parts.append("\n".join(lines))
    return "\n".join(parts)


def as_plain_values(summaries: dict[str, Summary]) -> dict[str, Any]:
    """What goes into a JSON file; values that are not finite become null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return None if isinstance(value, float) and value - value != 0 else value

    return {
        "contenders": plain({name: asdict(summary) for name, summary in summaries.items()}),
        "ratio_to_best_baseline": plain(
            {figure: ratio_to_best_baseline(summaries, figure) for figure in ("mean_loss", "final_loss")}
        ),
    }
