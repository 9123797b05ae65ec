"""What one step costs: rules beside hand-made Adam, and ``LearnedOptimizer`` beside ``torch.optim.Adam``.

Prints one line of JSON: name -> seconds of a step, and bytes of its state. Contenders take turns, so that the noise of
a shared machine hits all of them.
"""

import argparse
import json
import time
from collections.abc import Callable
from statistics import median

import psutil
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from benchmarks.settings import RESTART, UNROLL, mnist_mlp
from l2l_lightning import LearnedOptimizer
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.rule import RuleInput
from l2l_lightning.rules import Adam, CoordinatewiseLSTM, KMomentums, KTimesteps, MultiscaleAdam, SoftmaxMLP, UpdateRule

Step = Callable[[], object]
RULES: dict[str, Callable[[], UpdateRule]] = {
    "Adam": Adam,
    "LA, k = 6": MultiscaleAdam,
    "RNN of two layers, k = 6": lambda: MultiscaleAdam(SoftmaxMLP(2)),
    "k timesteps, k = 5": KTimesteps,
    "k momentums, k = 10": KMomentums,
    "LSTM (20, 20)": CoordinatewiseLSTM,
}
WARM_UP = 3
TOGETHER = 1_000_000  # parameters up to which all optimizers are alive at once
BYTES = {"LSTM (20, 20)": 700}  # a parameter, at the peak of a step; the others stay below 120


class RuleStep:
    """A rule without graph on the MNIST MLP, alone or with the network's loss and gradient."""

    def __init__(self, rule: UpdateRule, with_gradient: bool) -> None:
        self.rule, self.with_gradient = rule, with_gradient
        setting = mnist_mlp(count=1000)
        self.problems, window = Problems(setting.optimizee), setting.window(0)
        self.data = window.data(0, window.instance)
        self.start = self.problems.draw(setting.problems, torch.Generator().manual_seed(0))
        self.grad = self.problems.losses_and_grads(self.start, self.data)[1]
        self.taken = 0

    @torch.no_grad()
    def __call__(self) -> None:
        if self.taken % (RESTART * UNROLL) == 0:  # endless descent on one minibatch ends among slow denormal numbers
            self.theta, self.state = self.start, self.rule.init_state(self.start, self.problems.layout)
            self.t = torch.zeros(len(self.start), dtype=torch.long)
            self.total = torch.zeros(len(self.start))
        self.taken += 1
        if self.with_gradient:
            self.grad = self.problems.losses_and_grads(self.theta, self.data)[1]
        inputs = RuleInput(self.theta, self.grad, None, self.t, self.total, self.problems.layout)
        update, self.state = self.rule(inputs, self.state)
        self.theta = self.theta + update
        self.t = self.t + 1


def optimizers(count: int) -> dict[str, Callable[[], Optimizer]]:
    """Makers of optimizers of ``count`` parameters with random gradients."""

    def parameter() -> list[nn.Parameter]:
        parameter = nn.Parameter(torch.randn(count))
        parameter.grad = torch.randn(count)
        return [parameter]

    found: dict[str, Callable[[], Optimizer]] = {
        "torch Adam, for loop": lambda: torch.optim.Adam(parameter(), foreach=False),
        "torch Adam, foreach": lambda: torch.optim.Adam(parameter(), foreach=True),
        "six of them, one after another": lambda: _Six(parameter()),
    }
    learned = {name: lambda rule=rule: LearnedOptimizer(parameter(), rule()) for name, rule in RULES.items()}
    return found | learned


class _Six(Optimizer):
    """What LA replaces: six foreach Adams on the same parameters, each with its own state."""

    def __init__(self, params: list[nn.Parameter]) -> None:
        super().__init__(params, {})
        self.parts = [torch.optim.Adam(params, foreach=True) for _ in range(6)]

    def step(self) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()


def measure(count: int, repetitions: int, each: float) -> dict[str, dict[str, float]]:
    """Seconds of a step and bytes of the state of every optimizer; small ones take turns, large ones go one by one."""
    makers = optimizers(count)
    groups = [list(makers)] if count <= TOGETHER else [[name] for name in makers]
    readings: dict[str, dict[str, float]] = {}
    for group in groups:
        if max(BYTES.get(name, 120) for name in group) * count > psutil.virtual_memory().available:
            continue
        found = {name: makers[name]() for name in group}
        warm_up = WARM_UP if count <= TOGETHER else 1
        times = seconds({name: optimizer.step for name, optimizer in found.items()}, repetitions, each, warm_up)
        readings |= {name: {"seconds": times[name], "bytes": state_bytes(found[name])} for name in group}
    return readings


def state_bytes(optimizer: Optimizer) -> int:
    """What the state of all parameters takes."""
    leaves = [leaf for state in optimizer.state.values() for leaf in state.values() if isinstance(leaf, Tensor)]
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves)


def seconds(steps: dict[str, Step], repetitions: int, each: float, warm_up: int = WARM_UP) -> dict[str, float]:
    """Median over the repetitions of the mean time of a step; every repetition lasts about ``each`` seconds."""
    readings: dict[str, list[float]] = {name: [] for name in steps}
    counts = {}
    for name, step in steps.items():
        for _ in range(warm_up):
            start = time.perf_counter()
            step()
            counts[name] = max(1, int(each / (time.perf_counter() - start)))
    for _ in range(repetitions):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(counts[name]):
                step()
            readings[name].append((time.perf_counter() - start) / counts[name])
    return {name: median(values) for name, values in readings.items()}


def main() -> None:
    """Measure ``rule``, ``inner`` (with the gradient) or the number of parameters asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps", description="What one step costs.")
    parser.add_argument("what", help="rule, inner, or a number of parameters for LearnedOptimizer")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--repetitions", type=int, default=7, help="turns of every contender")
    parser.add_argument("--seconds", type=float, default=0.2, help="length of a turn")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.what in ("rule", "inner"):
        rules: dict[str, Step] = {name: RuleStep(rule(), args.what == "inner") for name, rule in RULES.items()}
        reading = {name: {"seconds": value} for name, value in seconds(rules, args.repetitions, args.seconds).items()}
    else:
        reading = measure(int(args.what), args.repetitions, args.seconds)
    print(json.dumps(reading))


if __name__ == "__main__":
    main()
