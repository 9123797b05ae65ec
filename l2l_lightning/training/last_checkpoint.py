"""``last.ckpt``: what a run goes on from, however it ended."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info

from l2l_lightning.core.errors import RunError, check_positive
from l2l_lightning.training.processes import largest

# Signals whose handlers, if any, are kept until a window is over; SLURM's requeue signal is one of them.
DEFERRED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP) if os.name == "posix" else ()


class LastCheckpoint(Checkpoint):
    """Keeps ``checkpoints/last.ckpt`` up to date, and the one before it as ``previous.ckpt``.

    It is written after every epoch, every few minutes between two windows, and when the run is asked to stop: Ctrl-C
    and SIGTERM wait for the end of the window, or of the validation, for only there can a run be resumed exactly. The
    exit status is then 128 + the signal's number. A second signal ends the run at once. SLURM's requeue signal waits
    likewise, and is then handled by Lightning.

    Lightning logs a window's values after the window's last hook. So a checkpoint within an epoch is a draft until
    these values are on the disk, too: a run that is resumed has them all, and each of them once.

    ``ModelCheckpoint(save_last=True)`` writes its last checkpoint only where it also writes a best one.

    Args:
        every_seconds: seconds after which a window is followed by a checkpoint.

    Raises:
        InputError: for a time that is not positive.
    """

    def __init__(self, every_seconds: float = 300.0) -> None:
        check_positive(self, every_seconds=every_seconds)
        self.every_seconds = every_seconds
        self._signals = _HeldSignals()
        self._active = False
        self._good = False  # whether last.ckpt is one that this run wrote or goes on from, not one found unreadable
        self._drafted = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._active = stage == "fit" and not trainer.fast_dev_run  # type: ignore[attr-defined]
        self._run = Path(trainer.log_dir or trainer.default_root_dir)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._active:
            return
        folder = (self._run / "checkpoints").resolve()
        start = Path(trainer.ckpt_path).resolve() if trainer.ckpt_path else None
        self.path, count = folder / "last.ckpt", 0
        while self.path.exists() and (start is None or start.parent != folder):  # another run's
            count += 1
            self.path = folder / f"last-v{count}.ckpt"
        self._draft = self.path.with_name(f".{self.path.name}.draft")
        self._good, self._drafted, self._saved_at = start == self.path, False, time.monotonic()
        self._inode = _inode(self._run)
        self._signals.hold()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if not self._active:
            return
        time_is_up = time.monotonic() - self._saved_at >= self.every_seconds
        due = time_is_up or _ends_here(trainer)
        gone = trainer.is_global_zero and _inode(self._run) != self._inode
        values = (self._signals.stop, self._signals.deferred, due, gone)
        stop, deferred, due, gone = largest(*values, device=pl_module.device)  # type: ignore[assignment]
        if stop or due or gone:
            self._write(trainer, pl_module)
            self._drafted, self._stop = True, stop
        if gone:  # and the values of this window have nowhere to go
            self._publish(trainer)
            raise RunError(
                f"The run's folder {self._run} was deleted while it trained, and its events with it; the training so "
                f"far is in {self.path}, which --ckpt_path last goes on from."
            )
        if deferred:
            self._signals.handle(deferred)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if self._drafted:
            self._flush(trainer)
            self._publish(trainer)
            self._end_if(trainer, self._stop)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._active and not trainer.sanity_checking:  # a validation may be followed by a best checkpoint
            self._check_phi(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self._active:
            return
        if trainer.is_last_batch or not self._drafted:
            self._write(trainer, pl_module)
        self._flush(trainer)
        self._publish(trainer)
        self._end_if(trainer, *largest(self._signals.stop, device=pl_module.device))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._signals.release()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._signals.release()

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._check_phi(trainer, pl_module)
        trainer.save_checkpoint(self._draft, weights_only=False)

    def _check_phi(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not all(bool(parameter.isfinite().all()) for parameter in pl_module.parameters()):
            raise RunError(
                f"phi is not finite after window {trainer.global_step}, so it is not saved; "
                f"{self.path} is the last good checkpoint, if there is one."
            )

    def _flush(self, trainer: L.Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()

    def _publish(self, trainer: L.Trainer) -> None:
        """Let the draft be the last checkpoint; the one before stays beside it."""
        self._drafted, self._saved_at = False, time.monotonic()
        if trainer.is_global_zero:
            if self._good and self.path.is_file():
                _keep(self.path, self.path.with_name(self.path.name.replace("last", "previous")))
            os.replace(self._draft, self.path)
        self._good = True

    def _end_if(self, trainer: L.Trainer, signum: int) -> None:
        if not signum:
            return
        name, step = signal.Signals(signum).name, trainer.global_step
        rank_zero_info(f"Ended by {name} after window {step}; --ckpt_path last goes on from {self.path}.")
        # Lightning kills the main process where one of those that it started ends with another status than 0.
        raise SystemExit(128 + signum if trainer.is_global_zero else 0)


class _HeldSignals:
    """Signals that have come and wait to be handled; 0 where none has.

    Attributes:
        stop: SIGINT or SIGTERM.
        deferred: a signal for which there was a handler already.
    """

    def __init__(self) -> None:
        self.stop = 0
        self.deferred = 0
        self._before: dict[int, Callable | int | None] = {}

    def hold(self) -> None:
        """From now on signals wait; only the main thread can have them do so."""
        if threading.current_thread() is not threading.main_thread():
            return
        self.stop = self.deferred = 0
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._before[signum] = signal.signal(signum, self._ask_to_stop)
        for signum in DEFERRED:
            if callable(signal.getsignal(signum)):
                self._before[signum] = signal.signal(signum, self._defer)

    def release(self) -> None:
        """Signals are handled as before ``hold``."""
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self._before.clear()

    def handle(self, signum: int) -> None:
        """Call the handler that there was."""
        self.deferred = 0
        handler = self._before.get(signum)
        if callable(handler):
            handler(signum, None)

    def _ask_to_stop(self, signum: int, frame: FrameType | None) -> None:
        if self.stop:
            raise KeyboardInterrupt
        self.stop = signum

    def _defer(self, signum: int, frame: FrameType | None) -> None:
        self.deferred = signum


def _ends_here(trainer: L.Trainer) -> bool:
    """Whether the training ends with this window, maybe in the middle of an epoch, from where it may be continued."""
    return trainer.should_stop or trainer.global_step == trainer.max_steps


def _inode(folder: Path) -> int | None:
    """Which folder it is; another one of the same name has another number."""
    return folder.stat().st_ino if folder.is_dir() else None


def _keep(path: Path, other: Path) -> None:
    """Give a file another name in addition; there is no moment at which either of them is missing or half-written."""
    link = other.with_name(f".{other.name}.part")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without links
        shutil.copyfile(path, link)
    os.replace(link, other)
