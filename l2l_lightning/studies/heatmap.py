"""``l2l heatmap``: averages of Adams beside their own inputs over many learning rates, as figure 4.5 of Shahid 2017."""

import json
from collections.abc import Sequence
from pathlib import Path

from l2l_lightning import checkpoint
from l2l_lightning.core.description import describe
from l2l_lightning.core.errors import InputError
from l2l_lightning.core.random import Split
from l2l_lightning.evaluation import plots
from l2l_lightning.evaluation.compare import Contender, race
from l2l_lightning.evaluation.report import Estimate, values_table
from l2l_lightning.rules import Cosine, LinearAverage, MultiscaleAdam, Schedule
from l2l_lightning.studies.base import Run, StudyParser, existing_file, new_folder, publish, refuse, report

HELP = "averages of Adams beside their inputs over many learning rates"
# The ten of section 4.4.1: eight constant ones, and two that a cosine takes to zero.
ETAS = ("0.1", "0.05", "0.01", "0.005", "0.001", "0.0005", "0.0001", "0.00005", "cosine:0.05", "cosine:0.01")


def eta(word: str, steps: int) -> float | Schedule:
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
        raise InputError(f"--etas: {word!r} is no learning rate: {error}") from error
    raise InputError(f"--etas: {word!r} is neither a number nor cosine:START or cosine:START:END.")


def main(arguments: Sequence[str], run: Run) -> None:
    """Let every rule and every input Adam run at every learning rate, on the validation problems.

    Raises:
        InputError: for files that are missing, checkpoints of other rules, bad rates, or an output folder in use.
    """
    parser = StudyParser(
        "heatmap",
        "Mean losses of MultiscaleAdam rules and of their input Adams over many learning rates, on the validation "
        "problems of a configuration. Further options are those of `l2l validate`.",
    )
    parser.add_argument("--config", required=True, help="configuration of optimizee and data")
    parser.add_argument("--ckpt_path", required=True, nargs="+", help="checkpoints of MultiscaleAdam rules")
    parser.add_argument("--etas", nargs="+", default=ETAS, help="learning rates: 0.01, cosine:START, cosine:START:END")
    parser.add_argument("--output_dir", help="new folder for table and figure; logs/heatmap/NAME/version_N")
    options, further = parser.parse_known_args(arguments)
    refuse(further, "--model.rule", "--model.init_from")

    config = existing_file(options.config, "--config")
    rules: dict[str, MultiscaleAdam] = {}
    for path in options.ckpt_path:
        rule = checkpoint.load_rule(existing_file(path, "--ckpt_path"))
        if not isinstance(rule, MultiscaleAdam):
            raise InputError(f"l2l heatmap needs MultiscaleAdam rules, but {path} holds a {type(rule).__name__}.")
        rules[_name(Path(path), rules)] = rule
    for word in options.etas:
        eta(word, 1)  # a mistake shows before the work
    folder = new_folder(options.output_dir, Path("logs") / "heatmap" / config.stem)

    # Builds everything and prepares the data, but evaluates nothing.
    quiet = ["--trainer.limit_val_batches", "0", "--trainer.logger", "false"]
    first = [json.dumps(describe(next(iter(rules.values())))), "--model.init_from", options.ckpt_path[0]]
    built = run(["validate", "--config", str(config), "--model.rule", *first, *quiet, *further])
    problems, data = built.model.problems, built.datamodule
    problems.to(built.trainer.strategy.root_device, built.model.dtype)

    pairs = list(dict.fromkeys(tuple(pair) for rule in rules.values() for pair in rule.timescales))
    losses: dict[str, dict[str, Estimate]] = {}
    for word in options.etas:
        rate = eta(word, data.steps)
        contenders = [Contender(name, rule) for name, rule in rules.items()]
        for pair in pairs:
            single = MultiscaleAdam(LinearAverage(), [pair])
            contenders.append(Contender(f"Adam {pair[0]:g}/{pair[1]:g}", single))
        for contender in contenders:
            contender.rule.to(problems.device).eta = rate  # type: ignore[assignment]
        results = race(contenders, problems, data.held_out_windows(Split.VALIDATION), Split.VALIDATION)
        losses[word] = {name: Estimate.of(result.curve.mean(0)) for name, result in results.items()}
        # After every rate, so that an interruption costs nothing.
        publish(folder, "heatmap", values_table("mean loss", losses), plots.heatmap(losses))
    report(folder, "heatmap")


def _name(path: Path, taken: dict[str, MultiscaleAdam]) -> str:
    """The run's name, with a number where it is taken."""
    home = path.resolve().parent
    run = home.parent.parent.name if home.name == "checkpoints" else path.stem
    return run if run not in taken else f"{run} {len(taken)}"
