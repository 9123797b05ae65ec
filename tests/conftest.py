"""Every test starts from the same random state; real MNIST for those that need it."""

import os
from pathlib import Path
from typing import Any

import pytest
import small
import tally
import torch
from hypothesis import settings

ROOT = Path(__file__).parents[1]

# The same examples on every run, and no clock: the machines are shared.
settings.register_profile("steady", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("steady")


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def _data_root(member: str) -> Path:
    """The folder that holds the file: $L2L_DATA, else the project's data folder; without one the test is skipped."""
    for folder in (os.environ.get("L2L_DATA"), ROOT / "data"):
        if folder and Path(folder, member).is_file():
            return Path(folder).resolve()
    pytest.skip(f"no {member} in the project's data folder; set L2L_DATA to a folder that holds it")


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """Folder that holds MNIST/raw."""
    return _data_root("MNIST/raw/train-images-idx3-ubyte")


@pytest.fixture(scope="session")
def cifar_root() -> Path:
    """Folder that holds cifar-10-batches-py, possibly a subset whose md5 is not the original's."""
    return _data_root("cifar-10-batches-py/data_batch_1")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fit of quadratic_smoke.yaml; the folder above logs' names."""
    folder = tmp_path_factory.mktemp("runs")
    small.l2l("fit", folder)
    return folder


@pytest.fixture
def run(runs: Path) -> Path:
    return runs / "quadratic_smoke" / "version_0"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist hands its counts on."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tally"] = dict(tally.COUNTS)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    tally.COUNTS.update(getattr(node, "workeroutput", {}).get("tally", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the reliability tests tried, in numbers."""
    for what, number in sorted(tally.COUNTS.items()):
        terminalreporter.write_line(f"{what}: {number:,}")
