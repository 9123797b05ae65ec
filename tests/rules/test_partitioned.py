"""Rules per kind of parameter: routing, equality with the rules alone, training and checkpoints."""

from pathlib import Path

import pytest
import small
import torch
from scenes import awake, initial_state, seen
from torch import nn

from l2l_lightning.core.coordinates import CoordinateLayout
from l2l_lightning.core.errors import InputError
from l2l_lightning.core.random import keyed_generator
from l2l_lightning.optimizees import FromModule
from l2l_lightning.rules import SGD, Adam, CoordinatewiseLSTM, Momentum, PartitionedRule, Route, UpdateRule
from l2l_lightning.training.module import MetaOptimizerModule


def network():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3), nn.Linear(3, 2))


LAYOUT = CoordinateLayout.of(network())  # conv 18 + 2, dense 24 + 3, dense 6 + 2
BIASES = [18, 19, 44, 45, 46, 53, 54]


def bound(rules, *routes):
    rule = PartitionedRule(rules, list(routes))
    rule.check_layout(LAYOUT)
    return rule


def walk(rule, grads):
    theta = torch.zeros_like(grads[0])
    layout = LAYOUT if isinstance(rule, PartitionedRule) else None
    state = initial_state(rule, theta, layout)
    for t, grad in enumerate(grads):
        step, state = rule(seen(theta, grad, None, torch.full(grad.shape[:-1], t), layout), state)
        theta = theta + step
    return theta, state


GRADS = torch.randn(4, 3, 55, generator=keyed_generator(0))


def test_every_parameter_goes_the_first_way_that_matches():
    """Steps of SGD tell by their rate where each coordinate went."""
    rule = bound(
        {"bias": SGD(1.0), "conv": SGD(2.0), "last": SGD(3.0), "rest": SGD(4.0)},
        Route("bias", name="*.bias"),
        Route("conv", module="Conv2d"),
        Route("last", name="4.*", module="Linear"),
        Route("rest"),
    )
    step, _ = rule(seen(torch.zeros(55), torch.ones(55), None, torch.tensor(0), LAYOUT), {})
    expected = torch.tensor([2.0] * 18 + [1] * 2 + [4] * 24 + [1] * 3 + [3] * 6 + [1] * 2)
    assert torch.equal(-step, expected)


def test_each_part_moves_as_its_rule_alone_would_move_it():
    torch.manual_seed(0)
    lstm, adam = awake(CoordinatewiseLSTM(hidden_size=4, output_scale=0.1)), Adam(0.1)
    rule = bound({"biases": adam, "weights": lstm}, Route("biases", name="*.bias"), Route("weights"))
    theta, state = walk(rule, GRADS)
    weights = [i for i in range(55) if i not in BIASES]
    for part, alone in ((BIASES, adam), (weights, lstm)):
        expected, _ = walk(alone, GRADS[..., part])
        torch.testing.assert_close(theta[..., part], expected)
    assert {name: leaf.shape[-1] for name, leaf in state.items() if name.startswith("biases/")} == {
        f"biases/{name}": 7 for name in adam.state_leaves
    }
    assert state["weights/c1"].shape == (4, 3, 48)


def test_without_problems_side_by_side_it_works_too():
    rule = bound({"all": Momentum(0.1)}, Route("all"))
    theta, _ = walk(rule, GRADS[:, 0])
    torch.testing.assert_close(theta, walk(rule, GRADS)[0][0])


def test_a_parameter_without_a_way_is_named():
    rule = PartitionedRule({"conv": SGD()}, [Route("conv", module="Conv*")])
    with pytest.raises(InputError, match=r"no route matches the parameter '3.weight' of a Linear; add one"):
        rule.check_layout(LAYOUT)


def test_ways_that_lead_nowhere_and_bad_labels_are_refused():
    with pytest.raises(InputError, match=r"a route leads to 'dense', but the rules are \['conv'\]"):
        PartitionedRule({"conv": SGD()}, [Route("dense")])
    with pytest.raises(InputError, match=r"plain words, .* got 'a\.b'"):
        PartitionedRule({"a.b": SGD()}, [Route("a.b")])
    with pytest.raises(InputError, match="got 'keys'"):
        PartitionedRule({"keys": SGD()}, [Route("keys")])


def test_a_rule_without_parameters_to_move_stays_unused():
    rule = bound({"all": SGD(1.0), "norm": CoordinatewiseLSTM()}, Route("norm", module="BatchNorm*"), Route("all"))
    _, state = walk(rule, GRADS)
    assert state == {}
    with pytest.warns(UserWarning, match="no parameter goes to norm"):
        rule.check_layout(LAYOUT)


def test_rules_inside_see_a_layout_of_their_own_parameters():
    class Seeing(UpdateRule):
        def check_layout(self, layout):
            self.layout = layout

    rules = {"conv": Seeing(), "dense": Seeing()}
    bound(rules, Route("conv", module="Conv2d"), Route("dense"))
    assert rules["conv"].layout.names == ("0.weight", "0.bias")
    assert rules["dense"].layout.slices[1] == ("3.bias", slice(24, 27), torch.Size([3]))


def test_it_trains_validates_and_resumes_like_any_other_rule(tmp_path: Path) -> None:
    """Both LSTMs get gradients, problems reset, and the checkpoint fits the same rule again."""

    def module() -> MetaOptimizerModule:
        torch.manual_seed(0)
        rules = {"weights": CoordinatewiseLSTM(hidden_size=3), "biases": CoordinatewiseLSTM(hidden_size=2)}
        rule = PartitionedRule(rules, [Route("biases", name="*.bias"), Route("weights")])
        optimizee = FromModule(nn.Linear(3, 1), nn.functional.mse_loss, input="W", target="t")
        return small.module(rule=rule, optimizee=optimizee)

    class Data(small.QuadraticDataModule):
        def draw(self, generator, problems):
            instance, batches = super().draw(generator, problems)
            return {"W": instance["W"], "t": instance["y"].unsqueeze(-1)}, batches

    def data() -> Data:
        return Data(dim=3, unroll=5, problems=4, windows_per_epoch=6, steps=20, validation_problems=4, seed=0)

    before = {name: value.clone() for name, value in module().state_dict().items()}
    whole = module()
    small.trainer(tmp_path).fit(whole, datamodule=data())
    changed = {name.split(".")[2] for name, value in whole.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"weights", "biases"}
    assert whole.population.counts.resets > 0
    assert whole.results["learned"].curve.shape == (21, 4)

    half, resumed = small.trainer(tmp_path, max_epochs=1), module()
    half.fit(module(), datamodule=data())
    half.save_checkpoint(tmp_path / "half.ckpt")
    small.trainer(tmp_path).fit(resumed, datamodule=data(), ckpt_path=tmp_path / "half.ckpt")
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in resumed.state_dict().items())
