"""What B problems see during one truncated unroll."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Data = dict[str, Tensor]


class Window(NamedTuple):
    """Fresh instances and minibatches for the U+1 points that one unroll visits.

    Attributes:
        number: k, the window's place in its stream.
        problems: B, the number of problems side by side.
        unroll: U, inner steps in the window.
        instance: leaves (B, ...): new problem instances, used by the problems that reset at the window's start.
        batches: leaves (U+1, B, ...): what point t of problem b sees of its data stream.
        prepare: turns the slice of ``batches`` at one point into what the optimizee reads, on the device
            (for images: indices -> normalised floats); None where nothing needs to be done.
    """

    number: int
    problems: int
    unroll: int
    instance: Data
    batches: Data
    prepare: Callable[[Data], Data] | None = None

    def data(self, point: int, instance: Data) -> Data:
        """What the optimizees evaluate at one point: leaves (B, ...) of their instances and minibatches together."""
        batch = {name: leaf[point] for name, leaf in self.batches.items()}
        return {**instance, **(self.prepare(batch) if self.prepare and batch else batch)}

    def repeat(self, copies: int) -> "Window":
        """The same problems ``copies`` times: problem v of copy c is number c B + v."""
        if copies == 1:
            return self
        instance = {name: leaf.repeat(copies, *[1] * (leaf.dim() - 1)) for name, leaf in self.instance.items()}
        batches = {name: leaf.repeat(1, copies, *[1] * (leaf.dim() - 2)) for name, leaf in self.batches.items()}
        return self._replace(problems=copies * self.problems, instance=instance, batches=batches)

    def to(self, device: torch.device | str) -> "Window":
        """The window with all tensors on ``device``."""
        instance = {name: leaf.to(device) for name, leaf in self.instance.items()}
        return self._replace(instance=instance, batches={name: leaf.to(device) for name, leaf in self.batches.items()})

    def clone(self) -> "Window":
        """Copies of all tensors; outside ``inference_mode`` they may take part in autograd."""
        instance = {name: leaf.clone() for name, leaf in self.instance.items()}
        return self._replace(instance=instance, batches={name: leaf.clone() for name, leaf in self.batches.items()})
