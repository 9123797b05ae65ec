"""Disks that are full or read-only, folders that vanish, and runs that want the same folder."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import processes
import pytest
import small
import tally
from test_resume import assert_same_training

from l2l_lightning.cli import run_folder
from l2l_lightning.core.errors import InputError
from l2l_lightning.files import checkpoint

RUN = "quadratic_smoke/version_0"
LONG = ("--trainer.max_epochs", "100000")


def can_mount() -> bool:
    """Whether a file system can be mounted for one process and those that it starts."""
    words = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(words, capture_output=True).returncode == 0


needs_mount = pytest.mark.skipif(not can_mount(), reason="no file system can be mounted here")


def on_a_small_disk(folder: Path, then: str, *words: str) -> tuple[int, str, Path]:
    """``l2l fit`` on a disk of 4 MB to which something happens after the first checkpoint.

    Args:
        folder: an empty one.
        then: shell commands in the folder of the disk; they wait for the checkpoint.
        words: further arguments.

    Returns:
        The exit status, what was said, and a copy of what was on the disk.
    """
    disk, copy = folder / "disk", folder / "copy"
    disk.mkdir()
    command = [sys.executable, "-m", "l2l_lightning.cli", *processes.arguments(disk, *words)]
    script = f"""
        mount -t tmpfs -o size=4m tmpfs {disk}
        cd {disk}
        (until [ -e {RUN}/checkpoints/previous.ckpt ]; do sleep 0.05; done; {then}) &
        "$@"
        status=$?
        kill $! 2> /dev/null
        cp -r {disk} {copy}
        exit $status
    """
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", *command],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return done.returncode, done.stdout + done.stderr, copy


def assert_one_sentence(said: str, sentence: str) -> None:
    errors = [line for line in said.splitlines() if line.startswith("l2l: error: ")]
    assert len(errors) == 1, said
    assert sentence in errors[0]
    assert "Traceback" not in said


@needs_mount
def test_a_full_disk_ends_the_run_with_one_sentence_and_whole_checkpoints(tmp_path: Path) -> None:
    status, said, copy = on_a_small_disk(tmp_path, "dd if=/dev/zero of=ballast bs=1k 2> /dev/null", *LONG)
    assert status == 1, said
    assert_one_sentence(said, "No space left on device")
    found = list((copy / RUN / "checkpoints").glob("*.ckpt"))
    assert {path.name for path in found} == {"last.ckpt", "previous.ckpt", "best.ckpt"}
    epochs = [checkpoint.read(path)["epoch"] for path in found]
    limit = ("--trainer.max_epochs", str(max(epochs) + 3), "--ckpt_path", "last")
    (copy / "ballast").unlink(missing_ok=True)
    assert processes.finish(processes.arguments(copy, *limit), tmp_path / "said") == 0
    assert checkpoint.read(copy / RUN / "checkpoints/last.ckpt")["epoch"] == max(epochs) + 2
    tally.count("full disks survived")


@needs_mount
def test_a_read_only_folder_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    script = 'mount -t tmpfs -o ro tmpfs "$1"; shift; "$@"'
    command = [sys.executable, "-m", "l2l_lightning.cli", *processes.arguments(tmp_path / "disk")]
    done = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", str(tmp_path / "disk"), *command],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 1
    assert_one_sentence(done.stdout + done.stderr, "No folder can be made in")


def test_a_run_whose_folder_is_deleted_says_so_and_can_be_resumed(tmp_path: Path) -> None:
    said, folder = tmp_path / "said", tmp_path / RUN
    process = processes.start(processes.arguments(tmp_path, *LONG), said)
    processes.wait_for((folder / "checkpoints/previous.ckpt").exists, process)
    shutil.move(folder, tmp_path / "gone")
    process.join(100)
    assert processes.status(process) == 1, said.read_text()
    assert_one_sentence(said.read_text(), "was deleted while it trained")
    epoch = checkpoint.read(folder / "checkpoints/last.ckpt")["epoch"]
    assert epoch >= checkpoint.read(tmp_path / "gone/checkpoints/last.ckpt")["epoch"]
    resume = ("--ckpt_path", "last", "--trainer.max_epochs", str(epoch + 2))
    assert processes.finish(processes.arguments(tmp_path, *resume), said) == 0, said.read_text()


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path: Path, runs: Path) -> None:
    words, said = processes.arguments(tmp_path), [tmp_path / f"said-{number}" for number in range(3)]
    started = [processes.start(words, path) for path in said]
    for process, path in zip(started, said, strict=True):
        process.join(200)
        assert processes.status(process) == 0, path.read_text()
    folders = sorted((tmp_path / "quadratic_smoke").iterdir())
    assert [folder.name for folder in folders] == ["version_0", "version_1", "version_2"]
    for folder in folders:
        assert_same_training(folder / "checkpoints/last.ckpt", runs / RUN / "checkpoints/last.ckpt")
        assert len(list(folder.glob("events*"))) == 1


def test_a_second_run_into_the_same_folder_is_refused_and_the_first_one_unharmed(
    tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, last = tmp_path / "said", tmp_path / RUN / "checkpoints/last.ckpt"
    first = processes.start(processes.arguments(tmp_path, *LONG), said)
    processes.wait_for(last.exists, first)
    before = sorted((tmp_path / RUN).glob("*"))
    monkeypatch.setattr(run_folder, "PATIENCE", 0.1)
    with pytest.raises(SystemExit, match=r"Another run is writing to .*version_0; wait for its end"):
        small.l2l("fit", tmp_path, "--ckpt_path", "last")
    assert sorted((tmp_path / RUN).glob("*")) == before
    assert first.pid
    os.kill(first.pid, signal.SIGTERM)
    first.join(60)
    assert processes.status(first) == 128 + signal.SIGTERM, said.read_text()
    checkpoint.read(last)


def test_the_lock_is_free_again_when_its_process_is_killed(tmp_path: Path) -> None:
    last = tmp_path / RUN / "checkpoints/last.ckpt"
    process = processes.start(processes.arguments(tmp_path, *LONG), tmp_path / "said")
    processes.wait_for(last.exists, process)
    process.kill()
    process.join()
    run_folder.lock(tmp_path / RUN).release()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"No folder can be made in .*file/runs \(Not a directory\)"):
        run_folder.claim_version(tmp_path / "file" / "runs")


def test_a_run_that_fails_before_it_writes_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="max_epochs"):
        small.l2l("fit", tmp_path, "--trainer.max_epochs", "-2")
    assert not list(tmp_path.rglob("version_*"))
