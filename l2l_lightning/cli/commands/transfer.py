"""``l2l transfer``: how a rule trained on one problem does on others."""

import json
from collections.abc import Sequence

from l2l_lightning.cli import packaged_configs
from l2l_lightning.cli.commands.base import (
    CommandParser,
    Run,
    existing_file,
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
from l2l_lightning.evaluation.report import summarize, transfer_table
from l2l_lightning.files import checkpoint
from l2l_lightning.files.description import describe

HELP = "how a trained rule does on other problems"


def main(arguments: Sequence[str], run: Run) -> None:
    """Test the checkpoint's rule on every target, beside baselines that are tuned anew there.

    Raises:
        InputError: for files that are missing or no checkpoints, targets of the same name, or an output folder in use.
    """
    parser = CommandParser(
        "transfer",
        "Test the rule of a checkpoint on other problems, beside hand-made rules tuned anew for each of them. The rule "
        "is the checkpoint's own; of a target's configuration its optimizee, data, unroll and baselines count. Further "
        "options go to `l2l test` for every target, such as --data.init_args.root FOLDER.",
    )
    parser.add_argument("--ckpt_path", required=True, help="checkpoint written by `l2l fit`")
    parser.add_argument(
        "--to", required=True, nargs="+", action="extend", metavar="CONFIG", help="configurations of the targets"
    )
    parser.add_argument("--output_dir", help="new folder for table, figure and runs; transfer/version_N beside the run")
    parser.add_allow()
    options, further = parser.parse_known_args(arguments)
    refuse(further, "--config", "--model.rule")

    path = existing_file(options.ckpt_path, "--ckpt_path")
    rule = describe(checkpoint.load_rule(path, options.allow))  # as it was built, not as the file says
    configs = [packaged_configs.find(config, "--to") for config in options.to]
    targets = {config.stem: config for config in configs}
    if len(targets) < len(options.to):
        raise InputError(f"--to: the targets need file names of their own, got {' '.join(options.to)}.")
    home = path.resolve().parent
    folder = new_folder(options.output_dir, (home.parent if home.name == "checkpoints" else home) / "transfer")

    results: dict[str, dict[str, Result]] = {}
    coordinates = {}
    for name, config in targets.items():
        print(f"\n{name}")
        own = ["--ckpt_path", str(path), "--model.rule", json.dumps(rule), *logged_in(folder, name)]
        module = measured(run, ["test", "--config", str(config), *own, *further], name)
        results[name], coordinates[name] = module.results, module.problems.layout.n
        # After every target, so that a later mistake costs nothing.
        text = transfer_table({name: summarize(result) for name, result in results.items()}, coordinates)
        publish(folder, "transfer", text, plots.panels(results))
    report(folder, "transfer")
