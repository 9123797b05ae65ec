"""Image classification: problems that differ in their initial parameters and their minibatches."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torchvision import datasets

from l2l_lightning.core.errors import InputError, check_positive, check_positive_int
from l2l_lightning.core.random import Split
from l2l_lightning.core.window import Data
from l2l_lightning.data.base import ProblemDataModule


class MNISTDataModule(ProblemDataModule):
    """MNIST with 55,000 training, 5,000 validation and 10,000 test images.

    Every problem, held-out ones included, draws its minibatches from the training images, anew for every point it
    visits; held-out problems differ by their initial parameters and minibatches. Their final parameters are scored on
    the validation or the test images. Windows carry indices; the images lie on the device as uint8 and become floats
    there, (x / 255 - mean) / std.

    Args:
        root: folder that holds ``MNIST/raw``, as torchvision lays it out.
        download: let torchvision download what is missing.
        batch_size: images in one minibatch.
        mean: subtracted from pixel values in [0, 1].
        std: divides them afterwards.
        problems: B, training problems side by side.
        windows_per_epoch: training windows between two validations.
        validation_problems: held-out problems for model selection.
        test_problems: held-out problems for the final report.
        tuning_problems: problems on which the baselines' learning rates are chosen.
        **kwargs: the others of ``ProblemDataModule``.

    Raises:
        InputError: for bad numbers, and when the files are missing or cannot be downloaded.
    """

    validation_images = 5_000
    score_chunk = 1_000

    def __init__(
        self,
        root: str = "data",
        download: bool = True,
        batch_size: int = 128,
        mean: float = 0.0,
        std: float = 1.0,
        problems: int = 1,
        windows_per_epoch: int = 50,
        validation_problems: int = 8,
        test_problems: int = 8,
        tuning_problems: int = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            problems=problems,
            windows_per_epoch=windows_per_epoch,
            validation_problems=validation_problems,
            test_problems=test_problems,
            tuning_problems=tuning_problems,
            **kwargs,
        )
        check_positive_int(self, batch_size=batch_size)
        check_positive(self, std=std)
        self.root = root
        self.download = download
        self.batch_size = batch_size
        self.mean = mean
        self.std = std
        self._images: Tensor | None = None  # (N, 1, 28, 28) uint8: training, validation and test images in this order
        self._labels: Tensor | None = None  # (N,) int64
        self._split_sizes: dict[Split, tuple[int, int]] = {}

    def prepare_data(self) -> None:
        if self.download:
            try:
                datasets.MNIST(self.root, download=True)
            except (OSError, RuntimeError) as error:
                raise InputError(
                    f"MNIST could not be downloaded to {self.root!r} ({' '.join(str(error).split())}); "
                    "put the files there by hand or set data.root to a folder that holds MNIST/raw."
                ) from error

    def setup(self, stage: str) -> None:
        if self._images is not None:
            return
        try:
            train, test = (datasets.MNIST(self.root, train=train) for train in (True, False))
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(
                f"There is no readable MNIST in {self.root!r} ({' '.join(str(error).split())}); "
                "set data.root to the folder that holds MNIST/raw, or data.download to true."
            ) from error
        self._images = torch.cat((train.data, test.data)).unsqueeze(1)
        self._labels = torch.cat((train.targets, test.targets))
        held_back = len(train) - self.validation_images
        self._split_sizes = {
            Split.TRAIN: (0, held_back),
            Split.VALIDATION: (held_back, len(train)),
            Split.TEST: (len(train), len(train) + len(test)),
        }

    def draw(self, generator: torch.Generator, problems: int) -> tuple[Data, Data]:
        first, last = self._split_sizes[Split.TRAIN]
        shape = (self.unroll + 1, problems, self.batch_size)
        return {}, {"index": torch.randint(first, last, shape, generator=generator)}

    def prepare(self, batch: Data) -> Data:
        index = batch["index"]
        assert self._images is not None, "setup() comes first"
        assert self._labels is not None, "setup() comes first"
        if self._images.device != index.device:
            self._images, self._labels = self._images.to(index.device), self._labels.to(index.device)
        image = self._images[index].to(torch.get_default_dtype()).div_(255)
        return {"image": image.sub_(self.mean).div_(self.std), "label": self._labels[index]}

    def held_out_data(self, split: Split, device: torch.device) -> Iterator[Data]:
        first, last = self._split_sizes[split]
        for index in torch.arange(first, last, device=device).split(self.score_chunk):
            yield self.prepare({"index": index})
