"""Random coordinates that stand for all of them in the meta-gradient."""

from math import ceil, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from l2l_lightning.core.coordinates import CoordinateLayout
from l2l_lightning.core.errors import InputError


class Coordinates(NamedTuple):
    """Some of the n coordinates of theta's last dimension.

    Attributes:
        chosen: a slice, or (m,) int64, ascending; a coordinate may come twice.
        layout: of these coordinates, in their order.
    """

    chosen: slice | Tensor
    layout: CoordinateLayout


class CoordinateSample(NamedTuple):
    """Coordinates that stand for all of them.

    Attributes:
        coordinates: (m,) int64, ascending; a coordinate may come twice.
        weight: (m,) how many coordinates each stands for: sum_j weight_j f(coordinate_j) is an unbiased estimate of the
            sum of any f over all coordinates.
        layout: of these coordinates.
    """

    coordinates: Tensor
    weight: Tensor
    layout: CoordinateLayout


def sample_sizes(sizes: list[int], count: int) -> list[int]:
    """How many coordinates to draw of tensors with these sizes: ``count`` in all, in proportion to the sizes' roots.

    In proportion to the sizes themselves, biases would hardly ever be drawn (power allocation, Bankier 1988). At least
    one of each tensor, at most all of it; what a small tensor cannot take goes to the others.
    """
    drawn = [0] * len(sizes)
    for place in sorted((place for place, size in enumerate(sizes) if size), key=sizes.__getitem__):
        waiting = [size for size, taken in zip(sizes, drawn, strict=True) if not taken]
        share = (count - sum(drawn)) * sqrt(sizes[place]) / sum(map(sqrt, waiting))
        drawn[place] = min(sizes[place], max(1, ceil(share - 1e-9)))
    return drawn


def sample_coordinates(layout: CoordinateLayout, count: int, generator: torch.Generator) -> CoordinateSample:
    """About ``count`` coordinates, at least one of every tensor; all of them where there are no more.

    Every tensor is cut into as many stretches of equal length as coordinates are drawn of it, and one is drawn of each
    stretch: unbiased, without a permutation of all coordinates.
    """
    device = generator.device
    if count >= layout.n:
        return CoordinateSample(torch.arange(layout.n, device=device), torch.ones(layout.n, device=device), layout)
    counts = sample_sizes(list(layout.sizes), count)
    indices, weights = [], []
    for (_, where, _), size, drawn in zip(layout.slices, layout.sizes, counts, strict=True):
        stretch = size / max(drawn, 1)
        place = torch.arange(drawn, dtype=torch.float64, device=device)
        if drawn < size:
            jitter = torch.rand(drawn, dtype=torch.float64, device=device, generator=generator)
            place = (place + jitter) * stretch
        indices.append(where.start + place.long().clamp_max(size - 1))
        weights.append(torch.full((drawn,), stretch, device=device))
    return CoordinateSample(torch.cat(indices), torch.cat(weights), layout.resized(counts))


def check_sampled(rule: object, second_order: bool) -> None:
    """Raise InputError where a sample of the coordinates does not give the meta-gradient."""
    if second_order:
        raise InputError("meta_coordinates and second_order do not go together: second derivatives mix coordinates.")
    if getattr(rule, "scope", None) != "coordinate":
        raise InputError(
            f"meta_coordinates needs a rule of scope 'coordinate', and {type(rule).__name__} does not say that it is "
            'one: set `scope = "coordinate"` in the class if its coordinates never look at each other.'
        )
