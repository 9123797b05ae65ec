"""What is trained on: the settings of the benchmark."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator

from benchmarks import plain_loop
from l2l_lightning.core.window import Data, Window
from l2l_lightning.optimizees import ConvCifar, ImageMLP, OptimizeeModule, Quadratic, SumOfSquares

UNROLL = 20  # inner steps in one window, where nothing else is said
RESTART = 5  # windows after which all problems restart
OUTER_RATE = 1e-3  # of the outer Adam
INIT_STD = 0.01  # theta starts as N(0, INIT_STD^2), the default of both optimizees


@dataclass(frozen=True)
class Setting:
    """One workload; both sides get the same windows of it.

    Attributes:
        optimizee: the problem as ours.
        loss: the same problem for the plain loop, None where that needs more memory than there is.
        problems: B, problems side by side.
        draw: generator -> instances (B, ...) and batches (U+1, B, ...).
        prepare: batches of one point -> what the optimizee reads.
        unroll: U, inner steps in one window.
    """

    optimizee: OptimizeeModule
    loss: plain_loop.Loss | None
    problems: int
    draw: Callable[[Generator], tuple[Data, Data]]
    prepare: Callable[[Data], Data] | None = None
    unroll: int = UNROLL

    def window(self, number: int) -> Window:
        """Window ``number``, always the same."""
        generator = Generator().manual_seed(number)
        return Window(number, self.problems, self.unroll, *self.draw(generator), self.prepare)


def quadratics(problems: int = 128, dim: int = 10) -> Setting:
    """Q: random quadratics, 1,280 rows of the LSTM."""

    def draw(generator: Generator) -> tuple[Data, Data]:
        w = torch.randn(problems, dim, dim, generator=generator)
        return {"W": w, "y": torch.randn(problems, dim, generator=generator)}, {}

    return Setting(Quadratic(dim), plain_loop.quadratic, problems, draw)


def images(
    optimizee: OptimizeeModule,
    shape: tuple[int, int, int],
    loss: plain_loop.Loss | None,
    problems: int,
    batch_size: int,
    count: int,
) -> Setting:
    """A network on random pixels in the shape and type of a data set, for their values cost no time."""
    pixels = torch.randint(0, 256, (count, *shape), dtype=torch.uint8)
    labels = torch.randint(0, 10, (count,))

    def draw(generator: Generator) -> tuple[Data, Data]:
        drawn = (UNROLL + 1, problems, batch_size)
        return {}, {"index": torch.randint(0, count, drawn, generator=generator)}

    def prepare(batch: Data) -> Data:
        return {
            "image": pixels[batch["index"]].to(torch.get_default_dtype()).div_(255),
            "label": labels[batch["index"]],
        }

    return Setting(optimizee, loss, problems, draw, prepare)


def mnist_mlp(problems: int = 1, batch_size: int = 128, count: int = 60_000) -> Setting:
    """M: the 784-20-10 MLP, 15,910 rows for each problem."""
    return images(ImageMLP(), (1, 28, 28), plain_loop.mnist_mlp, problems, batch_size, count)


def conv_cifar(batch_size: int = 32) -> Setting:
    """C: ConvCifar_0, 1,068,298 rows."""
    return images(ConvCifar(), (3, 24, 24), None, 1, batch_size, 50_000)


def sum_of_squares(coordinates: int, problems: int, unroll: int) -> Setting:
    """X: as little work outside of the rule as there can be."""
    return Setting(SumOfSquares(coordinates), None, problems, lambda _: ({}, {}), None, unroll)


SETTINGS: dict[str, Callable[[], Setting]] = {
    "Q": quadratics,
    "M": mnist_mlp,
    "M8": lambda: mnist_mlp(problems=8),
    "C": conv_cifar,
}
