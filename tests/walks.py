"""Parameters and the same random gradients for every optimizer, to see whether two of them walk alike."""

import copy

import torch
from scenes import awake
from torch import nn

from l2l_lightning.rules import (
    CoordinatewiseLSTM,
    KMomentums,
    KTimesteps,
    MeanNormalizedGradient,
    MultiscaleAdam,
    Route,
)

SHAPES = [(3, 4), (7,), (), (0, 2), (2, 3, 2, 2)]
ALL = 16384
LEARNED = {
    "lstm": lambda: awake(CoordinatewiseLSTM(hidden_size=4, output_scale=0.1)),
    "multiscale": MultiscaleAdam,
    "timesteps": lambda: KTimesteps(k=4, eta_min=0.01),
    "momentums": lambda: KMomentums(k=3, eta_min=0.01),
    "mean of gradients": lambda: MeanNormalizedGradient(0.01, k=3),
}
LAYOUTS = {
    "contiguous": lambda value: value,
    "transposed": lambda value: value.mT.contiguous().mT if value.dim() > 1 else value,
    "strided": lambda value: torch.stack((value, value), -1)[..., 0],
    "channels_last": lambda value: value.to(memory_format=torch.channels_last) if value.dim() == 4 else value,
}
ROUTES = [Route("bias", name="*bias"), Route("rest")]


def draw(t, shapes, dtype=torch.float32):
    """The same values for the same t."""
    generator = torch.Generator().manual_seed(t)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def parameters(*shapes, dtype=torch.float32):
    return [nn.Parameter(value) for value in draw(1000, shapes or SHAPES, dtype)]


def walk(optimizer, params, steps=range(6), absent=()):
    """Steps by random gradients, but for the pairs (t, place of the parameter) in ``absent``."""
    for t in steps:
        for place, grad in enumerate(draw(t, [param.shape for param in params], params[0].dtype)):
            params[place].grad = None if (t, place) in absent else grad.to(params[place].dtype)
        optimizer.step()


def flat(tensors):
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def assert_equal(left, right):
    assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def snapshot(optimizer):
    return copy.deepcopy(optimizer.state_dict()["state"])


def assert_same_state(left, right):
    assert left.keys() == right.keys()
    for place, leaves in left.items():
        assert {name: (leaf.dtype, leaf.tolist()) for name, leaf in leaves.items()} == {
            name: (leaf.dtype, leaf.tolist()) for name, leaf in right[place].items()
        }
