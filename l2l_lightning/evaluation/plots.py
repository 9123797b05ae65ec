"""Figures, drawn without a display."""

from math import ceil, isfinite, nan, sqrt

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from l2l_lightning.evaluation.compare import LEARNED, Result
from l2l_lightning.evaluation.report import Estimate, best_baseline, summarize


def curves(results: dict[str, Result], title: str) -> Figure:
    """Mean loss (log scale) against inner steps, with 95 % confidence intervals over problems shaded.

    Contenders that diverged on some problem are drawn up to the first such step and marked in the legend.
    """
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    _draw_curves(figure.add_subplot(), results, title)
    return figure


def panels(targets: dict[str, dict[str, Result]], by_time: bool = False) -> Figure:
    """``curves`` of several targets side by side, at most three in a row, against steps or against seconds."""
    columns = min(len(targets), 3)
    rows = ceil(len(targets) / columns)
    figure = Figure(figsize=(5.5 * columns, 4.2 * rows), dpi=110, layout="constrained")
    for place, (name, results) in enumerate(targets.items()):
        _draw_curves(figure.add_subplot(rows, columns, place + 1), results, name, by_time)
    return figure


def strips(targets: dict[str, dict[str, Result]]) -> Figure:
    """Final losses of all problems as points, a row a contender, the mean as a bar; what diverged is not drawn."""
    most = max(map(len, targets.values()))
    figure = Figure(figsize=(5.5 * len(targets), 1 + 0.4 * most), dpi=110, layout="constrained")
    for place, (target, results) in enumerate(targets.items()):
        axes = figure.add_subplot(1, len(targets), place + 1)
        best_first, places = list(reversed(summarize(results))), list(results)
        for row, name in enumerate(best_first):
            final = results[name].curve[-1].double().cpu()
            final = final[torch.isfinite(final)]
            spread = torch.linspace(-0.25, 0.25, max(len(final), 1), dtype=torch.float64)[: len(final)] + row
            colour = "black" if results[name].learned else f"C{places.index(name) % 10}"
            axes.scatter(final, spread, s=9, alpha=0.5, color=colour, linewidths=0)
            if len(final):
                axes.vlines(float(final.mean()), row - 0.4, row + 0.4, color=colour)
        axes.set_yticks(range(len(best_first)), best_first)
        finals = torch.cat([result.curve[-1] for result in results.values()])
        finals = finals[torch.isfinite(finals)]
        if len(finals) and bool((finals > 0).all()):
            axes.set_xscale("log")
        axes.set(xlabel="final loss", title=target)
        axes.grid(alpha=0.3, axis="x", linewidth=0.5)
    return figure


def profile(targets: dict[str, dict[str, Result]]) -> Figure:
    """Performance profile (Dolan and More 2002) over all problems of all targets, by the mean loss of a trajectory.

    The height at r is the share of problems on which a contender's loss is at most r times that of the best there.
    Losses must be positive.
    """
    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    names = [name for name in next(iter(targets.values())) if all(name in results for results in targets.values())]
    losses = torch.stack(
        [torch.cat([results[name].curve.double().cpu().mean(0) for results in targets.values()]) for name in names]
    )
    ratios = losses / losses.amin(0)
    learned = {name for results in targets.values() for name, result in results.items() if result.learned}
    for name, own in zip(names, ratios, strict=True):
        reached = own[torch.isfinite(own)].sort().values
        share = torch.arange(1, len(reached) + 1) / len(own)
        style = {"color": "black", "linewidth": 2.5} if name in learned and len(learned) == 1 else {"linewidth": 1.3}
        axes.step([1.0, *reached.tolist()], [0.0, *share.tolist()], where="post", label=name, **style)
    axes.set_xscale("log")
    axes.set(xlabel="mean loss, times that of the best contender", ylabel="share of problems", ylim=(0, 1.02))
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
    axes.legend(fontsize="small")
    return figure


def sweep(title: str, values: dict[str, dict[str, Result]]) -> Figure:
    """Learned curves, one a value of the option, beside their final and mean losses with 95 % confidence intervals.

    Dashed lines are the smallest loss of any tuned baseline on the same value's problems. What diverged is not drawn.
    """
    figure = Figure(figsize=(12, 4.5), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_curves(left, {f"{title} {value}": results[LEARNED] for value, results in values.items()}, "learned rules")
    summaries = [summarize(results) for results in values.values()]
    drawn: list[float] = []
    for attribute, colour in (("final_loss", "C0"), ("mean_loss", "C1")):
        learned: list[Estimate] = [getattr(summary[LEARNED], attribute) for summary in summaries]
        means, halves = [_drawn(e.mean) for e in learned], [_drawn(e.ci95) for e in learned]
        drawn += means
        name = attribute.replace("_", " ")
        right.errorbar(range(len(means)), means, halves, color=colour, fmt="o-", capsize=3, label=name)
        best = [best_baseline(summary, attribute) for summary in summaries]
        if all(best):
            levels = [_drawn(getattr(s[b], attribute).mean) for s, b in zip(summaries, best, strict=True) if b]
            right.plot(levels, color=colour, linestyle="--", linewidth=1, label=f"{name} of the best baseline")
    right.set_xticks(range(len(values)), list(values))
    right.set(xlabel=title, ylabel="loss", title="losses by value")
    if any(mean > 0 for mean in drawn):
        right.set_yscale("log")
    right.grid(alpha=0.3, which="both", linewidth=0.5)
    right.legend(fontsize="small")
    return figure


def heatmap(columns: dict[str, dict[str, Estimate]], label: str = "learning rate") -> Figure:
    """Means, each column divided by its largest finite one, the least darkest (figure 4.5 of Shahid 2017)."""
    names = list(next(iter(columns.values())))
    figure = Figure(figsize=(2 + 0.9 * len(columns), 1.5 + 0.45 * len(names)), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    means = torch.tensor([[columns[value][name].mean for value in columns] for name in names])
    finite = torch.where(torch.isfinite(means), means, torch.nan)
    shades = finite / torch.nan_to_num(finite, nan=0.0).amax(0).clamp_min(torch.finfo(finite.dtype).tiny)
    image = axes.imshow(shades.numpy(), cmap="gray", aspect="auto", vmin=0, vmax=1)
    for row in range(len(names)):
        for column in range(len(columns)):
            shade = float(shades[row, column])
            text = f"{float(means[row, column]):.3g}"
            colour = "black" if shade != shade or shade > 0.5 else "white"
            axes.text(column, row, text, ha="center", va="center", fontsize="x-small", color=colour)
    axes.set_xticks(range(len(columns)), list(columns), rotation=30)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel=label, title="mean loss")
    figure.colorbar(image, label="divided by the largest of the column")
    return figure


def _drawn(value: float) -> float:
    """nan, which matplotlib leaves out, for what is not finite."""
    return value if isfinite(value) else nan


def _draw_curves(axes: Axes, results: dict[str, Result], title: str, by_time: bool = False) -> None:
    single = sum(result.learned for result in results.values()) == 1
    colours = colormaps["tab20" if len(results) > 10 else "tab10"].colors  # type: ignore[attr-defined]
    longest = max(len(result.curve) for result in results.values())
    smooth = max(1, longest // 150)
    if by_time:
        results = {name: result for name, result in results.items() if isfinite(result.seconds_per_step)}
    for place, (name, result) in enumerate(sorted(results.items(), key=lambda item: not item[1].learned)):
        curve = result.curve.double().cpu()
        finite = torch.isfinite(curve).all(1)
        last = int(finite.sum())
        # The mean of some steps, so that the noise of minibatches does not hide the rest.
        curve, count = curve[:last].unfold(0, min(smooth, last), 1).mean(-1), curve.shape[1]
        mean = curve.mean(1)
        label = name if result.learning_rate is None else f"{name} ({result.learning_rate:g})"
        style = {"color": colours[place % len(colours)], "linewidth": 2.2 if result.learned else 1.1}
        if result.learned and single:
            style = {"color": "black", "linewidth": 2.5, "zorder": 3}
        unit = result.seconds_per_step if by_time else 1.0
        x = (torch.arange(len(mean)) + (min(smooth, last) - 1) / 2) * unit
        (line,) = axes.plot(x, mean, label=label if finite.all() else f"{label}, diverged", **style)
        if count > 1:
            half = stats.t.ppf(0.975, count - 1) * curve.std(1) / sqrt(count)
            low = (mean - half).clamp_min(mean.clamp_min(0) * 1e-2)  # keeps the band on the logarithmic axis
            axes.fill_between(x, low, mean + half, color=line.get_color(), alpha=0.15, linewidth=0)
    if all(bool((result.curve > 0).all()) for result in results.values()):
        axes.set_yscale("log")
    axes.set(xlabel="seconds" if by_time else "inner steps", title=title)
    axes.set_ylabel("loss" if smooth == 1 else f"loss, mean of {smooth} steps")
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
    rates = any(result.learning_rate is not None for result in results.values())
    heading = "contender (learning rate)" if rates else None
    many = {"ncols": 2} if len(results) > 8 else {}
    axes.legend(title=heading, fontsize="x-small", title_fontsize="x-small", framealpha=0.6, **many)
