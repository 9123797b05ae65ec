"""Small quadratics to unroll on, and how a bad argument is refused: shared by core, rules and optimizees."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

from l2l_lightning.core.coordinates import CoordinateLayout
from l2l_lightning.core.errors import InputError
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.random import keyed_generator
from l2l_lightning.core.state import InnerState, RuleState, fresh_state
from l2l_lightning.core.window import Data, Window
from l2l_lightning.optimizees import Quadratic
from l2l_lightning.rules import RuleInput, UpdateRule
from l2l_lightning.rules.recurrent import CoordinatewiseNetwork


@dataclass(frozen=True)
class Scene:
    """B quadratics ||W x - y_t||^2 in float64 whose y changes at every point, like a minibatch.

    Attributes:
        problems: the optimizee, B of it.
        theta: (B, n) where the problems start.
        instance: W (B, n, n), the part of the data that stays.
        stream: y (T+1, B, n), the part that changes.
    """

    problems: Problems
    theta: Tensor
    instance: Data
    stream: Tensor

    @classmethod
    def draw(cls, count: int = 3, dim: int = 4, steps: int = 5, seed: int = 0) -> "Scene":
        generator = keyed_generator(seed, count, dim, steps)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        problems = Problems(Quadratic(dim, init_std=1.0).double())
        theta = problems.draw(count, generator)
        return cls(problems, theta, {"W": normal(count, dim, dim) / dim**0.5}, normal(steps + 1, count, dim))

    def keep(self, *which: int) -> "Scene":
        """These problems alone."""
        rows = list(which)
        instance = {"W": self.instance["W"][rows]}
        return replace(self, theta=self.theta[rows], instance=instance, stream=self.stream[:, rows])

    def state(self, rule: UpdateRule) -> InnerState:
        lifetime = torch.full((len(self.theta),), 1000)
        return fresh_state(self.theta, rule.init_state(self.theta, self.problems.layout), self.instance, lifetime)

    def window(self, start: int = 0, stop: int | None = None) -> Window:
        """The points ``start`` ... ``stop``, all of them by default."""
        points = self.stream[start : None if stop is None else stop + 1]
        return Window(0, len(self.theta), len(points) - 1, {}, {"y": points})


def initial_state(rule: UpdateRule, theta: Tensor, layout: CoordinateLayout | None = None) -> RuleState:
    """The rule's state at theta (..., n), of one vector where no layout is given."""
    return rule.init_state(theta, layout or CoordinateLayout.flat(theta.shape[-1]))


def seen(
    theta: Tensor,
    grad: Tensor,
    loss: Tensor | None,
    t: Tensor,
    layout: CoordinateLayout | None = None,
    total: float = 0.0,
) -> RuleInput:
    """A rule's input: of one vector and an unknown total where nothing else is said."""
    layout = layout or CoordinateLayout.flat(theta.shape[-1])
    return RuleInput(theta, grad, loss, t, torch.full(t.shape, total, dtype=theta.dtype), layout)


def awake(network: CoordinatewiseNetwork) -> CoordinatewiseNetwork:
    """A network whose head is not zero, as it is before training, so that it moves."""
    nn.init.normal_(network.head_weight, std=0.5)
    return network


def assert_refused(kind: type, argument: str, value: object, **others: object) -> None:
    """The class refuses the argument with one sentence that names class, argument and value."""
    with pytest.raises(InputError) as caught:
        kind(**{argument: value}, **others)
    sentence = str(caught.value)
    assert sentence.startswith(f"{kind.__name__}: {argument}")
    assert sentence.endswith(f"{value!r}.")
    assert "\n" not in sentence
