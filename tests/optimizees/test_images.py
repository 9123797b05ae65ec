from itertools import pairwise

import pytest
import torch
from scenes import assert_refused
from torch import nn
from torch.nn import functional as F

from l2l_lightning.core.errors import InputError
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.random import keyed_generator
from l2l_lightning.optimizees import ImageMLP

TORCH = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU}
# The networks of figures 5 and 6 of Andrychowicz et al. 2016, and some more.
VARIANTS = {
    "paper": ({}, 15_910),
    "40 units": ({"hidden_sizes": (40,)}, 31_810),
    "two layers": ({"hidden_sizes": (20, 20)}, 16_330),
    "relu": ({"activation": "relu"}, 15_910),
    "tanh": ({"activation": "tanh"}, 15_910),
    "elu": ({"activation": "elu"}, 15_910),
    "linear": ({"hidden_sizes": ()}, 7_850),
    "small": ({"in_features": 12, "classes": 3, "hidden_sizes": [5, 4], "weight_std": 1.0}, 104),
}

every_variant = pytest.mark.parametrize(("arguments", "n"), VARIANTS.values(), ids=VARIANTS)


def batch(module, size=6):
    """Images (size, 1, 2, in_features / 2) and labels."""
    shape = (size, 1, 2, module.in_features // 2)
    return {"image": torch.randn(shape), "label": torch.randint(module.classes, (size,))}


def draw(module, *keys):
    return torch.cat([Problems(module).draw(1, keyed_generator(key)) for key in keys])


def sequential(module, theta):
    """The same network as torch would write it, with theta as its parameters."""
    sizes = [module.in_features, *module.hidden_sizes, module.classes]
    layers = [nn.Flatten()]
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), TORCH[module.activation]()]
    plain = nn.Sequential(*layers[:-1])
    nn.utils.vector_to_parameters(theta, plain.parameters())
    return plain


@every_variant
def test_parameters_loss_and_gradient_are_those_of_a_plain_network(arguments, n):
    module = ImageMLP(**arguments)
    problems, theta, data = Problems(module), draw(module, 0, 1), batch(module)
    assert problems.layout.n == n == theta.shape[1]
    losses, grads = problems.losses_and_grads(theta, {name: leaf.expand(2, *leaf.shape) for name, leaf in data.items()})
    for b in range(2):
        plain = sequential(module, theta[b])
        loss = F.cross_entropy(plain(data["image"]), data["label"])
        loss.backward()
        torch.testing.assert_close(losses[b], loss.detach())
        torch.testing.assert_close(grads[b], nn.utils.parameters_to_vector(p.grad for p in plain.parameters()))


@pytest.mark.parametrize("name", ["paper", "small"])
def test_metrics_of_every_problem_are_those_of_its_network(name):
    module = ImageMLP(**VARIANTS[name][0])
    theta, data = 100 * draw(module, *range(4)), batch(module, size=50)
    metrics = Problems(module).metrics(theta, data)
    logits = torch.stack([sequential(module, row)(data["image"]) for row in theta])
    expected = (logits.argmax(-1) == data["label"]).float().mean(-1)
    losses = torch.stack([nn.functional.cross_entropy(row, data["label"]) for row in logits])
    torch.testing.assert_close(metrics["held_out_loss"], losses)
    torch.testing.assert_close(metrics["accuracy"], expected)
    assert len(set(expected.tolist())) > 1  # or else one problem could stand for all


@pytest.mark.parametrize(("weight_std", "bias_std"), [(0.01, 0.01), (0.3, 2.0), (1.0, 0.0)])
def test_weights_and_biases_start_normal(weight_std, bias_std):
    module = ImageMLP((3000,), weight_std=weight_std, bias_std=bias_std, in_features=10)
    module.reset_parameters(keyed_generator(0))
    for layer in module.layers:
        assert layer.weight.std().item() == pytest.approx(weight_std, rel=0.03)
        assert layer.weight.mean().item() == pytest.approx(0, abs=0.03 * weight_std)
    biases = module.layers[0].bias
    assert biases.std().item() == pytest.approx(bias_std, rel=0.05)
    assert biases.mean().item() == pytest.approx(0, abs=0.06 * bias_std)


def test_start_depends_on_the_generator_alone():
    module = ImageMLP(in_features=4)
    torch.manual_seed(1)
    first = draw(module, 5, 6)
    torch.manual_seed(2)
    again = draw(ImageMLP(in_features=4), 5, 6)
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize(
    ("argument", "value"),
    [("activation", "swish"), ("activation", ""), ("activation", None), ("activation", "ReLU")]
    + [(std, value) for std in ("weight_std", "bias_std") for value in (-1, float("nan"), float("inf"), "0.01", True)]
    + [(size, value) for size in ("in_features", "classes") for value in (0, -1, 2.5, True, "10")],
)
def test_bad_arguments_are_refused(argument, value):
    assert_refused(ImageMLP, argument, value)


@pytest.mark.parametrize(("sizes", "place"), [((0,), 0), ((20, -3), 1), ((True,), 0), ((2.5,), 0), (("20",), 0)])
def test_a_bad_layer_is_named_by_its_place(sizes, place):
    sentence = rf"^ImageMLP: hidden_sizes\[{place}\] must be a positive integer, got {sizes[place]!r}\.$"
    with pytest.raises(InputError, match=sentence):
        ImageMLP(sizes)


@pytest.mark.parametrize("value", [20, "20", None])
def test_hidden_sizes_that_are_no_list_are_refused(value):
    with pytest.raises(InputError, match=r"ImageMLP: hidden_sizes must be a list of positive integers, got"):
        ImageMLP(hidden_sizes=value)
