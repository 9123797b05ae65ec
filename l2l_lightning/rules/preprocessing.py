"""How gradients are presented to a learned rule."""

import math

import torch
from torch import Tensor, nn

from l2l_lightning.core.errors import InputError, check_positive


class Preprocessing(nn.Module):
    """Turns gradients (..., n) into features (F, ..., n), those of each coordinate from its own gradient alone.

    Attributes:
        features: F, the number of features of one coordinate.
    """

    features: int

    def forward(self, grad: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define forward(grad).")


class Identity(Preprocessing):
    """The gradient itself, F = 1."""

    features = 1

    def forward(self, grad: Tensor) -> Tensor:
        return grad.unsqueeze(0)


class LogAndSign(Preprocessing):
    """Logarithm and sign of the gradient, F = 2 (appendix A of Andrychowicz et al. 2016).

    (log|g| / p, sign g) where |g| >= e^-p, and (-1, e^p g) elsewhere.

    Args:
        p: gradients below e^-p are scaled linearly instead; 10 in the paper, 5 in its code; at most 80, as e^p must
            be finite in single precision.

    Raises:
        InputError: for a p outside (0, 80].
    """

    features = 2

    def __init__(self, p: float = 10.0) -> None:
        super().__init__()
        check_positive(self, p=p)
        if p > 80:
            raise InputError(f"LogAndSign: p must be at most 80, got {p!r}.")
        self.p = p

    def forward(self, grad: Tensor) -> Tensor:
        # The floor keeps log finite at 0, far below e^-p, where the first feature is clamped to -1 anyway.
        log = grad.abs().clamp_min(torch.finfo(grad.dtype).tiny).log() / self.p
        return torch.stack((log.clamp_min(-1.0), (grad * math.exp(self.p)).clamp(-1.0, 1.0)))
