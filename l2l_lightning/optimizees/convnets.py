"""Convolutional image classifiers as optimizees, with the architectures of the papers they come from."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from l2l_lightning.core.errors import InputError, check_non_negative, check_positive_int, check_positive_ints
from l2l_lightning.core.window import Data
from l2l_lightning.optimizees.images import ImageClassifier


def _truncated_normal(parameter: Tensor, std: float, generator: torch.Generator) -> None:
    """N(0, std^2) cut at two standard deviations, as TensorFlow's ``truncated_normal``."""
    nn.init.trunc_normal_(parameter, std=std, a=-2 * std, b=2 * std, generator=generator)


class ConvMnist(ImageClassifier):
    """TensorFlow's first convolutional network for MNIST; section 2.3.3 of Shahid 2017.

    Two 5x5 convolutions with ReLU and 2x2 max pools, a dense layer with ReLU, 10 logits. The thesis' ConvMnist_l
    (3,274,634 parameters) by default; ``channels=[16, 32], hidden_size=512`` is its ConvMnist_s (821,706). Weights
    start as N(0, 0.1^2) cut at two standard deviations, biases at 0.1.

    Args:
        channels: of the two convolutions.
        hidden_size: units of the dense layer.
        image_size: height and width of the one-channel images, a multiple of 4.
        classes: number of logits.
    """

    def __init__(
        self, channels: Sequence[int] = (32, 64), hidden_size: int = 1024, image_size: int = 28, classes: int = 10
    ) -> None:
        super().__init__()
        check_positive_ints(self, 2, channels=channels)
        check_positive_int(self, hidden_size=hidden_size, image_size=image_size, classes=classes)
        if image_size % 4:
            raise InputError(f"ConvMnist: image_size must be a multiple of 4, got {image_size}.")
        first, second = channels
        self.conv1 = nn.Conv2d(1, first, 5, padding="same")
        self.conv2 = nn.Conv2d(first, second, 5, padding="same")
        self.hidden = nn.Linear(second * (image_size // 4) ** 2, hidden_size)
        self.output = nn.Linear(hidden_size, classes)

    def reset_parameters(self, generator: torch.Generator) -> None:
        for layer in (self.conv1, self.conv2, self.hidden, self.output):
            _truncated_normal(layer.weight, 0.1, generator)
            nn.init.constant_(layer.bias, 0.1)  # type: ignore[arg-type]

    def logits(self, image: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(image)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.output(F.relu(self.hidden(x.flatten(1))))


class ConvCifar(ImageClassifier):
    """TensorFlow's convolutional network for CIFAR-10; section 2.3.4 of Shahid 2017.

    Two 5x5 convolutions with ReLU, local response normalization and 3x3 max pools of stride 2 (the second normalized
    before its pool, the first after), two dense layers with ReLU, 10 logits; half the dense weights' sum of squares
    times ``weight_decay`` is part of the loss. The thesis' ConvCifar_0 by default (1,068,298 parameters); its
    ConvCifar_1 is ``channels=16, hidden_sizes=[96, 46]`` (67,956). Give it images of 24 x 24, as
    ``CIFAR10DataModule(crop=24, flip=True, standardize=True)`` does.

    Args:
        channels: of both convolutions.
        hidden_sizes: units of the two dense layers.
        weight_decay: factor on half the sum of squares of every dense weight.
        image_size: height and width of the three-channel images, a multiple of 4.
        classes: number of logits.
    """

    def __init__(
        self,
        channels: int = 64,
        hidden_sizes: Sequence[int] = (384, 192),
        weight_decay: float = 0.004,
        image_size: int = 24,
        classes: int = 10,
    ) -> None:
        super().__init__()
        check_positive_ints(self, 2, hidden_sizes=hidden_sizes)
        check_positive_int(self, channels=channels, image_size=image_size, classes=classes)
        check_non_negative(self, weight_decay=weight_decay)
        if image_size % 4:
            raise InputError(f"ConvCifar: image_size must be a multiple of 4, got {image_size}.")
        self.weight_decay = weight_decay
        self.conv1 = nn.Conv2d(3, channels, 5, padding="same")
        self.conv2 = nn.Conv2d(channels, channels, 5, padding="same")
        self.dense1 = nn.Linear(channels * (image_size // 4) ** 2, hidden_sizes[0])
        self.dense2 = nn.Linear(hidden_sizes[0], hidden_sizes[1])
        self.output = nn.Linear(hidden_sizes[1], classes)

    def reset_parameters(self, generator: torch.Generator) -> None:
        starts = (
            (self.conv1, 0.05, 0.0),
            (self.conv2, 0.05, 0.1),
            (self.dense1, 0.04, 0.1),
            (self.dense2, 0.04, 0.1),
            (self.output, 1 / self.output.in_features, 0.0),
        )
        for layer, std, bias in starts:
            _truncated_normal(layer.weight, std, generator)
            nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]

    def logits(self, image: Tensor) -> Tensor:
        x = _normalize(_pool(F.relu(self.conv1(image))))
        x = _pool(_normalize(F.relu(self.conv2(x)))).flatten(1)
        return self.output(F.relu(self.dense2(F.relu(self.dense1(x)))))

    def forward(self, data: Data) -> Tensor:
        squares = sum(layer.weight.square().sum() for layer in (self.dense1, self.dense2, self.output))
        return super().forward(data) + self.weight_decay / 2 * squares


def _normalize(x: Tensor) -> Tensor:
    """x / (1 + 0.001/9 * sum of squares over the 9 nearest channels)^0.75; torch divides alpha by the size itself."""
    return F.local_response_norm(x, size=9, alpha=0.001, beta=0.75, k=1.0)


def _pool(x: Tensor) -> Tensor:
    """3x3 max pool of stride 2 with TensorFlow's SAME padding, one row and column at the end; x is not negative."""
    return F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2)


class BatchNormConvNet(ImageClassifier):
    """The network for CIFAR-10 of Andrychowicz et al. 2016, section 3.3.

    Three times 5x5 convolution, batch norm, ReLU, 2x2 max pool; a dense layer with batch norm and ReLU; 10 logits.
    Batch norm has scale and shift but no running statistics: scoring uses those of the scored batch, too. Weights and
    biases start as N(0, 0.01^2), scales at 1, shifts at 0.

    Args:
        channels: of every convolution.
        hidden_size: units of the dense layer.
        in_channels: colours of the images.
        image_size: their height and width, a multiple of 8.
        classes: number of logits.
    """

    def __init__(
        self, channels: int = 16, hidden_size: int = 32, in_channels: int = 3, image_size: int = 32, classes: int = 10
    ) -> None:
        super().__init__()
        check_positive_int(
            self,
            channels=channels,
            hidden_size=hidden_size,
            in_channels=in_channels,
            image_size=image_size,
            classes=classes,
        )
        if image_size % 8:
            raise InputError(f"BatchNormConvNet: image_size must be a multiple of 8, got {image_size}.")
        layers: list[nn.Module] = []
        for fan_in in (in_channels, channels, channels):
            convolution = nn.Conv2d(fan_in, channels, 5, padding="same")
            norm = nn.BatchNorm2d(channels, track_running_stats=False)
            layers += [convolution, norm, nn.ReLU(), nn.MaxPool2d(2)]
        hidden = nn.Linear(channels * (image_size // 8) ** 2, hidden_size)
        norm1d = nn.BatchNorm1d(hidden_size, track_running_stats=False)
        self.layers = nn.Sequential(*layers, nn.Flatten(), hidden, norm1d, nn.ReLU(), nn.Linear(hidden_size, classes))

    def reset_parameters(self, generator: torch.Generator) -> None:
        for layer in self.layers:
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.reset_parameters()
            elif isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.normal_(layer.weight, std=0.01, generator=generator)
                nn.init.normal_(layer.bias, std=0.01, generator=generator)  # type: ignore[arg-type]

    def logits(self, image: Tensor) -> Tensor:
        return self.layers(image)
