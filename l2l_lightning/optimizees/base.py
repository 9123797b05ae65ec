"""What an optimizee is."""

import torch
from torch import Tensor, nn

from l2l_lightning.core.window import Data


class OptimizeeModule(nn.Module):
    """A problem to be optimized: an ordinary module whose forward returns the loss.

    The project runs B copies of it side by side through ``torch.func``, so ``forward`` is written for one problem, with
    operations that ``torch.vmap`` supports and without state that changes.
    """

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw new initial parameters in place, from this generator alone."""
        raise NotImplementedError(f"{type(self).__name__} must define reset_parameters(generator).")

    def forward(self, data: Data) -> Tensor:
        """The scalar loss of one problem on its instance and minibatch."""
        raise NotImplementedError(f"{type(self).__name__} must define forward(data).")

    def metrics(self, data: Data) -> dict[str, Tensor]:
        """Scalars of interest on held-out data, such as the accuracy; none by default."""
        return {}
