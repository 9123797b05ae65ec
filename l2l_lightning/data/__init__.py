"""Lightning DataModules that stream windows of problems."""

from l2l_lightning.data.base import ProblemDataModule, WindowStream
from l2l_lightning.data.functions import FunctionDataModule, QuadraticDataModule
from l2l_lightning.data.images import CIFAR10DataModule, ImageDataModule, MNISTDataModule
from l2l_lightning.data.meta_training import MetaTrainingDataModule

__all__ = [
    "CIFAR10DataModule",
    "FunctionDataModule",
    "ImageDataModule",
    "MNISTDataModule",
    "MetaTrainingDataModule",
    "ProblemDataModule",
    "QuadraticDataModule",
    "WindowStream",
]
