"""Functions of one vector with known minima, among them classics that are known to hurt optimizers."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from l2l_lightning.core.errors import InputError, check_finite, check_positive_int
from l2l_lightning.core.window import Data
from l2l_lightning.optimizees.base import OptimizeeModule


class Function(OptimizeeModule):
    """A function of ``x`` (dim,), given by ``value``.

    Where the data hold ``gradient_noise`` (dim,), it is added to the gradient; the loss stays that of the function.

    Args:
        dim: number of coordinates.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        check_positive_int(self, dim=dim)
        self.dim = dim
        self.x = nn.Parameter(torch.zeros(dim))

    def value(self, x: Tensor, data: Data) -> Tensor:
        """The function at x (dim,), a scalar."""
        raise NotImplementedError(f"{type(self).__name__} must define value(x, data).")

    def forward(self, data: Data) -> Tensor:
        loss = self.value(self.x, data)
        noise = data.get("gradient_noise")
        return loss if noise is None else loss + noise @ (self.x - self.x.detach())


class TestFunction(Function):
    """A fixed function whose minimum is 0; its problems differ by where they start, uniformly in a box.

    Args:
        dim: number of coordinates.
        low: lower end of the box, in every coordinate.
        high: upper end of the box, in every coordinate.

    Raises:
        InputError: unless low < high.
    """

    __test__ = False  # for pytest, which takes every class with this name for a test

    minimum: ClassVar[float]  # the place of the global minimum in every coordinate

    def __init__(self, dim: int, low: float, high: float) -> None:
        super().__init__(dim)
        check_finite(self, low=low, high=high)
        if low >= high:
            raise InputError(f"{type(self).__name__}: low must be below high, got {low} and {high}.")
        self.low, self.high = low, high

    def reset_parameters(self, generator: torch.Generator) -> None:
        nn.init.uniform_(self.x, self.low, self.high, generator=generator)

    def minimizer(self) -> Tensor:
        """Where the function is 0, (dim,)."""
        return torch.full_like(self.x, self.minimum)


class SumOfSquares(TestFunction):
    """f(x) = sum_i x_i^2, equation 2.1 of the thesis "Learning to Optimize Deep Neural Networks" (Shahid 2017).

    Args:
        dim: number of coordinates.
        low: lower end of the box in which problems start.
        high: its upper end.
    """

    minimum = 0.0

    def __init__(self, dim: int = 1000, low: float = -10.0, high: float = 10.0) -> None:
        super().__init__(dim, low, high)

    def value(self, x: Tensor, data: Data) -> Tensor:
        return x.square().sum()


class Rosenbrock(TestFunction):
    """f(x) = sum_i (a - x_i)^2 + b (x_{i+1} - x_i^2)^2  (Rosenbrock 1960), a curved valley.

    In two dimensions the classic; in more the chain in which every coordinate follows the square of the one before.
    The minimum is at 1 for a = 1; other values of ``a`` have it at (a, a^2) and need dim = 2.

    Args:
        dim: number of coordinates, at least 2.
        a: place of the minimum along the valley.
        b: steepness of its walls.
        low: lower end of the box in which problems start.
        high: its upper end.

    Raises:
        InputError: for fewer than 2 coordinates, or an ``a`` other than 1 in more than 2.
    """

    def __init__(self, dim: int = 2, a: float = 1.0, b: float = 100.0, low: float = -2.0, high: float = 2.0) -> None:
        super().__init__(dim, low, high)
        check_finite(self, a=a, b=b)
        if dim < 2 or (a != 1 and dim > 2):
            raise InputError(f"Rosenbrock: dim must be 2, or more where a is 1, got dim={dim} and a={a}.")
        self.a, self.b = a, b

    def value(self, x: Tensor, data: Data) -> Tensor:
        here, following = x[:-1], x[1:]
        return ((self.a - here).square() + self.b * (following - here.square()).square()).sum()

    def minimizer(self) -> Tensor:
        return torch.where(torch.arange(self.dim) == 0, self.a, self.a**2)


class Booth(TestFunction):
    """f(x, y) = (x + 2y - 7)^2 + (2x + y - 5)^2, a quadratic whose axes lie across the coordinates; minimum (1, 3).

    Args:
        low: lower end of the box in which problems start.
        high: its upper end.
    """

    def __init__(self, low: float = -10.0, high: float = 10.0) -> None:
        super().__init__(2, low, high)

    def value(self, x: Tensor, data: Data) -> Tensor:
        first, second = x
        return (first + 2 * second - 7).square() + (2 * first + second - 5).square()

    def minimizer(self) -> Tensor:
        return self.x.new_tensor([1.0, 3.0])


class Rastrigin(TestFunction):
    """f(x) = sum_i x_i^2 + 10 (1 - cos 2 pi x_i)  (Rastrigin 1974): a bowl full of local minima.

    Args:
        dim: number of coordinates.
        low: lower end of the box in which problems start.
        high: its upper end.
    """

    minimum = 0.0

    def __init__(self, dim: int = 10, low: float = -5.12, high: float = 5.12) -> None:
        super().__init__(dim, low, high)

    def value(self, x: Tensor, data: Data) -> Tensor:
        return (x.square() + 10 * (1 - torch.cos(2 * math.pi * x))).sum()


class StyblinskiTang(TestFunction):
    """f(x) = sum_i (x_i^4 - 16 x_i^2 + 5 x_i) / 2 - m  (Styblinski and Tang 1990): two basins a coordinate, one deeper.

    m is the least value of the summand, -39.166 at x_i = -2.9035, so that the minimum of f is 0 as everywhere here.

    Args:
        dim: number of coordinates.
        low: lower end of the box in which problems start.
        high: its upper end.
    """

    minimum = -2.903534027771178  # the least root of 4 x^3 - 32 x + 5

    def __init__(self, dim: int = 10, low: float = -5.0, high: float = 5.0) -> None:
        super().__init__(dim, low, high)

    def value(self, x: Tensor, data: Data) -> Tensor:
        least = -39.16616570377142
        return ((x**4 - 16 * x.square() + 5 * x) / 2 - least).sum()
