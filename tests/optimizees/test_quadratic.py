import pytest
import torch
from scenes import Scene, assert_refused
from torch import nn

from l2l_lightning.core.random import keyed_generator
from l2l_lightning.optimizees import Quadratic


def test_loss_and_gradient_are_the_closed_form():
    """f = ||W x - y||^2 and its gradient 2 W' (W x - y)."""
    scene = Scene.draw()
    residual = (scene.instance["W"] @ scene.theta.unsqueeze(-1)).squeeze(-1) - scene.stream[0]
    expected = residual.square().sum(-1), 2 * (scene.instance["W"].mT @ residual.unsqueeze(-1)).squeeze(-1)
    found = scene.problems.losses_and_grads(scene.theta, scene.window().data(0, scene.instance))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_its_minimum_is_where_w_maps_x_to_y():
    module = Quadratic(2)
    with torch.no_grad():
        module.x.copy_(torch.tensor([1.0, -2.0]))
    data = {"W": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "y": torch.tensor([-3.0, -5.0])}
    assert module(data) == 0
    assert module(data | {"y": torch.zeros(2)}) == 9 + 25


@pytest.mark.parametrize("std", [0.0, 0.01, 3.0])
def test_x_starts_normal_and_as_the_generator_says(std):
    module = Quadratic(dim=20_000, init_std=std)
    starts = []
    for key in (1, 1, 2):
        module.reset_parameters(keyed_generator(key))
        starts.append(nn.utils.parameters_to_vector(module.parameters()).detach().clone())
    assert torch.equal(starts[0], starts[1])
    assert torch.equal(starts[0], starts[2]) == (std == 0)
    assert starts[0].std().item() == pytest.approx(std, rel=0.03)
    assert starts[0].mean().item() == pytest.approx(0, abs=0.03 * std)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("dim", value) for value in (0, -1, 2.0, True, "10")),
        *(("init_std", value) for value in (-0.1, float("nan"), float("inf"), None)),
    ],
)
def test_bad_arguments_are_refused(argument, value):
    assert_refused(Quadratic, argument, value)
