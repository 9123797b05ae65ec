"""Runs that are killed, asked to stop, requeued, and find their last checkpoint damaged: nothing is lost."""

import os
import random
import signal
import time
from pathlib import Path

import processes
import pytest
import small
import tally
from effort import FULL
from test_resume import assert_same_training, scalars

from l2l_lightning.files import checkpoint

KILLS = 20 if FULL else 5
RUN = "quadratic_smoke/version_0"
# A checkpoint after every window, so that many kills come while one is being written.
OFTEN = ("--last_checkpoint.every_seconds", "1e-9", "--trainer.log_every_n_steps", "1")


def checkpoints(folder: Path) -> Path:
    return folder / RUN / "checkpoints"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    epochs = str(4 * KILLS)
    said = folder / "said"
    assert processes.finish(processes.arguments(folder, *OFTEN, "--trainer.max_epochs", epochs), said) == 0
    return folder


def test_a_run_killed_again_and_again_is_bit_identical_to_an_undisturbed_one(undisturbed: Path, tmp_path: Path) -> None:
    words = processes.arguments(tmp_path, *OFTEN, "--trainer.max_epochs", str(4 * KILLS), "--ckpt_path", "auto")
    folder, said, chance = checkpoints(tmp_path), tmp_path / "said", random.Random(0)
    last, writing = folder / "last.ckpt", 0
    unfinished = [folder / ".last.ckpt.draft", folder / "..last.ckpt.draft.part"]
    for kill in range(KILLS):
        before = last.stat().st_mtime_ns if last.exists() else 0
        process = processes.start(words, said)
        processes.wait_for(lambda before=before: last.exists() and last.stat().st_mtime_ns > before, process)
        if kill % 2:
            time.sleep(chance.uniform(0, 0.15))
        else:  # in the middle of the next checkpoint
            processes.wait_for(lambda: any(path.exists() for path in unfinished), process)
        process.kill()
        process.join()
        assert processes.status(process) == -signal.SIGKILL, f"ended before kill {kill}: {said.read_text()}"
        found = [path for path in folder.iterdir() if path.suffix == ".ckpt"]
        assert found
        for path in found:
            checkpoint.read(path)
        writing += any(path.exists() for path in unfinished)
        tally.count("kills survived")
        tally.count("checkpoints found whole after a kill", len(found))
    tally.count("of these kills while a checkpoint was being written", writing)
    assert processes.finish(words, said) == 0, said.read_text()
    assert [path.name for path in (tmp_path / "quadratic_smoke").iterdir()] == ["version_0"]
    assert_same_training(*(checkpoints(root) / "last.ckpt" for root in (undisturbed, tmp_path)))
    assert scalars(undisturbed / RUN) == scalars(tmp_path / RUN)
    assert writing, "no kill came while a checkpoint was being written"


STOPS = [(signal.SIGINT, "40"), (signal.SIGTERM, "1"), (signal.SIGINT, "1"), (signal.SIGTERM, "40")]


@pytest.mark.parametrize(("signum", "windows"), STOPS if FULL else STOPS[:2])
def test_a_run_asked_to_stop_ends_with_a_checkpoint_to_go_on_from(
    tmp_path: Path, signum: signal.Signals, windows: str
) -> None:
    """Most probably in a window where an epoch has 40 of them, and in a validation where it has one."""
    limit = ("--trainer.max_epochs", "10", "--data.init_args.windows_per_epoch", windows)
    words, said = processes.arguments(tmp_path / "parts", *limit), tmp_path / "said"
    process = processes.start(words, said)
    best = checkpoints(tmp_path / "parts") / "best.ckpt"
    processes.wait_for(best.exists, process)
    time.sleep(0.05)
    assert process.pid
    os.kill(process.pid, signum)
    process.join(60)
    assert processes.status(process) == 128 + signum, said.read_text()
    assert f"Ended by {signum.name} after window" in said.read_text()
    assert "Traceback" not in said.read_text()
    stopped = checkpoint.read(best.with_name("last.ckpt"))["global_step"]
    for folder, more in (("parts", ("--ckpt_path", "last")), ("whole", ())):
        assert processes.finish(processes.arguments(tmp_path / folder, *limit, *more), said) == 0
    ends = [checkpoints(tmp_path / folder) / "last.ckpt" for folder in ("parts", "whole")]
    assert_same_training(*ends)
    assert stopped < checkpoint.read(ends[0])["global_step"]
    assert scalars(tmp_path / "parts" / RUN) == scalars(tmp_path / "whole" / RUN)
    tally.count("SIGINT and SIGTERM obeyed")


def test_a_second_ctrl_c_ends_the_run_at_once_and_what_was_saved_stays(tmp_path: Path) -> None:
    """In a validation so long that the first one waits."""
    said = tmp_path / "said"
    long = ("--data.init_args.steps", "1000000", "--trainer.val_check_interval", "30", "--trainer.max_epochs", "-1")
    words = processes.arguments(tmp_path, *OFTEN, *long, "--trainer.check_val_every_n_epoch", "null")
    process = processes.start(words, said)
    last = checkpoints(tmp_path) / "last.ckpt"
    processes.wait_for(lambda: last.exists() and checkpoint.read(last)["global_step"] > 25, process)
    time.sleep(1)
    assert process.pid
    for _ in range(2):
        os.kill(process.pid, signal.SIGINT)
        time.sleep(1)
    process.join(30)
    assert processes.status(process) == 1, said.read_text()
    assert "Traceback" not in said.read_text()
    assert checkpoint.read(last)["global_step"] > 25


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["truncated", "empty", "one byte flipped"])
def test_a_damaged_last_checkpoint_is_left_aside_for_the_one_before_it(
    runs: Path, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    small.l2l("fit", tmp_path, *OFTEN)
    last = checkpoints(tmp_path) / "last.ckpt"
    previous = checkpoint.read(last.with_name("previous.ckpt"))
    os.utime(last.with_name("best.ckpt"), (0, 0))
    damage(last, how)
    with pytest.warns(
        UserWarning, match=r"last\.ckpt is not a checkpoint that can be read safely.* before it is taken"
    ):
        small.l2l("fit", tmp_path, "--ckpt_path", "last")
    assert f"Restoring states from the checkpoint path at {last.with_name('previous.ckpt')}" in caplog.text
    assert previous["global_step"] < checkpoint.read(last)["global_step"]
    assert_same_training(last, checkpoints(runs) / "last.ckpt")
    tally.count("damaged checkpoints left aside")


def test_a_run_whose_checkpoints_are_all_damaged_says_so(tmp_path: Path) -> None:
    small.l2l("fit", tmp_path)
    for path in checkpoints(tmp_path).iterdir():
        damage(path, "truncated")
    with (
        pytest.warns(UserWarning, match="is taken"),
        pytest.raises(SystemExit, match=r"No checkpoint in .*checkpoints can be read"),
    ):
        small.l2l("fit", tmp_path, "--ckpt_path", "auto")


def test_slurm_s_requeue_signal_saves_requeues_and_the_requeued_job_goes_on(undisturbed: Path, tmp_path: Path) -> None:
    """As Lightning does it, but between two windows; scontrol is one that writes down how it was called."""
    scontrol, called, said = tmp_path / "bin" / "scontrol", tmp_path / "called", tmp_path / "said"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {called}\n')
    scontrol.chmod(0o755)
    job = {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "l2l", "SLURM_PROCID": "0"}
    job |= {"SLURM_LOCALID": "0", "SLURM_NODEID": "0", "PATH": f"{scontrol.parent}:{os.environ['PATH']}"}
    words = processes.arguments(tmp_path / "job", *OFTEN, "--trainer.max_epochs", str(4 * KILLS))
    process = processes.start(words, said, job)
    processes.wait_for((checkpoints(tmp_path / "job") / "last.ckpt").exists, process)
    assert process.pid
    os.kill(process.pid, signal.SIGUSR1)
    processes.wait_for(called.exists, process)
    process.kill()
    process.join()
    assert called.read_text() == "requeue 17\n"
    saved = tmp_path / "job" / "hpc_ckpt_1.ckpt"
    assert checkpoint.read(saved)["global_step"] > 0
    assert processes.finish(words, said, job) == 0, said.read_text()
    assert f"Restoring states from the checkpoint path at {saved}" in said.read_text()
    ends = [tmp_path / "job/quadratic_smoke/version_1/checkpoints/last.ckpt", checkpoints(undisturbed) / "last.ckpt"]
    assert_same_training(*ends)
