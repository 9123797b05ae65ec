"""Figures, drawn without a display."""

from math import sqrt

import torch
from matplotlib.figure import Figure
from scipy import stats

from l2l_lightning.evaluation.compare import LEARNED, Result


def curves(results: dict[str, Result], title: str) -> Figure:
    """Mean loss (log scale) against inner steps, with 95 % confidence intervals over problems shaded.

    Contenders that diverged on some problem are drawn up to the first such step and marked in the legend.
    """
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for name, result in sorted(results.items(), key=lambda item: item[0] != LEARNED):
        curve = result.curve.double().cpu()
        finite = torch.isfinite(curve).all(1)
        last = int(finite.sum())
        curve, count = curve[:last], curve.shape[1]
        mean = curve.mean(1)
        label = name if result.learning_rate is None else f"{name} ({result.learning_rate:g})"
        style = {"color": "black", "linewidth": 2.5, "zorder": 3} if name == LEARNED else {"linewidth": 1.3}
        (line,) = axes.plot(mean, label=label if finite.all() else f"{label}, diverged", **style)
        if count > 1:
            half = stats.t.ppf(0.975, count - 1) * curve.std(1) / sqrt(count)
            low = (mean - half).clamp_min(mean.clamp_min(0) * 1e-2)  # keeps the band on the logarithmic axis
            axes.fill_between(range(last), low, mean + half, color=line.get_color(), alpha=0.15, linewidth=0)
    if all(bool((result.curve > 0).all()) for result in results.values()):
        axes.set_yscale("log")
    axes.set(xlabel="inner steps", ylabel="loss", title=title)
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
    axes.legend(title="contender (learning rate)", fontsize="small")
    return figure
