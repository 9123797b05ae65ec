"""What is trained on: the two settings of the benchmark."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator

from benchmarks import plain_loop
from l2l_lightning.core.window import Data, Window
from l2l_lightning.optimizees import ImageMLP, OptimizeeModule, Quadratic

UNROLL = 20  # inner steps in one window
HORIZON = 100  # inner steps after which all problems restart
OUTER_RATE = 1e-3  # of the outer Adam
INIT_STD = 0.01  # theta starts as N(0, INIT_STD^2), the default of both optimizees


@dataclass(frozen=True)
class Setting:
    """One workload; both sides get the same windows of it.

    Attributes:
        optimizee: the problem as ours.
        loss: the same problem for the plain loop.
        problems: B, problems side by side.
        draw: generator -> instances (B, ...) and batches (U+1, B, ...).
        prepare: batches of one point -> what the optimizee reads.
    """

    optimizee: OptimizeeModule
    loss: plain_loop.Loss
    problems: int
    draw: Callable[[Generator], tuple[Data, Data]]
    prepare: Callable[[Data], Data] | None = None

    def window(self, number: int) -> Window:
        """Window ``number``, always the same."""
        generator = Generator().manual_seed(number)
        return Window(number, self.problems, UNROLL, *self.draw(generator), self.prepare)


def quadratics(problems: int = 128, dim: int = 10) -> Setting:
    """Q: random quadratics, 1,280 rows of the LSTM."""

    def draw(generator: Generator) -> tuple[Data, Data]:
        w = torch.randn(problems, dim, dim, generator=generator)
        return {"W": w, "y": torch.randn(problems, dim, generator=generator)}, {}

    return Setting(Quadratic(dim), plain_loop.quadratic, problems, draw)


def mnist_mlp(problems: int = 1, batch_size: int = 128, images: int = 60_000) -> Setting:
    """M: the 784-20-10 MLP, 15,910 rows; random pixels in MNIST's shape and type, for their values cost no time."""
    pixels = torch.randint(0, 256, (images, 1, 28, 28), dtype=torch.uint8)
    labels = torch.randint(0, 10, (images,))

    def draw(generator: Generator) -> tuple[Data, Data]:
        shape = (UNROLL + 1, problems, batch_size)
        return {}, {"index": torch.randint(0, images, shape, generator=generator)}

    def prepare(batch: Data) -> Data:
        return {
            "image": pixels[batch["index"]].to(torch.get_default_dtype()).div_(255),
            "label": labels[batch["index"]],
        }

    return Setting(ImageMLP(), plain_loop.mnist_mlp, problems, draw, prepare)


SETTINGS: dict[str, Callable[[], Setting]] = {"Q": quadratics, "M": mnist_mlp}
