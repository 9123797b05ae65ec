"""The description in a stranger's file builds registered classes alone, from values of the right types."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import strangers
import tally
import torch
from strangers import LSTM, RULES, both, refused, rule
from torch import nn

from l2l_lightning import LearnedOptimizer
from l2l_lightning.cli.commands import compare
from l2l_lightning.cli.main import main
from l2l_lightning.core.errors import InputError
from l2l_lightning.files import rule_file
from l2l_lightning.files.description import describe
from l2l_lightning.rules import (
    SGD,
    Adam,
    CoordinatewiseGRU,
    CoordinatewiseLSTM,
    Cosine,
    Identity,
    KMomentums,
    KTimesteps,
    MeanNormalizedGradient,
    MultiscaleAdam,
    PartitionedRule,
    Preprocessing,
    Route,
    SoftmaxMLP,
    SoftmaxRecurrent,
    UpdateRule,
)

CALLABLES = (
    "os.system",
    "subprocess.Popen",
    "builtins.eval",
    "builtins.open",
    "pathlib.Path",
    "torch.load",
    "torch.nn.Linear",
    "torch.nn.modules.linear.Linear",
    "l2l_lightning.cli.main",
    "l2l_lightning.training.module.MetaOptimizerModule",
    "l2l_lightning.optimizees.Quadratic",
    "l2l_lightning.rules.base.nn.Module",
    "this.s",
    "no.such.Rule",
    "",
    ".",
    "Adam",
    "\x1b]0;owned\x07",
    "x" * 100_000,
)


# Classes


@pytest.mark.parametrize("path", CALLABLES, ids=lambda path: ascii(path)[:40])
def test_a_class_that_is_no_rule_is_neither_built_nor_imported(tmp_path: Path, path: str) -> None:
    places = (
        rule(path),
        rule(path, command="touch written"),
        rule(LSTM, preprocessing=rule(path)),
        rule(LSTM, output_scale=rule(path)),
        rule(RULES + "multiscale_adam.MultiscaleAdam", head=rule(path, args=["touch", "written"])),
        rule(RULES + "partitioned.PartitionedRule", rules={"a": rule(path)}, routes=[{"rule": "a"}]),
    )
    assert "this" not in sys.modules
    for description in places:
        for file in both(tmp_path, description):
            sentence = refused(lambda file=file: rule_file.load(file), str(file), "its rule cannot be built")
            assert "which is no registered" in sentence
            assert "allow it with allow=['" in sentence
    assert "this" not in sys.modules


@pytest.mark.parametrize("text", ["os.system", LSTM, "LogAndSign", "/etc/passwd", "this.s"])
def test_a_string_is_never_a_class(tmp_path: Path, text: str) -> None:
    assert "this" not in sys.modules
    for description in (
        rule(LSTM, preprocessing=text),
        rule(LSTM, output_scale=text),
        rule(RULES + "multiscale_adam.MultiscaleAdam", head=text),
        rule(RULES + "partitioned.PartitionedRule", rules={"a": text}, routes=[{"rule": "a"}]),
        rule(RULES + "partitioned.PartitionedRule", rules=text, routes=text),
    ):
        for file in both(tmp_path, description):
            refused(lambda file=file: rule_file.load(file), "must be of type")
    for file in both(tmp_path, text):
        refused(lambda file=file: rule_file.load(file), "rule")
    assert "this" not in sys.modules


def test_a_class_of_another_part_is_refused(tmp_path: Path) -> None:
    for description in (rule(RULES + "preprocessing.Identity"), rule(LSTM, preprocessing=describe(SGD()))):
        for file in both(tmp_path, description):
            refused(lambda file=file: rule_file.load(file), "must be of type")


class Halved(Preprocessing):
    """A part that this program has defined, and with it registered."""

    features = 2

    def forward(self, grad):
        return torch.stack((grad, grad)) / 2


class Untyped(UpdateRule):
    def __init__(self, first=1, second=None):
        super().__init__()
        self.first, self.second = first, second


HONEST = {
    "partitioned": lambda: PartitionedRule({"conv": CoordinatewiseGRU(1, 3), "rest": Adam(0.3)}, [Route("rest", "*b")]),
    "schedule": lambda: MultiscaleAdam(SoftmaxMLP(2, 7), eta=Cosine(0.1, 0.01, 50)),
    "recurrent head": lambda: MultiscaleAdam(SoftmaxRecurrent("lstm", 2, 4), [(0.9, 0.99)]),
    "decay": lambda: MeanNormalizedGradient(decay=Cosine(1.0), trainable=True),
    "timesteps": lambda: KTimesteps(3, noise=0.1, positions=True),
    "momentums": lambda: KMomentums(3),
    "registered": lambda: CoordinatewiseLSTM(1, 4, preprocessing=Halved()),
    "untyped": lambda: Untyped([1, "a"], {"x": Identity(), "y": 2.0}),
    "integers for floats": lambda: CoordinatewiseLSTM(1, 4, output_scale=1),
}


@pytest.mark.parametrize("make", HONEST.values(), ids=HONEST)
def test_honest_rules_come_back(tmp_path: Path, make: Any) -> None:
    original = make()
    tensors = {name: leaf.clone() for name, leaf in original.state_dict().items()}
    file = strangers.rule_file(tmp_path / "rule.safetensors", tensors, rule=describe(original))
    content = strangers.saved() | {"state_dict": {f"rule.{name}": leaf for name, leaf in tensors.items()}}
    content["l2l_lightning"]["rule"] = describe(original)
    for path in (file, strangers.checkpoint(tmp_path / "rule.ckpt", content)):
        found = rule_file.load(path)
        assert type(found) is type(original)
        assert describe(found) == describe(original)
        assert all(torch.equal(leaf, tensors[name]) for name, leaf in found.state_dict().items())


MINE = """
from pathlib import Path
import torch
from l2l_lightning.rules import UpdateRule

Path(__file__).with_name("imported").touch()


class Mine(UpdateRule):
    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scale = scale
        self.rate = torch.nn.Parameter(torch.tensor(0.1))

    def init_state(self, theta, layout, generator=None):
        return {}

    def forward(self, inputs, state):
        return -self.scale * self.rate * inputs.grad, state


class NoRule:
    pass


def function():
    pass
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The name of a module of the user's that nobody has imported."""
    name = f"mine_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_a_class_of_the_user_s_own_is_imported_where_it_is_allowed_alone(tmp_path: Path, module: str) -> None:
    path, tensors = f"{module}.Mine", {"rate": torch.tensor(0.5)}
    file = strangers.rule_file(tmp_path / "mine.safetensors", tensors, rule=rule(path, scale=2.0))
    theta = nn.Parameter(torch.ones(2))
    for allow in ((), ("other.Mine",), (f"{module}.NoRule",)):
        refused(lambda allow=allow: rule_file.load(file, allow), f"allow=['{path}'] (--allow on the command line)")
        refused(lambda allow=allow: LearnedOptimizer([theta], file, allow=allow), path)
    assert not (tmp_path / "imported").exists()
    optimizer = LearnedOptimizer([theta], file, allow=[path])
    assert (tmp_path / "imported").exists()
    theta.sum().backward()
    optimizer.step()
    assert theta.tolist() == [0.0, 0.0]
    optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "rule": str(file)})
    assert rule_file.load(file).scale == 2.0, "what the program has imported is registered"
    with pytest.raises(InputError, match="must be a list of class paths"):
        rule_file.load(file, f"x.{path}")


@pytest.mark.parametrize("name", ["NoRule", "function", "missing"])
def test_what_is_allowed_must_be_an_update_rule(tmp_path: Path, module: str, name: str) -> None:
    path = f"{module}.{name}"
    for description in (rule(path), rule(LSTM, preprocessing=rule(path))):
        file = strangers.rule_file(tmp_path / "mine.safetensors", rule=description)
        refused(lambda file=file: rule_file.load(file, [path]), name)
    for path in ("os.system", "subprocess.Popen", "torch.nn.Linear"):
        file = strangers.rule_file(tmp_path / "mine.safetensors", rule=rule(path))
        refused(lambda file=file, path=path: rule_file.load(file, [path]))


def test_the_commands_take_allow(tmp_path: Path, module: str, capsys: pytest.CaptureFixture) -> None:
    path = f"{module}.Mine"
    content = strangers.saved() | {"state_dict": {"rule.rate": torch.tensor(0.5)}}
    content["l2l_lightning"]["rule"] = rule(path, scale=2.0)
    file = str(strangers.checkpoint(tmp_path / "mine.ckpt", content))
    out = str(tmp_path / "out.safetensors")
    for command in (["export", "--output", out], ["compare"], ["weights"], ["steps"]):
        with pytest.raises(SystemExit, match=r"--allow on the command line"):
            main([*command, "--ckpt_path", file])
        tally.count(strangers.TALLY)
    assert not (tmp_path / "imported").exists()
    main(["export", "--output", out, "--ckpt_path", file, "--allow", path])
    assert "Mine, sha256" in capsys.readouterr().out


# Arguments


WRONG = (None, True, -1, 0, 2**63, 10**30, 1.5, -0.5, "", "3", [], [1], {}, {"a": 1}, [[[]]], rule(LSTM))
ARGUMENTS = {LSTM: ("layers", "hidden_size", "forget_bias", "output_scale", "preprocessing", "more", "self")}
ARGUMENTS |= {RULES + "multiscale_adam.MultiscaleAdam": ("head", "timescales", "eta", "eps")}
ARGUMENTS |= {RULES + "normalized_inputs.KMomentums": ("k", "low", "reference", "output", "positions", "noise")}
ARGUMENTS |= {RULES + "partitioned.PartitionedRule": ("rules", "routes")}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_arguments_of_any_type_are_refused(tmp_path: Path, kind: str) -> None:
    """No rule of these classes has the tensors of the file, so that all must be refused, whatever the values are."""
    tensors = {"other": torch.zeros(3)}
    for name in ARGUMENTS[kind]:
        for value in WRONG:
            file = strangers.rule_file(tmp_path / "bad.safetensors", tensors, rule=rule(kind, **{name: value}))
            refused(lambda file=file: rule_file.load(file), str(file))


@pytest.mark.parametrize(
    "description",
    [
        *(None, [], 3, "x", {}, {"class_path": LSTM}, {"init_args": {}}, {"class_path": LSTM, "init_args": []}),
        *({"class_path": [LSTM], "init_args": {}}, rule(LSTM, hidden_size=5) | {"more": 1}),
    ],
    ids=str,
)
def test_a_description_that_is_none_is_refused(tmp_path: Path, description: Any) -> None:
    for file in both(tmp_path, description):
        refused(lambda file=file: rule_file.load(file), str(file))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000, "9" * 100])
@pytest.mark.parametrize("place", ["rule", "trained_on"])
def test_numbers_that_are_none_are_refused(tmp_path: Path, number: str, place: str) -> None:
    description, _ = strangers.described()
    where = description["rule"]["init_args"] if place == "rule" else description["trained_on"]
    where["output_scale"] = "HERE"
    metadata = json.dumps(description).replace('"HERE"', number)
    header = json.dumps({"__metadata__": {"l2l_lightning": metadata}}).encode()
    file = strangers.header_file(tmp_path / "bad.safetensors", header)
    refused(lambda: rule_file.load(file), str(file))


@pytest.mark.parametrize("trained_on", [None, 3, "x", [], [1], True])
def test_trained_on_of_another_type_is_refused_everywhere(tmp_path: Path, trained_on: Any) -> None:
    file = strangers.rule_file(tmp_path / "bad.safetensors", trained_on=trained_on)
    for use in (
        rule_file.load,
        rule_file.trained_on,
        rule_file.read,
        lambda path: compare._trained_on([str(path)], ()),
    ):
        refused(lambda use=use: use(file), "trained_on")
    for command in (["inspect", str(file)], ["compare", "--ckpt_path", str(file)]):
        with pytest.raises(SystemExit, match="trained_on"):
            main(command)
        tally.count(strangers.TALLY)


OPTIMIZEE = rule("l2l_lightning.optimizees.Quadratic", dim=3)
DATA = rule("l2l_lightning.data.QuadraticDataModule", dim=3)
IMAGES = "l2l_lightning.data.ImageDataModule"


@pytest.mark.parametrize(
    "target",
    [
        {"optimizee": OPTIMIZEE},
        {"optimizee": 3, "data": DATA},
        {"optimizee": "os.system", "data": DATA},
        {"optimizee": rule("os.system"), "data": DATA},
        {"optimizee": OPTIMIZEE, "data": rule("this.s")},
        {"optimizee": rule("l2l_lightning.optimizees.FromModule", module=rule("torch.nn.Linear")), "data": DATA},
        {"optimizee": rule("l2l_lightning.optimizees.FromModule", module="this.s"), "data": DATA},
        {"optimizee": rule("l2l_lightning.optimizees.FromModule", loss="os.system"), "data": DATA},
        {"optimizee": OPTIMIZEE, "data": rule(IMAGES, dataset="this.s")},
        {"optimizee": OPTIMIZEE, "data": rule(IMAGES, dataset="ImageFolder", dataset_args={"root": "/etc"})},
        {"optimizee": OPTIMIZEE, "data": rule(IMAGES, dataset="CIFAR10", dataset_args={"root": "etc"})},
        {
            "optimizee": rule(
                "l2l_lightning.optimizees.MetaTrainingProblem", rule=rule("os.system"), optimizee=OPTIMIZEE
            ),
            "data": DATA,
        },
        {
            "optimizee": OPTIMIZEE,
            "data": rule("l2l_lightning.data.MetaTrainingDataModule", inner=rule("this.s")),
        },
        {
            "optimizee": OPTIMIZEE,
            "data": rule("l2l_lightning.data.MetaTrainingDataModule", inner=rule(IMAGES, dataset="this.s")),
        },
        {"optimizee": OPTIMIZEE, "data": DATA | {"dict_kwargs": {"root": "etc"}}},
        {"optimizee": OPTIMIZEE, "data": DATA | {"init_args.root": "etc", "init_args.check_md5": False}},
        {"optimizee": OPTIMIZEE, "data": DATA | {"init_args": {"init_args.root": "etc"}}},
    ],
    ids=lambda target: str(target)[:60],
)
def test_a_target_in_a_file_imports_nothing(tmp_path: Path, target: dict[str, Any]) -> None:
    file = strangers.rule_file(tmp_path / "bad.safetensors", trained_on=target)
    assert "this" not in sys.modules
    refused(lambda: compare._trained_on([str(file)], ()), str(file))
    with pytest.raises(SystemExit, match=r"bad\.safetensors"):
        main(["compare", "--ckpt_path", str(file), "--output_dir", str(tmp_path / "out")])
    assert "this" not in sys.modules
    assert not (tmp_path / "out").exists()


def test_a_target_in_a_file_does_not_say_where_data_lie_or_how_they_are_checked(tmp_path: Path) -> None:
    data = rule("l2l_lightning.data.CIFAR10DataModule", root="/tmp/evil", check_md5=False, steps=40)
    file = strangers.rule_file(tmp_path / "x.safetensors", trained_on={"optimizee": OPTIMIZEE, "data": data})
    assert compare._trained_on([str(file)], ())["Quadratic"]["data"]["init_args"] == {"steps": 40}
    nested = rule("l2l_lightning.data.MetaTrainingDataModule", inner=data)
    file = strangers.rule_file(tmp_path / "y.safetensors", trained_on={"optimizee": OPTIMIZEE, "data": nested})
    found = compare._trained_on([str(file)], ())["Quadratic"]["data"]["init_args"]
    assert found["inner"]["init_args"] == {"steps": 40}
