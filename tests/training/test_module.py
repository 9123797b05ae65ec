"""Meta-training through Lightning's Trainer."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import small
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from l2l_lightning.core.errors import InputError
from l2l_lightning.core.horizon import FixedHorizon
from l2l_lightning.core.window import Data
from l2l_lightning.evaluation.compare import LEARNED
from l2l_lightning.optimizees import OptimizeeModule
from l2l_lightning.rules import SGD, Adam


class Recorder(Callback):
    """Keeps what callbacks are shown of every window."""

    def __init__(self) -> None:
        self.ages: list[list[int]] = []
        self.curves: list[Tensor] = []
        self.validations: list[dict[str, float]] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.ages.append(outputs["age"].tolist())
        self.curves.append(outputs["curve"])

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validations.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def test_training_lowers_the_loss_on_problems_never_seen(tmp_path: Path) -> None:
    recorder = Recorder()
    module = small.module(optimizer=lambda parameters: torch.optim.Adam(parameters, 0.02))
    small.trainer(tmp_path, recorder, max_epochs=12).fit(module, datamodule=small.data())
    first, last = (recorder.validations[place]["val/mean_loss"] for place in (0, -1))
    assert last < 0.8 * first


def test_phi_alone_is_what_the_outer_optimizer_sees() -> None:
    module = small.module()
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Adam)
    seen = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert seen == {id(parameter) for parameter in module.rule.parameters()}
    assert seen == {id(parameter) for parameter in module.parameters()}, "the optimizee is no submodule"
    assert all(name.startswith("rule.") for name in module.state_dict())


def test_the_schedule_of_the_outer_rate_steps_after_every_window(tmp_path: Path) -> None:
    module = small.module(lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5))
    small.trainer(tmp_path, max_epochs=1).fit(module, datamodule=small.data())
    assert module.optimizers().param_groups[0]["lr"] == pytest.approx(1e-3 * 0.5**6)


def test_problems_restart_at_the_end_of_their_lifetime_and_at_different_times(tmp_path: Path) -> None:
    recorder = Recorder()
    module = small.module()
    small.trainer(tmp_path, recorder, max_epochs=2).fit(module, datamodule=small.data())
    ages = torch.tensor(recorder.ages)  # (windows, B)
    assert ages[0].eq(0).all()
    steps = ages.diff(dim=0)
    assert set(steps.unique().tolist()) == {5, -5, -10, -15, 0}, "a window older, or back to 0 from some age"
    # After the first round the 8 problems are spread over all 4 ages of a lifetime of 20, two at each.
    for window in ages[4:]:
        assert window.sort().values.tolist() == [0, 0, 5, 5, 10, 10, 15, 15]
    assert module.population.counts.resets == int((steps <= 0).sum())


def test_without_staggering_all_problems_restart_together(tmp_path: Path) -> None:
    recorder = Recorder()
    small.trainer(tmp_path, recorder, max_epochs=1).fit(small.module(stagger=False), datamodule=small.data())
    assert recorder.ages == [[age] * 8 for age in (0, 5, 10, 15, 0, 5)]


def test_the_state_carried_to_the_next_window_is_detached(tmp_path: Path) -> None:
    module = small.module()
    small.trainer(tmp_path, max_epochs=1).fit(module, datamodule=small.data())
    assert module.population.inner is not None
    leaves = [module.population.inner.theta, *module.population.inner.rule.values()]
    assert not any(leaf.requires_grad for leaf in leaves)
    assert module.population.inner.theta.abs().sum() > 0


class Explosive(OptimizeeModule):
    """theta^2, but not a number once ``poison`` is set for the problem."""

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.ones(2))

    def reset_parameters(self, generator: torch.Generator) -> None:
        nn.init.ones_(self.theta)

    def forward(self, data: Data) -> Tensor:
        return self.theta.square().sum() + torch.where(data["y"].sum() > 1.0, torch.inf, 0.0)


def test_a_diverged_problem_is_counted_and_replaced(tmp_path: Path) -> None:
    recorder = Recorder()
    module = small.module(optimizee=Explosive(), horizon=FixedHorizon(1000))
    small.trainer(tmp_path, recorder, max_epochs=2).fit(module, datamodule=small.data())
    bad = [~torch.isfinite(curve).all(0) for curve in recorder.curves]
    assert bad[0].any(), "the seed must draw some poisoned problem"
    assert not bad[0].all()
    assert module.population.counts.divergences == sum(int(mask.sum()) for mask in bad[:-1])
    for mask, ages in zip(bad[:-1], recorder.ages[1:], strict=True):
        assert (torch.tensor(ages)[mask] == 0).all(), "replaced at the next window"
    assert all(torch.isfinite(parameter).all() for parameter in module.rule.parameters())


def test_solved_problems_and_runaways_restart_early_and_are_counted(tmp_path: Path) -> None:
    """Each window ends all lives that would have lasted for 20, by either limit; without limits none."""
    ages = {}
    for name, limits in {"none": {}, "loss": {"reset_loss": 1e9}, "norm": {"reset_norm": 1e-9}}.items():
        recorder = Recorder()
        module = small.module(stagger=False, horizon=FixedHorizon(20), **limits)
        small.trainer(tmp_path, recorder, max_epochs=1).fit(module, datamodule=small.data(windows_per_epoch=4))
        ages[name] = [age[0] for age in recorder.ages]
        assert module.population.counts.early_resets == (0 if name == "none" else 4 * 8)
        assert module.population.counts.divergences == 0
    assert ages == {"none": [0, 5, 10, 15], "loss": [0] * 4, "norm": [0] * 4}


def test_limits_that_are_not_positive_are_refused() -> None:
    with pytest.raises(InputError, match=r"reset_norm must be a positive number, got -1.0"):
        small.module(reset_norm=-1.0)


def test_a_meta_gradient_that_is_not_finite_skips_the_step_and_is_counted(tmp_path: Path) -> None:
    class Poison(Callback):
        def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            if trainer.global_step == 2:
                next(pl_module.parameters()).grad[0, 0] = torch.nan

    class Watch(Callback):
        def __init__(self) -> None:
            self.phi: list[Tensor] = []

        def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
            self.phi.append(nn.utils.parameters_to_vector(pl_module.parameters()).detach().clone())

    watch, module = Watch(), small.module()
    small.trainer(tmp_path, Poison(), watch, max_epochs=1).fit(module, datamodule=small.data())
    assert module.skips.skipped_steps == 1
    moved = [not torch.equal(before, after) for before, after in zip(watch.phi, watch.phi[1:], strict=False)]
    assert moved == [True, False, True, True, True]


def test_validation_works_under_inference_mode_and_without_it(tmp_path: Path) -> None:
    curves = []
    for inference_mode in (True, False):
        module = small.module()
        small.trainer(tmp_path, inference_mode=inference_mode).validate(module, datamodule=small.data(), verbose=False)
        curves.append({name: result.curve for name, result in module.results.items()})
    assert list(curves[0]) == [LEARNED, "Adam", "Nesterov"]
    assert all(torch.equal(curves[0][name], curves[1][name]) for name in curves[0])


def test_lightning_s_sanity_check_neither_tunes_nor_counts(tmp_path: Path) -> None:
    checked, plain = small.module(), small.module()
    for module, steps in ((checked, 2), (plain, 0)):
        small.trainer(tmp_path, num_sanity_val_steps=steps).fit(module, datamodule=small.data())
    for name, result in plain.results.items():
        assert torch.equal(checked.results[name].curve, result.curve)


def test_training_runs_in_double_precision(tmp_path: Path) -> None:
    recorder = Recorder()
    small.trainer(tmp_path, recorder, precision="64-true").fit(small.module(), datamodule=small.data())
    assert recorder.curves[0].dtype == torch.float64


def test_contenders_start_alike_and_the_trained_weights_are_used(tmp_path: Path) -> None:
    trained, untrained = small.module(), small.module()
    small.trainer(tmp_path).fit(trained, datamodule=small.data())
    for module in (trained, untrained):
        small.trainer(tmp_path).test(module, datamodule=small.data(), verbose=False)
    assert torch.equal(trained.results[LEARNED].curve[0], trained.results["Adam"].curve[0])
    assert torch.equal(trained.results["Adam"].curve, untrained.results["Adam"].curve)
    assert not torch.allclose(trained.results[LEARNED].curve[1:], untrained.results[LEARNED].curve[1:])


def test_the_baselines_run_once_and_every_later_validation_only_the_learned_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    forward = Adam.forward

    def counted(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return forward(*arguments)

    monkeypatch.setattr(Adam, "forward", counted)
    counts = []
    for epochs in (1, 3):
        calls, module = 0, small.module()
        small.trainer(tmp_path, max_epochs=epochs).fit(module, datamodule=small.data())
        counts.append(calls)
    assert counts[0] == counts[1] >= 2 * 20, "tuning, rates side by side, and one race"
    assert set(module.results) == {LEARNED, "Adam", "Nesterov"}


def test_a_hand_made_rule_with_a_trainable_rate_is_meta_trained(tmp_path: Path) -> None:
    module = small.module(rule=SGD(1e-3, trainable=True), optimizer=lambda p: torch.optim.Adam(p, 0.05))
    small.trainer(tmp_path, max_epochs=5).fit(module, datamodule=small.data())
    assert module.rule.rate > 2e-3, "a rate this small is worth raising"


def test_a_rule_without_parameters_cannot_be_trained(tmp_path: Path) -> None:
    module = small.module(rule=SGD())
    with pytest.raises(InputError, match=r"SGD has no parameters to train"):
        small.trainer(tmp_path).fit(module, datamodule=small.data())


def test_windows_of_another_unroll_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"5 inner steps, but model.unroll is 4"):
        small.trainer(tmp_path).fit(small.module(unroll=4, horizon=FixedHorizon(20)), datamodule=small.data())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_and_validation_run_on_a_gpu(tmp_path: Path) -> None:
    recorder = Recorder()
    module = small.module()
    small.trainer(tmp_path, recorder, accelerator="gpu", devices=1).fit(module, datamodule=small.data())
    assert module.population.inner is not None
    assert module.population.inner.theta.is_cuda
    assert recorder.curves[-1].is_cuda
