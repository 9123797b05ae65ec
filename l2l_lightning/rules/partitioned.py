"""Different rules for different kinds of parameters."""

import copy
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from l2l_lightning.core.coordinates import CoordinateLayout
from l2l_lightning.core.errors import InputError
from l2l_lightning.core.rule import Record, RuleInput
from l2l_lightning.core.sampling import Coordinates
from l2l_lightning.core.state import RuleState
from l2l_lightning.rules.base import UpdateRule


@dataclass
class Route:
    """Sends the parameters that match both patterns to a rule; patterns have the wildcards of the shell: * ? [].

    Attributes:
        rule: label of the rule.
        name: pattern of the parameter's full name, such as ``*.bias``.
        module: pattern of the class of the module that owns the parameter, such as ``Conv2d``.
    """

    rule: str
    name: str = "*"
    module: str = "*"

    def matches(self, name: str, module: str) -> bool:
        """Whether a parameter of this name, in a module of this class, goes this way."""
        return fnmatchcase(name, self.name) and fnmatchcase(module, self.module)


class PartitionedRule(UpdateRule):
    """Routes every parameter to one of several rules, such as one LSTM for convolutions and another for dense layers.

    Section 3.3 of Andrychowicz et al. 2016. State leaves are those of the rules under ``label/leaf``, with the
    coordinates of that label alone in their last dimension. Rules to which no parameter goes stay unused.

    Args:
        rules: label -> rule.
        routes: tried in this order for each parameter; the first that matches holds.

    Raises:
        InputError: if a route names no rule, a label is no identifier, or, in ``bind``, a parameter matches no route.
    """

    def __init__(self, rules: dict[str, UpdateRule], routes: Sequence[Route]) -> None:
        super().__init__()
        for label in rules:
            if not label.isidentifier() or hasattr(nn.ModuleDict(), label):
                raise InputError(
                    "PartitionedRule: labels of rules must be plain words, and not names that torch's ModuleDict uses "
                    f"itself, got {label!r}."
                )
        for route in routes:
            if route.rule not in rules:
                raise InputError(f"PartitionedRule: a route leads to {route.rule!r}, but the rules are {list(rules)}.")
        self.rules = nn.ModuleDict(rules)
        self.routes = list(routes)
        self._labels: list[str] = []  # one a parameter of the layout
        self._sizes: list[int] = []

    @property
    def coordinatewise(self) -> bool:  # type: ignore[override]
        """Whether all rules are."""
        return all(rule.coordinatewise for rule in self.rules.values())

    def bind(self, layout: CoordinateLayout) -> None:
        self._labels = [self._label(*entry) for entry in zip(layout.names, layout.owners, strict=True)]
        self._sizes = [where.stop - where.start for _, where, _ in layout.slices]
        idle = [label for label in self.rules if label not in self._labels]
        if idle:
            warnings.warn(f"PartitionedRule: no parameter goes to {', '.join(idle)}.", stacklevel=2)
        for label, rule in self._used():
            members = [name for name, found in zip(layout.names, self._labels, strict=True) if found == label]
            rule.bind(layout.subset(members))

    def for_parameter(self, name: str, module: str) -> UpdateRule:
        return self.rules[self._label(name, module)].for_parameter(name, module)  # type: ignore[operator]

    def _label(self, name: str, module: str) -> str:
        label = next((route.rule for route in self.routes if route.matches(name, module)), None)
        if label is None:
            raise InputError(
                f"PartitionedRule: no route matches the parameter {name!r} of a {module}; add one, such as "
                f"{{rule: {next(iter(self.rules), 'label')}, module: {module}}}."
            )
        return label

    def _used(self) -> list[tuple[str, UpdateRule]]:
        return [(label, rule) for label, rule in self.rules.items() if label in self._labels]  # type: ignore[misc]

    def _split(self, values: Tensor) -> dict[str, list[Tensor]]:
        """(..., n) -> label -> pieces, one a parameter."""
        pieces: dict[str, list[Tensor]] = {label: [] for label, _ in self._used()}
        for label, piece in zip(self._labels, values.split(self._sizes, -1), strict=True):
            pieces[label].append(piece)
        return pieces

    def subset(self, state: RuleState, index: Coordinates) -> tuple[UpdateRule, RuleState]:
        chosen = index.cpu() if isinstance(index, Tensor) else torch.arange(*index.indices(sum(self._sizes)))
        sizes = torch.tensor(self._sizes)
        ends = sizes.cumsum(0)
        place = torch.bucketize(chosen, ends, right=True)  # the parameter of each
        counts = torch.bincount(place, minlength=len(self._sizes)).tolist()
        part = copy.copy(self)
        part._labels = [label for label, count in zip(self._labels, counts, strict=True) if count]
        part._sizes = [count for count in counts if count]
        rules, new_state = {}, {}
        for label, rule in part._used():
            members = torch.tensor([member == label for member in self._labels])
            shifts = ends - (sizes * members).cumsum(0)  # coordinates of other labels before the end of a parameter
            positions = (chosen - shifts[place])[members[place]]
            own_state = self._of(label, state)
            for leaf in own_state.values():  # all on one device; there may be none
                positions = positions.to(leaf.device)
            rules[label], own_state = rule.subset(own_state, positions)
            new_state.update(_under(label, own_state))
        part._modules = {"rules": nn.ModuleDict(rules)}
        return part, new_state

    def record(self, state: RuleState, steps: int | None) -> Record | None:
        records = {}
        for label, rule in self._used():
            record = rule.record(self._of(label, state), steps)
            if record is None:
                return None
            records[label] = record
        return _Record(self, records)

    def init_state(self, theta: Tensor) -> RuleState:
        pieces = self._split(theta)
        own = {label: rule.init_state(torch.cat(pieces[label], -1)) for label, rule in self._used()}
        return {name: leaf for label, state in own.items() for name, leaf in _under(label, state).items()}

    def forward(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, RuleState]:
        steps, new_state = {}, {}
        for (label, rule), part in zip(self._used(), self._inputs(inputs), strict=True):
            steps[label], own = rule(part, self._of(label, state))
            new_state.update(_under(label, own))
        return self._join(steps), new_state

    def _inputs(self, inputs: RuleInput) -> list[RuleInput]:
        """What each of the used rules sees."""
        thetas, grads = self._split(inputs.theta), self._split(inputs.grad)
        return [
            inputs._replace(theta=torch.cat(thetas[label], -1), grad=torch.cat(grads[label], -1))
            for label, _ in self._used()
        ]

    def _join(self, steps: dict[str, Tensor]) -> Tensor:
        """The steps (..., n) from those of every label."""
        sizes: dict[str, list[int]] = {label: [] for label in steps}
        for label, size in zip(self._labels, self._sizes, strict=True):
            sizes[label].append(size)
        pieces = {label: iter(step.split(sizes[label], -1)) for label, step in steps.items()}
        return torch.cat([next(pieces[label]) for label in self._labels], -1)

    def _of(self, label: str, state: RuleState) -> RuleState:
        return {name.removeprefix(f"{label}/"): leaf for name, leaf in state.items() if name.startswith(f"{label}/")}


class _Record:
    """Those of the rules, side by side."""

    def __init__(self, whole: PartitionedRule, records: dict[str, Record]) -> None:
        self._whole, self._records = whole, records

    @property
    def state(self) -> RuleState:
        parts = [_under(label, record.state) for label, record in self._records.items()]
        return {name: leaf for part in parts for name, leaf in part.items()}

    def __call__(self, inputs: RuleInput) -> Tensor:
        parts = zip(self._records.items(), self._whole._inputs(inputs), strict=True)
        return self._whole._join({label: record(part) for (label, record), part in parts})

    def steps(self) -> Tensor:
        return self._whole._join({label: record.steps() for label, record in self._records.items()})


def _under(label: str, state: RuleState) -> RuleState:
    return {f"{label}/{name}": leaf for name, leaf in state.items()}
