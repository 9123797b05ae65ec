"""Real MNIST on its way to the optimizees."""

import gzip
import http.server
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from torchvision import datasets

from l2l_lightning.core.errors import InputError
from l2l_lightning.core.random import Split
from l2l_lightning.data import MNISTDataModule


@pytest.fixture(scope="module")
def mnist(mnist_root: Path) -> MNISTDataModule:
    data = MNISTDataModule(str(mnist_root), download=False, batch_size=16, problems=3, unroll=4, seed=0)
    data.prepare_data()
    data.setup("fit")
    return data


def test_a_window_holds_a_minibatch_for_every_point_of_every_problem(mnist: MNISTDataModule) -> None:
    window = next(iter(mnist.train_dataloader()))
    assert window.instance == {}
    assert window.batches["index"].shape == (5, 3, 16)
    data = window.data(2, {})
    assert data["image"].shape == (3, 16, 1, 28, 28)
    assert data["label"].shape == (3, 16)


def test_pixels_and_labels_are_torchvision_s(mnist: MNISTDataModule, mnist_root: Path) -> None:
    original = datasets.MNIST(str(mnist_root), train=True)
    window = next(iter(mnist.train_dataloader()))
    index, data = window.batches["index"][0], window.data(0, {})
    assert torch.equal(data["image"], original.data[index].unsqueeze(2).float() / 255)
    assert torch.equal(data["label"], original.targets[index])


def test_normalisation_subtracts_the_mean_and_divides_by_the_std(mnist_root: Path) -> None:
    data = MNISTDataModule(str(mnist_root), download=False, mean=0.1307, std=0.3081)
    data.setup("fit")
    image = data.prepare({"index": torch.arange(55_000)})["image"]
    assert image.mean() == pytest.approx(0, abs=0.01)
    assert image.std() == pytest.approx(1, abs=0.01)


def test_training_draws_from_55000_images_and_scores_use_the_5000_and_10000_others(
    mnist: MNISTDataModule, mnist_root: Path
) -> None:
    drawn = torch.cat(
        [mnist.window(split, number).batches["index"].flatten() for split in Split for number in range(99)]
    )
    assert drawn.max() < 55_000
    assert drawn.min() >= 0
    sizes = {}
    for split in (Split.VALIDATION, Split.TEST):
        chunks = list(mnist.held_out_data(split, torch.device("cpu")))
        sizes[split] = sum(len(chunk["label"]) for chunk in chunks)
    assert sizes == {Split.VALIDATION: 5_000, Split.TEST: 10_000}
    assert torch.equal(torch.cat([chunk["label"] for chunk in chunks]), datasets.MNIST(str(mnist_root), False).targets)


def test_missing_files_and_damaged_ones_are_refused_by_name(tmp_path: Path, mnist_root: Path) -> None:
    with pytest.raises(InputError, match=r"no readable MNIST in '.*nowhere'.*DataModule's root.*its download"):
        MNISTDataModule(str(tmp_path / "nowhere"), download=False).setup("fit")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for file in (mnist_root / "MNIST" / "raw").glob("*ubyte"):
        content = file.read_bytes()
        (raw / file.name).write_bytes(content[: len(content) // 2] if "train-images" in file.name else content)
    with pytest.raises(InputError, match="no readable MNIST"):
        MNISTDataModule(str(tmp_path), download=False).setup("fit")


def test_downloads_go_through_torchvision(tmp_path: Path, mnist_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a server on this machine that holds the files as the web does, compressed."""
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for name, _ in datasets.MNIST.resources:
        raw = mnist_root / "MNIST" / "raw" / name.removesuffix(".gz")
        # The md5 of the originals is that of their very compressed bytes, which differ here.
        (mirror / name).write_bytes(gzip.compress(raw.read_bytes(), 1, mtime=0))
    monkeypatch.setattr(datasets.MNIST, "resources", [(name, None) for name, _ in datasets.MNIST.resources])
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(mirror))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        data = MNISTDataModule(str(tmp_path / "new"))
        data.prepare_data()
        server.shutdown()
    data.setup("fit")
    assert data.window(Split.TRAIN, 0).batches["index"].shape == (21, 1, 128)


def test_a_failed_download_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"{(tmp_path / 'nowhere').as_uri()}/"])
    with pytest.raises(
        InputError, match=r"could not be downloaded to .*; put the files there by hand, or set the DataModule's root"
    ):
        MNISTDataModule(str(tmp_path / "new")).prepare_data()
