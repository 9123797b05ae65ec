"""Meta-gradients that are not finite: no step is taken on them, they are counted, and too many end the training."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class SkippedSteps:
    """Counts of skipped outer steps; phi is shared, so all processes count the same.

    Attributes:
        skipped_steps: since the start.
        skipped_in_a_row: up to now.
    """

    skipped_steps: int = 0
    skipped_in_a_row: int = 0

    def norm(self, parameters: Iterable[nn.Parameter]) -> Tensor | None:
        """The norm of phi's gradient; where it is not finite, None, and the gradients are taken away.

        torch's optimizers leave parameters without a gradient, and their state, alone.
        """
        with_grad = [parameter for parameter in parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in with_grad])  # type: ignore[misc]
        if torch.isfinite(norm):
            self.skipped_in_a_row = 0
            return norm
        self.skipped_steps += 1
        self.skipped_in_a_row += 1
        for parameter in with_grad:
            parameter.grad = None
        return None
