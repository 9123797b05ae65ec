"""``l2l sweep``: one meta-training for each value of an option."""

from collections.abc import Sequence
from pathlib import Path

from l2l_lightning.core.errors import InputError
from l2l_lightning.evaluation import plots
from l2l_lightning.evaluation.compare import LEARNED, Result
from l2l_lightning.evaluation.report import summarize, table
from l2l_lightning.studies.base import Run, StudyParser, existing_file, logged_in, new_folder, publish

HELP = "one meta-training for each value of an option"


def main(arguments: Sequence[str], run: Run) -> None:
    """Train once for each value and compare what was learned on the validation problems.

    Raises:
        InputError: for a missing configuration, a value given twice, or an output folder in use.
    """
    parser = StudyParser(
        "sweep",
        "Meta-train once for each value of one option, and compare the rules at the end of their training on the "
        "validation problems. Further options go to `l2l fit` for every value.",
    )
    parser.add_argument("--config", required=True, help="configuration of the trainings")
    parser.add_argument("--key", required=True, help="the option, such as model.optimizer.init_args.lr")
    parser.add_argument("--values", required=True, nargs="+", help="its values")
    parser.add_argument("--output_dir", help="new folder for table, figure and runs; logs/sweep/NAME/version_N")
    options, further = parser.parse_known_args(arguments)

    config = existing_file(options.config, "--config")
    if len(set(options.values)) < len(options.values):
        raise InputError(f"--values: each value may be given once, got {' '.join(options.values)}.")
    folder = new_folder(options.output_dir, Path("logs") / "sweep" / config.stem)

    learned: dict[str, Result] = {}
    baselines: dict[str, Result] = {}
    for value in options.values:
        print(f"\n{options.key} = {value}")
        own = [f"--{options.key}", value, *logged_in(folder, value)]
        results = run(["fit", "--config", str(config), *own, *further]).model.results
        learned[value] = results.pop(LEARNED)
        baselines = results
    summaries = {value: summarize({value: result})[value] for value, result in learned.items()}
    title = options.key.rpartition(".")[2]
    text = table({f"{title} {value}": summary for value, summary in summaries.items()} | summarize(baselines))
    publish(folder, "sweep", text, plots.sweep(title, learned, baselines))
