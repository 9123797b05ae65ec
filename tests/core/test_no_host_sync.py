"""Nothing in a window waits for the device: every value that Python looks at would stall what a GPU has queued."""

from contextlib import contextmanager

import pytest
import torch
from scenes import Scene, awake
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from l2l_lightning.core.estimators import backpropagation as backpropagating
from l2l_lightning.core.estimators import replay as replaying
from l2l_lightning.core.objective import Objective
from l2l_lightning.core.random import keyed_generator
from l2l_lightning.core.sampling import sample_coordinates
from l2l_lightning.core.unroll import advance
from l2l_lightning.rules import (
    Adam,
    CoordinatewiseGRU,
    CoordinatewiseLSTM,
    Cosine,
    KMomentums,
    MultiscaleAdam,
    SoftmaxMLP,
)

WAITING = {
    "_local_scalar_dense",
    "bincount",
    "equal",
    "is_nonzero",
    "item",
    "masked_select",
    "nonzero",
    "nonzero_static",
    "unique_consecutive",
    "unique_dim",
    "_unique2",
}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
# These read the values without an operation where the tensor lies on a CPU.
READING = {"item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__", "cuda"}
# Copies from the host wait for all that is queued before them.
COPYING = {"tensor", "as_tensor", "new_tensor", "from_numpy"}


class WaitedError(AssertionError):
    pass


class NoOperationThatWaits(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name in INDEXING and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in WAITING or by_mask or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            raise WaitedError(name)
        return func(*args, **(kwargs or {}))


class NoCallOf(TorchFunctionMode):
    def __init__(self, names):
        super().__init__()
        self.names = names

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", None) in self.names:
            raise WaitedError(func.__name__)
        return func(*args, **(kwargs or {}))


@contextmanager
def nothing_waits(names=READING):
    with NoCallOf(names), NoOperationThatWaits():
        yield


VALUES = torch.tensor([1.0, 2.0, 0.0])


@pytest.mark.parametrize(
    "look",
    [
        lambda: VALUES.sum().item(),
        lambda: float(VALUES.sum()),
        lambda: bool(VALUES.any()),
        lambda: VALUES.tolist(),
        lambda: VALUES.cpu(),
        lambda: VALUES[VALUES > 0],
        lambda: VALUES.masked_select(VALUES > 0),
        lambda: VALUES.clone().__setitem__(VALUES > 0, VALUES[:2]),
        lambda: VALUES.nonzero(),
        lambda: VALUES.unique(),
        lambda: torch.where(VALUES > 0),
        lambda: torch.equal(VALUES, VALUES),
        lambda: next(iter(VALUES)).item(),
        lambda: [1, 2, 3][VALUES[0].long()],
    ],
)
def test_the_watch_sees_it(look):
    look()
    with pytest.raises(WaitedError), nothing_waits():
        look()


def test_the_watch_lets_everything_else_pass():
    index = torch.tensor([0, 2])
    with nothing_waits():
        assert torch.where(VALUES > 0, VALUES, 1.0)[index].shape == (2,)


RULES = {
    "lstm": lambda: awake(CoordinatewiseLSTM(hidden_size=3)),
    "lstm with a schedule": lambda: awake(CoordinatewiseLSTM(hidden_size=3, output_scale=Cosine(0.1, 0.01))),
    "gru": lambda: awake(CoordinatewiseGRU(hidden_size=3)),
    "linear average": MultiscaleAdam,
    "softmax mlp": lambda: MultiscaleAdam(SoftmaxMLP(hidden_size=5)),
    "momentums": lambda: KMomentums(3, noise=0.1),
    "adam": lambda: Adam(trainable=True),
}
# Coordinates of a sample, and of a block.
WAYS = {"one pass": (None, None), "blocks": (None, 2), "sample": (3, None), "sample in blocks": (3, 2)}
every_way = pytest.mark.parametrize(("count", "width"), WAYS.values(), ids=WAYS)


def in_a_window(rule, count, width, objective, watch, patch):
    """One window under the watch, drawing of the sample and way back included."""
    scene = Scene.draw(dim=7)
    state, window = scene.state(rule), scene.window()
    _, state = advance(rule, scene.problems, state, window)  # records the optimizee
    if width is not None:
        patch.setattr(backpropagating, "ONE_PASS", 0)
        patch.setattr(replaying, "BLOCK", window.problems * window.unroll * width)
    generator = keyed_generator(0)
    with watch:
        sample = None if count is None else sample_coordinates(scene.problems.layout, count, generator)
        unrolled = backpropagating.backpropagate(rule, scene.problems, state, window, objective, sample=sample)
        unrolled.meta_loss.backward()
    assert any(parameter.grad.any() for parameter in rule.parameters())


@pytest.mark.parametrize("name", RULES)
@every_way
@pytest.mark.parametrize("transform", ["plain", "log"])
def test_a_window_never_waits(name, count, width, transform, monkeypatch):
    in_a_window(RULES[name]().double(), count, width, Objective("uniform", transform), nothing_waits(), monkeypatch)


@every_way
def test_a_window_copies_nothing_from_the_host(count, width, monkeypatch):
    rule = RULES["lstm"]().double()
    in_a_window(rule, count, width, Objective(), nothing_waits(COPYING), monkeypatch)
