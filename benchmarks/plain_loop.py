"""The yardstick: meta-training of the coordinatewise LSTM as a careful notebook would write it.

Only PyTorch and nothing of l2l_lightning. The mathematics is the same as ours, and tests/benchmarks/test_plain_loop.py
holds the two meta-gradients together: B problems side by side, LogAndSign features, two LSTM layers of 20 units, no
second derivatives, the mean loss over the U+1 points of a window as meta-loss, a state detached between windows. Only
``nn.LSTMCell``'s second bias is extra: its gradient is that of the first, so Adam moves their sum twice as far.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.nn import functional as F

Data = dict[str, Tensor]
Loss = Callable[[Tensor, Data], Tensor]
Hidden = list[tuple[Tensor, Tensor]]


def quadratic(theta: Tensor, data: Data) -> Tensor:
    """||W theta - y||^2 of one problem, theta (n,)."""
    return (data["W"] @ theta - data["y"]).square().sum()


def mnist_mlp(theta: Tensor, data: Data) -> Tensor:
    """Cross-entropy (nats) of a 784-20-10 sigmoid network on one minibatch, theta (15910,)."""
    w1, b1, w2, b2 = theta.split([784 * 20, 20, 20 * 10, 10])
    hidden = torch.sigmoid(F.linear(data["image"].flatten(1), w1.view(20, 784), b1))
    return F.cross_entropy(F.linear(hidden, w2.view(10, 20), b2), data["label"])


class PlainLSTM(nn.Module):
    """Gradients (B, n) -> steps (B, n); every coordinate of every problem is one row of the LSTM's batch.

    Args:
        hidden_size: units of each of the two layers.
        output_scale: factor on the head's output.
        p: gradients below e^-p are scaled linearly.
    """

    def __init__(self, hidden_size: int = 20, output_scale: float = 0.01, p: float = 10.0) -> None:
        super().__init__()
        self.cells = nn.ModuleList([nn.LSTMCell(2, hidden_size), nn.LSTMCell(hidden_size, hidden_size)])
        self.head = nn.Linear(hidden_size, 1)
        self.hidden_size, self.output_scale, self.p = hidden_size, output_scale, p

    def init_state(self, theta: Tensor) -> Hidden:
        """Zeros: (h, c) of each layer, both (B * n, hidden_size)."""
        zeros = theta.new_zeros(theta.numel(), self.hidden_size)
        return [(zeros, zeros) for _ in self.cells]

    def forward(self, gradient: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        x = self.log_and_sign(gradient.reshape(-1))
        new_hidden = []
        for cell, state in zip(self.cells, hidden, strict=True):
            new_hidden.append(cell(x, state))
            x = new_hidden[-1][0]
        return self.head(x).view_as(gradient) * self.output_scale, new_hidden

    def log_and_sign(self, gradient: Tensor) -> Tensor:
        """Gradients (R,) -> features (R, 2), appendix A of Andrychowicz et al. 2016."""
        size = gradient.abs()
        large = size >= math.exp(-self.p)
        log = torch.where(large, size.log() / self.p, -1.0)
        sign = torch.where(large, gradient.sign(), gradient * math.exp(self.p))
        return torch.stack((log, sign), dim=1)


def window(
    lstm: PlainLSTM, loss: Loss, theta: Tensor, hidden: Hidden, points: Iterable[Data], unroll: int
) -> tuple[Tensor, Tensor, Hidden]:
    """One truncated unroll: the meta-loss with its graph, then theta (B, n) and the hidden state, both detached.

    Args:
        lstm: the learned rule.
        loss: of one problem; mapped over the B problems.
        theta: (B, n), where the problems stand.
        hidden: the rule's state there.
        points: data of the U+1 points that the window visits, leaves (B, ...).
        unroll: U, inner steps.
    """
    losses, gradients = vmap(loss), vmap(grad(loss))
    total = theta.new_zeros(())
    for t, data in enumerate(points):
        total = total + losses(theta, data).mean()
        if t < unroll:
            step, hidden = lstm(gradients(theta.detach(), data), hidden)
            theta = theta + step
    return total / (unroll + 1), theta.detach(), [(h.detach(), c.detach()) for h, c in hidden]
