"""Parameters cut into flat pieces, and stacked for one call of a rule."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Piece(NamedTuple):
    """A parameter, or some of its coordinates.

    Attributes:
        param: the parameter.
        part: its coordinates, None for all of them.
    """

    param: Tensor
    part: slice | None = None

    def of(self, tensor: Tensor) -> Tensor:
        """These coordinates of a flat tensor (*features, numel)."""
        return tensor if self.part is None else tensor[..., self.part]


def downhill(piece: Piece, maximize: bool) -> Tensor:
    """The gradient of what is to be minimised, flat."""
    assert piece.param.grad is not None
    grad = piece.of(piece.param.grad.reshape(-1))
    return -grad if maximize else grad


def stack(rows: Sequence[Sequence[Tensor]], dim: int = 0) -> Tensor:
    """Rows of flat pieces (*features, k_i) -> one tensor, (*features, R, k); a single piece stays where it lies."""
    joined = [row[0] if len(row) == 1 else torch.cat(list(row), -1) for row in rows]
    dim = joined[0].dim() + 1 + dim if dim < 0 else dim
    return joined[0].unsqueeze(dim) if len(joined) == 1 else torch.stack(joined, dim)


def unstack(rows: Sequence[Sequence[Tensor]], stacked: Tensor, dim: int) -> None:
    """Write a tensor that ``stack`` made back into its pieces."""
    pieces, values = [], []
    for row, joined in zip(rows, stacked.unbind(dim), strict=True):
        pieces += list(row)
        values += joined.split([piece.shape[-1] for piece in row], -1)
    torch._foreach_copy_(pieces, values)


def chunks(params: list[Tensor], size: int) -> Iterator[list[Piece]]:
    """Small parameters together, large ones in parts of ``size``."""
    small: list[Piece] = []
    count = 0
    for param in params:
        if param.numel() > size:
            for start in range(0, param.numel(), size):
                yield [Piece(param, slice(start, start + size))]
            continue
        if count + param.numel() > size:
            yield small
            small, count = [], 0
        small.append(Piece(param))
        count += param.numel()
    if small:
        yield small
