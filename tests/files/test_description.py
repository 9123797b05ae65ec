import copy
import json

import pytest
import torch
from jsonargparse import ArgumentParser

from l2l_lightning.core.errors import InputError
from l2l_lightning.core.horizon import FixedHorizon, GrowingHorizon, RandomHorizon, Stage
from l2l_lightning.core.objective import Objective
from l2l_lightning.files.description import describe, differences, rebuild, without
from l2l_lightning.optimizees import ImageMLP, Quadratic
from l2l_lightning.rules import (
    SGD,
    Adam,
    CoordinatewiseGRU,
    CoordinatewiseLSTM,
    CoordinatewiseRNN,
    Cosine,
    Identity,
    LogAndSign,
    Momentum,
    PartitionedRule,
    Route,
    UpdateRule,
)


def build(kind, description):
    """The command line's way from a description to an object."""
    if not (isinstance(description, dict) and "class_path" in description):
        return description
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--thing", type=kind)
    return parser.instantiate(parser.parse_object({"thing": copy.deepcopy(description)})).thing


@pytest.mark.parametrize(
    "thing",
    [
        *(None, True, 3, 0.5, "text", [1, [2.0, None]], {"a": {"b": [1]}}),
        SGD(lr=0.3),
        Adam(lr=0.2, beta1=0.5, trainable=True),
        Momentum(momentum=0.3).with_rate(0.7),
        CoordinatewiseLSTM(layers=1, hidden_size=3, preprocessing=LogAndSign(p=5), forget_bias=0.5),
        CoordinatewiseGRU(hidden_size=3, output_scale=0.1),
        CoordinatewiseRNN(hidden_size=3, preprocessing=Identity()),
        PartitionedRule({"conv": CoordinatewiseLSTM(hidden_size=3), "rest": Adam()}, [Route("rest", "*.bias")]),
        Objective("final", "log"),
        FixedHorizon(40),
        RandomHorizon(20, 60),
        GrowingHorizon([Stage(0, 20, 40), Stage(100, 40, 200)]),
        Quadratic(dim=3, init_std=0.5),
        ImageMLP(hidden_sizes=(40, 20), activation="tanh", in_features=4),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_description_is_plain_and_rebuilds_its_object(thing):
    description = describe(thing)
    assert json.loads(json.dumps(description)) == description
    rebuilt = build(type(thing), description)
    assert type(rebuilt) is type(thing)
    assert describe(rebuilt) == description


def test_description_holds_the_arguments_not_the_defaults():
    description = describe(CoordinatewiseLSTM(hidden_size=3, preprocessing=LogAndSign(p=5.0)))
    assert description["class_path"] == "l2l_lightning.rules.CoordinatewiseLSTM"
    assert description["init_args"]["hidden_size"] == 3
    assert description["init_args"]["preprocessing"]["init_args"] == {"p": 5.0}


def test_argument_that_is_not_kept_is_named():
    class Forgetful(UpdateRule):
        def __init__(self, kept=1, lost=2):
            super().__init__()
            self.kept = kept

    with pytest.raises(InputError, match=r"^Forgetful must keep its argument 'lost' as self\.lost.*\.$"):
        describe(Forgetful())


@pytest.mark.parametrize(
    ("expected", "found", "phrases"),
    [
        (Adam(), Adam(), []),
        (Adam(lr=0.1), Adam(lr=0.2), ["lr: 0.1 against 0.2"]),
        (Adam(lr=0.1, eps=1.0), Adam(lr=0.2, eps=2.0), ["eps: 1.0 against 2.0", "lr: 0.1 against 0.2"]),
        (Adam(), SGD(), ["class: Adam against SGD"]),
        (
            CoordinatewiseLSTM(hidden_size=20, preprocessing=LogAndSign(10.0)),
            CoordinatewiseLSTM(hidden_size=40, preprocessing=LogAndSign(5.0)),
            ["hidden_size: 20 against 40", "preprocessing.p: 10.0 against 5.0"],
        ),
        ({"rule": Adam()}, {"rule": SGD()}, ["rule: Adam against SGD"]),
        ({"rule": Adam()}, {"rule": None}, [f"rule: {describe(Adam())} against None"]),
        ({"steps": [1, 2]}, {"steps": [1, 3]}, ["steps: [1, 2] against [1, 3]"]),
    ],
)
def test_differences_are_phrases(expected, found, phrases):
    assert differences(describe(expected), describe(found)) == phrases


def test_arguments_are_left_out_of_objects_at_any_depth_and_of_nothing_else():
    inner = {"class_path": "Inner", "init_args": {"root": "here", "steps": 2}}
    outer = {
        "class_path": "Outer",
        "init_args": {"root": "here", "inner": inner, "several": [inner], "plain": {"root": 1}},
    }
    kept = {"class_path": "Inner", "init_args": {"steps": 2}}
    expected = {"inner": kept, "several": [kept], "plain": {"root": 1}}
    assert without(outer, "root", "nothing") == {"class_path": "Outer", "init_args": expected}
    assert outer["init_args"]["root"] == "here"


def test_a_rebuilt_object_has_the_same_arguments_and_new_weights():
    network = CoordinatewiseLSTM(
        layers=1, hidden_size=3, preprocessing=LogAndSign(5.0), output_scale=Cosine(0.1, 0.01, 50)
    )
    whole = PartitionedRule({"all": network}, [Route("all")])
    other = rebuild(whole)
    assert describe(other) == describe(whole)
    assert not differences(describe(whole), describe(other))
    for (name, old), new in zip(whole.named_parameters(), other.parameters(), strict=True):
        assert old is not new
        assert torch.equal(old, new) == ("weight_" not in name or not old.any()), name


def test_a_rebuilt_object_is_of_the_class_that_it_had_though_another_took_its_name():
    class Rule(UpdateRule):
        def __init__(self, size=2):
            super().__init__()
            self.size = size

    first = Rule(3)

    class Rule(UpdateRule):  # as in a notebook
        pass

    assert type(rebuild(first)) is type(first)
    assert rebuild(first).size == 3


def test_what_cannot_be_rebuilt_is_named():
    class Forgetful(UpdateRule):
        def __init__(self, lost=2):
            super().__init__()

    with pytest.raises(InputError, match=r"^Forgetful must keep its argument 'lost'"):
        rebuild(Forgetful())
