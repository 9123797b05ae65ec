"""Any torchvision dataset, crops, flips and standardisation, on real images."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets
from torchvision.transforms.v2 import functional as transforms

from l2l_lightning.core.errors import InputError
from l2l_lightning.core.random import Split
from l2l_lightning.data import CIFAR10DataModule, ImageDataModule, MNISTDataModule

SUBSET = {"check_md5": False, "download": False, "validation_images": 500}


def ready(kind: type[ImageDataModule], *arguments: object, **changes: object) -> ImageDataModule:
    data = kind(*arguments, **{"download": False, "problems": 2, "unroll": 3, "batch_size": 32, "seed": 0} | changes)
    data.prepare_data()
    data.setup("fit")
    return data


def points(data: ImageDataModule, number: int = 0) -> tuple[dict, dict]:
    """Batches of the first point of a window, before and after ``prepare``."""
    window = data.window(Split.TRAIN, number)
    batch = {name: leaf[0] for name, leaf in window.batches.items()}
    return batch, data.prepare(batch)


@pytest.fixture(scope="module")
def originals(cifar_root: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The subset's training images (5000, 3, 32, 32) as the files hold them."""
    images, labels = [], []
    for number in range(1, 6):
        batch = np.load(cifar_root / "cifar-10-batches-py" / f"data_batch_{number}", allow_pickle=True)
        images.append(torch.from_numpy(batch["data"].reshape(-1, 3, 32, 32)))
        labels += batch["labels"]
    return torch.cat(images), torch.tensor(labels)


def test_cifar_s_pixels_and_labels_are_those_of_the_files(cifar_root: Path, originals: tuple) -> None:
    images, labels = originals
    batch, data = points(ready(CIFAR10DataModule, str(cifar_root), **SUBSET))
    assert torch.equal(data["image"], images[batch["index"]] / 255)
    assert torch.equal(data["label"], labels[batch["index"]])
    assert data["image"].shape == (2, 32, 3, 32, 32)


def test_files_of_another_md5_are_refused_unless_allowed(cifar_root: Path) -> None:
    with pytest.raises(InputError, match=r"no readable CIFAR10 in '.*' \(.*corrupted.*\); set the DataModule's root"):
        CIFAR10DataModule(str(cifar_root), download=False).setup("fit")
    data = ready(CIFAR10DataModule, str(cifar_root), **SUBSET)
    sizes = [sum(len(c["label"]) for c in data.held_out_data(split, "cpu")) for split in (Split.VALIDATION, Split.TEST)]
    assert sizes == [500, 1000]


def test_crops_and_flips_are_windows_of_the_images(cifar_root: Path, originals: tuple) -> None:
    data = ready(CIFAR10DataModule, str(cifar_root), **SUBSET, crop=24, flip=True)
    batch, found = points(data)
    corners, flips = batch["corner"], batch["flip"]
    for b in range(2):
        for i in range(32):
            top, left = corners[b, i].tolist()
            expected = transforms.crop(originals[0][batch["index"][b, i]], top, left, 24, 24)
            expected = transforms.horizontal_flip(expected) if flips[b, i] else expected
            assert torch.equal(found["image"][b, i], expected / 255)
    drawn = torch.cat([data.window(Split.TRAIN, k).batches["corner"].reshape(-1, 2) for k in range(20)])
    assert (drawn.min(), drawn.max()) == (0, 8)
    assert drawn.unique().numel() == 9
    assert 0.4 < flips.float().mean() < 0.6
    again = ready(CIFAR10DataModule, str(cifar_root), **SUBSET, crop=24, flip=True)
    assert torch.equal(points(again)[1]["image"], found["image"])
    assert not torch.equal(points(again, 1)[1]["image"], found["image"])


def test_scoring_takes_the_centre_and_never_flips(cifar_root: Path, originals: tuple) -> None:
    data = ready(CIFAR10DataModule, str(cifar_root), **SUBSET, crop=24, flip=True)
    chunk = next(data.held_out_data(Split.VALIDATION, torch.device("cpu")))
    assert torch.equal(chunk["image"], transforms.center_crop(originals[0][4500:], [24, 24]) / 255)


def test_flips_alone_keep_the_size(cifar_root: Path, originals: tuple) -> None:
    batch, found = points(ready(CIFAR10DataModule, str(cifar_root), **SUBSET, flip=True))
    plain = originals[0][batch["index"]] / 255
    assert torch.equal(found["image"], torch.where(batch["flip"][..., None, None, None], plain.flip(-1), plain))


def test_standardisation_is_tensorflow_s(cifar_root: Path, originals: tuple) -> None:
    """(x - mean) / max(std, 1 / sqrt(number of values)) image by image, std without Bessel's correction."""
    batch, found = points(ready(CIFAR10DataModule, str(cifar_root), **SUBSET, standardize=True))
    for index, image in zip(batch["index"].flatten(), found["image"].flatten(0, 1), strict=True):
        x = originals[0][index].double()
        expected = (x - x.mean()) / max(float(x.std(correction=0)), x.numel() ** -0.5)
        torch.testing.assert_close(image, expected.float(), rtol=1e-4, atol=1e-5)


def test_means_and_deviations_may_differ_by_channel(cifar_root: Path, originals: tuple) -> None:
    mean, std = [0.1, 0.2, 0.3], [1.0, 2.0, 3.0]
    batch, found = points(ready(CIFAR10DataModule, str(cifar_root), **SUBSET, mean=mean, std=std))
    for c in range(3):
        expected = (originals[0][batch["index"]][:, :, c] / 255 - mean[c]) / std[c]
        torch.testing.assert_close(found["image"][:, :, c], expected)


@pytest.mark.parametrize("dataset", ["FashionMNIST", "KMNIST", "torchvision.datasets.FashionMNIST"])
def test_relatives_of_mnist_by_name(dataset: str, tmp_path: Path, mnist_root: Path) -> None:
    """Their files have MNIST's names and format, so MNIST's digits serve."""
    folder = tmp_path / dataset.rpartition(".")[2]
    folder.mkdir()
    (folder / "raw").symlink_to((mnist_root / "MNIST" / "raw").resolve())
    _, found = points(ready(ImageDataModule, dataset, str(tmp_path)))
    _, expected = points(ready(MNISTDataModule, str(mnist_root)))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_dataset_whose_parts_are_called_split(tmp_path: Path, originals: tuple) -> None:
    """SVHN keeps channels first and its labels under another name."""
    images, labels = originals
    for part, where in (("train", slice(0, 600)), ("test", slice(600, 700))):
        pixels = images[where].permute(2, 3, 1, 0).numpy()
        savemat(tmp_path / f"{part}_32x32.mat", {"X": pixels, "y": labels[where].unsqueeze(1).numpy()})
    data = ready(ImageDataModule, "SVHN", str(tmp_path), check_md5=False, validation_images=100)
    batch, found = points(data)
    assert torch.equal(found["image"], images[batch["index"]] / 255)
    assert torch.equal(found["label"], labels[batch["index"]])


def test_image_folders_of_different_sizes(tmp_path: Path, originals: tuple) -> None:
    images, labels = originals
    for part, where in (("train", range(60)), ("test", range(60, 80))):
        for i in where:
            folder = tmp_path / part / f"class{int(labels[i]) % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(images[i].permute(1, 2, 0).numpy())
            picture.resize((40, 48) if i % 3 else (32, 32)).save(folder / f"{i:03}.png")
    with pytest.raises(InputError, match=r"no readable ImageFolder.*equal size"):
        ready(ImageDataModule, "ImageFolder", str(tmp_path), validation_images=10)
    data = ready(ImageDataModule, "ImageFolder", str(tmp_path), validation_images=10, image_size=20)
    batch, found = points(data)
    assert found["image"].shape == (2, 32, 3, 20, 20)
    assert set(found["label"].flatten().tolist()) == {0, 1}
    assert batch["index"].max() < 50
    source = datasets.ImageFolder(str(tmp_path / "train"))
    first = transforms.resize(transforms.pil_to_tensor(source[0][0]), [20, 20])
    assert torch.equal(data.prepare({"index": torch.tensor([0])})["image"][0], first / 255)


class Stripes(torch.utils.data.Dataset):
    """A dataset of a user's own: class c has c white columns; its parts need arguments of its own."""

    def __init__(self, root: str, part: str, width: int = 6) -> None:
        self.count, self.width = {"learn": 90, "check": 30}[part], width

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = torch.zeros(1, 4, self.width, dtype=torch.uint8)
        image[..., : index % 3] = 255
        return image, index % 3


def test_a_dataset_of_the_user_s_own_by_class_or_import_path() -> None:
    parts = {"train_args": {"part": "learn"}, "test_args": {"part": "check"}, "validation_images": 10}
    for dataset in (Stripes, f"{__name__}.Stripes"):
        data = ready(ImageDataModule, dataset, dataset_args={"width": 5}, **parts)
        _, found = points(data)
        assert found["image"].shape == (2, 32, 1, 4, 5)
        assert torch.equal(found["image"][..., 0, :].sum(-1).squeeze(-1).long(), found["label"])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"crop": 40}, "crop must be at most 32, the images' size, got 40"),
        ({"validation_images": 5000}, "validation_images must be below the 5000 images of the training part, got 5000"),
        ({"mean": [0.1, 0.2]}, "mean must be one number or one for each of the 3 channels, got 2"),
        ({"std": [1.0, 0.0, 1.0]}, r"std\[1\] must be a positive number, got 0.0"),
        ({"crop": 0}, "crop must be a positive integer, got 0"),
        ({"dataset_args": {"colour": True}}, "^data.dataset_args do not fit CIFAR10: .*colour"),
    ],
)
def test_what_does_not_fit_is_refused(cifar_root: Path, arguments: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        ready(CIFAR10DataModule, str(cifar_root), **SUBSET | arguments)


@pytest.mark.parametrize("name", ["FashonMNIST", "nowhere.Dataset", "utils"])
def test_an_unknown_dataset_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"data.dataset: there is no {name}"):
        ImageDataModule(name)
