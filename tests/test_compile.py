"""``model.compile``: the same numbers, and training goes on where there is no compiler."""

import os
import shutil
import subprocess
import sys

import pytest
import small
import torch

from l2l_lightning.core.problems import Problems
from l2l_lightning.core.random import keyed_generator
from l2l_lightning.optimizees import ImageMLP

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="this machine has no C++ compiler"
)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_losses_and_gradients_are_those_of_eager_mode(dtype):
    problems = Problems(ImageMLP((4,), in_features=6, classes=3, weight_std=1.0).to(dtype))
    theta = problems.draw(3, keyed_generator(1))
    data = {"image": torch.randn(3, 5, 1, 2, 3, dtype=dtype), "label": torch.randint(3, (3, 5))}
    expected = problems.losses_and_grads(theta, data)
    assert problems.compile(theta, data) > 0
    (compiled,) = problems._recorded.values()
    assert "Optimized" in type(compiled).__name__
    for found, wanted in zip(problems.losses_and_grads(theta, data), expected, strict=True):
        torch.testing.assert_close(found, wanted)


@needs_compiler
def test_a_compiled_training_is_that_of_eager_mode(tmp_path):
    phi = []
    for compiles in (False, True):
        module = small.module(compile=compiles)
        small.trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(module, small.data())
        phi.append(torch.cat([parameter.detach().flatten() for parameter in module.rule.parameters()]))
    torch.testing.assert_close(phi[1], phi[0], rtol=1e-4, atol=1e-6)


def test_a_failing_compiler_is_named_once_and_training_goes_on(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no compiler here\nand many more lines")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fails)
    module = small.module(compile=True)
    with pytest.warns(UserWarning, match="Quadratic runs without compilation, which failed: no compiler here$"):
        small.trainer(tmp_path, max_epochs=1, limit_val_batches=0).fit(module, small.data())
    assert module.windows == 6


def test_a_machine_without_compiler_trains(tmp_path):
    arguments = ["--config", str(small.CONFIG), "--model.compile", "true", "--trainer.default_root_dir", str(tmp_path)]
    limits = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "0"]
    environment = os.environ | {"CXX": "/nowhere/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "l2l_lightning.cli", "fit", *arguments, *limits]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "runs without compilation" in done.stderr
    assert "Compiled" not in done.stdout + done.stderr
