"""Random quadratics, the first experiment of Andrychowicz et al. 2016."""

import torch
from torch import Tensor, nn

from l2l_lightning.core.errors import check_non_negative
from l2l_lightning.core.window import Data
from l2l_lightning.optimizees.functions import Function


class Quadratic(Function):
    """f(x) = ||W x - y||^2 with x of ``dim`` coordinates (section 3.1 of Andrychowicz et al. 2016).

    Reads ``W`` (dim, dim) and ``y`` (dim,) from its instance.

    Args:
        dim: number of coordinates.
        init_std: x starts as N(0, init_std^2).
    """

    def __init__(self, dim: int = 10, init_std: float = 0.01) -> None:
        super().__init__(dim)
        check_non_negative(self, init_std=init_std)
        self.init_std = init_std

    def reset_parameters(self, generator: torch.Generator) -> None:
        nn.init.normal_(self.x, std=self.init_std, generator=generator)

    def value(self, x: Tensor, data: Data) -> Tensor:
        return (data["W"] @ x - data["y"]).square().sum()
