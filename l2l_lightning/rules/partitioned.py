"""Different rules for different kinds of parameters."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from l2l_lightning.core.coordinates import CoordinateLayout
from l2l_lightning.core.errors import InputError
from l2l_lightning.core.state import RuleState
from l2l_lightning.core.unroll import RuleInput
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

    def init_state(self, theta: Tensor) -> RuleState:
        pieces = self._split(theta)
        states = {label: rule.init_state(torch.cat(pieces[label], -1)) for label, rule in self._used()}
        return {f"{label}/{name}": leaf for label, state in states.items() for name, leaf in state.items()}

    def forward(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, RuleState]:
        thetas, grads = self._split(inputs.theta), self._split(inputs.grad)
        steps, new_state = {}, {}
        for label, rule in self._used():
            own = {name.removeprefix(f"{label}/"): leaf for name, leaf in state.items() if name.startswith(f"{label}/")}
            part = inputs._replace(theta=torch.cat(thetas[label], -1), grad=torch.cat(grads[label], -1))
            step, own = rule(part, own)
            new_state.update({f"{label}/{name}": leaf for name, leaf in own.items()})
            steps[label] = iter(step.split([piece.shape[-1] for piece in grads[label]], -1))
        return torch.cat([next(steps[label]) for label in self._labels], -1), new_state
