"""``l2l compare``: learned rules, hand-made rules and ``torch.optim`` on any problems, side by side."""

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from jsonargparse.typing import PositiveFloat, PositiveInt
from tqdm import tqdm

from l2l_lightning.cli.commands.base import ALLOW, Run, load_rules
from l2l_lightning.cli.run_folder import claim_version
from l2l_lightning.cli.user_errors import OneSentenceParser
from l2l_lightning.core.errors import InputError, brief
from l2l_lightning.core.objective import Objective
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.random import Split
from l2l_lightning.data import ProblemDataModule
from l2l_lightning.evaluation import pictures
from l2l_lightning.evaluation.compare import DEFAULT_RATES, Baselines, Contender, Result, race, tuned_rate
from l2l_lightning.evaluation.report import comparison_table
from l2l_lightning.evaluation.store import Store
from l2l_lightning.evaluation.torch_contender import TorchOptimizer
from l2l_lightning.files import rule_file
from l2l_lightning.files.build import Known, class_paths
from l2l_lightning.files.description import without
from l2l_lightning.optimizees import OptimizeeModule
from l2l_lightning.rules import PARTS, HandmadeRule, UpdateRule

HELP = "learned rules, hand-made ones and torch.optim on any problems, with pictures"


# What no file may choose; the last is jsonargparse's way around a constructor's signature.
USERS_OWN = ("root", "check_md5", "dict_kwargs")


@dataclass
class Target:
    """What is optimized.

    Attributes:
        optimizee: the problem.
        data: its data; tuning problems choose the rates, test problems count.
    """

    optimizee: OptimizeeModule
    data: ProblemDataModule


def parser() -> OneSentenceParser:
    """The command line; a configuration file has the same keys."""
    options = OneSentenceParser(
        prog="l2l compare",
        description="Compare optimizers on problems that nobody trained on: the same initial parameters and "
        "minibatches for all, learning rates tuned on other problems. Writes summary.json, curves.csv, table.md, "
        "figures, TensorBoard events and report.html. An interrupted comparison goes on when it is started again with "
        "the same --output_dir.",
    )
    options.add_argument("--config", action="config", help="YAML file with these options")
    options.add_argument(
        "--ckpt_path",
        nargs="+",
        type=str,
        default=[],
        help="learned rules: training checkpoints, exported files, or names of pretrained ones",
    )
    options.add_argument("--allow", nargs="+", type=str, default=[], help=ALLOW)
    options.add_argument(
        "--rules", type=list[HandmadeRule] | None, default=None, help="hand-made rules; all where not given"
    )
    options.add_argument(
        "--torch_optimizers", nargs="+", type=str, default=[], help="classes of torch.optim by name, such as AdamW"
    )
    options.add_argument(
        "--torch_arguments",
        type=dict[str, dict[str, Any]],
        default={},
        help="their further arguments by class, such as {AdamW: {weight_decay: 0.1}}",
    )
    options.add_argument(
        "--targets",
        type=dict[str, Target],
        default={},
        help="name: {optimizee, data}; where none is given, what the first learned rule was trained on",
    )
    options.add_argument(
        "--learning_rates", nargs="+", type=PositiveFloat, default=list(DEFAULT_RATES), help="grid, widened at need"
    )
    options.add_argument(
        "--problems", type=PositiveInt | None, default=None, help="test problems of every target, at least 2"
    )
    options.add_argument("--steps", type=PositiveInt | None, default=None, help="inner steps of every target")
    options.add_argument(
        "--horizons", nargs="+", type=PositiveInt, default=[1], help="factors on the steps, such as 1 10"
    )
    options.add_argument("--root", type=str | None, default=None, help="folder of image data")
    options.add_argument("--num_threads", type=PositiveInt | None, default=None, help="threads of torch on the CPU")
    options.add_argument("--output_dir", type=str | None, default=None, help="folder; logs/compare/version_N")
    return options


def main(arguments: Sequence[str], run: Run) -> None:
    """Measure what is not measured yet, then draw.

    Raises:
        InputError: for files that are missing or no rules, bad numbers, data that is missing, or a folder in use.
    """
    options = parser()
    config = options.parse_args(list(arguments))
    learned = load_rules(config.ckpt_path, config.allow)
    for option in ("learning_rates", "horizons"):
        if not config[option]:
            raise InputError(f"--{option} must not be empty.")
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    config = _with_targets(options, config)
    built = options.instantiate(config)
    targets, contenders = built.targets, _contenders(config, built.rules, learned)

    plain = json.loads(options.dump(config, format="json", skip_none=False))
    settings = {key: plain[key] for key in ("targets", "rules", "torch_arguments", "learning_rates")}
    files = zip(learned, config.ckpt_path, strict=True)
    settings |= {"contenders": list(contenders), "sha256": {name: _digest(path) for name, path in files}}
    folder = Path(config.output_dir) if config.output_dir else claim_version(Path("logs") / "compare")
    store = Store.open(folder, settings)
    with tqdm(total=len(targets) * len(contenders), unit="run", desc="compare") as bar:
        for name, target in targets.items():
            _measure(store, name, target, contenders, config.learning_rates, bar)
    print(f"\n{comparison_table(store.results())}\nreport: {pictures.draw(store)}")


def _with_targets(options: OneSentenceParser, config: Namespace) -> Namespace:
    """The configuration with one target for each family and horizon, their sizes as asked for."""
    if not config.targets:
        config = options.parse_object({"targets": _trained_on(config.ckpt_path, config.allow)}, cfg_base=config)
    targets = {}
    for name, target in config.targets.items():
        for factor in config.horizons:
            own = target.clone()
            sizes = own.data.init_args
            if config.root is not None:
                for key in [key for key in sizes.keys() if key.rpartition(".")[2] == "root"]:  # noqa: SIM118, all depths
                    sizes[key] = config.root
            if config.problems is not None:
                sizes["test_problems"] = int(config.problems)
            if config.steps is not None:
                sizes["steps"] = int(config.steps)
            if sizes["test_problems"] < 2:
                raise InputError(
                    f"{name}: an interval needs at least 2 problems, got {sizes['test_problems']}; set --problems."
                )
            windows = -(-sizes["steps"] // sizes["unroll"])  # whole ones, before they are multiplied
            sizes["steps"] = windows * sizes["unroll"] * int(factor)
            full_name = name if factor == 1 else f"{name} x{factor}"
            if full_name in targets:
                raise InputError(f"two targets are called {full_name!r}; rename one.")
            targets[full_name] = own
    config.targets = targets
    return config


def _trained_on(paths: Sequence[str], allow: Sequence[str]) -> dict[str, Any]:
    """The target that the first file describes, as far as a stranger's file may choose one.

    Its classes must be known here, and all other words plain ones: no paths of files or of anything to be imported.
    Where data lie and how they are checked is the user's own to say.
    """
    if not paths:
        raise InputError("give targets in a --config, or a --ckpt_path whose problems are to be the target.")
    trained_on = rule_file.trained_on(paths[0])
    target: dict[str, Any] = {key: trained_on.get(key) for key in ("optimizee", "data")}
    if not all(isinstance(part, dict) and "class_path" in part for part in target.values()):
        raise InputError(f"{paths[0]} does not say on which data it was trained; give targets in a --config.")
    target["data"] = without(target["data"], *USERS_OWN)
    known = Known((OptimizeeModule, ProblemDataModule, Objective, *PARTS), allow)
    try:
        for path in class_paths(target):
            known.find(path, object)
    except InputError as error:
        raise InputError(f"{paths[0]}: what it was trained on cannot be built: {error}.") from error
    strange = [word for word in _words(target) if word in USERS_OWN or not re.fullmatch(r"[\w+-]*", word)]
    if strange:
        raise InputError(
            f"{paths[0]} was trained on a target with {brief(strange[0])}, which only a --config may name; give "
            "targets in one."
        )
    name = target["optimizee"]["class_path"].rpartition(".")[2]
    return {name: target}


def _words(description: Any) -> Iterator[str]:
    """All strings in a description, keys included, but the paths of classes."""
    if isinstance(description, str):
        yield description
    elif isinstance(description, dict):
        yield from map(str, description)
        for key, value in description.items():
            if key != "class_path":
                yield from _words(value)
    elif isinstance(description, list | tuple):
        for value in description:
            yield from _words(value)


def _contenders(
    config: Namespace, rules: list[HandmadeRule] | None, learned: dict[str, UpdateRule]
) -> dict[str, Contender]:
    """Learned rules first; the others have their rates still to be tuned."""
    baselines: dict[str, UpdateRule] = dict(Baselines(rules).rules)
    for name in config.torch_optimizers:
        baselines[f"torch.{name}"] = TorchOptimizer(name, arguments=config.torch_arguments.get(name))
    unused = set(config.torch_arguments) - set(config.torch_optimizers)
    if unused:
        raise InputError(f"--torch_arguments: {', '.join(sorted(unused))} is not among the --torch_optimizers.")
    taken = set(learned) & set(baselines)
    if taken:
        raise InputError(f"{', '.join(sorted(taken))} is both a learned and a hand-made rule; rename the file.")
    contenders = {name: Contender(name, rule, learned=True) for name, rule in learned.items()}
    contenders |= {name: Contender(name, rule) for name, rule in baselines.items()}
    if not contenders:
        raise InputError("there is nobody to compare: give --ckpt_path, --rules or --torch_optimizers.")
    return contenders


def _measure(
    store: Store, name: str, target: Target, contenders: dict[str, Contender], grid: list[float], bar: tqdm
) -> None:
    problems: Problems | None = None
    for contender in contenders.values():
        if store.load(name, contender.name) is None:
            if problems is None:
                problems = _prepared(target)
            store.save(name, contender.name, _result(contender, problems, target.data, grid))
        bar.update()


def _prepared(target: Target) -> Problems:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    target.data.prepare_data()
    target.data.setup("test")
    target.data.bind(target.optimizee)
    return Problems(target.optimizee, device)


def _result(contender: Contender, problems: Problems, data: ProblemDataModule, grid: list[float]) -> Result:
    rule = contender.rule.to(problems.device)
    if not contender.learned:
        rate = tuned_rate(rule, grid, problems, data.held_out_windows(Split.TUNING))
        contender = Contender(contender.name, rule.with_rate(rate), rate)
    scored = list(data.held_out_data(Split.TEST, problems.device))
    windows = data.held_out_windows(Split.TEST)
    result = race([contender], problems, windows, Split.TEST, scored)[contender.name]
    if isinstance(rule, TorchOptimizer):  # it goes through the problems one by one, so its time says nothing
        result.seconds_per_step = float("nan")
    return result


def _digest(path: str) -> str:
    return hashlib.sha256(rule_file.find(path).read_bytes()).hexdigest()
