"""Where B problems stand between two windows, and how some of them start afresh."""

from dataclasses import dataclass

import torch
from torch import Tensor

from l2l_lightning.core.errors import InputError
from l2l_lightning.core.window import Data, Window

RuleState = dict[str, Tensor]


@dataclass
class InnerState:
    """Everything that one window hands to the next; all tensors detached.

    Attributes:
        theta: (B, n) coordinates of every problem.
        rule: the rule's state, leaves (*features, B, k), where k is n for rules of scope "coordinate".
        instance: the problems' own data, leaves (B, ...); empty where a problem is its data stream.
        age: (B,) int64, inner steps since the problem's reset.
        lifetime: (B,) int64, the age at which the problem is reset.
        total: (B,) float, the inner steps that the problem is told it will have; 0: unknown.
        diverged: (B,) bool, a loss, a gradient or theta was not finite; the problem is reset at the next window.
    """

    theta: Tensor
    rule: RuleState
    instance: Data
    age: Tensor
    lifetime: Tensor
    total: Tensor
    diverged: Tensor

    @property
    def due(self) -> Tensor:
        """(B,) bool: problems to be reset before the next window."""
        return (self.age >= self.lifetime) | self.diverged

    def state_dict(self) -> dict[str, Tensor | dict[str, Tensor]]:
        """Tensors and dicts of tensors only, so that ``torch.load(weights_only=True)`` reads it."""
        return dict(vars(self))

    def to(self, device: torch.device | str) -> "InnerState":
        """A copy of the state whose tensors are on ``device``."""

        def move(value: Tensor | dict[str, Tensor]) -> Tensor | dict[str, Tensor]:
            return {k: v.to(device) for k, v in value.items()} if isinstance(value, dict) else value.to(device)

        return InnerState(**{name: move(value) for name, value in vars(self).items()})  # type: ignore[arg-type]


def check_rule_state(owner: str, state: RuleState, problems: int) -> None:
    """Refuse a rule's state without the dimension of problems, which resets would spread over all of them.

    Raises:
        InputError: unless every leaf is a tensor (*features, B, k).
    """
    for name, leaf in state.items():
        if leaf.dim() < 2 or leaf.shape[-2] != problems:
            raise InputError(
                f"{owner}.init_state: the leaf {name!r} must have shape (*features, B, k), here (..., {problems}, k), "
                f"features first, but has {tuple(leaf.shape)}."
            )


def fresh_state(
    theta: Tensor, rule: RuleState, instance: Data, lifetime: Tensor, total: Tensor | None = None
) -> InnerState:
    """The state of B problems that start now; without a ``total`` (B,) none of them is told one."""
    age = torch.zeros_like(lifetime)  # (B,)
    total = torch.zeros_like(lifetime, dtype=theta.dtype) if total is None else total.to(theta.dtype)
    return InnerState(theta, rule, instance, age, lifetime, total, torch.zeros_like(age, dtype=torch.bool))


def reset_problems(state: InnerState, fresh: InnerState, mask: Tensor) -> InnerState:
    """``fresh`` where ``mask`` (B,) holds, ``state`` elsewhere."""
    coordinates = mask.unsqueeze(-1)  # (B, 1) broadcasts over leaves (*features, B, k)

    def select_instance(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(mask.view(-1, *[1] * (new.dim() - 1)), new, old)

    return InnerState(
        theta=torch.where(coordinates, fresh.theta, state.theta),
        rule={name: torch.where(coordinates, fresh.rule[name], old) for name, old in state.rule.items()},
        instance={name: select_instance(fresh.instance[name], old) for name, old in state.instance.items()},
        age=torch.where(mask, fresh.age, state.age),
        lifetime=torch.where(mask, fresh.lifetime, state.lifetime),
        total=torch.where(mask, fresh.total, state.total),
        diverged=state.diverged & ~mask,
    )


def check_resumed(state: InnerState, rule: RuleState, window: Window, n: int) -> None:
    """Refuse a state from a checkpoint that does not belong to this configuration.

    Args:
        state: what was saved.
        rule: a state of the configuration's rule, leaves (*features, B, n), whose values do not count.
        window: a window of the configuration's B problems.
        n: coordinates of its optimizee.

    Raises:
        InputError: for other numbers of problems or coordinates, or other leaves of rule and instances.
    """
    found, expected = tuple(state.theta.shape), (window.problems, n)
    if found != expected:
        raise InputError(
            f"The checkpoint's inner state holds {found[0]} problems of {found[1]} coordinates, but this "
            f"configuration has {expected[0]} of {expected[1]}; resume with the configuration of its own run, "
            "or set model.init_from to the checkpoint to start a new run from its rule."
        )
    for name, own, saved in (("rule's", rule, state.rule), ("instances'", window.instance, state.instance)):
        if {key: leaf.shape for key, leaf in own.items()} != {key: leaf.shape for key, leaf in saved.items()}:
            raise InputError(
                f"The {name} part of the checkpoint's inner state has other leaves or shapes than this "
                "configuration; resume with the configuration of its own run."
            )
