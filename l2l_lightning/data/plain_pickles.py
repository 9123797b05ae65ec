"""Pickles that hold plain values and arrays of numbers, read without running what they say."""

import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pickle import UnpicklingError
from types import SimpleNamespace
from typing import Any, BinaryIO, ClassVar
from unittest.mock import patch

import numpy as np

READERS = ("torchvision.datasets.cifar", "torchvision.datasets.lsun")  # the modules that unpickle files of a dataset


def _array(kind: object, shape: tuple[int, ...], code: bytes) -> np.ndarray:
    """What numpy makes before it fills in shape, type and values; another shape would ask for memory alone."""
    if kind is not ARRAY or shape != (0,):
        raise UnpicklingError("it holds an array of an unknown kind")
    return np.empty(0, np.uint8)


def _number_type(code: str, *_: Any) -> np.dtype:
    if code not in {np.dtype(letter).str[1:] for letter in "?bhilqBHILQefd"}:
        raise UnpicklingError(f"it holds an array of type {code!r}")
    return np.dtype(code)


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes for Python 2."""
    if encoding != "latin1":
        raise UnpicklingError(f"it holds bytes encoded as {encoding!r}")
    return text.encode(encoding)


ARRAY = object()  # stands for numpy's class, which could be called with any shape
KNOWN: dict[str, object] = {
    "numpy.core.multiarray._reconstruct": _array,
    "numpy._core.multiarray._reconstruct": _array,
    "numpy.ndarray": ARRAY,
    "numpy.dtype": _number_type,
    "_codecs.encode": _latin1,
}


# Python's own implementation: that in C allocates memory as a damaged file bids it.
class PlainUnpickler(pickle._Unpickler):
    """Reads numbers, text, containers and numpy arrays of numbers; anything else a pickle asks for is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in KNOWN:
            raise UnpicklingError(f"it holds code: {module}.{name}")
        return KNOWN[f"{module}.{name}"]

    def load_build(self) -> None:
        """Give an array its values; a type has its code already, and a forged state of it would corrupt memory."""
        target, state = self.stack[-2:]  # type: ignore[attr-defined]
        if isinstance(target, np.dtype):
            if state[1] == ">":
                raise UnpicklingError("it holds an array of another byte order")
            self.stack.pop()  # type: ignore[attr-defined]
        elif isinstance(target, np.ndarray):
            super().load_build()  # type: ignore[misc]
        else:
            raise UnpicklingError("it sets the state of something that has none")

    dispatch: ClassVar[dict[int, Callable]] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}


def load(file: BinaryIO, **how: Any) -> Any:
    """As ``pickle.load``.

    Raises:
        UnpicklingError: if the pickle holds anything but plain values and arrays of numbers, or is damaged.
    """
    try:
        return PlainUnpickler(io.BytesIO(file.read()), **how).load()
    except UnpicklingError:
        raise
    except Exception as error:  # damaged ones fail in any way
        raise UnpicklingError(f"it is damaged: {type(error).__name__} {error}") from error


@contextmanager
def plain_pickles() -> Iterator[None]:
    """Let torchvision read pickles with ``load`` instead of ``pickle.load``."""
    with ExitStack() as stack:
        for module in READERS:
            stack.enter_context(patch(f"{module}.pickle", SimpleNamespace(load=load, dump=pickle.dump)))
        yield
