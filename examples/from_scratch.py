"""Learning to learn (Andrychowicz et al. 2016) in full: an LSTM learns to optimize random quadratics, with torch alone.

B problems of n coordinates, V to test on, U inner steps in an unroll, H hidden units, R = B * n rows of the LSTM.
"""

import torch
from torch import Tensor, nn

B, V, n, U, H, HORIZON, RATES = 64, 256, 10, 20, 20, 100, (0.01, 0.03, 0.1, 0.3, 1.0)


def loss(theta: Tensor, w: Tensor, y: Tensor) -> Tensor:
    """||W theta - y||^2 of every problem."""
    return (torch.einsum("bij,bj->bi", w, theta) - y).square().sum(1)  # (B,)


def unroll(phi: nn.ModuleList, theta: Tensor, state: tuple, w: Tensor, y: Tensor, steps: int) -> tuple:
    """Let the learned optimizer take some steps; the meta-loss, the final loss, and where to go on."""
    theta = theta.detach().requires_grad_()  # (B, n)
    losses, meta_loss = loss(theta, w, y), torch.zeros(())  # (B,), ()
    for _ in range(steps):
        (grad,) = torch.autograd.grad(losses.sum(), theta, retain_graph=True)  # (B, n), detached
        state = phi[0](grad.reshape(-1, 1), state or None)  # h and c, (R, H) each; zeros at first
        theta = theta + 0.1 * phi[1](state[0]).view_as(theta)  # (B, n)
        losses = loss(theta, w, y)  # (B,)
        meta_loss = meta_loss + losses.mean() / steps
    return meta_loss, losses.mean().item(), theta, (state[0].detach(), state[1].detach())  # truncated here


def adam(rate: float, theta: Tensor, w: Tensor, y: Tensor) -> float:
    """The final loss with Adam."""
    optimizer = torch.optim.Adam([theta := theta.clone().requires_grad_()], rate)
    for _ in range(HORIZON):
        (theta.grad,) = torch.autograd.grad(loss(theta, w, y).sum(), theta)  # (B, n)
        optimizer.step()
    return loss(theta, w, y).mean().item()


def main(windows: int = 400) -> tuple[float, float]:
    """Meta-train; the final losses of the learned optimizer and of the best Adam on fresh problems."""
    torch.manual_seed(0)
    phi = nn.ModuleList([nn.LSTMCell(1, H), nn.Linear(H, 1)])
    outer = torch.optim.Adam(phi.parameters(), lr=0.01)
    for window in range(windows):
        if window % (HORIZON // U) == 0:  # new problems: theta and y (B, n), w (B, n, n)
            theta, w, y, state = 0.01 * torch.randn(B, n), torch.randn(B, n, n), torch.randn(B, n), ()
        meta_loss, _, theta, state = unroll(phi, theta, state, w, y, U)
        outer.param_groups[0]["lr"] = 0.01 * (1 - window / windows)
        phi.zero_grad()
        meta_loss.backward()  # through all updates of the window, to phi
        nn.utils.clip_grad_norm_(phi.parameters(), 0.03)
        outer.step()
    theta, w, y = 0.01 * torch.randn(V, n), torch.randn(V, n, n), torch.randn(V, n)
    learned, best = unroll(phi, theta, (), w, y, HORIZON)[1], min(adam(rate, theta, w, y) for rate in RATES)
    print(f"mean loss after {HORIZON} steps on fresh problems: learned {learned:.3f}, best Adam {best:.3f}")
    return learned, best


if __name__ == "__main__":
    main()
