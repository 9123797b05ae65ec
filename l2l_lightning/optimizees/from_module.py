"""Any module with a loss as an optimizee."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from l2l_lightning.core.errors import InputError
from l2l_lightning.core.window import Data
from l2l_lightning.optimizees.base import OptimizeeModule
from l2l_lightning.optimizees.images import accuracy


class FromModule(OptimizeeModule):
    """``loss(module(data[input]), data[target])`` for a module that knows nothing of this project.

    Problems start from the ``reset_parameters()`` that torch's own layers have, called under a random state of their
    own; parameters of other modules keep the values they came with. Batch norm uses the statistics of the batch alone.

    Args:
        module: any network that ``torch.vmap`` can run, from images or whatever the DataModule provides.
        loss: of the module's output and the target; cross-entropy where none is given.
        input: name of what the module reads in the DataModule's data.
        target: name of what the loss compares with.

    Raises:
        InputError: if the module has dropout, whose randomness would not follow the problems' own, or no parameters
            that can be drawn anew.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        input: str = "image",
        target: str = "label",
    ) -> None:
        super().__init__()
        self.module = torch.func.replace_all_batch_norm_modules_(copy.deepcopy(module))
        self.loss = nn.CrossEntropyLoss() if loss is None else loss
        self.input, self.target = input, target
        for name, part in self.module.named_modules():
            if isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0:
                raise InputError(f"FromModule: {name or type(part).__name__} is dropout, which is random; set p to 0.")
        self._resettable = [part for part in self.module.modules() if callable(getattr(part, "reset_parameters", None))]
        if not any(list(part.parameters(recurse=False)) for part in self._resettable):
            raise InputError(
                f"FromModule: no part of {type(module).__name__} has reset_parameters(), so that all problems would "
                "start from the same parameters; define it, or write an OptimizeeModule."
            )

    def reset_parameters(self, generator: torch.Generator) -> None:
        # torch's layers draw from the global generator, which gets a seed of this one's and is put back afterwards.
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        parameter = next(self.module.parameters())
        with torch.random.fork_rng([parameter.device] if parameter.is_cuda else []):
            torch.manual_seed(seed)
            for part in self._resettable:
                part.reset_parameters()  # type: ignore[operator]

    def forward(self, data: Data) -> Tensor:
        return self.loss(self.module(data[self.input]), data[self.target])

    def metrics(self, data: Data) -> dict[str, Tensor]:
        """The loss as ``held_out_loss``, and for class labels the ``accuracy``."""
        output, target = self.module(data[self.input]), data[self.target]
        scores = {"held_out_loss": self.loss(output, target)}
        if not target.is_floating_point() and output.dim() == 2:
            scores["accuracy"] = accuracy(output, target)
        return scores
