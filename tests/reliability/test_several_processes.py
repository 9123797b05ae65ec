"""Meta-training over several processes: what they share, what they do not, and what becomes of a checkpoint."""

from pathlib import Path
from typing import Any

import processes
import pytest
import small
import tally
import torch
from test_resume import assert_same_training, scalars
from torch import Tensor

from l2l_lightning.core.population import Draws, Population
from l2l_lightning.core.random import Split, Stream, keyed_generator
from l2l_lightning.core.state import InnerState
from l2l_lightning.core.window import Window
from l2l_lightning.data import QuadraticDataModule
from l2l_lightning.files import checkpoint
from l2l_lightning.optimizees import Quadratic
from l2l_lightning.rules import CoordinatewiseLSTM
from l2l_lightning.training.module import MetaOptimizerModule

# 8 problems of 5 coordinates in each process, all of which restart after window 4.
OPTIONS = ("--data.init_args.problems", "8", "--model.restarts.stagger", "false", "--trainer.log_every_n_steps", "1")
OPTIONS += ("--trainer.limit_val_batches", "0", "--data.init_args.windows_per_epoch", "6")


def last(folder: Path, version: int = 0) -> Path:
    return folder / f"quadratic_smoke/version_{version}/checkpoints/last.ckpt"


def fit(folder: Path, count: int, *words: str, epochs: int = 1) -> str:
    """What ``l2l fit`` over this many processes said; it must succeed."""
    said = folder / "said"
    said.unlink(missing_ok=True)
    arguments = processes.arguments(folder, *OPTIONS, *words, "--trainer.max_epochs", str(epochs))
    started = processes.start_ranks(arguments, said, count) if count > 1 else [processes.start(arguments, said)]
    for process in started:
        assert processes.join(process, said) == 0, said.read_text()
    tally.count("runs over several processes", count > 1)
    return said.read_text()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over two processes."""
    folder = tmp_path_factory.mktemp("two")
    fit(folder, 2)
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    fit(folder, 1)
    return folder


class BothRanks(MetaOptimizerModule):
    """One process with the problems of rank 0 and rank 1 side by side."""

    rank = 0

    @property
    def global_rank(self) -> int:
        return self.rank

    def __init__(self, *arguments: Any, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.population = BothPopulations(self)


class BothPopulations(Population):
    """Draws the first half of the problems as rank 0 does, the second as rank 1."""

    def __init__(self, module: BothRanks) -> None:
        super().__init__(module.problems, module.rule, module.estimator, module.restarts, module.unroll)
        self.module = module

    def _fresh(self, window: Window, mask: Tensor, number: int, draws: Draws) -> InnerState:
        parts = []
        for rank, half in enumerate(mask.chunk(2)):
            self.module.rank = rank
            instance = {name: leaf.chunk(2)[rank] for name, leaf in window.instance.items()}
            parts.append(super()._fresh(window._replace(problems=len(half), instance=instance), half, number, draws))
        first, second = (part.state_dict() for part in parts)
        self.module.rank = 0

        def join(name: str) -> dict[str, Tensor] | Tensor:
            if name == "rule":
                return {key: torch.cat([leaf, second[name][key]], -2) for key, leaf in first[name].items()}
            if name == "instance":
                return {key: torch.cat([leaf, second[name][key]]) for key, leaf in first[name].items()}
            return torch.cat([first[name], second[name]])

        return InnerState(**{name: join(name) for name in first})


class BothStreams(QuadraticDataModule):
    """The windows of rank 0 and rank 1 side by side."""

    def window(self, split: Split, index: int) -> Window:
        keys = [(Stream.DATA, split, self.seed, rank, index) for rank in (0, 1)]
        (first, _), (second, _) = (self.draw(keyed_generator(*key), self.problems // 2) for key in keys)
        instance = {name: torch.cat([leaf, second[name]]) for name, leaf in first.items()}
        return Window(index, self.problems, self.unroll, instance, {})


def test_two_processes_of_b_problems_train_as_one_of_2b(two: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = BothRanks(
        CoordinatewiseLSTM(layers=1, hidden_size=8, output_scale=0.1),
        Quadratic(dim=5),
        unroll=5,
        restarts=small.Restarts(small.FixedHorizon(20), stagger=False),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.01),
        seed=0,
    )
    module.rule.load_state_dict(initial_phi(tmp_path))
    data = BothStreams(dim=5, unroll=5, problems=16, windows_per_epoch=6, steps=20, seed=0)
    small.trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(module, datamodule=data)
    trained = checkpoint.phi(checkpoint.read(last(two)))
    for name, parameter in module.rule.state_dict().items():
        torch.testing.assert_close(parameter, trained[name], rtol=1e-4, atol=1e-6)
    assert module.population.counts.resets == 16
    logged = scalars(two / "quadratic_smoke/version_0")
    assert logged["train/resets"][-1][1] == 16, "the sum over the processes"
    meta_loss = float(module.trainer.callback_metrics["train/meta_loss"])
    assert logged["train/meta_loss"][-1][1] == pytest.approx(meta_loss, rel=1e-4)


def initial_phi(folder: Path) -> dict[str, Tensor]:
    """phi where every run of these options starts: that of a run whose outer learning rate is 0."""
    fit(folder, 1, "--model.optimizer.init_args.lr", "0.0")
    return checkpoint.phi(checkpoint.read(last(folder)))


def test_every_process_has_problems_of_its_own_and_rank_0_those_of_a_single_process(two: Path, one: Path) -> None:
    both = checkpoint.read(last(two))[checkpoint.KEY]["processes"]
    alone = checkpoint.read(last(one))[checkpoint.KEY]["processes"]
    assert (len(both), len(alone)) == (2, 1)
    matrices = [process["inner"]["instance"]["W"] for process in (*both, *alone)]
    assert not torch.isclose(matrices[0], matrices[1]).any()
    assert torch.equal(matrices[0], matrices[2])
    assert [process["totals"]["resets"] for process in both] == [8, 8]


def test_rank_0_alone_writes(two: Path) -> None:
    run = two / "quadratic_smoke"
    assert [path.name for path in run.iterdir()] == ["version_0"]
    assert len(list((run / "version_0").glob("events*"))) == 1
    assert {path.name for path in (run / "version_0").iterdir() if not path.name.startswith("events")} == {
        ".lock",
        "checkpoints",
        "config.yaml",
        "hparams.yaml",
    }


def test_two_processes_resumed_by_two_are_bit_identical_to_two_never_stopped(two: Path, tmp_path: Path) -> None:
    fit(tmp_path, 2, epochs=2)
    fit(two, 2, "--ckpt_path", str(last(two)), epochs=2)
    assert_same_training(last(tmp_path), last(two, 1))


@pytest.mark.parametrize(
    ("now", "sentence"),
    [
        (1, "this run has 1: the problems of 1 of them are left behind, and an outer step averages over 1 times B"),
        (4, "this run has 4: 2 of them start with new problems, and an outer step averages over 4 times B"),
    ],
)
def test_a_checkpoint_of_two_processes_goes_on_with_another_number(
    two: Path, tmp_path: Path, now: int, sentence: str
) -> None:
    before = checkpoint.read(last(two))
    said = fit(tmp_path, now, "--ckpt_path", str(last(two)), epochs=2)
    assert said.count(sentence) == 1, said
    after = checkpoint.read(last(tmp_path))
    assert after["global_step"] == before["global_step"] + 6
    found = after[checkpoint.KEY]["processes"]
    assert len(found) == now
    # Every problem lives for 4 windows: one restart before window 6 and one after it, of those that are there.
    assert sum(process["totals"]["resets"] for process in found) == 16 + 8 * now


def test_values_are_those_of_all_processes(two: Path, one: Path) -> None:
    both, alone = (scalars(folder / "quadratic_smoke/version_0") for folder in (two, one))
    assert both.keys() == alone.keys()
    assert both["train/meta_loss"][0][1] != alone["train/meta_loss"][0][1]
    resets = [[value for _, value in found["train/resets"]] for found in (both, alone)]
    assert resets[0] == [2 * value for value in resets[1]]
