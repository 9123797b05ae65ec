"""Problems that are functions of one vector: fixed ones, and random quadratics."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from l2l_lightning.core.errors import InputError, check_choice, check_non_negative, check_positive, check_positive_int
from l2l_lightning.core.window import Data
from l2l_lightning.data.base import ProblemDataModule

Distribution = Literal["normal", "uniform"]


class FunctionDataModule(ProblemDataModule):
    """For functions that need no data, whose problems differ by where they start; with noisy gradients if wished.

    Args:
        dim: number of coordinates of the function; needed for the noise alone.
        gradient_noise: standard deviation of the normal noise added to every coordinate of every gradient.
        **kwargs: those of ``ProblemDataModule``.

    Raises:
        InputError: for a dimension that is not a positive integer or a negative noise.
    """

    def __init__(self, dim: int = 10, gradient_noise: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_positive_int(self, dim=dim)
        check_non_negative(self, gradient_noise=gradient_noise)
        self.dim = dim
        self.gradient_noise = gradient_noise

    def draw(self, generator: torch.Generator, problems: int) -> tuple[Data, Data]:
        if not self.gradient_noise:
            return {}, {}
        noise = torch.randn(self.unroll + 1, problems, self.dim, generator=generator)
        return {}, {"gradient_noise": self.gradient_noise * noise}


class QuadraticDataModule(FunctionDataModule):
    """Instances W (dim, dim) and y (dim,) of ||W x - y||^2, drawn anew for every problem.

    Args:
        dim: number of coordinates.
        distribution: of every entry of W and y: ``normal`` N(0, 1) as in Andrychowicz et al. 2016, or ``uniform``
            U(0, 1) as in their published code.
        spectrum: the ``dim`` eigenvalues of W^T W, for problems as ill-conditioned as wished. Then W = S^(1/2) Q with Q
            uniform among the rotations, and y = W x* with x* standard normal; ``distribution`` has no say.
        gradient_noise: standard deviation of the normal noise added to every coordinate of every gradient.
        **kwargs: those of ``ProblemDataModule``.

    Raises:
        InputError: for numbers that are not positive integers, an unknown distribution, or a spectrum that is not
            ``dim`` positive numbers.
    """

    def __init__(
        self,
        dim: int = 10,
        distribution: Distribution = "normal",
        spectrum: Sequence[float] | None = None,
        gradient_noise: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(dim, gradient_noise, **kwargs)
        check_choice(self, get_args(Distribution), distribution=distribution)
        if spectrum is not None:
            check_positive(self, **{f"spectrum[{i}]": value for i, value in enumerate(spectrum)})
            if len(spectrum) != dim:
                raise InputError(
                    f"QuadraticDataModule: spectrum must have one eigenvalue for each of the {dim} coordinates, "
                    f"got {len(spectrum)}."
                )
        self.distribution = distribution
        self.spectrum = None if spectrum is None else list(spectrum)

    def draw(self, generator: torch.Generator, problems: int) -> tuple[Data, Data]:
        def normal(*shape: int) -> Tensor:
            return torch.randn(problems, *shape, generator=generator)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(problems, *shape, generator=generator)

        if self.spectrum is None:
            entries = normal if self.distribution == "normal" else uniform
            w, y = entries(self.dim, self.dim), entries(self.dim)
        else:
            rotation, triangle = torch.linalg.qr(normal(self.dim, self.dim))
            signs = triangle.diagonal(dim1=-2, dim2=-1).sign()  # uniform only with these (Mezzadri 2007)
            w = torch.tensor(self.spectrum).sqrt().unsqueeze(-1) * rotation * signs.unsqueeze(-2)
            y = (w @ normal(self.dim, 1)).squeeze(-1)
        _, batches = super().draw(generator, problems)
        return {"W": w, "y": y}, batches
