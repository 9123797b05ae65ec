"""Different rules for different kinds of parameters."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn

from l2l_lightning.core.coordinates import UNKNOWN, CoordinateLayout
from l2l_lightning.core.errors import InputError
from l2l_lightning.core.rule import RuleInput, Scope, Tape
from l2l_lightning.core.sampling import Coordinates
from l2l_lightning.core.state import RuleState
from l2l_lightning.rules.base import UpdateRule


@dataclass(frozen=True)
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


class _Part(NamedTuple):
    """The tensors that go to one rule.

    Attributes:
        label: of the rule.
        places: of its tensors in the whole layout.
        layout: of its tensors alone.
    """

    label: str
    places: tuple[int, ...]
    layout: CoordinateLayout


@lru_cache(maxsize=256)
def _parts(routes: tuple[Route, ...], labels: tuple[str, ...], layout: CoordinateLayout) -> tuple[_Part, ...]:
    """Which tensors go to which of the labelled rules; those that get none are not in it."""
    chosen = [_label(routes, name, owner) for name, owner in zip(layout.names, layout.owners, strict=True)]
    members = {label: tuple(place for place, own in enumerate(chosen) if own == label) for label in labels}
    return tuple(_Part(label, places, layout.keep(places)) for label, places in members.items() if places)


def _label(routes: Sequence[Route], name: str, owner: str) -> str:
    if not name:
        raise InputError("A PartitionedRule needs the parameters' names; pass model.named_parameters().")
    blind = next((route.module for route in routes if route.module != "*"), None)
    if owner == UNKNOWN and blind is not None:
        raise InputError(
            "A PartitionedRule's routes must look at names alone where modules are unknown, but one has module "
            f"{blind!r}."
        )
    label = next((route.rule for route in routes if route.matches(name, owner)), None)
    if label is None:
        module = "*" if owner == UNKNOWN else owner
        raise InputError(
            f"PartitionedRule: no route matches the parameter {name!r} of a {owner}; add one, such as "
            f"{{rule: {routes[0].rule if routes else 'label'}, module: {module!r}}}."
        )
    return label


class PartitionedRule(UpdateRule):
    """Routes every parameter to one of several rules, such as one LSTM for convolutions and another for dense layers.

    Section 3.3 of Andrychowicz et al. 2016. State leaves are those of the rules under ``label/leaf``, each rule seeing
    a layout of its own tensors alone. The scope is the widest of the rules' scopes. Rules to which no
    parameter goes stay unused.

    Args:
        rules: label -> rule.
        routes: tried in this order for each parameter; the first that matches holds.

    Raises:
        InputError: if a route names no rule, a label is no identifier, or, in ``check_layout``, a parameter matches no
            route.
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

    @property
    def scope(self) -> Scope:  # type: ignore[override]
        """The widest scope of the rules."""
        return max((rule.scope for rule in self._all()), key=get_args(Scope).index)

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """What any of the rules needs."""
        return frozenset().union(*(rule.needs for rule in self._all()))

    def check_layout(self, layout: CoordinateLayout) -> None:
        parts = self._parts(layout)
        idle = self.rules.keys() - {part.label for part in parts}
        if idle:
            warnings.warn(f"PartitionedRule: no parameter goes to {', '.join(sorted(idle))}.", stacklevel=2)
        for part in parts:
            self._rule(part).check_layout(part.layout)

    def subset(self, state: RuleState, layout: CoordinateLayout, some: Coordinates) -> RuleState:
        new_state: RuleState = {}
        some_parts = {part.label: part.layout for part in self._parts(some.layout)}
        for part in self._parts(layout):
            own = _of(part.label, state)
            if part.label not in some_parts or not own:
                continue
            index = _index_in_part(layout, part, some, next(iter(own.values())).device)
            subset = self._rule(part).subset(own, part.layout, Coordinates(index, some_parts[part.label]))
            new_state.update(_under(part.label, subset))
        return new_state

    def tape(self, state: RuleState, layout: CoordinateLayout, steps: int | None) -> Tape | None:
        tapes = {}
        for part in self._parts(layout):
            tape = self._rule(part).tape(_of(part.label, state), part.layout, steps)
            if tape is None:
                return None
            tapes[part.label] = tape
        return _PartitionedTape(self, layout, tapes)

    def init_state(
        self, theta: Tensor, layout: CoordinateLayout, generator: torch.Generator | None = None
    ) -> RuleState:
        state: RuleState = {}
        for part in self._parts(layout):
            own = self._rule(part).init_state(_gather(theta, layout, part), part.layout, generator)
            state.update(_under(part.label, own))
        return state

    def forward(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, RuleState]:
        updates, new_state = [], {}
        for part, seen in self.inputs_of_parts(inputs):
            update, own = self._rule(part)(seen, _of(part.label, state))
            updates.append(update)
            new_state.update(_under(part.label, own))
        return self.join(updates, inputs.layout), new_state

    def inputs_of_parts(self, inputs: RuleInput) -> Iterable[tuple[_Part, RuleInput]]:
        """The parts and what each of their rules sees."""
        for part in self._parts(inputs.layout):
            theta, grad = (_gather(x, inputs.layout, part) for x in (inputs.theta, inputs.grad))
            yield part, inputs._replace(theta=theta, grad=grad, layout=part.layout)

    def join(self, updates: Sequence[Tensor], layout: CoordinateLayout) -> Tensor:
        """Updates (..., m) of the parts -> of all coordinates (..., n)."""
        pieces: dict[int, Tensor] = {}
        for part, update in zip(self._parts(layout), updates, strict=True):
            pieces.update(zip(part.places, update.split(part.layout.sizes, -1), strict=True))
        return torch.cat([pieces[place] for place in range(len(layout.names))], -1)

    def _parts(self, layout: CoordinateLayout) -> tuple[_Part, ...]:
        return _parts(tuple(self.routes), tuple(self.rules), layout)

    def _all(self) -> list[UpdateRule]:
        return list(self.rules.values())  # type: ignore[arg-type]

    def _rule(self, part: _Part) -> UpdateRule:
        return self.rules[part.label]  # type: ignore[return-value]


class _PartitionedTape:
    """The tapes of the rules side by side."""

    def __init__(self, whole: PartitionedRule, layout: CoordinateLayout, tapes: dict[str, Tape]) -> None:
        self._whole, self._layout, self._tapes = whole, layout, tapes

    @property
    def state(self) -> RuleState:
        parts = [_under(label, tape.state) for label, tape in self._tapes.items()]
        return {name: leaf for part in parts for name, leaf in part.items()}

    def __call__(self, inputs: RuleInput) -> Tensor:
        updates = [self._tapes[part.label](seen) for part, seen in self._whole.inputs_of_parts(inputs)]
        return self._whole.join(updates, self._layout)

    def updates(self) -> Tensor:
        return self._whole.join([tape.updates() for tape in self._tapes.values()], self._layout)


def _gather(values: Tensor, layout: CoordinateLayout, part: _Part) -> Tensor:
    """(..., n) -> the part's coordinates (..., m)."""
    pieces = values.split(layout.sizes, -1)
    return torch.cat([pieces[place] for place in part.places], -1)


def _index_in_part(layout: CoordinateLayout, part: _Part, some: Coordinates, device: torch.device) -> Tensor:
    """Where those of some coordinates that belong to a part lie in the part's last dimension; no host waits for it."""
    index = some.chosen
    if isinstance(index, slice):
        start, stop, _ = index.indices(layout.n)
        index = torch.arange(start, stop, device=device)
    starts = {name: where.start for name, where, _ in layout.slices}
    own_starts = {name: where.start for name, where, _ in part.layout.slices}
    ends = list(accumulate(some.layout.sizes))
    pieces = [
        index[end - size : end] - starts[name] + own_starts[name]
        for name, size, end in zip(some.layout.names, some.layout.sizes, ends, strict=True)
        if name in own_starts
    ]
    return torch.cat(pieces)


def _of(label: str, state: RuleState) -> RuleState:
    return {name.removeprefix(f"{label}/"): leaf for name, leaf in state.items() if name.startswith(f"{label}/")}


def _under(label: str, state: RuleState) -> RuleState:
    return {f"{label}/{name}": leaf for name, leaf in state.items()}
