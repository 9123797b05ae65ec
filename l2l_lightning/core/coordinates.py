"""Named parameters <-> one flat vector of n coordinates."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import prod

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class CoordinateLayout:
    """Where each named parameter of an optimizee lies in the vector theta.

    Attributes:
        names: parameter names in the order of ``named_parameters()``.
        shapes: their shapes, in the same order.
        owners: the class names of the modules that own them, such as ``Conv2d``, in the same order.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    owners: tuple[str, ...]

    @classmethod
    def of(cls, module: nn.Module) -> "CoordinateLayout":
        """The layout of all parameters of a module."""
        named = dict(module.named_parameters())
        owners = (type(module.get_submodule(name.rpartition(".")[0])).__name__ for name in named)
        return cls(tuple(named), tuple(parameter.shape for parameter in named.values()), tuple(owners))

    def subset(self, names: Collection[str]) -> "CoordinateLayout":
        """The layout of some of the parameters alone, in the same order."""
        kept = [entry for entry in zip(self.names, self.shapes, self.owners, strict=True) if entry[0] in names]
        return CoordinateLayout(*(tuple(entry[i] for entry in kept) for i in range(3)))  # type: ignore[arg-type]

    @property
    def n(self) -> int:
        """Number of coordinates."""
        return sum(prod(shape) for shape in self.shapes)

    @cached_property
    def slices(self) -> tuple[tuple[str, slice, torch.Size], ...]:
        """Name, slice of theta's last dimension and shape of each parameter."""
        stops = list(accumulate(prod(shape) for shape in self.shapes))
        starts = [0, *stops[:-1]]
        return tuple(zip(self.names, map(slice, starts, stops), self.shapes, strict=True))

    def flatten(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Parameters of shape (..., *shape) -> theta (..., n)."""
        pieces = []
        for name, shape in zip(self.names, self.shapes, strict=True):
            value = parameters[name]
            lead = value.shape[: value.dim() - len(shape)]
            pieces.append(value.reshape(*lead, prod(shape)))
        return torch.cat(pieces, dim=-1)

    def unflatten(self, theta: Tensor) -> dict[str, Tensor]:
        """theta (..., n) -> views of shape (..., *shape), no copies."""
        lead = theta.shape[:-1]
        return {name: theta[..., where].view((*lead, *shape)) for name, where, shape in self.slices}
