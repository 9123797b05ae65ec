"""Every public class that a configuration can name, its place there, and bad values for each of its arguments."""

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Union

from lightning.pytorch.callbacks import Callback

import l2l_lightning.training.callbacks  # noqa: F401, its classes shall be found
from l2l_lightning.core.horizon import Horizon, Stage
from l2l_lightning.core.objective import Objective
from l2l_lightning.data import ImageDataModule, ProblemDataModule
from l2l_lightning.evaluation.compare import Baselines
from l2l_lightning.optimizees import OptimizeeModule
from l2l_lightning.rules import Head, Preprocessing, Route, Schedule, UpdateRule
from l2l_lightning.training.module import MetaOptimizerModule

Path = tuple[str | int, ...]  # keys and indices that lead to a place in a configuration

# Where an object of each base class goes in a configuration; the configurations around it are valid.
LSTM = {"class_path": "CoordinatewiseLSTM", "init_args": {}}
PLACES: dict[type, tuple[dict[str, Any], Path]] = {
    UpdateRule: ({}, ("model", "rule")),
    OptimizeeModule: ({}, ("model", "optimizee")),
    ProblemDataModule: ({}, ("data",)),
    Horizon: ({}, ("model", "restarts", "horizon")),
    Objective: ({}, ("model", "objective")),
    Baselines: ({}, ("model", "baselines")),
    Preprocessing: ({"model.rule": LSTM}, ("model", "rule", "init_args", "preprocessing")),
    Schedule: ({"model.rule": LSTM}, ("model", "rule", "init_args", "output_scale")),
    Head: ({"model.rule": {"class_path": "MultiscaleAdam", "init_args": {}}}, ("model", "rule", "init_args", "head")),
    Callback: ({"trainer.callbacks": [None]}, ("trainer", "callbacks", 0)),
}
# Dataclasses and the module itself are written without a class_path.
STAGES = {"class_path": "GrowingHorizon", "init_args": {"stages": [{"after": 0, "low": 5, "high": 10}]}}
ROUTES = {
    "class_path": "PartitionedRule",
    "init_args": {"rules": {"all": {"class_path": "SGD"}}, "routes": [{"rule": "all"}]},
}
PLAIN: dict[type, tuple[dict[str, Any], Path]] = {
    MetaOptimizerModule: ({}, ("model",)),
    Stage: ({"model.restarts.horizon": STAGES}, ("model", "restarts", "horizon", "init_args", "stages", 0)),
    Route: ({"model.rule": ROUTES}, ("model", "rule", "init_args", "routes", 0)),
}
# Arguments that a class needs and that its annotations do not tell.
NEEDED: dict[str, dict[str, Any]] = {
    "GrowingHorizon": STAGES["init_args"],
    "PartitionedRule": ROUTES["init_args"],
    "ImageDataModule": {"dataset": "MNIST"},
    "MetaOptimizerModule": {"rule": {"class_path": "SGD"}, "optimizee": {"class_path": "Booth"}},
    "TorchOptimizer": {"name": "SGD"},
    "MetaTrainingProblem": {"rule": LSTM, "optimizee": {"class_path": "Booth"}},
    "MetaTrainingDataModule": {"inner": {"class_path": "FunctionDataModule", "init_args": {}}},
    "FromModule": {"module": {"class_path": "torch.nn.Linear", "init_args": {"in_features": 2, "out_features": 2}}},
}
ABSTRACT = {"HandmadeRule", "CoordinatewiseNetwork", "NormalizedInputs", "Function", "TestFunction", "ImageClassifier"}

# What the documentation allows beside positive integers, and beside numbers of at least 0.
INTEGERS_FROM_0 = {"num_workers", "after"}
ANY_INTEGER = {"seed"}
SIGNED = {"low", "high", "a", "b", "forget_bias", "mean"}


class Case(NamedTuple):
    """One value of one argument in an otherwise valid configuration.

    Attributes:
        name: of the class and the argument.
        changes: dotted keys of the configuration -> values.
        place: where the value goes.
        value: the value.
        bad: whether it must be refused; otherwise it may be, but only by one sentence.
    """

    name: str
    changes: dict[str, Any]
    place: Path
    value: Any
    bad: bool

    def __str__(self) -> str:
        return f"{self.name}={self.value!r:.40}"


def subclasses(base: type) -> Iterator[type]:
    for kind in base.__subclasses__():
        yield kind
        yield from subclasses(kind)


def public_classes() -> list[tuple[type, dict[str, Any], Path, Path]]:
    """(class, the configuration around it, its place, the place of its arguments), by name."""
    found: dict[str, tuple[type, dict[str, Any], Path, Path]] = {}
    for base, (around, place) in PLACES.items():
        for kind in (base, *subclasses(base)):
            known = kind.__module__.startswith("l2l_lightning.") and not kind.__module__.startswith("l2l_lightning.cli")
            concrete = kind not in (
                UpdateRule,
                OptimizeeModule,
                ProblemDataModule,
                Horizon,
                Preprocessing,
                Schedule,
                Head,
            )
            if known and concrete and kind.__name__ not in ABSTRACT:
                found[kind.__name__] = (kind, around, place, (*place, "init_args"))
    for kind, (around, place) in PLAIN.items():
        found[kind.__name__] = (kind, around, place, place)
    return [found[name] for name in sorted(found)]


def arguments(kind: type) -> dict[str, tuple[Any, bool]]:
    """Name -> (type, whether it is needed), with those that ``**kwargs`` pass on to the next class."""
    known: dict[str, tuple[Any, bool]] = {}
    chosen = {"dataset"} if issubclass(kind, ImageDataModule) and kind is not ImageDataModule else set()
    if issubclass(kind, ProblemDataModule):
        chosen.add("unroll")  # that of the model, whatever is given here
    for owner in kind.__mro__:
        if "__init__" not in vars(owner):
            continue
        hints = typing.get_type_hints(owner.__init__)
        parameters = list(inspect.signature(owner.__init__).parameters.values())[1:]
        for parameter in parameters:
            if parameter.name not in chosen and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                needed = parameter.default is parameter.empty
                known.setdefault(parameter.name, (hints.get(parameter.name, Any), needed))
        # A class that chooses the dataset itself, such as MNISTDataModule, passes it on by place.
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return known


def valid(annotation: Any) -> Any:
    """A value of a simple type."""
    return {int: 2, float: 0.5, str: "word", bool: False}[annotation]


def base_arguments(kind: type) -> dict[str, Any]:
    """What a class cannot be built without."""
    given = NEEDED.get(kind.__name__, {})
    return {n: given[n] if n in given else valid(t) for n, (t, needed) in arguments(kind).items() if needed}


WORDS: list[Any] = ["no such word", ""]
LISTS: list[Any] = [[1, 2], {"some": "key"}, [], {}]
NUMBERS: list[Any] = [float("nan"), float("inf"), float("-inf")]


def bad_values(annotation: Any, name: str) -> list[Any]:
    """Values outside an argument's type or documented domain."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        members = [part for part in parts if part is not type(None)]
        common = [value for value in bad_values(members[0], name) if value is not None]
        for member in members[1:]:  # a value is bad for a union where it is bad for all members
            rest = bad_values(member, name)
            common = [value for value in common if any(_same(value, other) for other in rest)]
        return common if type(None) in parts else [*common, None]
    if annotation is int:
        lowest = [] if name in ANY_INTEGER else [-1, -(10**30)] if name in INTEGERS_FROM_0 else [0, -1, -(10**30)]
        return [*lowest, 10**30, 2.5, 1e308, *NUMBERS, *WORDS, *LISTS, None]
    if annotation is float:
        return [*([] if name in SIGNED else [-1, -1e308]), 10**400, *NUMBERS, *WORDS, *LISTS, None]
    if annotation is bool:
        return [2, 0.5, *NUMBERS, *WORDS, *LISTS, None]
    if annotation is str:
        return [*LISTS, None]
    if origin is Literal:
        return [3, 0.5, *NUMBERS, *WORDS, *LISTS, None]
    if origin in (list, Sequence, tuple):
        items = [[value] for value in bad_values(parts[0], name)]
        return [3, *NUMBERS, *WORDS, {"some": "key"}, *items, None]
    if origin in (dict, Mapping):
        return [3, *NUMBERS, *WORDS, [1, 2], None]
    if origin is Callable or inspect.isclass(annotation):
        wrong = [
            {"class_path": "NoSuchClass"},
            {"class_path": 3},
            {"class_path": "os.system"},
            "os",
            "os.nothing",
            "a b",
        ]
        return [3, *NUMBERS, *WORDS, *wrong, [1, 2], {"some": "key"}]
    return []


def doubtful_values(annotation: Any) -> list[Any]:
    """Values that some arguments take and some refuse."""
    return [0, 1, 1e308, 1e-308, -1e-3, 10**12, 2**63, True, False, "word", "1", [], {}, [[]], [0.5, 0.5], None]


def _same(one: Any, other: Any) -> bool:
    return repr(one) == repr(other)


def names() -> list[str]:
    """The public classes."""
    return [kind.__name__ for kind, *_ in public_classes()]


def _around(kind: type, around: dict[str, Any], place: Path) -> dict[str, Any]:
    """The changes that put an object of this class, with what it needs, into a configuration."""
    if kind in PLAIN:
        return around
    return around | {".".join(map(str, place)): {"class_path": kind.__name__, "init_args": base_arguments(kind)}}


def plain_case(number: int) -> Case:
    """A configuration that is valid, around one of the public classes."""
    kind, around, place, _ = public_classes()[number]
    return Case(kind.__name__, _around(kind, around, place), (), None, False)


def cases() -> list[Case]:
    """Every bad and every doubtful value of every argument of every class, and an argument that none has."""
    found = []
    for kind, around, place, where in public_classes():
        changes = _around(kind, around, place)
        for name, (annotation, _) in arguments(kind).items():
            values = [(value, True) for value in bad_values(annotation, name)]
            values += [(value, False) for value in doubtful_values(annotation)]
            own = f"{kind.__name__}.{name}"
            found += [Case(own, changes, (*where, name), value, bad) for value, bad in values]
        found.append(Case(f"{kind.__name__}.no_such_argument", changes, (*where, "no_such_argument"), 1, True))
    return found
