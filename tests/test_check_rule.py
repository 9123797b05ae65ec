"""``check_rule`` and ``check_data`` pass what is right, and name each common mistake of a plug-in author."""

from pathlib import Path

import pytest
import torch
from torch import nn

from l2l_lightning.core.errors import InputError
from l2l_lightning.data import FunctionDataModule, ProblemDataModule, QuadraticDataModule
from l2l_lightning.optimizees import OptimizeeModule, Quadratic, SumOfSquares
from l2l_lightning.rules import (
    SGD,
    Adagrad,
    Adam,
    Adamax,
    CoordinatewiseGRU,
    CoordinatewiseLSTM,
    KMomentums,
    KTimesteps,
    MeanNormalizedGradient,
    Momentum,
    MultiscaleAdam,
    Nesterov,
    PartitionedRule,
    RMSprop,
    Route,
    SoftmaxMLP,
    SoftmaxRecurrent,
    TensorRule,
    UpdateRule,
)
from l2l_lightning.testing import check_data, check_rule

# A rule joins by a line.
RULES_UNDER_TEST = {
    "sgd": SGD,
    "momentum": Momentum,
    "nesterov": Nesterov,
    "adagrad": Adagrad,
    "rmsprop": RMSprop,
    "adam": lambda: Adam(trainable=True),
    "adamax": Adamax,
    "lstm": CoordinatewiseLSTM,
    "gru": CoordinatewiseGRU,
    "mean of gradients": MeanNormalizedGradient,
    "timesteps": KTimesteps,
    "momentums": KMomentums,
    "linear average": MultiscaleAdam,
    "softmax": lambda: MultiscaleAdam(SoftmaxMLP(hidden_size=5)),
    "recurrent": lambda: MultiscaleAdam(SoftmaxRecurrent()),
    "partitioned": lambda: PartitionedRule({"a": SGD(), "b": Adam()}, [Route("a", name="*.bias"), Route("b")]),
}


@pytest.mark.parametrize("name", RULES_UNDER_TEST)
def test_every_rule_passes(name):
    check_rule(RULES_UNDER_TEST[name]())


class Base(SGD):
    """A correct momentum to be spoiled."""

    scope = "coordinate"

    def init_state(self, theta, layout, generator=None):
        return {"m": torch.zeros_like(theta)}

    def forward(self, inputs, state):
        m = 0.9 * state["m"] + inputs.grad
        return -self.rate * m, {"m": m}


class WithoutProblems(Base):
    def init_state(self, theta, layout, generator=None):
        return {"m": torch.zeros(theta.shape[-1])}


class FeaturesLast(Base):
    def init_state(self, theta, layout, generator=None):
        return {"m": torch.zeros(*theta.shape, 2)}


class FalseScope(Base):
    scope = "coordinate"

    def forward(self, inputs, state):
        update, state = super().forward(inputs, state)
        return update / inputs.grad.norm(dim=-1, keepdim=True), state


class FalseTensorScope(FalseScope):
    scope = "tensor"

    def forward(self, inputs, state):
        return super().forward(inputs, state)


class ReturnsTheta(Base):
    scope = "coordinate"

    def forward(self, inputs, state):
        update, state = super().forward(inputs, state)
        return inputs.theta + update, state


class OneThing(Base):
    def forward(self, inputs, state):
        return super().forward(inputs, state)[0]


class OtherLeaves(Base):
    def forward(self, inputs, state):
        update, state = super().forward(inputs, state)
        return update, {"momentum": state["m"]}


class Remembers(Base):
    calls = 0

    def forward(self, inputs, state):
        self.calls += 1
        update, state = super().forward(inputs, state)
        return self.calls * update, state


class WritesInPlace(Base):
    def forward(self, inputs, state):
        state["m"].mul_(0.9).add_(inputs.grad)
        return -self.rate * state["m"], state


class RateAsNumber(Base):
    scope = "coordinate"

    def forward(self, inputs, state):
        rate = self.lr if isinstance(self.lr, float) else float(self.lr.flatten()[0])
        return -rate * inputs.grad, state


class Mixes(Base):
    def forward(self, inputs, state):
        update, state = super().forward(inputs, state)
        return update + inputs.grad.mean(), state


class DeadPhi(Base):
    def __init__(self):
        super().__init__()
        self.phi = nn.Parameter(torch.tensor(1.0))

    def forward(self, inputs, state):
        update, state = super().forward(inputs, state)
        return self.phi.detach() * update, state


class FalseTensor(TensorRule):
    def init_tensor(self, theta, kind, generator=None):
        return {"m": torch.zeros_like(theta)}

    def update_tensor(self, inputs, state):
        return -inputs.grad / inputs.grad.norm(), state


MISTAKES = {
    WithoutProblems: r"the leaf 'm' must have shape \(\*features, B, k\)",
    FeaturesLast: r"features first, but has \(3, 14, 2\)",
    FalseScope: "its scope is 'coordinate', but an update depends on other coordinates",
    FalseTensorScope: "its scope is 'tensor', but an update depends on other tensors",
    ReturnsTheta: "seems to return the new theta",
    OneThing: "must return two things",
    OtherLeaves: "must return the leaves of init_state",
    Remembers: "keeps something between calls",
    WritesInPlace: "writes into the old state's leaf 'm'",
    RateAsNumber: "with a column of rates",
    Mixes: "depends on the problems beside it",
    DeadPhi: "do not depend on its parameters phi",
    FalseTensor: "depends on the problems beside it",
}


@pytest.mark.parametrize("kind", MISTAKES, ids=lambda kind: kind.__name__)
def test_a_rule_s_mistake_gets_a_sentence(kind):
    with pytest.raises((AssertionError, InputError), match=MISTAKES[kind]) as caught:
        check_rule(kind())
    assert str(caught.value).split("\n")[0].endswith(".")


def test_an_argument_that_is_not_kept_is_named():
    class Forgetful(UpdateRule):
        def __init__(self, lost=1):
            super().__init__()

    with pytest.raises(InputError, match="must keep its argument 'lost'"):
        check_rule(Forgetful())


class Student(OptimizeeModule):
    """Linear regression on what the DataModule draws."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(5))

    def reset_parameters(self, generator):
        nn.init.normal_(self.w, generator=generator)

    def forward(self, data):
        target = data["y"] if "y" in data else data["x"] @ data["teacher"]
        return (data["x"] @ self.w - target).square().mean()


class Teachers(ProblemDataModule):
    """The teacher is the instance, and the optimizee computes y."""

    def draw(self, generator, problems):
        x = torch.randn(self.unroll + 1, problems, 16, 5, generator=generator)
        return {"teacher": torch.randn(problems, 5, generator=generator)}, {"x": x}


class OtherTeachers(Teachers):
    def draw(self, generator, problems):
        instance, batches = super().draw(generator, problems)
        return {}, batches | {"y": torch.einsum("tbij,bj->tbi", batches["x"], instance["teacher"])}


class OnePointTooFew(Teachers):
    def draw(self, generator, problems):
        instance, batches = super().draw(generator, problems)
        return instance, {"x": batches["x"][1:]}


class NoProblems(Teachers):
    def draw(self, generator, problems):
        instance, batches = super().draw(generator, problems)
        return {"teacher": instance["teacher"][0]}, batches


class OneDictionary(Teachers):
    def draw(self, generator, problems):
        return super().draw(generator, problems)[1]


class IgnoresGenerator(Teachers):
    def draw(self, generator, problems):
        instance, batches = super().draw(generator, problems)
        return instance, {"x": torch.randn_like(batches["x"])}


DATA_MISTAKES = {
    OtherTeachers: "a problem changes from window to window",
    OnePointTooFew: r"'x' must have shape \(U\+1, B, \.\.\.\), here beginning with \(21, 4\)",
    NoProblems: r"'teacher' must have shape \(B, \.\.\.\)",
    OneDictionary: "must return two dictionaries",
    IgnoresGenerator: "draws from torch's global generator",
}


@pytest.mark.parametrize("kind", DATA_MISTAKES, ids=lambda kind: kind.__name__)
def test_a_datamodule_s_mistake_gets_a_sentence(kind):
    with pytest.raises((AssertionError, InputError), match=DATA_MISTAKES[kind]):
        check_data(kind(problems=4), Student())


@pytest.mark.parametrize(
    ("data", "optimizee"),
    [
        (Teachers(problems=4), Student()),
        (QuadraticDataModule(dim=3, problems=4), Quadratic(3)),
        (QuadraticDataModule(dim=3, problems=4, gradient_noise=1.0), Quadratic(3)),
        (FunctionDataModule(problems=4), SumOfSquares()),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_what_is_right_passes(data, optimizee):
    check_data(data, optimizee)


class Wrong(Student):
    def forward(self, data):
        return (data["x"] @ self.w.view(1, 5)).mean()  # shapes that do not fit


def test_a_mistake_in_a_user_s_optimizee_has_its_file_and_line():
    lines = Path(__file__).read_text().splitlines()
    line = next(n for n, text in enumerate(lines, 1) if "# shapes that do not fit" in text)
    with pytest.raises(InputError, match=rf"\(test_check_rule\.py, line {line}\)$"):
        check_data(Teachers(problems=4), Wrong())


class Misspelt(Student):
    def forward(self, data):
        return (data["inputs"] @ self.w).mean()


def test_data_that_are_not_there_are_named_with_file_and_line():
    with pytest.raises(InputError, match=r"reads 'inputs' from its data \(test_check_rule\.py, line \d+\), but"):
        check_data(Teachers(problems=4), Misspelt())
