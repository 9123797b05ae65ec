"""``l2l`` in processes of its own, which get real signals; forked from one that has everything imported."""

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import small

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["l2l_lightning.cli.main", "tensorboard", "torch.utils.tensorboard"])


def arguments(folder: Path, *more: str, config: Path = small.CONFIG) -> list[str]:
    fixed = ["--trainer.default_root_dir", str(folder), "--trainer.accelerator", "cpu"]
    return ["fit", "--config", str(config), *fixed, "--trainer.enable_progress_bar", "false", *more]


def start(words: Sequence[str], said: Path, environment: Mapping[str, str] | None = None) -> ForkServerProcess:
    """``l2l WORDS``; what it prints goes to the end of a file."""
    process = FORKS.Process(target=_main, args=(list(words), said, dict(environment or {})), daemon=True)
    process.start()
    return process


def start_ranks(words: Sequence[str], said: Path, count: int, strategy: str | None = "ddp") -> list[ForkServerProcess]:
    """``l2l WORDS`` in several processes that know of each other, as torchrun starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    run = {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1"}
    size = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    options = ["--trainer.devices", str(count), *(["--trainer.strategy", strategy] if strategy else [])]
    return [
        start([*words, *options], said, address | run | size | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]


def finish(words: Sequence[str], said: Path, environment: Mapping[str, str] | None = None, timeout: float = 200) -> int:
    """The exit status."""
    process = start(words, said, environment)
    return join(process, said, timeout)


def join(process: ForkServerProcess, said: Path, timeout: float = 200) -> int:
    """The exit status of a process that must end."""
    process.join(timeout)
    if process.is_alive():
        process.kill()
        raise AssertionError(f"still running: {said.read_text()}")
    return status(process)


def status(process: ForkServerProcess) -> int:
    assert process.exitcode is not None
    return process.exitcode


def wait_for(condition: Callable[[], object], process: ForkServerProcess, timeout: float = 100) -> None:
    """Until the condition holds, or the process has ended."""
    deadline = time.monotonic() + timeout
    while process.is_alive() and not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def _main(words: list[str], said: Path, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    os.setpgrp()
    with said.open("ab", buffering=0) as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    from l2l_lightning.cli.main import main

    sys.argv = ["l2l", *words]
    main(words)
