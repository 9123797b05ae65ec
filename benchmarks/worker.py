"""One training in one process, so that peak memory is its own: prints its reading as a line of JSON.

Every training starts from the same imports, needed or not: then their memory differs only by what training takes.
``torch.func`` alone brings in 160 MiB of modules at its first call.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from itertools import count
from math import inf
from tempfile import TemporaryDirectory

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from benchmarks import plain_loop
from benchmarks.meter import Meter
from benchmarks.settings import INIT_STD, OUTER_RATE, RESTART, SETTINGS, Setting, sum_of_squares
from l2l_lightning.core.estimators.backpropagation import backpropagate
from l2l_lightning.core.horizon import FixedHorizon, Restarts
from l2l_lightning.core.objective import Objective
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.sampling import sample_coordinates
from l2l_lightning.core.state import fresh_state
from l2l_lightning.data import QuadraticDataModule
from l2l_lightning.optimizees import Quadratic
from l2l_lightning.rules import CoordinatewiseLSTM
from l2l_lightning.training.callbacks import ComparisonReport, ContenderCurves, InnerStepsPerSecond
from l2l_lightning.training.module import MetaOptimizerModule


def train_plain(setting: Setting, meter: Meter) -> None:
    """The yardstick."""
    assert setting.loss is not None
    lstm = plain_loop.PlainLSTM()
    optimizer = torch.optim.Adam(lstm.parameters(), lr=OUTER_RATE)
    n = sum(parameter.numel() for parameter in setting.optimizee.parameters())
    for number in count():
        window = setting.window(number)
        if number % RESTART == 0:
            theta = torch.randn(setting.problems, n) * INIT_STD
            hidden, instance = lstm.init_state(theta), window.instance
        points = (window.data(t, instance) for t in range(setting.unroll + 1))
        loss, theta, hidden = plain_loop.window(lstm, setting.loss, theta, hidden, points, setting.unroll)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not meter.window_done():
            return


def train_ours(setting: Setting, meter: Meter, compiles: bool = False, sampled: int = 0, learns: bool = True) -> None:
    """``unroll`` in the same loop: what core and rules bring, without Lightning.

    Args:
        setting: what to train on.
        meter: is told of every window.
        compiles: compile the optimizee's losses and gradients.
        sampled: coordinates of the meta-gradient, 0 for all.
        learns: take a meta-gradient and an outer step.
    """
    rule, problems, objective = CoordinatewiseLSTM(), Problems(setting.optimizee), Objective()
    optimizer = torch.optim.Adam(rule.parameters(), lr=OUTER_RATE)
    generator = torch.Generator().manual_seed(0)
    lifetime = torch.full((setting.problems,), RESTART * setting.unroll)
    for number in count():
        window = setting.window(number)
        if number % RESTART == 0:
            theta = problems.draw(setting.problems, generator)
            state = fresh_state(theta, rule.init_state(theta, problems.layout), window.instance, lifetime)
        if compiles and number == 0:
            problems.compile(theta, window.data(0, window.instance))
        sample = sample_coordinates(problems.layout, sampled, generator) if sampled else None
        with torch.set_grad_enabled(learns):
            walked = backpropagate(rule, problems, state, window, objective, sample=sample)
        state = walked.state
        if learns:
            optimizer.zero_grad()
            walked.meta_loss.backward()
            optimizer.step()
        if not meter.window_done():
            return


def train_lightning(setting: Setting, meter: Meter) -> None:
    """Quadratics as ``l2l fit`` trains them: staggered restarts, logging, checkpoints; validation does not count."""
    assert isinstance(setting.optimizee, Quadratic)
    restarts = Restarts(FixedHorizon(RESTART * setting.unroll))
    module = MetaOptimizerModule(CoordinatewiseLSTM(), setting.optimizee, setting.unroll, restarts, seed=0)
    data = QuadraticDataModule(
        setting.optimizee.dim, unroll=setting.unroll, problems=setting.problems, windows_per_epoch=250, seed=0
    )
    with TemporaryDirectory() as folder:
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=-1,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            log_every_n_steps=20,
            logger=TensorBoardLogger(folder, default_hp_metric=False),
            callbacks=[
                InnerStepsPerSecond(),
                ContenderCurves(),
                ComparisonReport(),
                ModelCheckpoint(save_last=True),
                _MeterCallback(meter),
            ],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, data)


class _MeterCallback(Callback):
    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        trainer.should_stop = not self.meter.window_done()


TRAININGS: dict[str, Callable[[Setting, Meter], None]] = {
    "plain": train_plain,
    "ours": train_ours,
    "compiled": partial(train_ours, compiles=True),
    "4096 sampled": partial(train_ours, sampled=4096),
    "1024 sampled": partial(train_ours, sampled=1024),
    "no learning": partial(train_ours, learns=False),
    "lightning": train_lightning,
}


def main() -> None:
    """Train until the meter says stop; the reading is the last line of the standard output."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worker", description="One training in one process.")
    parser.add_argument("setting", help=f"{', '.join(SETTINGS)}, or N,B,U of a sum of squares")
    parser.add_argument("training", choices=TRAININGS)
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--seconds", type=float, default=inf, help="stop after this time")
    parser.add_argument("--windows", type=int, default=sys.maxsize, help="stop after this number of windows")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.setting in SETTINGS:
        setting = SETTINGS[args.setting]()
    else:
        setting = sum_of_squares(*map(int, args.setting.split(",")))
    meter = Meter(setting.unroll, args.seconds, args.windows)
    TRAININGS[args.training](setting, meter)
    print(json.dumps(meter.reading()))


if __name__ == "__main__":
    main()
