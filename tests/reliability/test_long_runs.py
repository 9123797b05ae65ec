"""A run of thousands of windows takes no more memory and no more open files than one of hundreds."""

import json
import os
from pathlib import Path
from statistics import median

import lightning as L
import processes
import psutil
import pytest
import small
import tally
from effort import FULL
from lightning.pytorch.callbacks import Callback

from l2l_lightning.files import checkpoint

EPOCHS, WINDOWS = (1000, 20) if FULL else (24, 25)
MEGABYTES = 4.0


class Meter(Callback):
    """Writes down resident memory in MB and open file descriptors at the end of every epoch."""

    def __init__(self, output: str) -> None:
        self.output = Path(output)
        self.process = psutil.Process()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        found = {"megabytes": self.process.memory_info().rss / 2**20, "files": self.process.num_fds()}
        with self.output.open("a") as file:
            file.write(json.dumps(found) + "\n")


def grows(megabytes: list[float]) -> bool:
    """Whether the last quarter's median lies above the second quarter's by more than 2 % and some MB."""
    quarter = len(megabytes) // 4
    early, late = median(megabytes[quarter : 2 * quarter]), median(megabytes[-quarter:])
    return late - early > max(MEGABYTES, 0.02 * early)


@pytest.mark.skipif(os.name != "posix", reason="counts file descriptors")
def test_memory_and_open_files_do_not_grow(tmp_path: Path) -> None:
    """With a validation an epoch and many checkpoints; what a run opens once is open after a warm-up."""
    meter, said = tmp_path / "meter", tmp_path / "said"
    words = processes.arguments(
        tmp_path,
        *("--trainer.callbacks+", "test_long_runs.Meter", "--trainer.callbacks.output", str(meter)),
        *("--trainer.max_epochs", str(EPOCHS), "--data.init_args.windows_per_epoch", str(WINDOWS)),
        *("--data.init_args.problems", "4", "--model.unroll", "2", "--last_checkpoint.every_seconds", "0.3"),
        *("--data.init_args.validation_problems", "4", "--data.init_args.tuning_problems", "4"),
        *("--data.init_args.steps", "4", "--model.baselines.rules", "[Adam]"),
    )
    assert processes.finish(words, said, timeout=3000) == 0, said.read_text()
    values = [json.loads(line) for line in meter.read_text().splitlines()]
    assert len(values) == EPOCHS
    megabytes, files = ([value[name] for value in values] for name in ("megabytes", "files"))
    assert len(set(files[5:])) == 1, files
    assert not grows(megabytes), megabytes
    last = checkpoint.read(tmp_path / "quadratic_smoke/version_0/checkpoints/last.ckpt")
    tally.count("windows of the soak", last["global_step"])


def test_what_grows_is_seen_and_noise_is_not() -> None:
    noise = [400 + (place * 7919 % 13) / 4 for place in range(80)]
    assert not grows(noise)
    assert not grows([300, 350, 390, *noise])
    assert grows([value + place / 4 for place, value in enumerate(noise)])


@pytest.mark.parametrize(
    "mode",
    [
        [],
        ["--model.estimator.second_order", "true"],
        ["--model.estimator.meta_coordinates", "2"],
        ["--model.rule", "MultiscaleAdam"],
    ],
    ids=["recorded", "second order", "replayed", "another rule"],
)
def test_autograd_s_search_for_anomalies_finds_none(
    tmp_path: Path, mode: list[str], recwarn: pytest.WarningsRecorder
) -> None:
    """It raises where any backward pass makes a nan, even one that a mask then hides."""
    short = ("--trainer.max_steps", "5", "--trainer.limit_val_batches", "0")
    small.l2l("fit", tmp_path, "--trainer.detect_anomaly", "true", *short, *mode)
    assert not [str(warning.message) for warning in recwarn if "recorded" in str(warning.message)]
    last = checkpoint.read(tmp_path / "quadratic_smoke/version_0/checkpoints/last.ckpt")
    assert checkpoint.saved_state(last)["skipped_steps"] == 0
