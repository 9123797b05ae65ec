"""Random quadratics."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from l2l_lightning.core.errors import check_choice, check_positive_int
from l2l_lightning.core.window import Data
from l2l_lightning.data.base import ProblemDataModule

Distribution = Literal["normal", "uniform"]


class QuadraticDataModule(ProblemDataModule):
    """Instances W (dim, dim) and y (dim,) of ||W x - y||^2, drawn anew for every problem.

    Args:
        dim: number of coordinates.
        distribution: of every entry of W and y: ``normal`` N(0, 1) as in Andrychowicz et al. 2016, or ``uniform``
            U(0, 1) as in their published code.
        **kwargs: those of ``ProblemDataModule``.

    Raises:
        InputError: for numbers that are not positive integers or an unknown distribution.
    """

    def __init__(self, dim: int = 10, distribution: Distribution = "normal", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive_int(self, dim=dim)
        check_choice(self, get_args(Distribution), distribution=distribution)
        self.dim = dim
        self.distribution = distribution

    def draw(self, generator: torch.Generator, problems: int) -> tuple[Data, Data]:
        def entries(*shape: int) -> Tensor:
            sample = torch.randn if self.distribution == "normal" else torch.rand
            return sample(problems, *shape, generator=generator)

        return {"W": entries(self.dim, self.dim), "y": entries(self.dim)}, {}
