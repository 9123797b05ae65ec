"""One of several processes is killed, stopped or hangs: the run ends with a sentence, never hangs, and can go on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import processes
import psutil
import pytest
import tally
from effort import FULL
from test_resume import assert_same_training

from l2l_lightning import cli
from l2l_lightning.files import checkpoint

RUN = "quadratic_smoke/version_0"
OPTIONS = ("--trainer.limit_val_batches", "0", "--last_checkpoint.every_seconds", "1e-9")
RESTARTS = 3 if FULL else 1
LONG = (*OPTIONS, "--trainer.max_epochs", "100000")
LOST = "l2l: error: Another process of this run has ended or does not answer"


def last(folder: Path) -> Path:
    return folder / RUN / "checkpoints/last.ckpt"


def windows(folder: Path) -> int:
    return checkpoint.read(last(folder))["global_step"] if last(folder).exists() else 0


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_whole_run_with_a_sentence_and_a_checkpoint(tmp_path: Path, victim: int) -> None:
    said = tmp_path / "said"
    ranks = processes.start_ranks(processes.arguments(tmp_path, *LONG), said, 2)
    processes.wait_for(last(tmp_path).exists, ranks[0])
    ranks[victim].kill()
    assert processes.join(ranks[1 - victim], said, 60) == 1
    assert said.read_text().count(LOST) == 1, said.read_text()
    assert "Traceback" not in said.read_text()
    done = windows(tmp_path)
    go_on = processes.arguments(tmp_path, *OPTIONS, "--ckpt_path", "last", "--trainer.max_steps", str(done + 5))
    for rank in processes.start_ranks(go_on, said, 2):
        assert processes.join(rank, said) == 0, said.read_text()
    assert windows(tmp_path) == done + 5
    tally.count("processes of several killed")


@pytest.mark.slow
def test_a_process_that_hangs_ends_the_run_after_the_timeout(tmp_path: Path) -> None:
    said, extra = tmp_path / "said", tmp_path / "ddp.yaml"
    strategy = "class_path: lightning.pytorch.strategies.DDPStrategy\n    init_args:\n      timeout: '0:00:05'"
    extra.write_text(f"trainer:\n  strategy:\n    {strategy}\n")
    words = processes.arguments(tmp_path, *LONG, "--config", str(extra), "--name", "quadratic_smoke")
    ranks = processes.start_ranks(words, said, 2, strategy=None)
    processes.wait_for(last(tmp_path).exists, ranks[0])
    assert ranks[1].pid
    os.kill(ranks[1].pid, signal.SIGSTOP)
    try:
        assert processes.join(ranks[0], said, 60) == 1
    finally:
        ranks[1].kill()
    assert LOST in said.read_text()
    assert windows(tmp_path)
    tally.count("hanging processes noticed")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT] if FULL else [signal.SIGTERM])
@pytest.mark.parametrize("who", ["one", "all"])
def test_all_processes_stop_after_the_same_window(tmp_path: Path, who: str, signum: signal.Signals) -> None:
    said = tmp_path / "said"
    ranks = processes.start_ranks(processes.arguments(tmp_path / "parts", *LONG), said, 2)
    processes.wait_for(last(tmp_path / "parts").exists, ranks[0])
    for rank in ranks if who == "all" else ranks[1:]:
        assert rank.pid
        os.kill(rank.pid, signum)
    assert [processes.join(rank, said, 60) for rank in ranks] == [128 + signum, 0], said.read_text()
    assert said.read_text().count(f"Ended by {signum.name} after window") == 1
    done = windows(tmp_path / "parts")
    for folder, more in (("parts", ("--ckpt_path", "last")), ("whole", ())):
        limit = ("--trainer.max_steps", str(done + 3))
        for rank in processes.start_ranks(processes.arguments(tmp_path / folder, *OPTIONS, *limit, *more), said, 2):
            assert processes.join(rank, said) == 0, said.read_text()
    assert_same_training(last(tmp_path / "parts"), last(tmp_path / "whole"))


@contextmanager
def command(words: list[str], said: Path) -> Iterator[subprocess.Popen]:
    """A command in a process group of its own, all of which is gone afterwards."""
    root = Path(cli.__file__).parents[2]
    with said.open("wb") as file:
        process = subprocess.Popen(
            words,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ
            | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(root), "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            child.kill()
        process.kill()
        process.wait()


def workers(process: subprocess.Popen) -> list[psutil.Process]:
    """The processes that train, below the one that started them."""
    return [
        child for child in psutil.Process(process.pid).children() if "l2l_lightning.cli" in " ".join(child.cmdline())
    ]


def wait_for_windows(folder: Path, more_than: int, process: subprocess.Popen, said: Path, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while windows(folder) <= more_than:
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.1)


@pytest.mark.slow
def test_lightning_s_own_launcher_ends_all_when_the_process_it_started_is_killed(tmp_path: Path) -> None:
    said = tmp_path / "said"
    words = processes.arguments(tmp_path, *LONG, "--trainer.strategy", "ddp", "--trainer.devices", "2")
    with command([sys.executable, "-m", "l2l_lightning.cli", *words], said) as process:
        wait_for_windows(tmp_path, 0, process, said)
        (worker,) = workers(process)
        worker.kill()
        assert process.wait(60) != 0
    assert LOST in said.read_text()
    assert windows(tmp_path)
    tally.count("processes of several killed")


@pytest.mark.slow
def test_torchrun_starts_a_killed_run_again_and_it_goes_on_by_itself(tmp_path: Path) -> None:
    said = tmp_path / "said"
    options = ("--trainer.strategy", "ddp", "--trainer.devices", "2", "--ckpt_path", "auto")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=9"]
    words = ["-m", "l2l_lightning.cli", *processes.arguments(tmp_path, *LONG, *options)]
    with command([*torchrun, *words], said) as process:
        before = 0
        for _ in range(RESTARTS):
            wait_for_windows(tmp_path, before, process, said)
            worker = workers(process)[-1]
            worker.kill()
            worker.wait(30)
            before = windows(tmp_path)
        wait_for_windows(tmp_path, before, process, said)
    assert said.read_text().count("Restored all states from the checkpoint") == RESTARTS, "once in each, by rank 0"
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE" not in said.read_text()
    assert [path.name for path in (tmp_path / "quadratic_smoke").iterdir()] == ["version_0"]
    tally.count("restarts by torchrun", RESTARTS)
