"""torchvision's classification datasets as whole tensors."""

import importlib
import inspect
import pickle
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import datasets
from torchvision.transforms.v2 import functional as transforms

from l2l_lightning.core.errors import InputError

# What torchvision raises for files that are missing, truncated or of another format.
UNREADABLE = (OSError, RuntimeError, ValueError, TypeError, KeyError, EOFError, pickle.UnpicklingError)


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
            except UNREADABLE as error:
                raise InputError(
                    f"{self.name} could not be downloaded to {self.root!r} ({_one_line(error)}); put the files there "
                    "by hand, or set data.root to the folder that holds them."
                ) from error

    def read(self, part: str) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) uint8 and labels (N,) int64 of ``train`` or ``test``.

        Raises:
            InputError: if the files are missing, unreadable, or hold images of different sizes.
        """
        try:
            images, labels = self._tensors(self._open(part))
        except InputError:
            raise
        except UNREADABLE as error:
            raise InputError(
                f"There is no readable {self.name} in {self.root!r} ({_one_line(error)}); set data.root to the folder "
                "that holds it, or data.download to true."
            ) from error
        if self.image_size and images.shape[-2:] != (self.image_size, self.image_size):
            images = transforms.resize(images, [self.image_size, self.image_size])
        return images, labels

    def _open(self, part: str, **extra: Any) -> Dataset:
        chosen, root, parameters = self.part_arguments[part], self.root, inspect.signature(self.kind).parameters
        if chosen is None:
            if "train" in parameters:
                chosen = {"train": part == "train"}
            elif "split" in parameters:
                chosen = {"split": part}
            else:
                chosen, root = {}, str(Path(root) / part)
        check = nullcontext() if self.check_md5 else patch("torchvision.datasets.utils.check_md5", return_value=True)
        try:
            with check:
                return self.kind(root, **self.arguments, **chosen, **extra)
        except TypeError as error:
            raise InputError(f"data.dataset_args do not fit {self.name}: {_one_line(error)}.") from error

    def _tensors(self, dataset: Any) -> tuple[Tensor, Tensor]:
        labels = getattr(dataset, "targets", getattr(dataset, "labels", None))
        if isinstance(getattr(dataset, "data", None), Tensor | np.ndarray) and labels is not None:
            # The whole array, as MNIST, CIFAR and SVHN keep it: decoding one image at a time takes seconds.
            images = torch.as_tensor(dataset.data)
            if images.dim() == 3:
                images = images.unsqueeze(1)
            elif images.shape[1] not in (1, 3):
                images = images.permute(0, 3, 1, 2).contiguous()
            return images, torch.as_tensor(labels, dtype=torch.int64)
        pairs = [dataset[index] for index in range(len(dataset))]
        images = torch.stack([self._as_tensor(image) for image, _ in pairs])
        return images, torch.tensor([label for _, label in pairs], dtype=torch.int64)

    def _as_tensor(self, image: Any) -> Tensor:
        pixels = image if isinstance(image, Tensor) else transforms.pil_to_tensor(image)
        return transforms.resize(pixels, [self.image_size, self.image_size]) if self.image_size else pixels


def _find(name: str) -> type:
    module, _, kind = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module) if module else datasets, kind)
        if not inspect.isclass(found):
            raise AttributeError(f"{name} is no class")
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"data.dataset: there is no {name}; give a name of torchvision.datasets, such as FashionMNIST, or an "
            "import path."
        ) from error
    return found


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
