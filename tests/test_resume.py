"""A run that was stopped goes on exactly."""

from pathlib import Path

import pytest
import small
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from l2l_lightning.files import checkpoint

EVERY_WINDOW = """
trainer:
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args:
        every_n_train_steps: 1
        save_top_k: 0
        save_last: true
        dirpath: {folder}
  log_every_n_steps: 1
"""


def tensors(value: object, name: str = "") -> dict[str, Tensor]:
    """All tensors of a nested checkpoint by their path."""
    if isinstance(value, Tensor):
        return {name: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {path: leaf for key, item in items for path, leaf in tensors(item, f"{name}/{key}").items()}


def assert_same_training(left: Path, right: Path) -> None:
    """phi, inner state, ages, lifetimes, outer optimizer and schedule agree bit for bit."""
    found = [checkpoint.read(path) for path in (left, right)]
    for key in ("state_dict", "optimizer_states", checkpoint.KEY):
        first, second = (tensors(content[key]) for content in found)
        assert first.keys() == second.keys()
        assert first
        assert all(torch.equal(first[name], second[name]) for name in first)
    assert found[0]["lr_schedulers"] == found[1]["lr_schedulers"]
    assert found[0]["global_step"] == found[1]["global_step"]


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(run)).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if "per_second" not in tag
    }


@pytest.mark.parametrize("stopped_after", [10, 20, 13, 19])
def test_a_resumed_run_is_bit_identical_to_one_never_stopped(tmp_path: Path, stopped_after: int) -> None:
    """At the end of an epoch of 10 windows and in the middle of one."""
    schedule = ("--model.lr_scheduler", "CosineAnnealingLR", "--model.lr_scheduler.T_max", "30")
    folders = {name: tmp_path / name for name in ("whole", "parts")}
    for name, limits in (("whole", [30]), ("parts", [stopped_after, 30])):
        saved = folders[name] / "saved"
        extra = tmp_path / f"{name}.yaml"
        extra.write_text(EVERY_WINDOW.format(folder=saved))
        for limit in limits:
            resume = ("--ckpt_path", str(saved / "last.ckpt")) if limit != limits[0] else ()
            small.l2l(
                "fit", folders[name], "--config", str(extra), "--trainer.max_steps", str(limit), *schedule, *resume
            )
    assert_same_training(*(folder / "saved" / "last.ckpt" for folder in folders.values()))
    whole, first, second = (
        scalars(folders[name] / f"whole/version_{version}".replace("whole", name))
        for name, version in (("whole", 0), ("parts", 0), ("parts", 1))
    )
    for tag in ("train/meta_loss", "train/grad_norm", "train/resets", "val/mean_loss"):
        assert whole[tag] == first.get(tag, []) + second[tag], tag


def test_last_goes_on_in_the_folder_of_the_newest_run(tmp_path: Path) -> None:
    small.l2l("fit", tmp_path, "--trainer.max_epochs", "2")
    small.l2l("fit", tmp_path, "--trainer.max_epochs", "3", "--ckpt_path", "last")
    runs = tmp_path / "quadratic_smoke"
    assert [folder.name for folder in runs.iterdir()] == ["version_0"]
    assert sorted(file.name for file in (runs / "version_0").glob("*.yaml")) == [
        "config-resumed-1.yaml",
        "config.yaml",
        "hparams.yaml",
    ]
    small.l2l("fit", tmp_path / "whole", "--trainer.max_epochs", "3")
    assert_same_training(
        *(folder / "version_0/checkpoints/last.ckpt" for folder in (runs, tmp_path / "whole/quadratic_smoke"))
    )


def test_baselines_that_the_checkpoint_does_not_know_are_tuned(runs: Path, tmp_path: Path) -> None:
    last = runs / "quadratic_smoke/version_0/checkpoints/last.ckpt"
    small.l2l("validate", tmp_path, "--ckpt_path", str(last), "--model.baselines.rules", "[SGD]")
    small.l2l(
        "fit",
        tmp_path,
        *("--ckpt_path", str(last), "--trainer.max_epochs", "4", "--model.baselines.rules", "[SGD]"),
    )
    rates = checkpoint.read(tmp_path / "quadratic_smoke/version_0/checkpoints/last.ckpt")[checkpoint.KEY]
    assert "SGD" in rates["baseline_rates"]


@pytest.mark.parametrize(
    ("part", "leaf"), [("rule", {"h0": torch.zeros(3, 16, 5)}), ("rule", {}), ("instance", {"W": torch.zeros(16, 5)})]
)
def test_an_inner_state_of_another_shape_is_refused(
    runs: Path, tmp_path: Path, part: str, leaf: dict[str, Tensor]
) -> None:
    content = checkpoint.read(runs / "quadratic_smoke/version_0/checkpoints/last.ckpt")
    content[checkpoint.KEY]["processes"][0]["inner"][part] = leaf
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(SystemExit, match=f"The {part}.* part of the checkpoint's inner state has other leaves"):
        small.l2l("fit", tmp_path, "--ckpt_path", str(tmp_path / "other.ckpt"), "--trainer.max_epochs", "9")
