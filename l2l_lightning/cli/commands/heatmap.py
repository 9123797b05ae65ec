"""``l2l heatmap``: rules over many rates, averages of Adams beside their inputs, as figure 4.5 of Shahid 2017."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

from l2l_lightning.cli import packaged_configs
from l2l_lightning.cli.commands.base import (
    CommandParser,
    Run,
    load_rules,
    new_folder,
    publish,
    refuse,
    report,
)
from l2l_lightning.core.errors import InputError
from l2l_lightning.core.random import Split
from l2l_lightning.evaluation import plots
from l2l_lightning.evaluation.compare import Contender, race
from l2l_lightning.evaluation.report import Estimate, values_table
from l2l_lightning.files.description import describe
from l2l_lightning.rules import Cosine, LinearAverage, MultiscaleAdam, Schedule

HELP = "trained rules over many rates, averages of Adams beside their inputs"
# The ten of section 4.4.1: eight constant ones, and two that a cosine takes to zero.
RATES = ("0.1", "0.05", "0.01", "0.005", "0.001", "0.0005", "0.0001", "0.00005", "cosine:0.05", "cosine:0.01")


def rate(word: str, steps: int) -> float | Schedule:
    """``0.01`` -> the number; ``cosine:0.05`` or ``cosine:0.05:0.001`` -> from there to 0 or the end in ``steps``.

    Raises:
        InputError: for other words.
    """
    try:
        name, *numbers = word.split(":")
        if not numbers:
            return float(name)
        if name == "cosine" and len(numbers) < 3:
            start, end = float(numbers[0]), float(numbers[1]) if len(numbers) == 2 else 0.0
            return Cosine(start, end, steps)
    except ValueError as error:
        raise InputError(f"--rates: {word!r} is no learning rate: {error}") from error
    raise InputError(f"--rates: {word!r} is neither a number nor cosine:START or cosine:START:END.")


def main(arguments: Sequence[str], run: Run) -> None:
    """Let every rule, and every Adam that one averages, run at every rate, on the validation problems.

    Raises:
        InputError: for files that are missing, rules without a rate, bad rates, or an output folder in use.
    """
    parser = CommandParser(
        "heatmap",
        "Mean losses of trained rules over many rates (their eta, eta_min, lr or output_scale), and of the "
        "Adams that they average, on the validation problems of a configuration. Further options are those of "
        "`l2l validate`.",
    )
    parser.add_argument("--config", required=True, help="configuration of optimizee and data")
    parser.add_argument("--ckpt_path", required=True, nargs="+", help="checkpoints of rules")
    parser.add_argument("--rates", nargs="+", default=RATES, help="numbers, cosine:START, cosine:START:END")
    parser.add_argument("--output_dir", help="new folder for table and figure; logs/heatmap/NAME/version_N")
    parser.add_allow()
    options, further = parser.parse_known_args(arguments)
    refuse(further, "--model.rule", "--model.init_from")

    config = packaged_configs.find(options.config)
    rules = load_rules(options.ckpt_path, options.allow)
    for word in options.rates:  # a mistake shows before the work
        for rule in rules.values():
            rule.with_rate(rate(word, 1))
    folder = new_folder(options.output_dir, Path("logs") / "heatmap" / config.stem)

    # Builds everything and prepares the data, but evaluates nothing.
    quiet = ["--trainer.limit_val_batches", "0", "--trainer.logger", "false"]
    rule_of_model = ["--model.rule", json.dumps(describe(next(iter(rules.values()))))]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No --ckpt_path was given")
        built = run(["validate", "--config", str(config), *rule_of_model, *quiet, *further])
    problems, data = built.model.problems, built.datamodule
    problems.to(built.trainer.strategy.root_device, built.model.dtype)

    averages = [rule for rule in rules.values() if isinstance(rule, MultiscaleAdam)]
    for pair in dict.fromkeys(tuple(pair) for rule in averages for pair in rule.timescales):
        rules[f"Adam {pair[0]:g}/{pair[1]:g}"] = MultiscaleAdam(LinearAverage(), [pair])
    losses: dict[str, dict[str, Estimate]] = {}
    for word in options.rates:
        contenders = [
            Contender(name, rule.with_rate(rate(word, data.steps)).to(problems.device)) for name, rule in rules.items()
        ]
        results = race(contenders, problems, data.held_out_windows(Split.VALIDATION), Split.VALIDATION)
        losses[word] = {name: Estimate.of(result.curve.mean(0)) for name, result in results.items()}
        # After every rate, so that an interruption costs nothing.
        publish(folder, "heatmap", values_table("mean loss", losses), plots.heatmap(losses))
    report(folder, "heatmap")
