"""Evolution strategies against the exact meta-gradient, within their standard error."""

import pytest
import small
import torch
from scenes import Scene, awake
from torch.nn.utils import parameters_to_vector

from l2l_lightning.core.estimators import Backpropagation, EvolutionStrategies
from l2l_lightning.core.objective import Objective
from l2l_lightning.core.random import keyed_generator
from l2l_lightning.core.state import InnerState
from l2l_lightning.rules import Adam, CoordinatewiseLSTM, RuleInput

PAIRS, STEPS, DRAWS = 24, 4, 100


def gradient(unrolled, rule):
    phi = [parameter for parameter in rule.parameters() if parameter.requires_grad]
    return parameters_to_vector(torch.autograd.grad(unrolled.meta_loss, phi))


def twice(state: InnerState) -> InnerState:
    """Both copies at the same place."""
    both = {name: torch.cat([leaf] * 2, -2) for name, leaf in state.rule.items()}
    instance = {name: torch.cat([leaf] * 2) for name, leaf in state.instance.items()}
    others = (torch.cat([leaf] * 2) for leaf in (state.age, state.lifetime, state.total, state.diverged))
    return InnerState(torch.cat([state.theta] * 2), both, instance, *others)


def estimate(rule, scene, sigma, draw, objective):
    estimator = EvolutionStrategies(sigma)
    window, state = scene.window().repeat(2), twice(scene.state(rule))
    return estimator.window(rule, scene.problems, state, window, objective, {}, keyed_generator(draw))[0]


RULES = {
    "lstm": lambda: awake(CoordinatewiseLSTM(layers=1, hidden_size=2, output_scale=0.1)),
    "adam": lambda: Adam(0.05, trainable=True),
}


@pytest.mark.parametrize("transform", ["plain", "log"])
@pytest.mark.parametrize("name", RULES)
def test_the_mean_of_many_estimates_is_the_exact_meta_gradient(name, transform):
    """With second derivatives, for losses know all of them; sigma is small, so smoothing hardly matters."""
    rule, scene = RULES[name]().double(), Scene.draw(count=PAIRS, steps=STEPS)
    objective = Objective("uniform", transform)
    exact_of = Backpropagation(second_order=True)
    unrolled, _ = exact_of.window(
        rule, scene.problems, scene.state(rule), scene.window(), objective, {}, keyed_generator(0)
    )
    exact = gradient(unrolled, rule)
    found = torch.stack([gradient(estimate(rule, scene, 1e-4, draw, objective), rule) for draw in range(DRAWS)])
    error = found.std(0) / DRAWS**0.5
    assert exact.abs().max() > 0
    assert ((found.mean(0) - exact).abs() <= 4.5 * error + 1e-9).all()
    assert (error < 0.5 * exact.abs().max()).all()  # the test could fail


def test_each_problem_has_a_phi_of_its_own():
    """A rule whose step is its phi tells what each problem used: pairs of opposite signs around phi."""

    class Constant(Adam):
        def __init__(self):
            super().__init__(0.05, trainable=True)

        def init_state(self, theta, layout, generator=None):
            return {}

        def forward(self, inputs: RuleInput, state):
            return self.log_lr.expand_as(inputs.grad), state

    rule, scene = Constant().double(), Scene.draw(count=PAIRS, steps=1)
    seen = []
    losses = scene.problems.losses_and_grads
    scene.problems.losses_and_grads = lambda theta, data, create_graph=False: (
        seen.append(theta),
        losses(theta, data, create_graph),
    )[1]
    estimate(rule, scene, 0.1, 0, Objective())
    used = (seen[1] - seen[0])[:, 0] - rule.log_lr.item()  # (2 * PAIRS,)
    torch.testing.assert_close(used[:PAIRS], -used[PAIRS:])
    assert len(used.abs().unique()) >= PAIRS
    assert used.std() < 0.3


def test_a_pair_that_diverges_does_not_count_and_is_reset():
    rule, scene = RULES["adam"]().double(), Scene.draw(count=PAIRS, steps=STEPS)
    scene.stream[2, 1] = float("nan")
    unrolled = estimate(rule, scene, 0.01, 0, Objective())
    assert unrolled.state.diverged.tolist() == [place in (1, 1 + PAIRS) for place in range(2 * PAIRS)]
    assert gradient(unrolled, rule).isfinite().all()
    torch.testing.assert_close(unrolled.state.theta[:PAIRS], unrolled.state.theta[PAIRS:], equal_nan=True)


@pytest.mark.parametrize("kind", ["lstm", "adam"])
def test_it_trains_and_a_resumed_run_is_the_same(kind, tmp_path):
    def module():
        torch.manual_seed(0)
        return small.module(rule=RULES[kind](), estimator=EvolutionStrategies(0.01))

    whole, half, resumed = module(), small.trainer(tmp_path, max_epochs=1), module()
    before = parameters_to_vector(whole.rule.parameters()).clone()
    small.trainer(tmp_path).fit(whole, datamodule=small.data())
    assert whole.population.counts.resets > 0
    assert not torch.equal(before, parameters_to_vector(whole.rule.parameters()))
    half.fit(module(), datamodule=small.data())
    half.save_checkpoint(tmp_path / "half.ckpt")
    small.trainer(tmp_path).fit(resumed, datamodule=small.data(), ckpt_path=tmp_path / "half.ckpt")
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in resumed.state_dict().items())
