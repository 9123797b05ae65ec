"""Meta-training with the meta-gradient of some of the coordinates."""

from pathlib import Path

import pytest
import small
import torch
from test_mistakes import mistake
from test_resume import EVERY_WINDOW, assert_same_training
from torch import Tensor

from l2l_lightning.core.coordinates import CoordinateLayout
from l2l_lightning.core.errors import InputError
from l2l_lightning.core.estimators import Backpropagation
from l2l_lightning.core.sampling import sample_coordinates
from l2l_lightning.core.state import RuleState
from l2l_lightning.rules import CoordinatewiseGRU, CoordinatewiseLSTM, MultiscaleAdam, RuleInput, UpdateRule
from l2l_lightning.training.module import MetaOptimizerModule

RULES = {
    "lstm": lambda: CoordinatewiseLSTM(layers=1, hidden_size=5, output_scale=0.1),
    "gru": lambda: CoordinatewiseGRU(layers=1, hidden_size=5, output_scale=0.1),
    "multiscale adam": lambda: MultiscaleAdam(),
}


def trained(folder: Path, rule: str = "lstm", **changes: object) -> MetaOptimizerModule:
    torch.manual_seed(0)
    module = small.module(rule=RULES[rule](), **changes)
    small.trainer(folder).fit(module, datamodule=small.data())
    return module


def same(left: MetaOptimizerModule, right: MetaOptimizerModule) -> bool:
    pairs = zip(left.rule.parameters(), right.rule.parameters(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("rule", ["lstm", "multiscale adam"])
def test_the_same_seed_gives_the_same_training_and_another_one_another(tmp_path: Path, rule: str) -> None:
    first, again, other, whole = (
        trained(tmp_path, rule, **changes)
        for changes in (
            {"meta_coordinates": 2},
            {"meta_coordinates": 2},
            {"meta_coordinates": 2, "seed": 1},
            {},
        )
    )
    assert same(first, again)
    assert not same(first, other)
    assert not same(first, whole)


@pytest.mark.parametrize(("rule", "count"), [*((name, 1000) for name in RULES), ("lstm", 3)])
def test_as_many_as_there_are_train_as_without(tmp_path: Path, rule: str, count: int) -> None:
    whole, sampled = trained(tmp_path, rule), trained(tmp_path, rule, meta_coordinates=count)
    torch.testing.assert_close(sampled.rule.state_dict(), whole.rule.state_dict(), rtol=1e-5, atol=1e-6)
    assert whole.population.inner is not None
    assert sampled.population.inner is not None
    torch.testing.assert_close(sampled.population.inner.theta, whole.population.inner.theta, rtol=1e-4, atol=1e-5)


def test_every_window_draws_anew_and_its_number_alone_decides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: dict[int, list[int]] = {}
    window_of = Backpropagation.window

    def watched(self, rule, problems, inner, window, objective, state, generator):
        again = torch.Generator().manual_seed(generator.initial_seed())
        found = sample_coordinates(problems.layout, self.meta_coordinates, again)
        assert found.weight.tolist() == [1.5, 1.5]
        assert drawn.setdefault(window.number, found.coordinates.tolist()) == found.coordinates.tolist()
        return window_of(self, rule, problems, inner, window, objective, state, generator)

    monkeypatch.setattr(Backpropagation, "window", watched)
    for _ in range(2):
        trained(tmp_path, meta_coordinates=2)
    assert len(drawn) == 12
    assert len({tuple(coordinates) for coordinates in drawn.values()}) > 1


def test_a_resumed_run_is_bit_identical_to_one_never_stopped(tmp_path: Path) -> None:
    """Stopped in the middle of an epoch of 10 windows."""
    saved = {name: tmp_path / name / "saved" for name in ("whole", "parts")}
    for name, limits in (("whole", [20]), ("parts", [13, 20])):
        extra = tmp_path / f"{name}.yaml"
        extra.write_text(EVERY_WINDOW.format(folder=saved[name]))
        arguments = ["--config", str(extra), "--model.estimator.meta_coordinates", "2"]
        for limit in limits:
            small.l2l("fit", tmp_path / name, *arguments, "--trainer.max_steps", str(limit))
            arguments += ["--ckpt_path", str(saved[name] / "last.ckpt")]
    assert_same_training(*(folder / "last.ckpt" for folder in saved.values()))


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("0", "meta_coordinates must be a positive integer, got 0"),
        ("-1", "meta_coordinates must be a positive integer, got -1"),
        ("many", "meta_coordinates: must be of type int"),
        ("2.5", "meta_coordinates: must be of type int"),
    ],
)
def test_a_count_that_is_none_gets_one_sentence(
    capsys: pytest.CaptureFixture, tmp_path: Path, value: str, sentence: str
) -> None:
    assert sentence in mistake(capsys, tmp_path, "--model.estimator.meta_coordinates", value)


@pytest.mark.parametrize("value", [0, -1, 2.5, "many", True])
def test_a_count_that_is_none_is_refused_in_python(value: object) -> None:
    with pytest.raises(InputError, match=r"meta_coordinates must be a positive integer, got .*\.$"):
        small.module(meta_coordinates=value)


def test_a_sample_and_second_derivatives_do_not_go_together(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    arguments = (
        "--model.estimator.meta_coordinates",
        "2",
        "--model.estimator.second_order",
        "true",
    )
    assert "second_order do not go together" in mistake(capsys, tmp_path, *arguments)


class Coupled(UpdateRule):
    def __init__(self) -> None:
        super().__init__()
        self.rate = torch.nn.Parameter(torch.tensor(0.1))

    def init_state(
        self, theta: Tensor, layout: CoordinateLayout, generator: torch.Generator | None = None
    ) -> RuleState:
        return {}

    def forward(self, inputs: RuleInput, state: RuleState) -> tuple[Tensor, RuleState]:
        return -self.rate * inputs.grad / inputs.grad.norm(dim=-1, keepdim=True), state


def test_a_rule_that_is_not_coordinatewise_is_refused(tmp_path: Path) -> None:
    small.trainer(tmp_path).fit(small.module(rule=Coupled()), datamodule=small.data())
    with pytest.raises(InputError, match="Coupled does not say that it is one"):
        small.trainer(tmp_path).fit(small.module(rule=Coupled(), meta_coordinates=2), datamodule=small.data())
