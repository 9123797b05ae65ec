"""Contenders side by side, and the tuning of baselines."""

import pytest
import small
import torch
from torch import nn

from l2l_lightning.core.errors import InputError
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.random import Split, Stream, keyed_generator
from l2l_lightning.evaluation.compare import LEARNED, Baselines, Contender, HeldOutComparison, race
from l2l_lightning.optimizees import Quadratic
from l2l_lightning.rules import SGD, Adam, Momentum, MultiscaleAdam, PartitionedRule, Route


def quadratics() -> Problems:
    return Problems(Quadratic(dim=3))


def test_a_race_is_each_problem_alone_with_torch_s_own_optimizer() -> None:
    """Independent reference: a loop over problems with autograd and ``torch.optim``."""
    problems, data = quadratics(), small.data()
    windows = list(data.held_out_windows(Split.VALIDATION))
    contenders = [Contender("Momentum", Momentum(0.02)), Contender("Adam", Adam(0.1))]
    results = race(contenders, problems, windows, Split.VALIDATION)
    optimizers = {
        "Momentum": lambda parameters: torch.optim.SGD(parameters, 0.02, momentum=0.9),
        "Adam": lambda parameters: torch.optim.Adam(parameters, 0.1),
    }
    start = problems.draw(6, keyed_generator(Stream.INITIALISATION, Split.VALIDATION))
    for name, build in optimizers.items():
        assert results[name].curve.shape == (21, 6)
        for problem in range(6):
            weight, target = (windows[0].instance[leaf][problem] for leaf in ("W", "y"))
            theta = nn.Parameter(start[problem].clone())
            optimizer, curve = build([theta]), []
            for _ in range(21):
                loss = (weight @ theta - target).square().sum()
                curve.append(loss.detach())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            torch.testing.assert_close(results[name].curve[:, problem], torch.stack(curve), rtol=1e-4, atol=1e-5)


def test_tuning_finds_the_best_rate_of_the_grid_on_the_tuning_problems() -> None:
    problems, windows = quadratics(), small.data().held_out_windows(Split.TUNING)
    rates = [1e-3, 1e-2, 3e-2, 1e2]
    chosen = Baselines([SGD()], rates).tune(problems, windows)["SGD"]
    by_hand = race([Contender(str(rate), SGD(rate)) for rate in rates], problems, windows, Split.TUNING)
    losses = {rate: float(by_hand[str(rate)].curve.mean()) for rate in rates}
    assert losses[1e2] == torch.inf, "a rate that diverges is seen as such"
    assert losses[chosen] == min(losses.values())
    assert chosen != 1e2


def test_a_learned_rule_runs_at_its_best_rate_on_the_tuning_problems() -> None:
    """The learned rule is an average of one Adam here, so that tuned Adam says what must come out."""
    problems, data = quadratics(), small.data()
    windows = list(data.held_out_windows(Split.TEST))
    rule, rates = MultiscaleAdam(timescales=[[0.9, 0.999]], eta=123.0), [1e-3, 0.1, 10.0]
    comparison = HeldOutComparison(rule, problems, Baselines([Adam()], rates), rates)
    running = comparison.start(windows[0], Split.TEST, data.steps, data.held_out_windows(Split.TUNING))
    for window in windows:
        running.advance(window)
    results = comparison.finish(running, Split.TEST, ())
    assert results[LEARNED].learning_rate == comparison.rates["Adam"] == 0.1
    torch.testing.assert_close(results[LEARNED].curve, results["Adam"].curve)
    assert rule.eta == 123.0, "training goes on with its own rate"


def test_rates_for_a_rule_without_one_are_refused() -> None:
    rule = PartitionedRule({"all": SGD()}, [Route("all")])
    with pytest.raises(InputError, match="PartitionedRule has no rate"):
        HeldOutComparison(rule, quadratics(), Baselines([]), [0.1])


def test_a_diverged_trajectory_stays_infinite() -> None:
    results = race(
        [Contender("SGD", SGD(1e3))], quadratics(), small.data(steps=100).held_out_windows(Split.TEST), Split.TEST
    )
    infinite = ~torch.isfinite(results["SGD"].curve)
    assert infinite[-1].all()
    assert (infinite.int().diff(dim=0) >= 0).all()
    assert not torch.isnan(results["SGD"].curve).any()


def test_baselines_of_one_class_are_told_apart_by_their_arguments() -> None:
    rules = [Adam(), SGD(), Adam(beta1=0.5, beta2=0.555)]
    assert list(Baselines(rules).rules) == ["Adam beta1=0.9 beta2=0.999", "SGD", "Adam beta1=0.5 beta2=0.555"]
    assert list(Baselines([Adam(), Adam()]).rules) == ["Adam", "Adam 1"]


def test_a_rate_that_is_not_positive_is_refused() -> None:
    with pytest.raises(InputError, match="learning_rates must be a positive number, got 0"):
        Baselines(learning_rates=[0.1, 0])
