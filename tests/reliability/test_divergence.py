"""Losses, gradients, parameters, meta-gradients, phi that are not finite: found, counted, and what is good is kept."""

import functools
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import small
import tally
import torch
from lightning.pytorch.callbacks import Callback
from scenes import initial_state
from test_resume import tensors
from torch import Tensor, nn

from l2l_lightning.core.coordinates import CoordinateLayout
from l2l_lightning.core.horizon import FixedHorizon
from l2l_lightning.core.state import InnerState
from l2l_lightning.core.window import Data
from l2l_lightning.files import checkpoint
from l2l_lightning.optimizees import Quadratic
from l2l_lightning.rules import CoordinatewiseLSTM
from l2l_lightning.training.module import MetaOptimizerModule

STEEP, SICK, WHEN = 1234.5, 2, 2  # the target at which Cliff has no slope; the problem and the window of a fault
MODES = {"recorded": {}, "graph": {"second_order": True}, "replayed": {"meta_coordinates": 2}}
RUN = "quadratic_smoke/version_0/checkpoints"
every_mode = pytest.mark.parametrize("mode", MODES)


class Cliff(Quadratic):
    """A quadratic whose loss is finite where the first target is STEEP, but not its gradient."""

    def value(self, x: Tensor, data: Data) -> Tensor:
        return super().value(x, data) + torch.where(data["y"][0] == STEEP, 0 * x.sum(), 1.0).sqrt()


class Blind(Quadratic):
    """A quadratic within a box, beyond which all is the same to it."""

    def value(self, x: Tensor, data: Data) -> Tensor:
        return super().value(nn.functional.hardtanh(x, -10, 10), data)


class Fault(Callback):
    """Harms the inner state before one window, and writes down what came of it."""

    def __init__(self, harm: Callable[[InnerState], object]) -> None:
        self.harm = harm
        self.ages: list[Tensor] = []
        self.curves: list[Tensor] = []
        self.training: list[dict[str, Tensor]] = []  # phi and the outer optimizer's state after every window
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == WHEN:
            self.harm(pl_module.population.inner)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *_: Any) -> None:
        self.ages.append(outputs["age"])
        self.curves.append(outputs["curve"])
        self.losses.append(float(outputs["loss"]))
        optimizer = trainer.optimizers[0].state_dict()["state"]
        everything = tensors({"phi": pl_module.state_dict(), "optimizer": optimizer})
        self.training.append({name: leaf.detach().clone() for name, leaf in everything.items()})


def train(
    folder: Path, harm: Callable[[InnerState], object], rate: float, **changes: Any
) -> tuple[MetaOptimizerModule, L.Trainer, Fault]:
    """Five windows in which nothing but divergence resets a problem."""
    seen = Fault(harm)
    module = small.module(
        horizon=FixedHorizon(1000),
        stagger=False,
        optimizer=lambda phi: torch.optim.AdamW(phi, rate),
        **changes,
    )
    trainer = small.trainer(folder, seen, max_epochs=1, log_every_n_steps=1, limit_val_batches=0)
    trainer.fit(module, datamodule=small.data(windows_per_epoch=5))
    tally.count("faults injected")
    return module, trainer, seen


def put(name: str, value: float) -> Callable[[InnerState], object]:
    """The first number of theta, or of the instance's data, of the sick problem."""
    return lambda inner: (inner.theta if name == "theta" else inner.instance[name])[SICK, 0].fill_(value)


FAULTS: dict[str, tuple[Callable[[InnerState], object], dict[str, Any], str]] = {
    "loss inf": (put("y", torch.inf), {}, "divergences"),
    "loss nan": (put("y", torch.nan), {}, "divergences"),
    "loss overflows": (put("y", 1e30), {}, "divergences"),
    "gradient nan": (put("y", STEEP), {"optimizee": Cliff(dim=3)}, "divergences"),
    "theta inf": (put("theta", torch.inf), {}, "divergences"),
    "theta nan": (put("theta", torch.nan), {}, "divergences"),
    "theta inf, which the loss does not show": (put("theta", torch.inf), {"optimizee": Blind(dim=3)}, "divergences"),
    "loss above max_loss": (put("y", 1e3), {"max_loss": 1e4}, "divergences"),
    "norm above reset_norm": (put("theta", 1e3), {"reset_norm": 1e2}, "early_resets"),
}


@every_mode
@pytest.mark.parametrize("fault", FAULTS)
def test_a_problem_that_diverges_is_reset_and_counted_and_the_others_notice_nothing(
    fault: str, mode: str, tmp_path: Path
) -> None:
    """With phi held still, the other problems' curves are bit for bit those of a run in which nothing happens."""
    harm, limits, total = FAULTS[fault]
    module, trainer, seen = train(tmp_path, harm, 0.0, **limits, **MODES[mode])
    _, _, calm = train(tmp_path, lambda inner: None, 0.0, **limits, **MODES[mode])
    well = torch.arange(8) != SICK
    for window, (found, expected) in enumerate(zip(seen.curves, calm.curves, strict=True)):
        assert torch.equal(found[:, well], expected[:, well]), window
        assert torch.isfinite(found[:, well]).all()
    ages = torch.stack(seen.ages)
    assert ages[:, SICK].tolist() == [0, 5, 10, 0, 5]
    assert ages[:, well].eq(torch.arange(0, 25, 5).unsqueeze(1)).all()
    assert torch.isfinite(seen.curves[-1]).all(), "the new problem is a good one"
    expected_totals = {"resets": 1, "divergences": 0, "early_resets": 0} | {total: 1}
    assert asdict(module.population.counts) == expected_totals
    assert {name: float(trainer.callback_metrics[f"train/{name}"]) for name in expected_totals} == expected_totals
    assert module.skips.skipped_steps == 0, "the meta-gradient is that of the other problems"


@every_mode
def test_phi_learns_from_the_others(mode: str, tmp_path: Path) -> None:
    module, _, seen = train(tmp_path, put("y", torch.nan), 0.01, **MODES[mode])
    assert all(torch.isfinite(leaf).all() for leaf in seen.training[-1].values())
    before, after = seen.training[WHEN - 1 : WHEN + 1]
    assert not any(torch.equal(before[name], after[name]) for name in before if name.endswith("weight"))
    assert module.skips.skipped_steps == 0
    assert all(loss == loss for loss in seen.losses)


@every_mode
def test_a_window_in_which_all_problems_diverge_moves_nothing(mode: str, tmp_path: Path) -> None:
    module, trainer, seen = train(tmp_path, lambda inner: inner.instance["y"].fill_(torch.nan), 0.01, **MODES[mode])
    assert [loss != loss for loss in seen.losses] == [False, False, True, False, False]
    before, after, later = seen.training[WHEN - 1 : WHEN + 2]
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(torch.equal(after[name], later[name]) for name in after if name.endswith("exp_avg"))
    assert (module.skips.skipped_steps, module.skips.skipped_in_a_row, module.population.counts.divergences) == (
        1,
        0,
        8,
    )
    assert float(trainer.callback_metrics["train/skipped_steps"]) == 1
    assert torch.stack(seen.ages)[:, 0].tolist() == [0, 5, 10, 0, 5]


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Numbers of the windows, from 0, whose meta-gradient is not finite."""
    windows: set[int] = set()

    def on_after_backward(module: MetaOptimizerModule) -> None:
        if module.trainer.global_step in windows:
            next(module.rule.parameters()).grad.view(-1)[0] = torch.inf
            tally.count("faults injected")

    monkeypatch.setattr(MetaOptimizerModule, "on_after_backward", on_after_backward)
    return windows


VALIDATED: tuple[str, ...] = ("--trainer.limit_val_batches", "4")  # all of them, which takes most of the time


def fit(folder: Path, *more: str) -> dict[str, Any]:
    """Up to 14 windows and their last checkpoint; three windows skipped in a row are one too many."""
    limits = ("--model.max_skipped_steps", "3", "--trainer.max_epochs", "2", "--data.init_args.windows_per_epoch", "7")
    small.l2l("fit", folder, *limits, "--trainer.limit_val_batches", "0", *more)
    return checkpoint.read(folder / RUN / "last.ckpt")


def totals(saved: dict[str, Any]) -> tuple[int, int]:
    state = checkpoint.saved_state(saved)
    return state["skipped_steps"], state["skipped_in_a_row"]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], dict[str, Any]]:
    """The last checkpoint of a run that ended well after some windows."""
    return functools.cache(lambda windows: fit(tmp_path_factory.mktemp("good"), "--trainer.max_steps", str(windows)))


def assert_same_phi(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for part in ("state_dict", "optimizer_states"):
        left, right = tensors(found[part]), tensors(expected[part])
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)


def ends_in_one_sentence(folder: Path, sentence: str, *more: str) -> dict[str, Any] | None:
    """What ``last.ckpt`` holds then. A string as its code makes an exit status of 1."""
    with pytest.raises(SystemExit) as ended:
        fit(folder, *more)
    assert isinstance(ended.value.code, str)
    assert ended.value.code.startswith(f"l2l: error: {sentence}"), ended.value.code
    assert "\n" not in ended.value.code
    last = folder / RUN / "last.ckpt"
    assert not list(last.parent.glob(".*")), "no draft is left"
    return checkpoint.read(last) if last.exists() else None


def test_fewer_meta_gradients_in_a_row_than_the_limit_are_survived(tmp_path: Path, poison: set[int]) -> None:
    poison |= {2, 3, 6, 7}
    assert totals(fit(tmp_path)) == (4, 0)


@pytest.mark.parametrize("first", [3, 4])
def test_at_the_limit_the_run_ends_with_a_checkpoint_of_all_that_was_good(
    tmp_path: Path, poison: set[int], first: int, good: Callable[[int], dict[str, Any]]
) -> None:
    """In the middle of the first epoch, and in its last window."""
    poison |= set(range(first, 14))
    saved = ends_in_one_sentence(tmp_path, "The meta-gradient was not finite in 3 windows in a row")
    assert saved is not None
    assert totals(saved) == (3, 3)
    assert saved["global_step"] == first + 3
    assert_same_phi(saved, good(first))

    saved = ends_in_one_sentence(tmp_path, "The meta-gradient was not finite in 4", "--ckpt_path", "last")
    assert saved is not None
    assert_same_phi(saved, good(first))
    poison.clear()
    resumed = fit(tmp_path, "--ckpt_path", "last")
    assert totals(resumed) == (4, 0)
    assert resumed["global_step"] == 14


def test_windows_in_a_row_are_counted_across_a_stop(tmp_path: Path, poison: set[int]) -> None:
    poison |= {3, 4, 5}
    assert totals(fit(tmp_path, "--trainer.max_steps", "5")) == (2, 2)
    saved = ends_in_one_sentence(tmp_path, "The meta-gradient was not finite in 3 windows", "--ckpt_path", "last")
    assert saved is not None
    assert saved["global_step"] == 6


@pytest.mark.parametrize("often", ["1e-9", "300"])
@pytest.mark.parametrize(("how", "when"), [("a rate of inf", 5), ("an optimizer that writes nan", 10)])
def test_phi_that_is_not_finite_is_never_saved(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    when: int,
    often: str,
    good: Callable[[int], dict[str, Any]],
) -> None:
    """Neither as the last nor as the best checkpoint; with a checkpoint a window, that of the window before is kept."""
    kept = when if often == "1e-9" else when // 7 * 7
    expected = good(kept) if kept else None
    step = torch.optim.Adam.step

    def spoil(optimizer: torch.optim.Adam, **arguments: Any) -> Any:
        group = optimizer.param_groups[0]
        now = optimizer.state[group["params"][0]].get("step", 0) == when
        if now and how == "a rate of inf":
            group["lr"] = torch.inf
        loss = step(optimizer, **arguments)
        if now and how != "a rate of inf":
            group["params"][-1].data.view(-1)[-1] = torch.nan
        return loss

    monkeypatch.setattr(torch.optim.Adam, "step", spoil)
    words = ("--last_checkpoint.every_seconds", often, *VALIDATED)
    saved = ends_in_one_sentence(tmp_path, "phi is not finite after window", *words)
    tally.count("faults injected")
    assert (saved is None) == (expected is None)
    for path in (tmp_path / RUN).glob("*.ckpt"):
        assert all(leaf.isfinite().all() for leaf in checkpoint.read(path)["state_dict"].values()), path.name
    if saved is not None:
        assert_same_phi(saved, expected)
        monkeypatch.undo()
        assert fit(tmp_path, "--ckpt_path", "last")["global_step"] == 14


def test_all_modes_are_what_they_say() -> None:
    """A rule with a tape, and one of whose coordinates some stand for all."""
    rule = CoordinatewiseLSTM(layers=1, hidden_size=5)
    assert rule.scope == "coordinate"
    layout = CoordinateLayout.flat(3)
    assert rule.tape(initial_state(rule, torch.zeros(8, 3), layout), layout, 5) is not None
