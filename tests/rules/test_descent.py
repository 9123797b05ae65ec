"""One test that every rule passes: it goes downhill."""

import pytest
import torch
from scenes import initial_state
from torch import nn

from l2l_lightning.core.estimators.backpropagation import backpropagate
from l2l_lightning.core.objective import Objective
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.random import keyed_generator
from l2l_lightning.core.state import fresh_state
from l2l_lightning.core.window import Window
from l2l_lightning.optimizees import Function, Rosenbrock
from l2l_lightning.rules import (
    SGD,
    Adagrad,
    Adam,
    Adamax,
    CoordinatewiseGRU,
    CoordinatewiseLSTM,
    CoordinatewiseRNN,
    Momentum,
    Nesterov,
    RMSprop,
)


class Parabola(Function):
    def __init__(self):
        super().__init__(dim=2)

    def reset_parameters(self, generator):
        nn.init.normal_(self.x, generator=generator)

    def value(self, x, data):
        return (x * torch.tensor([1.0, 0.5])).square().sum()


class FromHisStart(Rosenbrock):
    """Rosenbrock 1960, from his own start (-1.2, 1)."""

    def reset_parameters(self, generator):
        self.x.copy_(torch.tensor([-1.2, 1.0]))


HANDMADE = [SGD(0.1), Momentum(0.05), Nesterov(0.05), Adagrad(0.5), RMSprop(0.05), Adam(0.1), Adamax(0.1)]
NETWORKS = [CoordinatewiseLSTM, CoordinatewiseGRU, CoordinatewiseRNN]


def descend(rule, optimizee, steps, seed=0):
    """One window of ``steps`` inner steps for eight problems."""
    problems = Problems(optimizee)
    theta = problems.draw(8, keyed_generator(seed))
    state = fresh_state(theta, initial_state(rule, theta), {}, torch.full((8,), steps))
    return backpropagate(rule, problems, state, Window(0, 8, steps, {}, {}), Objective())


@pytest.mark.parametrize("rule", HANDMADE, ids=lambda rule: type(rule).__name__)
def test_handmade_rules_descend_a_parabola(rule):
    curve = descend(rule, Parabola(), steps=100).curve
    assert (curve[-1] < 0.05 * curve[0]).all()


@pytest.mark.parametrize(
    "rule",
    [SGD(2e-3), Momentum(2e-4), Nesterov(2e-4), Adagrad(0.5), RMSprop(0.02), Adam(0.05), Adamax(0.2)],
    ids=lambda rule: type(rule).__name__,
)
def test_handmade_rules_descend_rosenbrocks_valley(rule):
    curve = descend(rule, FromHisStart(), steps=500).curve
    assert curve[0].tolist() == pytest.approx([24.2] * 8)
    assert (curve[-1] < 1.0).all()


@pytest.mark.parametrize("kind", NETWORKS)
def test_networks_learn_to_descend_a_parabola(kind):
    torch.manual_seed(0)
    rule = kind(layers=1, hidden_size=8, output_scale=0.1)
    outer = torch.optim.Adam(rule.parameters(), 0.01)
    for seed in range(60):
        outer.zero_grad()
        descend(rule, Parabola(), steps=15, seed=seed).meta_loss.backward()
        outer.step()
    with torch.no_grad():
        curve = descend(rule, Parabola(), steps=15, seed=1000).curve
    assert curve[-1].mean() < 0.2 * curve[0].mean()
