"""Numbers of a meta-training of three windows, written down once: a refactoring may not change them."""

import pytest
import torch
from scenes import Scene, initial_state
from torch import nn

from l2l_lightning.core.estimators.backpropagation import backpropagate
from l2l_lightning.core.horizon import RandomHorizon
from l2l_lightning.core.objective import Objective
from l2l_lightning.core.random import keyed_generator
from l2l_lightning.core.state import fresh_state, reset_problems
from l2l_lightning.rules import CoordinatewiseLSTM

LIFETIMES = [[10, 5, 5, 5], [10, 10, 10, 5], [5, 10, 10, 5]]
META_LOSSES = [1.9261310545387567, 1.8539591566032534, 2.4293207858379953]
LAST_LOSSES = [19.514548273441843, 2.563115455007148, 11.92835752705778, 10.097577918780123]
PHI_NORM = 5.890555642972545


def test_three_windows_of_an_lstm_on_quadratics():
    count, steps, horizon = 4, 5, RandomHorizon(5, 10)
    rule = CoordinatewiseLSTM(layers=2, hidden_size=5, output_scale=0.1).double()
    generator = keyed_generator(0)
    for parameter in rule.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    outer = torch.optim.Adam(rule.parameters(), 0.01)

    state, meta_losses, lifetimes = None, [], []
    for k in range(3):
        scene = Scene.draw(count=count, steps=steps, seed=k)
        lifetime = horizon.draw(count, k, steps, keyed_generator(1, k))
        fresh = fresh_state(scene.theta, initial_state(rule, scene.theta), scene.instance, lifetime)
        state = fresh if state is None else reset_problems(state, fresh, state.due)
        lifetimes.append(state.lifetime.tolist())
        unrolled = backpropagate(rule, scene.problems, state, scene.window(), Objective("uniform", "log"))
        outer.zero_grad()
        unrolled.meta_loss.backward()
        outer.step()
        state = unrolled.state
        meta_losses.append(unrolled.meta_loss.item())

    phi = nn.utils.parameters_to_vector(rule.parameters())
    assert lifetimes == LIFETIMES
    assert meta_losses == pytest.approx(META_LOSSES, rel=1e-6)
    assert unrolled.curve[-1].tolist() == pytest.approx(LAST_LOSSES, rel=1e-6)
    assert phi.norm().item() == pytest.approx(PHI_NORM, rel=1e-6)
