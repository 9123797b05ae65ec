"""Image classification: problems that differ in their initial parameters and their minibatches."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from l2l_lightning.core.errors import InputError, check_finite, check_positive, check_positive_int
from l2l_lightning.core.random import Split
from l2l_lightning.core.window import Data
from l2l_lightning.data.base import ProblemDataModule
from l2l_lightning.data.datasets import ImageSource


class ImageDataModule(ProblemDataModule):
    """Any classification dataset of torchvision, cut into training, validation and test images.

    Every problem, held-out ones included, draws its minibatches from the training images, anew for every point it
    visits; held-out problems differ by their initial parameters and minibatches. Their final parameters are scored on
    the validation or the test images. Windows carry indices, crops and flips; the images lie on the device as uint8
    and are cut and become floats there.

    Args:
        dataset: a class of ``torchvision.datasets`` by its name, such as ``FashionMNIST``, ``KMNIST``, ``SVHN`` or
            ``ImageFolder`` (which looks into ``root/train`` and ``root/test``), or any such class by its import path.
        root: folder of the files, as torchvision lays them out.
        download: let torchvision download what is missing.
        check_md5: refuse files whose md5 is not the original's; with ``download``, such files are replaced by the
            originals. Files that the check would refuse are still read safely: code in CIFAR's pickles is not run.
        dataset_args: further arguments of the dataset's constructor.
        train_args: those that select the training images, where neither ``train`` nor ``split`` does; for ``EMNIST``
            ``{split: letters, train: true}``.
        test_args: those that select the test images.
        image_size: resize all images to this height and width.
        validation_images: the last images of the training part, kept for validation.
        batch_size: images in one minibatch.
        crop: height and width of a window cut out of each image, at a random place; in the centre for scoring.
        flip: mirror each image left to right with probability 1/2; never for scoring.
        standardize: bring every image to mean 0 and standard deviation 1 (at least 1/sqrt(its number of values), with
            pixel values up to 255), as TensorFlow's ``per_image_standardization``.
        mean: subtracted from pixel values in [0, 1], one number or one a channel; unused with ``standardize``.
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

    score_chunk = 1_000

    def __init__(
        self,
        dataset: str | type,
        root: str = "data",
        download: bool = True,
        check_md5: bool = True,
        dataset_args: dict[str, Any] | None = None,
        train_args: dict[str, Any] | None = None,
        test_args: dict[str, Any] | None = None,
        image_size: int | None = None,
        validation_images: int = 5_000,
        batch_size: int = 128,
        crop: int | None = None,
        flip: bool = False,
        standardize: bool = False,
        mean: float | Sequence[float] = 0.0,
        std: float | Sequence[float] = 1.0,
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
        sizes = {"image_size": image_size, "crop": crop}
        check_positive_int(self, batch_size=batch_size, validation_images=validation_images)
        check_positive_int(self, **{name: size for name, size in sizes.items() if size is not None})
        channel_stds = std if isinstance(std, Sequence) else [std]
        check_positive(self, **{f"std[{i}]" if len(channel_stds) > 1 else "std": s for i, s in enumerate(channel_stds)})
        channel_means = mean if isinstance(mean, Sequence) else [mean]
        check_finite(
            self, **{f"mean[{i}]" if len(channel_means) > 1 else "mean": m for i, m in enumerate(channel_means)}
        )
        self.source = ImageSource(dataset, root, dataset_args, train_args, test_args, check_md5, image_size)
        self.download = download
        self.validation_images = validation_images
        self.batch_size = batch_size
        self.crop = crop
        self.flip = flip
        self.standardize = standardize
        self.mean, self.std = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)
        self._images: Tensor | None = None  # (N, C, H, W) uint8: training, validation and test images in this order
        self._labels: Tensor | None = None  # (N,) int64
        self._split_sizes: dict[Split, tuple[int, int]] = {}

    def prepare_data(self) -> None:
        if self.download:
            self.source.download()

    def setup(self, stage: str) -> None:
        if self._images is not None:
            return
        (images, labels, classes), (test_images, test_labels, test_classes) = map(self.source.read, ("train", "test"))
        self._check_sizes(images, test_images)
        if classes != test_classes:
            raise InputError(
                f"{type(self).__name__}: the training part of {self.source.name} in {self.source.root!r} "
                f"has {_listed(classes)}, the test part {_listed(test_classes)}; both must have the same."
            )
        self._images, self._labels = torch.cat((images, test_images)), torch.cat((labels, test_labels))
        held_back = len(images) - self.validation_images
        self._split_sizes = {
            Split.TRAIN: (0, held_back),
            Split.VALIDATION: (held_back, len(images)),
            Split.TEST: (len(images), len(images) + len(test_images)),
        }

    def _check_sizes(self, images: Tensor, test_images: Tensor) -> None:
        owner, (channels, height, width) = type(self).__name__, images.shape[1:]
        if images.shape[1:] != test_images.shape[1:]:
            raise InputError(
                f"{owner}: the training images are {tuple(images.shape[1:])}, the test images "
                f"{tuple(test_images.shape[1:])}; set image_size."
            )
        if self.validation_images >= len(images):
            raise InputError(
                f"{owner}: validation_images must be below the {len(images)} images of the training part, got "
                f"{self.validation_images}."
            )
        if self.crop and self.crop > min(height, width):
            raise InputError(f"{owner}: crop must be at most {min(height, width)}, the images' size, got {self.crop}.")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise InputError(
                    f"{owner}: {name} must be one number or one for each of the {channels} channels, got {len(values)}."
                )

    def draw(self, generator: torch.Generator, problems: int) -> tuple[Data, Data]:
        assert self._images is not None, "setup() comes first"
        first, last = self._split_sizes[Split.TRAIN]
        shape = (self.unroll + 1, problems, self.batch_size)
        batches = {"index": torch.randint(first, last, shape, generator=generator)}
        if self.crop:
            room = torch.tensor(self._images.shape[-2:]) - self.crop + 1
            batches["corner"] = (torch.rand(*shape, 2, generator=generator) * room).long()
        if self.flip:
            batches["flip"] = torch.rand(shape, generator=generator) < 0.5
        return {}, batches

    def prepare(self, batch: Data) -> Data:
        index = batch["index"]
        assert self._images is not None, "setup() comes first"
        assert self._labels is not None, "setup() comes first"
        if self._images.device != index.device:
            self._images, self._labels = self._images.to(index.device), self._labels.to(index.device)
        image = self._cut(batch).to(torch.get_default_dtype())
        if self.standardize:
            deviation, mean = torch.std_mean(image, (-3, -2, -1), correction=0, keepdim=True)
            image = (image - mean) / deviation.clamp_min(image.shape[-3:].numel() ** -0.5)
        else:
            image = image.div_(255).sub_(self.mean.to(image)).div_(self.std.to(image))
        return {"image": image, "label": self._labels[index]}

    def _cut(self, batch: Data) -> Tensor:
        """Pixels (..., C, crop, crop) uint8 of the images (...), from their corners on, mirrored where they flip."""
        assert self._images is not None
        index, size = batch["index"], self._images.shape[-2:]
        if not self.crop and not self.flip:
            return self._images[index]
        height, width = (self.crop, self.crop) if self.crop else size
        centre = torch.tensor([(size[0] - height) // 2, (size[1] - width) // 2], device=index.device)
        corner = batch.get("corner", centre.expand(*index.shape, 2))
        rows = corner[..., :1] + torch.arange(height, device=index.device)
        columns = torch.arange(width, device=index.device).expand(*index.shape, width)
        if "flip" in batch:
            columns = torch.where(batch["flip"].unsqueeze(-1), width - 1 - columns, columns)
        columns = corner[..., 1:] + columns
        # The colon between tensor indices puts the channels last.
        pixels = self._images[index[..., None, None], :, rows[..., :, None], columns[..., None, :]]
        return pixels.movedim(-1, -3)

    def trial_data(self) -> Data:
        """Two images of the largest label."""
        assert self._labels is not None, "setup() comes first"
        return self.prepare({"index": self._labels.argmax().expand(2)})

    def held_out_data(self, split: Split, device: torch.device) -> Iterator[Data]:
        first, last = self._split_sizes[split]
        for index in torch.arange(first, last, device=device).split(self.score_chunk):
            yield self.prepare({"index": index})


def _listed(classes: list[str] | None) -> str:
    shown = [] if classes is None else classes[:10]
    return f"the {len(classes or ())} classes {', '.join(shown)}{' ...' if len(classes or ()) > 10 else ''}"


class MNISTDataModule(ImageDataModule):
    """MNIST with 55,000 training, 5,000 validation and 10,000 test images of 1 x 28 x 28.

    Args:
        root: folder that holds ``MNIST/raw``.
        **kwargs: the others of ``ImageDataModule``.
    """

    def __init__(self, root: str = "data", **kwargs: Any) -> None:
        super().__init__("MNIST", root, **kwargs)


class CIFAR10DataModule(ImageDataModule):
    """CIFAR-10 with 45,000 training, 5,000 validation and 10,000 test images of 3 x 32 x 32.

    For the thesis' ConvCifar networks: ``crop=24``, ``flip=True``, ``standardize=True``.

    Args:
        root: folder that holds ``cifar-10-batches-py``.
        **kwargs: the others of ``ImageDataModule``.
    """

    def __init__(self, root: str = "data", **kwargs: Any) -> None:
        super().__init__("CIFAR10", root, **kwargs)
