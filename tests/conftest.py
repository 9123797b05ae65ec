"""Every test starts from the same random state; real MNIST for those that need it."""

import os
import subprocess
import sys
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


def _data_root(member: str, factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the file: $L2L_DATA, the project's data folder, or what the shared data unpack to."""
    for candidate in (Path(os.environ.get("L2L_DATA", ROOT / "data")), ROOT / "data"):
        if (candidate / member).is_file():
            return candidate
    prepare = ROOT.parent / "shared" / "data" / "prepare.py"
    if not prepare.is_file():
        pytest.skip(f"no {member} here: set L2L_DATA to a folder that holds it")
    folder = factory.getbasetemp() / "data"
    if not (folder / member).is_file():
        subprocess.run([sys.executable, prepare, folder], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def mnist_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that holds MNIST/raw."""
    return _data_root("MNIST/raw/train-images-idx3-ubyte", tmp_path_factory)


@pytest.fixture(scope="session")
def cifar_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that holds cifar-10-batches-py, a subset whose md5 is not the original's."""
    return _data_root("cifar-10-batches-py/data_batch_1", tmp_path_factory)


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
