import pytest
import torch
from scenes import Scene
from torch import nn

from l2l_lightning.core.errors import InputError
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.random import keyed_generator
from l2l_lightning.optimizees import ImageMLP, OptimizeeModule, Quadratic


def test_losses_and_gradients_equal_a_loop_over_modules():
    """One module a problem, each with its own parameters, instance and backward pass."""
    count = 3
    problems = Problems(ImageMLP((4,), in_features=6, classes=3, weight_std=1.0).double())
    theta = problems.draw(count, keyed_generator(1))
    images = torch.randn(count, 5, 1, 2, 3, dtype=torch.float64)
    labels = torch.randint(3, (count, 5))
    losses, grads = problems.losses_and_grads(theta, {"image": images, "label": labels})
    for b in range(count):
        module = ImageMLP((4,), in_features=6, classes=3).double()
        nn.utils.vector_to_parameters(theta[b], module.parameters())
        loss = module({"image": images[b], "label": labels[b]})
        loss.backward()
        torch.testing.assert_close(losses[b], loss.detach(), rtol=1e-12, atol=1e-14)
        grad = nn.utils.parameters_to_vector(parameter.grad for parameter in module.parameters())
        torch.testing.assert_close(grads[b], grad, rtol=1e-12, atol=1e-14)


def test_draw_equals_reset_parameters_with_the_same_generator():
    module, generator = ImageMLP((4,), in_features=6, classes=3), keyed_generator(2)
    expected = []
    for _ in range(3):
        module.reset_parameters(generator)
        expected.append(nn.utils.parameters_to_vector(module.parameters()).detach())
    theta = Problems(ImageMLP((4,), in_features=6, classes=3)).draw(3, keyed_generator(2))
    assert torch.equal(theta, torch.stack(expected))
    assert not theta.requires_grad


def test_the_optimizee_is_only_a_template():
    optimizee = Quadratic(4).double()
    scene = Scene.draw()
    problems = Problems(optimizee)
    problems.draw(2, keyed_generator(0))
    problems.losses_and_grads(scene.theta, scene.window().data(0, scene.instance))
    assert optimizee.x.requires_grad
    assert optimizee.x.grad is None
    assert torch.equal(optimizee.x, torch.zeros_like(optimizee.x))


@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_carry_a_graph_only_on_request(create_graph):
    scene = Scene.draw()
    theta = scene.theta.clone().requires_grad_()
    data = scene.window().data(0, scene.instance)
    losses, grads = scene.problems.losses_and_grads(theta, data, create_graph=create_graph)
    assert losses.requires_grad == grads.requires_grad == create_graph


def test_gradients_exist_under_no_grad():
    scene = Scene.draw()
    data = scene.window().data(0, scene.instance)
    with torch.no_grad():
        _, grads = scene.problems.losses_and_grads(scene.theta, data)
    assert torch.equal(grads, scene.problems.losses_and_grads(scene.theta, data)[1])


def test_problems_need_no_data():
    class Parabola(OptimizeeModule):
        def __init__(self):
            super().__init__()
            self.x = nn.Parameter(torch.zeros(()))

        def forward(self, data):
            return self.x.square()

    losses, grads = Problems(Parabola()).losses_and_grads(torch.tensor([[2.0], [-3.0]]), {})
    assert losses.tolist() == [4, 9]
    assert grads.tolist() == [[4], [-6]]


class Vector(Quadratic):
    def forward(self, data):
        return self.x


class Empty(OptimizeeModule): ...


@pytest.mark.parametrize(
    ("optimizee", "data", "sentence"),
    [
        (Vector(2), {}, r"Vector must return a scalar loss, but returned shape \(2,\)"),
        (Quadratic(2), {"W": torch.eye(2)[None]}, r"Quadratic reads 'y' from its data, but .* provides \['W'\]"),
        (
            Quadratic(2),
            {"W": torch.eye(3)[None], "y": torch.ones(1, 2)},
            r"Quadratic cannot be evaluated on W \(3, 3\), y",
        ),
        (Empty(), {}, "Empty has no parameters to optimize"),
    ],
    ids=["vector loss", "missing data", "wrong shape", "no parameters"],
)
def test_what_an_author_of_optimizees_gets_wrong_is_named(optimizee, data, sentence):
    with pytest.raises(InputError, match=sentence):
        Problems(optimizee).losses(torch.zeros(1, 2), data)


def test_buffers_in_a_precision_of_their_own_keep_it():
    class Precise(Quadratic):
        def __init__(self):
            super().__init__(2)
            self.register_buffer("decay", torch.tensor(0.9999, dtype=torch.float64))
            self.register_buffer("scale", torch.tensor(0.5))

    problems = Problems(Precise())
    problems.to("cpu", torch.bfloat16)
    assert {name: buffer.dtype for name, buffer in problems.template.named_buffers()} == {
        "decay": torch.float64,
        "scale": torch.bfloat16,
    }
    assert problems.template.x.dtype == torch.bfloat16
