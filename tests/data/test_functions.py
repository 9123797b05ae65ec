"""Streams of functions: random quadratics, and gradient noise."""

import pytest
import small
import torch

from l2l_lightning.core.errors import InputError
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.random import Split
from l2l_lightning.core.window import Window
from l2l_lightning.data import FunctionDataModule, QuadraticDataModule
from l2l_lightning.optimizees import Quadratic


def same(left: Window, right: Window) -> bool:
    return all(torch.equal(left.instance[name], right.instance[name]) for name in ("W", "y"))


@pytest.mark.parametrize(
    ("distribution", "mean", "std", "low"), [("normal", 0.0, 1.0, -torch.inf), ("uniform", 0.5, 12**-0.5, 0.0)]
)
def test_entries_follow_their_distribution(distribution: str, mean: float, std: float, low: float) -> None:
    data = QuadraticDataModule(dim=10, distribution=distribution, problems=1000)
    for name, shape in (("W", (1000, 10, 10)), ("y", (1000, 10))):
        leaf = data.window(Split.TRAIN, 0).instance[name]
        assert leaf.shape == shape
        assert leaf.mean() == pytest.approx(mean, abs=0.04)
        assert leaf.std() == pytest.approx(std, rel=0.04)
        assert leaf.min() >= low


def test_window_k_is_the_same_whatever_ran_before_and_differs_from_every_other() -> None:
    data = small.data()
    windows = [data.window(Split.TRAIN, number) for number in range(4)]
    torch.randn(10)
    assert same(small.data().window(Split.TRAIN, 2), windows[2])
    assert not any(same(windows[2], windows[other]) for other in (0, 1, 3))
    assert not same(small.data(seed=1).window(Split.TRAIN, 2), windows[2])


def test_splits_never_share_a_problem_and_held_out_ones_do_not_depend_on_the_seed() -> None:
    sizes = {"problems": 6, "validation_problems": 6, "test_problems": 6, "tuning_problems": 6}
    data, other = small.data(**sizes), small.data(**sizes, seed=7)
    first = {split: data.window(split, 0) for split in Split}
    for split in Split:
        assert not any(same(first[split], first[rival]) for rival in Split if rival != split)
        assert same(first[split], other.window(split, 0)) == (split != Split.TRAIN)


def test_training_goes_on_with_new_windows_and_validation_starts_again() -> None:
    data = small.data()
    train, validation = data.train_dataloader(), data.val_dataloader()
    assert [window.number for _ in range(2) for window in train] == list(range(12))
    assert [window.number for _ in range(2) for window in validation] == [0, 1, 2, 3] * 2
    assert (len(train), len(validation)) == (6, 4)


def test_a_stream_goes_on_behind_its_saved_position() -> None:
    stream = small.data().train_dataloader()
    handed_out = iter(stream)
    next(handed_out), next(handed_out)
    resumed = small.data().train_dataloader()
    resumed.load_state_dict(stream.state_dict())
    assert same(next(iter(resumed)), next(handed_out))


def test_worker_processes_draw_the_same_windows() -> None:
    for alone, helped in zip(
        small.data().train_dataloader(), small.data(num_workers=2).train_dataloader(), strict=True
    ):
        assert same(alone, helped)
        assert alone.number == helped.number


def test_held_out_steps_are_rounded_up_to_whole_windows_and_that_is_said() -> None:
    with pytest.warns(UserWarning, match="held-out horizon of 18 inner steps .* rounded up to 20"):
        data = small.data(steps=18)
    assert len(data.val_dataloader()) == 4


@pytest.mark.parametrize("name", ["dim", "unroll", "problems", "windows_per_epoch", "steps", "tuning_problems"])
@pytest.mark.parametrize("value", [0, -3, 2.5, True, "4"])
def test_sizes_must_be_positive_integers(name: str, value: object) -> None:
    with pytest.raises(InputError, match=f"QuadraticDataModule: {name} must be a positive integer, got {value!r}"):
        small.data(**{name: value})


def test_an_unknown_distribution_is_refused() -> None:
    with pytest.raises(InputError, match="distribution must be one of normal, uniform, got 'cauchy'"):
        small.data(distribution="cauchy")


def test_a_spectrum_gives_the_curvatures_and_a_minimum_of_zero_at_a_standard_normal_point() -> None:
    spectrum = [100.0, 1.0, 0.01]
    data = QuadraticDataModule(dim=3, spectrum=spectrum, problems=2000)
    instance = data.window(Split.TRAIN, 0).instance
    w, y = instance["W"].double(), instance["y"].double()
    eigenvalues = torch.linalg.eigvalsh(w.mT @ w)
    assert torch.allclose(eigenvalues, torch.tensor([0.01, 1.0, 100.0]).double().expand(2000, 3), rtol=1e-3, atol=1e-5)
    minimizer = torch.linalg.solve(w, y.unsqueeze(-1)).squeeze(-1)
    assert minimizer.mean(0).abs().max() < 0.1
    assert (minimizer.std(0) - 1).abs().max() < 0.1
    # Rotations without a preferred direction: every entry of Q has mean 0 and variance 1/3.
    rotation = w / torch.tensor(spectrum).double().sqrt().unsqueeze(-1)
    assert rotation.mean(0).abs().max() < 0.06
    assert (rotation.square().mean(0) - 1 / 3).abs().max() < 0.03


def test_gradient_noise_moves_gradients_by_its_deviation_and_leaves_losses_alone() -> None:
    clean = QuadraticDataModule(dim=4, problems=500, seed=0)
    noisy = QuadraticDataModule(dim=4, problems=500, seed=0, gradient_noise=3.0)
    problems = Problems(Quadratic(dim=4))
    theta = problems.draw(500, torch.Generator())
    found = []
    for data in (clean, noisy):
        window = data.window(Split.TRAIN, 0)
        found.append([problems.losses_and_grads(theta, window.data(t, window.instance)) for t in range(3)])
    for (loss, grad), (noisy_loss, noisy_grad) in zip(*found, strict=True):
        assert torch.allclose(loss, noisy_loss)
        noise = noisy_grad - grad
        assert noise.mean() == pytest.approx(0, abs=0.25)
        assert noise.std() == pytest.approx(3.0, rel=0.05)
    assert not torch.allclose(found[1][0][1], found[1][1][1])


def test_functions_without_noise_need_no_data() -> None:
    window = FunctionDataModule(dim=2, problems=3).window(Split.TRAIN, 0)
    assert (window.instance, window.batches, window.problems) == ({}, {}, 3)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"spectrum": [1.0, 2.0]}, "one eigenvalue for each of the 10 coordinates, got 2"),
        ({"dim": 2, "spectrum": [1.0, 0.0]}, r"spectrum\[1\] must be a positive number, got 0.0"),
        ({"gradient_noise": -1.0}, "gradient_noise must be a number of at least 0, got -1.0"),
    ],
)
def test_bad_spectra_and_noise_are_refused(arguments: dict, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        QuadraticDataModule(**arguments)
