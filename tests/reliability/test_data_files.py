"""Damaged and forged data files: one sentence that names the dataset, never an index error, garbage, or code run."""

import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import tally
import torch
from effort import examples
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from l2l_lightning.core.errors import InputError
from l2l_lightning.core.random import Split
from l2l_lightning.data import CIFAR10DataModule, ImageDataModule, MNISTDataModule
from l2l_lightning.optimizees import FromModule, ImageMLP

COUNT = {"train": 24, "t10k": 12}
RANDOM = np.random.default_rng(0)


def idx(values: np.ndarray, magic: int | None = None, shape: tuple[int, ...] | None = None) -> bytes:
    """MNIST's format: a magic number, the sizes, the bytes."""
    shape = values.shape if shape is None else shape
    magic = 0x0800 + len(shape) if magic is None else magic
    return struct.pack(f">{1 + len(shape)}I", magic, *shape) + values.tobytes()


def digits(part: str = "train") -> np.ndarray:
    return RANDOM.integers(0, 256, (COUNT[part], 28, 28), np.uint8)


def labels(part: str = "train") -> np.ndarray:
    return (np.arange(COUNT[part]) % 10).astype(np.uint8)


def write_mnist(root: Path) -> Path:
    """A small MNIST; its folder of files."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for part in COUNT:
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(digits(part)))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels(part)))
    return raw


def batch(**changes: Any) -> bytes:
    """A batch of CIFAR-10 as Python 2 and the project's subset write it, with 12 images."""
    pixels = np.arange(12 * 3072, dtype=np.uint32).astype(np.uint8).reshape(12, 3072)
    return pickle.dumps({"labels": [i % 10 for i in range(12)], "data": pixels} | changes, protocol=2)


def write_cifar(root: Path) -> Path:
    """A small CIFAR-10; its folder of files."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(batch())
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(i) for i in range(10)]}, protocol=2))
    return folder


def ready(kind: Callable[..., ImageDataModule], root: Path, **changes: Any) -> ImageDataModule:
    arguments = {"download": False, "check_md5": False, "problems": 2, "unroll": 5, "batch_size": 4, "seed": 0}
    data = kind(root=str(root), **arguments | {"validation_images": 10} | changes)
    data.setup("fit")
    return data


def refused(kind: Callable[..., ImageDataModule], root: Path, **changes: Any) -> str:
    with pytest.raises(InputError) as caught:
        ready(kind, root, **changes)
    tally.count("damaged data files refused")
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 500
    assert repr(str(root)) in sentence
    return sentence


def check_usable(data: ImageDataModule) -> None:
    """Every batch can be drawn, and every image and label is what an optimizee of 10 classes can read."""
    batches = data.window(Split.TRAIN, 0).batches
    point = data.prepare({name: leaf[0] for name, leaf in batches.items()})
    assert torch.isfinite(point["image"]).all()
    for split in (Split.VALIDATION, Split.TEST):
        for chunk in data.held_out_data(split, torch.device("cpu")):
            assert len(chunk["image"]) == len(chunk["label"])
            assert chunk["label"].dtype == torch.int64
            assert 0 <= chunk["label"].min() <= chunk["label"].max() < 10


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of a small MNIST whose files every test may overwrite."""
    return tmp_path_factory.mktemp("mnist")


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cifar")


def test_the_small_files_themselves_are_read(mnist: Path, cifar: Path) -> None:
    write_mnist(mnist)
    check_usable(ready(MNISTDataModule, mnist))
    write_cifar(cifar)
    check_usable(ready(CIFAR10DataModule, cifar))


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        (IMAGES, b"", "no readable MNIST"),
        (LABELS, b"", "no readable MNIST"),
        (IMAGES, idx(digits())[:-100], "no readable MNIST"),
        (IMAGES, idx(digits())[:10], "no readable MNIST"),
        (IMAGES, idx(digits()) + b"more", "no readable MNIST"),
        (IMAGES, idx(digits(), magic=0x1234), "no readable MNIST"),
        (IMAGES, idx(digits(), magic=0x0A03), "no readable MNIST"),
        (IMAGES, idx(digits(), magic=0xFFFF0803), "no readable MNIST"),
        (IMAGES, idx(labels()), "should have 3 dimension"),
        (LABELS, idx(digits()), "should have 1 dimension"),
        (IMAGES, idx(digits().astype(">i2"), magic=0x0B03), "should be of dtype torch.uint8"),
        (IMAGES, idx(digits().astype(">f4"), magic=0x0D03), "should be of dtype torch.uint8"),
        (IMAGES, idx(digits(), shape=(23, 28, 28)), "no readable MNIST"),
        (IMAGES, idx(digits(), shape=(2**32 - 1, 2**32 - 1, 2**32 - 1)), "no readable MNIST"),
        (IMAGES, idx(digits(), shape=(0, 28, 28)), "no readable MNIST"),
        (IMAGES, idx(digits(), shape=(24, 14, 56)), r"its images are (1, 14, 56) instead of (1, 28, 28)"),
        (IMAGES, idx(digits()[:20]), "it has 20 images, but labels of shape (24,)"),
        (LABELS, idx(labels()[:20]), "it has 24 images, but labels of shape (20,)"),
        (LABELS, idx(labels() + np.uint8(191)), "its labels go from 191 to 200, but there are 10 classes, 0 to 9"),
        (LABELS, idx(labels().astype(np.int8), magic=0x0901), "should be of dtype torch.uint8"),
    ],
)
def test_damaged_mnist_is_refused(mnist: Path, name: str, content: bytes, sentence: str) -> None:
    (write_mnist(mnist) / name).write_bytes(content)
    assert sentence in refused(MNISTDataModule, mnist)


def forged_processed(root: Path, data: object, targets: object) -> None:
    """torchvision still prefers the ``processed`` files of its older versions where there are any."""
    folder = root / "MNIST" / "processed"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("training.pt", "test.pt"):
        torch.save((data, targets), folder / name)


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


PIXELS = torch.zeros(24, 28, 28, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("data", "targets", "sentence"),
    [
        (PIXELS.float(), torch.zeros(24).long(), "its pixels are torch.float32"),
        (PIXELS, torch.full((24,), -1), "its labels go from -1 to -1"),
        (PIXELS, torch.zeros(24), "its labels are torch.float32 instead of integers"),
        (PIXELS, torch.zeros(24, 8).long(), "labels of shape (24, 8)"),
        (PIXELS[0], torch.zeros(28).long(), "no readable MNIST"),
        (PIXELS, "labels", "no readable MNIST"),
        (3, 4, "no readable MNIST"),
    ],
)
def test_older_files_of_mnist_are_checked_alike(tmp_path: Path, data: object, targets: object, sentence: str) -> None:
    forged_processed(tmp_path, data, targets)
    assert sentence in refused(MNISTDataModule, tmp_path)


def test_code_in_older_files_of_mnist_is_not_run(tmp_path: Path) -> None:
    forged_processed(tmp_path, PIXELS, Malicious(tmp_path / "written"))
    assert "no readable MNIST" in refused(MNISTDataModule, tmp_path)
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "no readable CIFAR10"),
        (batch()[:-50], "no readable CIFAR10"),
        (b"\x89PNG" + batch(), "no readable CIFAR10"),
        (batch(labels=[200] * 12), "its labels go from 0 to 200, but there are 10 classes, 0 to 9"),
        (batch(labels=[-1] * 12), "its labels go from -1 to 9"),
        (batch(labels=[0.5] * 12), "its labels are torch.float32 instead of integers"),
        (batch(labels=["cat"] * 12), "no readable CIFAR10"),
        (batch(labels=[0] * 11), "it has 60 images, but labels of shape (59,)"),
        (batch(labels=[]), "labels of shape (48,)"),
        (batch(labels=7), "no readable CIFAR10"),
        (batch(data=np.zeros((12, 3072), np.float32)), "its pixels are torch.float32 instead of torch.uint8"),
        (batch(data=np.zeros((12, 3072), np.int8)), "its pixels are torch.int16"),
        (batch(data=np.zeros((12, 3072), ">i4")), "its pixels are torch.int32"),
        (batch(data=np.zeros((12, 3072), object)), "no readable CIFAR10"),
        (batch(data=np.zeros((12, 1536), np.uint8)), "no readable CIFAR10"),
        (batch(data=np.zeros((6, 3072), np.uint8)), "it has 54 images, but labels of shape (60,)"),
        (batch(data=[1, 2, 3]), "no readable CIFAR10"),
        (pickle.dumps({"data": np.zeros((12, 3072), np.uint8)}, 2), "KeyError"),
        (pickle.dumps([1, 2]), "no readable CIFAR10"),
        (pickle.dumps(None), "no readable CIFAR10"),
    ],
)
def test_damaged_cifar_is_refused(cifar: Path, content: bytes, sentence: str) -> None:
    (write_cifar(cifar) / "data_batch_3").write_bytes(content)
    assert sentence in refused(CIFAR10DataModule, cifar)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
def test_code_in_a_pickle_of_cifar_is_not_run(cifar: Path, tmp_path: Path, name: str, protocol: int) -> None:
    folder = write_cifar(cifar)
    for forged in (Malicious(tmp_path / "written"), {"data": Malicious(tmp_path / "written")}):
        (folder / name).write_bytes(pickle.dumps(forged, protocol))
        assert "it holds code: " in refused(CIFAR10DataModule, cifar)
        assert not (tmp_path / "written").exists()


def test_real_cifar_is_read_as_ever_where_the_md5_is_not_checked(cifar_root: Path) -> None:
    check_usable(ready(CIFAR10DataModule, cifar_root, validation_images=500))


def write_pictures(root: Path) -> None:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for i in range(8):
                Image.fromarray(RANDOM.integers(0, 256, (16, 16, 3), np.uint8)).save(root / part / name / f"{i}.png")


def break_picture(root: Path) -> None:
    picture = root / "train" / "dog" / "3.png"
    picture.write_bytes(picture.read_bytes()[:100])


def replace_picture(root: Path) -> None:
    (root / "train" / "dog" / "3.png").write_text("no picture")


def empty_a_class(root: Path) -> None:
    for picture in (root / "test" / "cat").iterdir():
        picture.unlink()


def rename_a_class(root: Path) -> None:
    (root / "test" / "cat").rename(root / "test" / "zebra")


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (break_picture, "3.png: "),
        (replace_picture, "3.png: "),
        (empty_a_class, "no readable ImageFolder"),
        (rename_a_class, "has the 2 classes cat, dog, the test part the 2 classes dog, zebra"),
    ],
)
def test_folders_of_pictures(tmp_path: Path, damage: Callable[[Path], None], sentence: str) -> None:
    write_pictures(tmp_path)
    check_usable(ready(ImageDataModule, tmp_path, dataset="ImageFolder"))
    damage(tmp_path)
    assert sentence in refused(ImageDataModule, tmp_path, dataset="ImageFolder")


def linear() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 7))


@pytest.mark.parametrize("optimizee", [ImageMLP(classes=7), FromModule(linear())], ids=["ImageMLP", "FromModule"])
@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_an_optimizee_of_fewer_classes_is_refused_before_training(
    tmp_path: Path, optimizee: torch.nn.Module, stage: str
) -> None:
    """One image of the last class among many: the minibatches of the first windows would hardly show it."""
    raw = write_mnist(tmp_path)
    rare = np.zeros(COUNT["train"], np.uint8)
    rare[-1] = 9  # a validation image, which no minibatch of the training shows
    (raw / LABELS).write_bytes(idx(rare))
    data = ready(MNISTDataModule, tmp_path, steps=20, validation_problems=2, tuning_problems=2)
    trainer = small.trainer(tmp_path)
    module = small.module(optimizee=optimizee)
    with pytest.raises(InputError, match=r"cannot be evaluated on image \(2, 1, 28, 28\), label \(2,\): .*9"):
        getattr(trainer, stage)(module, datamodule=data)
    assert module.windows == 0


# Any damage: either one sentence, or data that pass every check.


@st.composite
def damage(draw: st.DrawFn, sizes: tuple[int, int] = (0, 2**30)) -> Callable[[bytes], bytes]:
    """Cut a file, or change, insert or remove some bytes of it; mostly near its start, where the header is."""
    place = st.integers(0, 64) | st.integers(*sizes)
    edits = draw(st.lists(st.tuples(st.sampled_from("cxid"), place, st.binary(min_size=1, max_size=4)), min_size=1))

    def apply(content: bytes) -> bytes:
        for kind, at, new in edits:
            at %= len(content) + 1
            content = {
                "c": content[:at],
                "x": content[:at] + new + content[at + len(new) :],
                "i": content[:at] + new + content[at:],
                "d": content[:at] + content[at + len(new) :],
            }[kind]
        return content

    return apply


def accept_or_refuse(kind: Callable[..., ImageDataModule], root: Path) -> None:
    try:
        data = ready(kind, root)
    except InputError:
        refused(kind, root)
    else:
        tally.count("damaged data files read, all checks passed")
        check_usable(data)


@examples(60, 5_000)
@given(name=st.sampled_from([IMAGES, LABELS, "t10k-labels-idx1-ubyte"]), change=damage())
def test_any_damage_to_mnist(mnist: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    file = write_mnist(mnist) / name
    file.write_bytes(change(file.read_bytes()))
    accept_or_refuse(MNISTDataModule, mnist)
