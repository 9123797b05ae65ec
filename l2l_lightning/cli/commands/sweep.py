"""``l2l sweep``: one meta-training for each value of an option."""

from collections.abc import Sequence
from pathlib import Path

from l2l_lightning.cli import packaged_configs
from l2l_lightning.cli.commands.base import (
    CommandParser,
    Run,
    folder_name,
    logged_in,
    measured,
    new_folder,
    publish,
    refuse,
    report,
)
from l2l_lightning.core.errors import InputError
from l2l_lightning.evaluation import plots
from l2l_lightning.evaluation.compare import Result
from l2l_lightning.evaluation.report import summarize, sweep_table

HELP = "one meta-training for each value of an option"


def main(arguments: Sequence[str], run: Run) -> None:
    """Train once for each value and compare what was learned on the validation problems.

    Raises:
        InputError: for a missing configuration, a value given twice, or an output folder in use.
    """
    parser = CommandParser(
        "sweep",
        "Meta-train once for each value of one option, and compare the rules at the end of their training on the "
        "validation problems. Further options go to `l2l fit` for every value.",
    )
    parser.add_argument("--config", required=True, action="append", help="configuration of the trainings")
    parser.add_argument("--key", required=True, help="the option, such as model.optimizer.init_args.lr")
    parser.add_argument("--values", required=True, nargs="+", action="extend", help="its values")
    parser.add_argument("--output_dir", help="new folder for table, figure and runs; logs/sweep/NAME/version_N")
    options, further = parser.parse_known_args(arguments)
    refuse(further, f"--{options.key}")

    configs = [packaged_configs.find(config) for config in options.config]
    if len(set(options.values)) < len(options.values):
        raise InputError(f"--values: each value may be given once, got {' '.join(options.values)}.")
    folder = new_folder(options.output_dir, Path("logs") / "sweep" / configs[-1].stem)

    title = options.key.rpartition(".")[2]
    base = [word for config in configs for word in ("--config", str(config))]
    results: dict[str, dict[str, Result]] = {}
    for place, value in enumerate(options.values):
        print(f"\n{options.key} = {value}")
        own = [f"--{options.key}", value, *logged_in(folder, folder_name(value, place))]
        results[value] = measured(run, ["fit", *base, *own, *further], f"{options.key} {value}").results
        # After every value, so that a later mistake costs nothing.
        summaries = {value: summarize(result) for value, result in results.items()}
        publish(folder, "sweep", sweep_table(title, summaries), plots.sweep(title, results))
    report(folder, "sweep")
