"""Image classifiers as optimizees."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from l2l_lightning.core.errors import check_choice, check_non_negative, check_positive_int, check_positive_ints
from l2l_lightning.core.window import Data
from l2l_lightning.optimizees.base import OptimizeeModule

Activation = Literal["sigmoid", "relu", "tanh", "elu"]
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "relu": F.relu,
    "tanh": torch.tanh,
    "elu": F.elu,
}


def accuracy(logits: Tensor, label: Tensor) -> Tensor:
    """Share of the images whose largest logit, of (batch, classes), is that of their label (batch,)."""
    from torchmetrics.functional.classification import multiclass_accuracy  # importing it takes seconds

    return multiclass_accuracy(logits, label, num_classes=logits.shape[-1], average="micro", validate_args=False)


class ImageClassifier(OptimizeeModule):
    """Cross-entropy (nats) of ``image`` (batch, C, H, W) against ``label`` (batch,); it and the accuracy as metrics."""

    def logits(self, image: Tensor) -> Tensor:
        """Images (batch, C, H, W) -> logits (batch, classes)."""
        raise NotImplementedError(f"{type(self).__name__} must define logits(image).")

    def forward(self, data: Data) -> Tensor:
        return F.cross_entropy(self.logits(data["image"]), data["label"])

    def metrics(self, data: Data) -> dict[str, Tensor]:
        logits = self.logits(data["image"])
        return {
            "held_out_loss": F.cross_entropy(logits, data["label"]),
            "accuracy": accuracy(logits, data["label"]),
        }


class ImageMLP(ImageClassifier):
    """A multilayer perceptron; by default the 784-20-10 sigmoid network of Andrychowicz et al. 2016 for MNIST.

    Args:
        hidden_sizes: units of each hidden layer.
        activation: sigmoid, relu, tanh or elu.
        weight_std: weights start as N(0, weight_std^2).
        bias_std: biases start as N(0, bias_std^2).
        in_features: values in one image, 28 * 28 for MNIST.
        classes: number of logits.
    """

    def __init__(
        self,
        hidden_sizes: Sequence[int] = (20,),
        activation: Activation = "sigmoid",
        weight_std: float = 0.01,
        bias_std: float = 0.01,
        in_features: int = 784,
        classes: int = 10,
    ) -> None:
        super().__init__()
        check_choice(self, get_args(Activation), activation=activation)
        check_non_negative(self, weight_std=weight_std, bias_std=bias_std)
        check_positive_ints(self, hidden_sizes=hidden_sizes)
        check_positive_int(self, in_features=in_features, classes=classes)
        self.hidden_sizes = list(hidden_sizes)
        self.activation = activation
        self.weight_std, self.bias_std = weight_std, bias_std
        self.in_features, self.classes = in_features, classes
        self.layers = nn.ModuleList(
            nn.Linear(fan_in, fan_out) for fan_in, fan_out in pairwise([in_features, *hidden_sizes, classes])
        )

    def reset_parameters(self, generator: torch.Generator) -> None:
        for layer in self.layers:
            for parameter, std in ((layer.weight, self.weight_std), (layer.bias, self.bias_std)):
                nn.init.normal_(parameter, std=std, generator=generator)  # type: ignore[arg-type]

    def logits(self, image: Tensor) -> Tensor:
        x = image.flatten(1)
        for layer in self.layers[:-1]:
            x = ACTIVATIONS[self.activation](layer(x))
        return self.layers[-1](x)
