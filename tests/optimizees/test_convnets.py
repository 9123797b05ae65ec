"""Convolutional networks against the documents' counts and against torch's own layers."""

import pytest
import torch
from scenes import assert_refused
from torch import nn
from torch.nn import functional as F

from l2l_lightning.core.errors import InputError
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.random import keyed_generator
from l2l_lightning.optimizees import BatchNormConvNet, ConvCifar, ConvMnist
from l2l_lightning.optimizees.convnets import _normalize, _pool

# Sections 2.3.3 and 2.3.4 of the thesis, section 3.3 of the paper: network, parameters in all, shapes of the weights.
NETWORKS = {
    "ConvMnist_l": (ConvMnist(), 3_274_634, [(32, 1, 5, 5), (64, 32, 5, 5), (1024, 3136), (10, 1024)], (1, 28)),
    "ConvMnist_s": (
        ConvMnist([16, 32], 512),
        821_706,
        [(16, 1, 5, 5), (32, 16, 5, 5), (512, 1568), (10, 512)],
        (1, 28),
    ),
    "ConvCifar_0": (
        ConvCifar(),
        1_068_298,
        [(64, 3, 5, 5), (64, 64, 5, 5), (384, 2304), (192, 384), (10, 192)],
        (3, 24),
    ),
    "ConvCifar_1": (
        ConvCifar(16, [96, 46]),
        67_956,
        [(16, 3, 5, 5), (16, 16, 5, 5), (96, 576), (46, 96), (10, 46)],
        (3, 24),
    ),
    "BatchNormConvNet": (
        BatchNormConvNet(),
        22_762,
        [(16, 3, 5, 5), (16, 16, 5, 5), (16, 16, 5, 5), (32, 256), (10, 32)],
        (3, 32),
    ),
}

every_network = pytest.mark.parametrize(("network", "n", "shapes", "image"), NETWORKS.values(), ids=NETWORKS)


@every_network
def test_layers_have_the_documents_shapes(network, n, shapes, image):
    problems = Problems(network)
    assert problems.layout.n == n
    assert [tuple(shape) for shape in problems.layout.shapes if len(shape) > 1] == shapes
    channels, size = image
    batch = {"image": torch.rand(2, 4, channels, size, size), "label": torch.randint(10, (2, 4))}
    losses = problems.losses(problems.draw(2, keyed_generator(0)), batch)
    assert torch.isfinite(losses).all()


@pytest.mark.parametrize(
    ("network", "stds", "biases"),
    [
        (ConvMnist(), [0.1] * 4, [0.1] * 4),
        (ConvCifar(), [0.05, 0.05, 0.04, 0.04, 1 / 192], [0, 0.1, 0.1, 0.1, 0]),
    ],
    ids=["ConvMnist", "ConvCifar"],
)
def test_initial_weights_are_normal_cut_at_two_deviations(network, stds, biases):
    network.reset_parameters(keyed_generator(0))
    weights = [parameter for name, parameter in network.named_parameters() if name.endswith("weight")]
    constants = [parameter for name, parameter in network.named_parameters() if name.endswith("bias")]
    for weight, std in zip(weights, stds, strict=True):
        assert weight.abs().max() <= 2 * std
        # The deviation of a standard normal cut at +-2 is 0.8796.
        assert weight.std().item() == pytest.approx(0.8796 * std, rel=0.06)
    for bias, constant in zip(constants, biases, strict=True):
        assert (bias == constant).all()


def test_local_response_normalization_is_torch_s_and_the_formula():
    """x / (1 + 0.001/9 * sum of the squares of the 9 nearest channels)^0.75: TensorFlow's radius of 4."""
    x = 30 * torch.rand(2, 3, 12, 4, 4, generator=keyed_generator(0), dtype=torch.float64)
    expected = torch.zeros_like(x)
    for c in range(12):
        near = x[:, :, max(0, c - 4) : c + 5].square().sum(2)
        expected[:, :, c] = x[:, :, c] / (1 + 0.001 / 9 * near) ** 0.75
    torch.testing.assert_close(torch.vmap(_normalize)(x), expected)
    layer = nn.LocalResponseNorm(9, alpha=0.001, beta=0.75, k=1.0)
    torch.testing.assert_close(_normalize(x[0]), layer(x[0]))


def test_max_pool_pads_as_tensorflow_s_same():
    """A 3x3 window of stride 2 on an even size: the rows 2i, 2i+1, 2i+2, the last of them beyond the edge."""
    x = torch.rand(1, 1, 6, 6, generator=keyed_generator(0))
    pooled = _pool(x)
    assert pooled.shape == (1, 1, 3, 3)
    for i in range(3):
        for j in range(3):
            assert pooled[0, 0, i, j] == x[0, 0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max()


def test_conv_cifar_normalizes_after_the_first_pool_and_before_the_second():
    network = ConvCifar(4, [6, 5])
    network.reset_parameters(keyed_generator(0))
    image = torch.rand(2, 3, 24, 24, generator=keyed_generator(1))
    x = _normalize(_pool(F.conv2d(image, network.conv1.weight, network.conv1.bias, padding=2).relu()))
    x = _pool(_normalize(F.conv2d(x, network.conv2.weight, network.conv2.bias, padding=2).relu()))
    for layer in (network.dense1, network.dense2):
        x = (x.flatten(1) @ layer.weight.T + layer.bias).relu()
    torch.testing.assert_close(network.logits(image), x @ network.output.weight.T + network.output.bias)


def test_weight_decay_adds_half_the_dense_weights_squares_to_the_loss():
    plain, decayed = (ConvCifar(4, [6, 5], weight_decay=decay) for decay in (0.0, 0.004))
    for network in (plain, decayed):
        network.reset_parameters(keyed_generator(0))
    batch = {"image": torch.rand(2, 3, 24, 24), "label": torch.tensor([1, 2])}
    squares = sum(layer.weight.square().sum() for layer in (plain.dense1, plain.dense2, plain.output))
    torch.testing.assert_close(decayed(batch) - plain(batch), 0.004 * squares / 2)


def test_batch_norm_uses_the_batch_s_own_statistics_for_every_problem():
    """Side by side as alone in training mode, and no statistics are kept."""
    problems = Problems(BatchNormConvNet(channels=4, hidden_size=5))
    theta = problems.draw(2, keyed_generator(0)) + 0.1
    images, labels = torch.rand(2, 6, 3, 32, 32), torch.randint(10, (2, 6))
    losses = problems.losses(theta, {"image": images, "label": labels})
    assert not list(problems.template.buffers())
    for b in range(2):
        parts = [nn.Conv2d(3, 4, 5, padding=2), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
        for _ in range(2):
            parts += [nn.Conv2d(4, 4, 5, padding=2), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
        plain = nn.Sequential(
            *parts, nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 10)
        ).train()
        nn.utils.vector_to_parameters(theta[b], plain.parameters())
        torch.testing.assert_close(losses[b], F.cross_entropy(plain(images[b]), labels[b]))


@pytest.mark.parametrize(
    ("kind", "argument", "value", "sentence"),
    [
        (ConvMnist, "channels", [3], "channels must be 2 positive integers"),
        (ConvMnist, "image_size", 30, "image_size must be a multiple of 4, got 30"),
        (ConvCifar, "hidden_sizes", [3, 4, 5], "hidden_sizes must be 2 positive integers"),
        (ConvCifar, "image_size", 25, "image_size must be a multiple of 4, got 25"),
        (BatchNormConvNet, "image_size", 28, "image_size must be a multiple of 8, got 28"),
    ],
)
def test_sizes_that_do_not_work_are_refused(kind, argument, value, sentence):
    with pytest.raises(InputError, match=f"{kind.__name__}: {sentence}"):
        kind(**{argument: value})


def test_bad_numbers_are_refused():
    assert_refused(ConvMnist, "hidden_size", -1)
    assert_refused(ConvCifar, "weight_decay", -0.1)
    assert_refused(BatchNormConvNet, "channels", 0)
