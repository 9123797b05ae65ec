"""Everything that a comparison shows, made from its saved results."""

import base64
import html
import json
from pathlib import Path

from matplotlib.figure import Figure
from torch.utils.tensorboard import SummaryWriter

from l2l_lightning.evaluation import plots
from l2l_lightning.evaluation.report import Estimate, comparison_summary, comparison_table
from l2l_lightning.evaluation.store import Store, Targets, write_curves

TITLES = {
    "curves": "Loss against inner steps",
    "curves_by_time": "Loss against wall-clock time",
    "final_losses": "Final losses of all problems",
    "profile": "Performance profile",
    "heatmap": "Mean losses",
}


def draw(store: Store) -> Path:
    """Write tables, figures, events and the page of a comparison, in place of those of fewer results; the page."""
    targets, folder = store.results(), store.folder
    summary = comparison_summary(targets, store.settings)
    text = comparison_table(targets)
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    (folder / "table.md").write_text(text)
    write_curves(folder / "curves.csv", targets)
    figures = _figures(targets)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png")
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    _write_events(folder / "tensorboard", targets, figures)
    page = folder / "report.html"
    page.write_text(_page(text, {name: folder / f"{name}.png" for name in figures}, summary["settings"]))
    return page


def _figures(targets: Targets) -> dict[str, Figure]:
    means = {
        target: {name: Estimate.of(result.curve.mean(0)) for name, result in results.items()}
        for target, results in targets.items()
    }
    figures = {
        "curves": plots.panels(targets),
        "curves_by_time": plots.panels(targets, by_time=True),
        "final_losses": plots.strips(targets),
    }
    if all(bool((result.curve.mean(0) > 0).all()) for results in targets.values() for result in results.values()):
        figures["profile"] = plots.profile(targets)
    if len({tuple(column) for column in means.values()}) == 1:  # all targets have all contenders
        figures["heatmap"] = plots.heatmap(means, label="target")
    return figures


def _write_events(folder: Path, targets: Targets, figures: dict[str, Figure]) -> None:
    """One TensorBoard run a contender, whose curves overlay, and one with the figures."""
    for old in folder.glob("*/events.out.tfevents.*"):
        old.unlink()  # written by this function, for fewer results
    for name in dict.fromkeys(name for results in targets.values() for name in results):
        with SummaryWriter(str(folder / name)) as writer:
            for target, results in targets.items():
                for step, loss in enumerate(results[name].curve.mean(1).tolist() if name in results else ()):
                    writer.add_scalar(f"{target}/loss", loss, step)
    with SummaryWriter(str(folder / "figures")) as writer:
        for name, figure in figures.items():
            writer.add_figure(name, figure)


def _page(text: str, pictures: dict[str, Path], settings: dict) -> str:
    """One HTML file that needs no other."""
    body = [_tables(text)]
    for name, path in pictures.items():
        data = base64.b64encode(path.read_bytes()).decode()
        body.append(f'<h2>{TITLES[name]}</h2>\n<img alt="{TITLES[name]}" src="data:image/png;base64,{data}">')
    body.append(f"<h2>Settings</h2>\n<pre>{html.escape(json.dumps(settings, indent=2))}</pre>")
    style = (
        "body{font-family:sans-serif;margin:2em auto;max-width:75em;padding:0 1em}"
        "table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.3em .7em;text-align:left}"
        "img{max-width:100%}pre{background:#f4f4f4;padding:1em;overflow:auto}"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>Comparison of optimizers</title>\n'
        f"<style>{style}</style>\n<h1>Comparison of optimizers</h1>\n" + "\n".join(body) + "\n</html>\n"
    )


def _tables(text: str) -> str:
    """The Markdown of ``comparison_table`` as HTML: headings, tables, paragraphs."""
    lines: list[str] = []
    rows: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            if not line.startswith("|-"):
                cells = "".join(f"<td>{html.escape(cell.strip())}</td>" for cell in line.strip("|").split("|"))
                rows.append(f"<tr>{cells}</tr>".replace("td>", "th>") if not rows else f"<tr>{cells}</tr>")
            continue
        if rows:
            lines.append("<table>\n" + "\n".join(rows) + "\n</table>")
            rows = []
        if line.startswith("## "):
            lines.append(f"<h2>{html.escape(line[3:])}</h2>")
        elif line:
            lines.append(f"<p>{html.escape(line)}</p>")
    return "\n".join(lines)
