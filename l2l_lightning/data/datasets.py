"""torchvision's classification datasets as whole tensors."""

import inspect
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import datasets
from torchvision.datasets import cifar
from torchvision.datasets import utils as torchvision_files
from torchvision.transforms.v2 import functional as transforms

from l2l_lightning.core.errors import InputError, first_words
from l2l_lightning.files.build import import_class


class PlainUnpickler(pickle.Unpickler):
    """Reads numbers, text, containers and numpy arrays; a pickle that asks for anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}".replace("._core.", ".core.") not in PICKLED_ARRAYS:
            raise pickle.UnpicklingError(f"it holds code: {module}.{name}")
        return super().find_class(module, name)


PICKLED_ARRAYS = {"numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype", "_codecs.encode"}


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Another value for an attribute of torchvision, which has no option for it, while the block runs."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


class ImagePart(NamedTuple):
    """The training or the test part of a dataset.

    Attributes:
        images: (N, C, H, W) uint8.
        labels: (N,) int64, at least 0.
        classes: their names, None where the dataset does not tell them.
    """

    images: Tensor
    labels: Tensor
    classes: list[str] | None


class ImageSource:
    """The training and the test part of a torchvision dataset, or of a class with the same interface.

    The parts are told apart by the constructor's ``train=True | False`` or ``split="train" | "test"``; where it has
    neither, as ``ImageFolder``, by the folders ``root/train`` and ``root/test``.

    Args:
        dataset: a class, its name in ``torchvision.datasets``, or its import path.
        root: folder of the files.
        arguments: further arguments of its constructor.
        train_arguments: those that select the training part, where the rule above does not.
        test_arguments: those that select the test part.
        check_md5: refuse files whose checksum is not the original's.
        image_size: resize all images to this height and width.

    Raises:
        InputError: if there is no such dataset.
    """

    def __init__(
        self,
        dataset: str | type,
        root: str,
        arguments: Mapping[str, Any] | None = None,
        train_arguments: Mapping[str, Any] | None = None,
        test_arguments: Mapping[str, Any] | None = None,
        check_md5: bool = True,
        image_size: int | None = None,
    ) -> None:
        self.kind = _find(dataset) if isinstance(dataset, str) else dataset
        self.name = self.kind.__name__
        self.root = root
        self.arguments = dict(arguments or {})
        self.part_arguments = {"train": train_arguments, "test": test_arguments}
        self.check_md5 = check_md5
        self.image_size = image_size

    def download(self) -> None:
        """Let torchvision download what is missing; nothing happens for datasets that cannot be downloaded.

        Raises:
            InputError: if that fails.
        """
        parameters = inspect.signature(self.kind).parameters
        if "download" not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return
        for part in self.part_arguments:
            try:
                self._open(part, download=True)
            except InputError:
                raise
            except Exception as error:
                raise InputError(
                    f"{self.name} could not be downloaded to {self.root!r} ({first_words(error)}); put the files there "
                    "by hand, or set the DataModule's root to the folder that holds them."
                ) from error

    def read(self, part: str) -> ImagePart:
        """The part called ``train`` or ``test``.

        Raises:
            InputError: if the files are missing, unreadable or damaged, or hold images of different sizes.
        """
        try:
            dataset = self._open(part)
            images, labels = self._tensors(dataset)
        except InputError:
            raise
        except Exception as error:  # a damaged file can make its reader fail in any way
            raise InputError(
                f"There is no readable {self.name} in {self.root!r} ({first_words(error)}); set the DataModule's root "
                "to the folder that holds it, or its download to true."
            ) from error
        classes = getattr(dataset, "classes", None)
        classes = [str(name) for name in classes] if isinstance(classes, list | tuple) else None
        flaw = _flaw(images, labels, classes) or self._wrong_size(images)
        if flaw:
            raise InputError(f"The {part} part of {self.name} in {self.root!r} is damaged: {flaw}.")
        if self.image_size and images.shape[-2:] != (self.image_size, self.image_size):
            images = transforms.resize(images, [self.image_size, self.image_size])
        return ImagePart(images, labels.long(), classes)

    def _wrong_size(self, images: Tensor) -> str | None:
        """The header of an MNIST file may say 14 x 56; all that comes in this format is 28 x 28."""
        if issubclass(self.kind, datasets.MNIST) and images.shape[1:] != (1, 28, 28):
            return f"its images are {tuple(images.shape[1:])} instead of (1, 28, 28)"
        return None

    def _open(self, part: str, **extra: Any) -> Dataset:
        chosen, root, parameters = self.part_arguments[part], self.root, inspect.signature(self.kind).parameters
        if chosen is None:
            if "train" in parameters:
                chosen = {"train": part == "train"}
            elif "split" in parameters:
                chosen = {"split": part}
            else:
                chosen, root = {}, str(Path(root) / part)
        check = torchvision_files.check_md5 if self.check_md5 else lambda *_, **__: True
        pickles = SimpleNamespace(load=lambda file, **how: PlainUnpickler(file, **how).load())
        try:
            with replaced(torchvision_files, "check_md5", check), replaced(cifar, "pickle", pickles):
                return self.kind(root, **self.arguments, **chosen, **extra)
        except TypeError as error:
            if "argument" not in str(error):
                raise
            raise InputError(f"data.dataset_args do not fit {self.name}: {first_words(error)}.") from error

    def _tensors(self, dataset: Any) -> tuple[Tensor, Tensor]:
        labels = getattr(dataset, "targets", getattr(dataset, "labels", None))
        if isinstance(getattr(dataset, "data", None), Tensor | np.ndarray) and labels is not None:
            # The whole array, as MNIST, CIFAR and SVHN keep it: decoding one image at a time takes seconds.
            images = torch.as_tensor(dataset.data)
            if images.dim() == 3:
                images = images.unsqueeze(1)
            elif images.shape[1] not in (1, 3):
                images = images.permute(0, 3, 1, 2).contiguous()
            return images, torch.as_tensor(labels)
        pairs = [self._pair(dataset, index) for index in range(len(dataset))]
        if not pairs:
            raise ValueError("it is empty")
        return torch.stack([image for image, _ in pairs]), torch.tensor([label for _, label in pairs])

    def _pair(self, dataset: Any, index: int) -> tuple[Tensor, Any]:
        try:
            image, label = dataset[index]
            return self._as_tensor(image), label
        except Exception as error:
            files = getattr(dataset, "samples", None)
            where = Path(files[index][0]).name if isinstance(files, list) else f"image {index}"
            raise ValueError(f"{where}: {first_words(error)}") from error

    def _as_tensor(self, image: Any) -> Tensor:
        pixels = image if isinstance(image, Tensor) else transforms.pil_to_tensor(image)
        return transforms.resize(pixels, [self.image_size, self.image_size]) if self.image_size else pixels


def _find(name: str) -> type:
    try:
        return import_class(name if "." in name else f"torchvision.datasets.{name}")
    except ImportError as error:
        raise InputError(
            f"data.dataset: there is no {name}; give a name of torchvision.datasets, such as FashionMNIST, or an "
            "import path."
        ) from error


def _flaw(images: Tensor, labels: Tensor, classes: list[str] | None) -> str | None:
    """What is wrong with images, which should be (N, C, H, W) uint8, and labels, (N,) integers; None if nothing is."""
    if images.dim() != 4 or not images.numel():
        return f"its images are an array {tuple(images.shape)}"
    if images.dtype != torch.uint8 or images.layout != torch.strided:
        return f"its pixels are {images.dtype} instead of torch.uint8"
    if labels.shape != images.shape[:1]:
        return f"it has {len(images)} images, but labels of shape {tuple(labels.shape)}"
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        return f"its labels are {labels.dtype} instead of integers"
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (classes is not None and high >= len(classes)):
        known = "labels start at 0" if classes is None else f"there are {len(classes)} classes, 0 to {len(classes) - 1}"
        return f"its labels go from {low} to {high}, but {known}"
    return None
