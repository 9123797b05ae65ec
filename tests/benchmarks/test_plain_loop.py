"""The yardstick does the same mathematics as ours."""

import pytest
import torch
from scenes import awake, initial_state
from torch import Tensor

from benchmarks import plain_loop
from benchmarks.settings import UNROLL, Setting, mnist_mlp, quadratics
from l2l_lightning.core.estimators.backpropagation import backpropagate
from l2l_lightning.core.objective import Objective
from l2l_lightning.core.problems import Problems
from l2l_lightning.core.state import fresh_state
from l2l_lightning.rules import CoordinatewiseLSTM


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def to_torch_order(gates: Tensor) -> Tensor:
    """Blocks i, f, o, g of ours -> i, f, g, o of ``nn.LSTMCell``."""
    i, f, o, g = gates.chunk(4)
    return torch.cat((i, f, g, o))


def pairs(rule: CoordinatewiseLSTM, lstm: plain_loop.PlainLSTM):
    """Our parameters beside theirs, with the map from our layout to theirs."""
    for ours, theirs in zip(rule.cells, lstm.cells, strict=True):
        yield ours.weight_ih, theirs.weight_ih, to_torch_order
        yield ours.weight_hh, theirs.weight_hh, to_torch_order
        yield ours.bias, theirs.bias_ih, lambda bias: to_torch_order(bias).squeeze(1)
    yield rule.head_weight, lstm.head.weight, lambda weight: weight
    yield rule.head_bias, lstm.head.bias, lambda bias: bias.squeeze(1)


def copy_of(rule: CoordinatewiseLSTM) -> plain_loop.PlainLSTM:
    lstm = plain_loop.PlainLSTM(rule.hidden_size, rule.output_scale, rule.preprocessing.p)
    with torch.no_grad():
        for ours, theirs, rearrange in pairs(rule, lstm):
            theirs.copy_(rearrange(ours))
        for cell in lstm.cells:
            cell.bias_hh.zero_()
    return lstm


@pytest.mark.parametrize(
    "make", [lambda: quadratics(problems=8), lambda: mnist_mlp(batch_size=4, count=50)], ids=["Q", "M"]
)
def test_two_windows_have_the_meta_gradient_of_ours(make):
    """The second window starts where the first one ended, so it compares what is carried over as well."""
    torch.manual_seed(0)
    setting: Setting = make()
    rule, problems = awake(CoordinatewiseLSTM(output_scale=0.1)), Problems(setting.optimizee)
    lstm = copy_of(rule)
    theta = problems.draw(setting.problems, torch.Generator().manual_seed(1))
    hidden, instance = lstm.init_state(theta), setting.window(0).instance
    state = fresh_state(theta, initial_state(rule, theta), instance, torch.full((setting.problems,), 100))

    for number in range(2):
        window = setting.window(number)
        walked = backpropagate(rule, problems, state, window, Objective())
        state = walked.state
        points = (window.data(t, instance) for t in range(UNROLL + 1))
        loss, theta, hidden = plain_loop.window(lstm, setting.loss, theta, hidden, points, UNROLL)

        torch.testing.assert_close(loss, walked.meta_loss)
        torch.testing.assert_close(theta, state.theta)
        for module, value in ((rule, walked.meta_loss), (lstm, loss)):
            module.zero_grad()
            value.backward()
        for ours, theirs, rearrange in pairs(rule, lstm):
            assert ours.grad.any()
            torch.testing.assert_close(theirs.grad, rearrange(ours.grad), rtol=1e-9, atol=1e-12)
