"""Inner problems for the training of rules, of real images too."""

from pathlib import Path

import pytest
import torch

from l2l_lightning.core.errors import InputError
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.random import Split
from l2l_lightning.data import FunctionDataModule, MetaTrainingDataModule, MNISTDataModule, QuadraticDataModule
from l2l_lightning.optimizees import ImageMLP, MetaTrainingProblem, OptimizeeModule, Quadratic, Rosenbrock
from l2l_lightning.rules import CoordinatewiseLSTM

B, U, P, INNER_UNROLL, DIM = 3, 4, 6, 5, 2


def problem(optimizee: OptimizeeModule, unroll: int = INNER_UNROLL) -> MetaTrainingProblem:
    return MetaTrainingProblem(CoordinatewiseLSTM(layers=1, hidden_size=3), optimizee, unroll)


def quadratics(**changes: float) -> MetaTrainingDataModule:
    data = MetaTrainingDataModule(QuadraticDataModule(dim=DIM, problems=P, **changes), unroll=U, problems=B, seed=0)
    data.bind(problem(Quadratic(DIM, init_std=1.0)))
    return data


def test_every_point_of_every_problem_has_new_inner_problems() -> None:
    window = quadratics(gradient_noise=0.1).window(Split.TRAIN, 0)
    assert window.instance == {}
    shapes = {name: tuple(leaf.shape) for name, leaf in window.batches.items()}
    assert shapes == {
        "theta": (U + 1, B, P, DIM),
        "instance/W": (U + 1, B, P, DIM, DIM),
        "instance/y": (U + 1, B, P, DIM),
        "batch/gradient_noise": (U + 1, B, INNER_UNROLL + 1, P, DIM),
    }
    for leaf in window.batches.values():
        assert len(leaf.flatten().unique()) > 0.99 * leaf.numel()


def test_a_window_is_a_function_of_its_number() -> None:
    again = [quadratics().window(Split.TRAIN, number).batches["theta"] for number in (0, 1, 0)]
    assert torch.equal(again[0], again[2])
    assert not torch.equal(again[0], again[1])


def test_batches_are_those_that_the_inner_datamodule_drew() -> None:
    """Each inner problem keeps its own stream, however the leaves are folded."""

    class Counting(FunctionDataModule):
        def draw(self, generator: torch.Generator, problems: int) -> tuple[dict, dict]:
            place = torch.arange(problems)
            point = torch.arange(self.unroll + 1).unsqueeze(-1)
            return {"place": place}, {"code": 1000 * place + point}

        def prepare(self, batch: dict) -> dict:
            return {"half": batch["code"] / 2}

    data = MetaTrainingDataModule(Counting(problems=P), unroll=U, problems=B)
    data.bind(problem(Rosenbrock()))
    window = data.window(Split.TRAIN, 0)._replace(prepare=data.prepare)
    for point in range(U + 1):
        seen = window.data(point, {})
        expected = 1000 * seen["instance/place"].unsqueeze(1) + torch.arange(INNER_UNROLL + 1).view(1, -1, 1)
        assert torch.equal(seen["batch/half"], expected / 2)
        assert "batch/code" not in seen


def test_what_it_draws_is_what_the_problem_reads() -> None:
    data = quadratics(gradient_noise=0.1)
    problems = Problems(problem(Quadratic(DIM)))
    problems.try_on(data.trial_data())
    assert problems.losses(problems.draw(B, torch.Generator()), data.window(Split.TRAIN, 0).data(0, {})).shape == (B,)


def test_rules_are_trained_on_real_images_as_a_problem(mnist_root: Path) -> None:
    mnist = MNISTDataModule(str(mnist_root), download=False, batch_size=8, problems=2)
    data = MetaTrainingDataModule(mnist, unroll=2, problems=2, seed=0)
    optimizee = problem(ImageMLP(hidden_sizes=[4]))
    data.prepare_data()
    data.setup("fit")
    data.bind(optimizee)
    (window, *_) = data.train_dataloader()
    seen = window.data(1, {})
    index = window.batches["batch/index"][1]
    assert index.shape == (2, 6, 2, 8)
    assert torch.equal(seen["batch/image"], mnist.prepare({"index": index})["image"])
    assert torch.equal(seen["batch/label"], mnist.prepare({"index": index})["label"])

    problems = Problems(optimizee)
    losses, grads = problems.losses_and_grads(problems.draw(2, torch.Generator()), seen)
    assert losses.tolist() == pytest.approx([2.3, 2.3], abs=0.5)
    assert grads.any(1).all()


def test_other_optimizees_are_refused() -> None:
    data = MetaTrainingDataModule(QuadraticDataModule(dim=DIM))
    with pytest.raises(InputError, match=r"^MetaTrainingDataModule draws problems for a MetaTrainingProblem, got a Q"):
        data.bind(Quadratic(DIM))


def test_what_it_draws_has_the_default_dtype() -> None:
    """Lightning's double precision sets it after the optimizee was built."""
    data, before = quadratics(), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert {leaf.dtype for leaf in data.window(Split.TRAIN, 0).batches.values()} == {torch.float64}
    finally:
        torch.set_default_dtype(before)
