"""Named parameters <-> one flat vector of n coordinates."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from math import prod
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["first", "middle", "last", "vector", "lone"]
UNKNOWN = "?"  # the owner of a parameter that nobody knows the module of


def tensor_kinds(shapes: Sequence[torch.Size]) -> tuple[Kind, ...]:
    """The kind of each tensor of a model, from the shapes of all trainable tensors in their order.

    ``first``, ``middle`` and ``last`` are matrices (tensors of two or more dimensions, a single one is the ``last``),
    ``vector`` is any other tensor beside a matrix, and ``lone`` is any tensor of a model without matrices.
    """
    matrices = [index for index, shape in enumerate(shapes) if len(shape) > 1]
    if not matrices:
        return tuple("lone" for _ in shapes)
    kinds: list[Kind] = ["middle" if len(shape) > 1 else "vector" for shape in shapes]
    kinds[matrices[0]] = "first"
    kinds[matrices[-1]] = "last"
    return tuple(kinds)


@dataclass(frozen=True)
class CoordinateLayout:
    """What lies where in the last dimension of theta (..., n): P tensors one after another.

    Attributes:
        names: parameter names in the order of ``named_parameters()``; empty strings where the caller knows none.
        shapes: their shapes, in the same order; (count,) where only some coordinates of a tensor are there.
        owners: the class names of the modules that own them, such as ``Conv2d``; ``UNKNOWN`` where nobody knows.
        kinds: see ``tensor_kinds``; they belong to the whole model, and stay as they are in a part of it.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]
    owners: tuple[str, ...]
    kinds: tuple[Kind, ...]

    @classmethod
    def of(cls, module: nn.Module) -> "CoordinateLayout":
        """The layout of all parameters of a module."""
        named = dict(module.named_parameters())
        owners = tuple(type(module.get_submodule(name.rpartition(".")[0])).__name__ for name in named)
        shapes = tuple(parameter.shape for parameter in named.values())
        return cls(tuple(named), shapes, owners, tensor_kinds(shapes))

    @classmethod
    def flat(cls, n: int) -> "CoordinateLayout":
        """n coordinates of one nameless vector."""
        return cls(("",), (torch.Size([n]),), (UNKNOWN,), ("lone",))

    def keep(self, indices: Iterable[int]) -> "CoordinateLayout":
        """The layout of some of the tensors alone, by their places in the layout."""
        places = list(indices)
        fields = (self.names, self.shapes, self.owners, self.kinds)
        return CoordinateLayout(*(tuple(field[place] for place in places) for field in fields))  # type: ignore[arg-type]

    def resized(self, counts: Sequence[int]) -> "CoordinateLayout":
        """The layout of ``counts[i]`` coordinates of tensor i; tensors of which nothing is left are not in it.

        A tensor that is there in full keeps its shape.
        """
        shapes = tuple(
            shape if count == prod(shape) else torch.Size([count])
            for shape, count in zip(self.shapes, counts, strict=True)
        )
        return replace(self, shapes=shapes).keep(place for place, count in enumerate(counts) if count)

    def cut(self, part: slice) -> "CoordinateLayout":
        """The layout of a contiguous part of the coordinates."""
        start, stop, _ = part.indices(self.n)
        counts = [max(0, min(stop, where.stop) - max(start, where.start)) for _, where, _ in self.slices]
        return self.resized(counts)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of coordinates of each tensor."""
        return tuple(prod(shape) for shape in self.shapes)

    @property
    def n(self) -> int:
        """Number of coordinates."""
        return sum(self.sizes)

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
