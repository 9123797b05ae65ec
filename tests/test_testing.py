"""Every optimizee passes the check that plug-in authors call, and the check finds what is wrong."""

from pathlib import Path

import pytest
import torch
from torch import nn

from l2l_lightning.core.errors import InputError
from l2l_lightning.data import (
    CIFAR10DataModule,
    FunctionDataModule,
    MNISTDataModule,
    ProblemDataModule,
    QuadraticDataModule,
)
from l2l_lightning.optimizees import (
    BatchNormConvNet,
    Booth,
    ConvCifar,
    ConvMnist,
    FromModule,
    ImageMLP,
    OptimizeeModule,
    Quadratic,
    Rastrigin,
    Rosenbrock,
    StyblinskiTang,
    SumOfSquares,
)
from l2l_lightning.testing import check_optimizee

SMALL = {"problems": 3, "unroll": 5}
IMAGES = {**SMALL, "batch_size": 8, "download": False}


@pytest.mark.parametrize(
    "optimizee",
    [SumOfSquares(), Rosenbrock(), Rosenbrock(dim=6), Booth(), Rastrigin(), StyblinskiTang()],
    ids=lambda optimizee: f"{type(optimizee).__name__}-{optimizee.dim}",
)
def test_functions_pass(optimizee: OptimizeeModule) -> None:
    check_optimizee(optimizee, FunctionDataModule(optimizee.dim, **SMALL))


@pytest.mark.parametrize(
    "arguments", [{}, {"distribution": "uniform"}, {"spectrum": [1e4, 1.0, 1e-4, 1e-2]}], ids=["", "uniform", "hard"]
)
def test_quadratics_pass(arguments: dict) -> None:
    check_optimizee(Quadratic(dim=4), QuadraticDataModule(4, **arguments, **SMALL))


@pytest.mark.parametrize(
    "optimizee",
    [
        ImageMLP(),
        ImageMLP(hidden_sizes=[20, 20], activation="elu"),
        ConvMnist(channels=[4, 8], hidden_size=16),
        FromModule(nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 10))),
    ],
    ids=lambda optimizee: type(optimizee).__name__,
)
def test_networks_pass_on_mnist(optimizee: OptimizeeModule, mnist_root: Path) -> None:
    check_optimizee(optimizee, MNISTDataModule(str(mnist_root), **IMAGES), windows=3)


@pytest.mark.parametrize(
    ("optimizee", "arguments"),
    [
        (ConvCifar(channels=4, hidden_sizes=[12, 8]), {"crop": 24, "flip": True, "standardize": True}),
        (BatchNormConvNet(channels=4, hidden_size=8), {}),
    ],
    ids=["ConvCifar", "BatchNormConvNet"],
)
def test_networks_pass_on_cifar(optimizee: OptimizeeModule, arguments: dict, cifar_root: Path) -> None:
    data = CIFAR10DataModule(str(cifar_root), check_md5=False, validation_images=500, **arguments, **IMAGES)
    check_optimizee(optimizee, data, windows=3)


class Parabola(OptimizeeModule):
    """Passes; each class below breaks one promise."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(3))
        self.register_buffer("calls", torch.zeros(()))

    def reset_parameters(self, generator: torch.Generator) -> None:
        nn.init.normal_(self.x, generator=generator)

    def forward(self, data: dict) -> torch.Tensor:
        return self.x.square().sum()

    def metrics(self, data: dict) -> dict:
        return {"size": self.x.square().mean()}


class Global(Parabola):
    def reset_parameters(self, generator: torch.Generator) -> None:
        nn.init.normal_(self.x)


class Sneaky(Parabola):
    def reset_parameters(self, generator: torch.Generator) -> None:
        self.x.data.fill_(torch.initial_seed())


class Infinite(Parabola):
    def forward(self, data: dict) -> torch.Tensor:
        return 1 / self.x.sum().mul(0).abs()


class Counting(Parabola):
    def forward(self, data: dict) -> torch.Tensor:
        self.calls += 1
        return super().forward(data)


class HalfGradient(Parabola):
    def forward(self, data: dict) -> torch.Tensor:
        return (self.x * self.x.detach()).sum()


class Uphill(Parabola):
    def forward(self, data: dict) -> torch.Tensor:
        return 1 + 0 * self.x.sum()


class Matrix(Parabola):
    def metrics(self, data: dict) -> dict:
        return {"size": self.x}


class Plain(ProblemDataModule):
    def draw(self, generator: torch.Generator, problems: int) -> tuple[dict, dict]:
        return {}, {}

    def held_out_data(self, split, device):
        yield {"z": torch.ones(2)}


def test_noise_and_no_windows_are_refused() -> None:
    with pytest.raises(InputError, match="gradient_noise must be 0"):
        check_optimizee(SumOfSquares(4), FunctionDataModule(4, 1.0, **SMALL))
    with pytest.raises(InputError, match="windows must be a positive integer, got 0"):
        check_optimizee(Parabola(), Plain(**SMALL), windows=0)


def test_the_parabola_passes() -> None:
    check_optimizee(Parabola(), Plain(**SMALL))


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (Global, "draws from torch's global generator"),
        (Sneaky, "draws from something else than its generator"),
        (Infinite, "loss is not finite"),
        (Counting, "changes its buffer calls"),
        (HalfGradient, "gradient is not that of its loss"),
        (Uphill, "Adam does not lower Uphill's loss: 1 at first, 1 at best"),
        (Matrix, r"metric size is no scalar but has shape \(3,\)"),
    ],
)
def test_the_check_finds_what_is_wrong(kind: type[Parabola], sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_optimizee(kind(), Plain(**SMALL))
