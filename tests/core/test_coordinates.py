from math import prod

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from l2l_lightning.core.coordinates import CoordinateLayout, tensor_kinds

shapes = st.lists(st.lists(st.integers(1, 3), max_size=3).map(tuple), min_size=1, max_size=4)
batches = st.lists(st.integers(1, 3), max_size=2).map(tuple)


def layout_of(shapes):
    names = tuple(f"p{i}" for i in range(len(shapes)))
    return CoordinateLayout(
        names, tuple(map(torch.Size, shapes)), ("Module",) * len(shapes), tensor_kinds(list(map(torch.Size, shapes)))
    )


def theta_of(layout, batch):
    """Every coordinate another number."""
    return torch.arange(float(prod(batch) * layout.n)).view(*batch, layout.n)


@given(shapes, batches)
def test_flatten_undoes_unflatten(shapes, batch):
    layout = layout_of(shapes)
    theta = theta_of(layout, batch)
    parameters = layout.unflatten(theta)
    assert [value.shape for value in parameters.values()] == [(*batch, *shape) for shape in shapes]
    assert torch.equal(layout.flatten(parameters), theta)


@given(shapes, batches)
def test_unflatten_returns_views(shapes, batch):
    layout = layout_of(shapes)
    theta = theta_of(layout, batch)
    parameters = layout.unflatten(theta)
    theta.neg_()
    assert torch.equal(layout.flatten(parameters), theta)
    storages = {tensor.untyped_storage().data_ptr() for tensor in (theta, *parameters.values())}
    assert len(storages) == 1


@given(shapes)
def test_slices_cover_theta_without_gaps_or_overlaps(shapes):
    layout = layout_of(shapes)
    covered = [i for _, where, _ in layout.slices for i in range(where.start, where.stop)]
    assert covered == list(range(layout.n))
    assert [(name, shape) for name, _, shape in layout.slices] == list(zip(layout.names, layout.shapes, strict=True))


def test_order_is_that_of_parameters_to_vector():
    module = nn.Sequential(nn.Linear(3, 2), nn.PReLU(), nn.Linear(2, 1, bias=False))
    module.register_parameter("scalar", nn.Parameter(torch.tensor(7.0)))
    layout = CoordinateLayout.of(module)
    theta = layout.flatten(dict(module.named_parameters()))
    assert torch.equal(theta, nn.utils.parameters_to_vector(module.parameters()))
    assert layout.n == 3 * 2 + 2 + 1 + 2 + 1
    assert layout.unflatten(theta)["scalar"].shape == ()


def test_flatten_reads_by_name_not_by_order():
    layout = layout_of([(2,), ()])
    assert layout.flatten({"p1": torch.tensor(3.0), "p0": torch.tensor([1.0, 2.0])}).tolist() == [1, 2, 3]
