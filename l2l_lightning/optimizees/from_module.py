"""Any module with a loss as an optimizee."""

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from l2l_lightning.core.errors import InputError
from l2l_lightning.core.random import drawn_from
from l2l_lightning.core.window import Data
from l2l_lightning.optimizees.base import OptimizeeModule
from l2l_lightning.optimizees.images import accuracy


class FromModule(OptimizeeModule):
    """``loss(module(data[input]), data[target])`` for a module that knows nothing of this project.

    Problems start from the ``reset_parameters()`` that torch's own layers have, called under a random state of their
    own, the inner modules' before the outer ones'; parameters that none of them draws keep the values they came with,
    which a warning says. Batch norm uses the statistics of the batch alone.

    Args:
        module: any network that ``torch.vmap`` can run, from images or whatever the DataModule provides.
        loss: of the module's output and the target, a module such as ``torch.nn.MSELoss`` or a function such as
            ``torch.nn.functional.cross_entropy``; cross-entropy where none is given.
        input: name of what the module reads in the DataModule's data.
        target: name of what the loss compares with.

    Raises:
        InputError: if the module has dropout, whose randomness would not follow the problems' own, lazy or frozen
            parameters, or none that can be drawn anew.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: nn.Module | Callable[..., Any] | None = None,
        input: str = "image",
        target: str = "label",
    ) -> None:
        super().__init__()
        if next(module.parameters(), None) is None:
            raise InputError(f"FromModule: {type(module).__name__} has no parameters to optimize.")
        for name, parameter in module.named_parameters():
            if isinstance(parameter, nn.parameter.UninitializedParameter):
                raise InputError(f"FromModule: {name} is lazy and has no shape yet; call the module once before.")
            if not parameter.requires_grad:
                raise InputError(f"FromModule: {name} is frozen, but all parameters are optimized; make it a buffer.")
        self.module = torch.func.replace_all_batch_norm_modules_(copy.deepcopy(module))
        self.loss = nn.CrossEntropyLoss() if loss is None else loss
        self.input, self.target = input, target
        for name, part in self.module.named_modules():
            if isinstance(part, nn.modules.dropout._DropoutNd) and part.p > 0:
                raise InputError(f"FromModule: {name or type(part).__name__} is dropout, which is random; set p to 0.")
        parts = [part for part in self.module.modules() if callable(getattr(part, "reset_parameters", None))]
        self._resettable = parts[::-1]
        self._check_starts(type(module).__name__)

    def _check_starts(self, name: str) -> None:
        """Two draws tell which parameters are drawn at all."""
        draws = [{key: value.detach().clone() for key, value in self.named_parameters()}]
        for seed in (0, 1):
            self.reset_parameters(torch.Generator().manual_seed(seed))
            draws.append({key: value.detach().clone() for key, value in self.named_parameters()})
        self.load_state_dict(draws[0], strict=False)
        same = [key for key, value in draws[1].items() if torch.equal(value, draws[2][key])]
        if len(same) == len(draws[0]):
            raise InputError(
                f"FromModule: no part of {name} has a reset_parameters() that draws anew, so that all problems would "
                "start from the same parameters; define it, or write an OptimizeeModule."
            )
        # Constants, such as the scale of a norm, are meant to be the same everywhere.
        shared = [key for key in same if draws[1][key].unique().numel() > 1]
        if shared:
            warnings.warn(
                f"FromModule: all problems start from the same {', '.join(shared)}, which no reset_parameters() draws.",
                stacklevel=3,
            )

    def reset_parameters(self, generator: torch.Generator) -> None:
        with drawn_from(generator, next(self.module.parameters()).device):
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
