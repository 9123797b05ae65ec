"""Contenders side by side on the same problems, and baselines with tuned learning rates."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from l2l_lightning.core.errors import check_positive
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.random import Split, Stream, keyed_generator
from l2l_lightning.core.state import InnerState, fresh_state
from l2l_lightning.core.unroll import advance
from l2l_lightning.core.window import Data, Window
from l2l_lightning.files.description import describe
from l2l_lightning.rules import (
    SGD,
    Adagrad,
    Adam,
    Adamax,
    HandmadeRule,
    Momentum,
    Nesterov,
    RMSprop,
    UpdateRule,
)

LEARNED = "learned"


class Windows(Protocol):
    """The windows of one trajectory; they may be walked through again and again."""

    def __iter__(self) -> Iterator[Window]: ...

    def __len__(self) -> int: ...


@dataclass
class Contender:
    """A rule under a name.

    Attributes:
        name: how tables and charts call it.
        rule: the rule.
        learning_rate: its tuned rate, None where it was not tuned.
        learned: whether it is a learned rule; the others are baselines.
    """

    name: str
    rule: UpdateRule
    learning_rate: float | None = None
    learned: bool = False


@dataclass
class Result:
    """How a contender did on V problems.

    Attributes:
        learning_rate: the contender's tuned rate, None where it was not tuned.
        curve: (T+1, V) losses on the data stream, inf from the point on where a problem diverged.
        metrics: the optimizee's metrics of the final parameters on held-out data, each (V,).
        learned: whether the contender is a learned rule; the others are baselines.
        seconds_per_step: wall-clock time of one inner step of all V problems, gradients and losses included.
    """

    learning_rate: float | None
    curve: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)
    learned: bool = False
    seconds_per_step: float = float("nan")


class Race:
    """Contenders that start from the same initial parameters and see the same instances and minibatches.

    Args:
        contenders: who takes part.
        problems: the optimizee.
        window: the first window; its instances define the problems.
        split: the family of problems, which fixes their initial parameters.
        steps: inner steps of the race, of which the rules are told.
        copies: how often the same problems are there side by side, see ``Window.repeat``.
    """

    def __init__(
        self,
        contenders: Sequence[Contender],
        problems: Problems,
        window: Window,
        split: Split,
        steps: int,
        copies: int = 1,
    ) -> None:
        self.contenders = contenders
        self.problems = problems
        generator = keyed_generator(Stream.INITIALISATION, split, device=problems.device)
        theta = problems.draw(window.problems // copies, generator).repeat(copies, 1)
        forever = torch.full((window.problems,), torch.iinfo(torch.int64).max, device=theta.device)
        total = torch.full((window.problems,), float(steps), device=theta.device)
        self.states: list[InnerState] = []
        for contender in contenders:
            contender.rule.check_layout(problems.layout)
            rule_state = contender.rule.init_state(theta, problems.layout)
            self.states.append(fresh_state(theta, rule_state, window.instance, forever, total))
        problems.losses_and_grads(theta, window.data(0, window.instance))  # recorded now, on nobody's clock
        self._curves: list[list[Tensor]] = [[] for _ in contenders]
        self._seconds = [0.0 for _ in contenders]

    def advance(self, window: Window) -> None:
        """Let every contender walk through the window."""
        for place, contender in enumerate(self.contenders):
            start = time.perf_counter()
            curve, self.states[place] = advance(contender.rule, self.problems, self.states[place], window)
            if curve.is_cuda:
                torch.cuda.synchronize(curve.device)
            self._seconds[place] += time.perf_counter() - start
            self._curves[place].append(curve)

    def results(self, held_out_data: Iterable[Data] = ()) -> dict[str, Result]:
        """Name -> result, with the final parameters scored on held-out data where there is any.

        Of a point between two windows the later window's value counts, as its gradient was used.
        """
        results = {}
        for contender, pieces, seconds in zip(self.contenders, self._curves, self._seconds, strict=True):
            curve = _join(pieces)
            results[contender.name] = Result(
                contender.learning_rate,
                curve,
                learned=contender.learned,
                seconds_per_step=seconds / (len(curve) - 1),
            )
        chunks = list(held_out_data)
        for result, state in zip(results.values(), self.states, strict=True):
            result.metrics = self._score(state.theta, chunks)
        return results

    def _score(self, theta: Tensor, chunks: list[Data]) -> dict[str, Tensor]:
        """Metrics of theta (V, n) as means over all held-out data, leaves (V,)."""
        sizes = theta.new_tensor([len(next(iter(chunk.values()))) for chunk in chunks])
        scored = [self.problems.metrics(theta, chunk) for chunk in chunks]
        return {
            name: torch.stack([scores[name] for scores in scored], -1) @ sizes / sizes.sum()
            for name in (scored[0] if scored else ())
        }


def _join(pieces: list[Tensor]) -> Tensor:
    """Curves of windows, each (U+1, V) -> (T+1, V), inf from the first value on that is not finite."""
    curve = torch.cat([piece[:-1] for piece in pieces] + [pieces[-1][-1:]])
    diverged = torch.isfinite(curve).logical_not().cumsum(0) > 0
    return torch.where(diverged, torch.inf, curve)


DEFAULT_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)


def _named(rules: Sequence[HandmadeRule]) -> dict[str, HandmadeRule]:
    """Rules by class; those of the same class by the arguments in which they differ, such as ``Adam beta1=0.5``."""
    arguments = [describe(rule)["init_args"] for rule in rules]
    named = {}
    for place, rule in enumerate(rules):
        alike = [own for own, other in zip(arguments, rules, strict=True) if type(other) is type(rule)]
        differing = [key for key, value in arguments[place].items() if any(own[key] != value for own in alike)]
        words = [type(rule).__name__, *(f"{key}={_word(arguments[place][key])}" for key in differing if key != "lr")]
        name = " ".join(words)
        named[name if name not in named else f"{name} {place}"] = rule
    return named


def _word(value: Any) -> Any:
    """A described object by the name of its class."""
    return value["class_path"].rpartition(".")[2] if isinstance(value, dict) and "class_path" in value else value


SIDE_BY_SIDE = 2**18  # the most coordinates, of all rates and problems, that are tuned in one batch


WIDEN = 6  # how often a grid of rates may grow


def tuned_rate(rule: UpdateRule, grid: Iterable[float], problems: Problems, windows: Windows) -> float:
    """The rate of the grid with the smallest mean loss over the trajectories of the tuning problems.

    A rate that diverges on any of them loses to every rate that does not; the smallest wins where all do. Where the
    best one lies at the edge of a grid of several, the grid grows beyond it in equal ratios.
    """
    losses = _losses_by_rate(rule, sorted(grid), problems, windows)
    for _ in range(WIDEN):
        rates, best = sorted(losses), min(sorted(losses), key=lambda rate: losses[rate])
        if len(rates) < 2 or best not in (rates[0], rates[-1]):
            break
        neighbour = rates[1] if best == rates[0] else rates[-2]
        losses |= _losses_by_rate(rule, [best * best / neighbour], problems, windows)
    return min(sorted(losses), key=lambda rate: losses[rate])


def _losses_by_rate(rule: UpdateRule, rates: list[float], problems: Problems, windows: Windows) -> dict[float, float]:
    """Rate -> mean loss; as many rates side by side as fit into a batch."""
    count = next(iter(windows)).problems
    at_once = max(1, SIDE_BY_SIDE // (count * problems.layout.n))
    losses: dict[float, float] = {}
    for place in range(0, len(rates), at_once):
        some = rates[place : place + at_once]
        rates_of_problems = torch.tensor(some, device=problems.device, dtype=torch.get_default_dtype())
        own = rule.with_rates(rates_of_problems.repeat_interleave(count))
        curve = race([Contender("", own)], problems, windows, Split.TUNING, copies=len(some))[""].curve
        losses |= dict(zip(some, curve.unflatten(1, (len(some), count)).mean((0, 2)).tolist(), strict=True))
    return losses


class Baselines:
    """Hand-made rules to be compared with, their learning rates chosen on a grid.

    Args:
        rules: the rules, whose own rates are ignored; by default SGD, Momentum, Nesterov, Adagrad, RMSprop, Adam and
            Adamax.
        learning_rates: the grid, by default 1e-4, 3e-4, ... 10; it grows where the best lies at its edge.

    Raises:
        InputError: for a rate that is not positive.
    """

    def __init__(self, rules: list[HandmadeRule] | None = None, learning_rates: list[float] | None = None) -> None:
        self.learning_rates = list(DEFAULT_RATES) if learning_rates is None else learning_rates
        for rate in self.learning_rates:
            check_positive(self, learning_rates=rate)
        defaults = [SGD(), Momentum(), Nesterov(), Adagrad(), RMSprop(), Adam(), Adamax()]
        self.rules = _named(defaults if rules is None else rules)

    def tune(self, problems: Problems, windows: Windows) -> dict[str, float]:
        """Name -> the best of the learning rates on the tuning problems."""
        return {name: tuned_rate(rule, self.learning_rates, problems, windows) for name, rule in self.rules.items()}

    def contenders(self, rates: dict[str, float]) -> list[Contender]:
        """The rules at the given rates."""
        return [Contender(name, rule.with_rate(rates[name]), rates[name]) for name, rule in self.rules.items()]


def race(
    contenders: Sequence[Contender],
    problems: Problems,
    windows: Windows,
    split: Split,
    held_out_data: Iterable[Data] = (),
    copies: int = 1,
) -> dict[str, Result]:
    """Run a whole race; windows are moved to the problems' device."""
    running: Race | None = None
    for window in windows:
        window = window.to(problems.device).repeat(copies)
        steps = len(windows) * window.unroll
        running = running or Race(contenders, problems, window, split, steps, copies)
        running.advance(window)
    assert running is not None, "a race needs at least one window"
    return running.results(held_out_data)


class HeldOutComparison:
    """The learned rule beside tuned baselines on held-out problems, again and again while it is trained.

    Rates are tuned once. The baselines' curves do not change either, so later validations only run the learned rule.

    Args:
        rule: the learned rule.
        problems: the optimizee.
        baselines: the hand-made contenders.
        learned_rates: rates of the learned rule (see ``UpdateRule.with_rate``) that are tried on the tuning problems
            before every race; none: it runs with its own.

    Attributes:
        rates: tuned learning rates of the baselines by name, empty before the first comparison.

    Raises:
        InputError: for rates of a rule that has none to tune, or rates that are not positive.
    """

    def __init__(
        self, rule: UpdateRule, problems: Problems, baselines: Baselines, learned_rates: Sequence[float] = ()
    ) -> None:
        for rate in learned_rates:
            rule.with_rate(rate)
        self.rule = rule
        self.learned_rates = learned_rates
        self.problems = problems
        self.baselines = baselines
        self.rates: dict[str, float] = {}
        self._finished: dict[Split, dict[str, Result]] = {}

    def start(self, window: Window, split: Split, steps: int, tuning_windows: Windows | None) -> Race:
        """A race of so many inner steps on the split's problems.

        The baselines take part unless they ran before or cannot be tuned.
        """
        contenders = [self._learned(tuning_windows)]
        if split not in self._finished and tuning_windows is not None:
            if not self.baselines.rules.keys() <= self.rates.keys():  # a checkpoint may know the rates of others
                rank_zero_info(f"Tuning the learning rates of {', '.join(self.baselines.rules)} ...")
                self.rates = self.baselines.tune(self.problems, tuning_windows)
            contenders += self.baselines.contenders(self.rates)
        return Race(contenders, self.problems, window, split, steps)

    def _learned(self, tuning_windows: Windows | None) -> Contender:
        if not self.learned_rates or tuning_windows is None:
            return Contender(LEARNED, self.rule, learned=True)
        rate = tuned_rate(self.rule, self.learned_rates, self.problems, tuning_windows)
        return Contender(LEARNED, self.rule.with_rate(rate), rate, learned=True)

    def finish(self, race: Race, split: Split, held_out_data: Iterable[Data]) -> dict[str, Result]:
        """Results of all contenders, those of earlier races included."""
        results = race.results(held_out_data)
        baselines = {name: result for name, result in results.items() if name != LEARNED}
        if baselines:
            self._finished[split] = baselines
        return results | self._finished.get(split, {})
