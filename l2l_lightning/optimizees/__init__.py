"""Problems to be optimized, as plug-ins."""

from l2l_lightning.optimizees.base import OptimizeeModule
from l2l_lightning.optimizees.convnets import BatchNormConvNet, ConvCifar, ConvMnist
from l2l_lightning.optimizees.from_module import FromModule
from l2l_lightning.optimizees.functions import (
    Booth,
    Function,
    Rastrigin,
    Rosenbrock,
    StyblinskiTang,
    SumOfSquares,
    TestFunction,
)
from l2l_lightning.optimizees.images import ImageClassifier, ImageMLP
from l2l_lightning.optimizees.meta_training import MetaTrainingProblem
from l2l_lightning.optimizees.quadratic import Quadratic

__all__ = [
    "BatchNormConvNet",
    "Booth",
    "ConvCifar",
    "ConvMnist",
    "FromModule",
    "Function",
    "ImageClassifier",
    "ImageMLP",
    "MetaTrainingProblem",
    "OptimizeeModule",
    "Quadratic",
    "Rastrigin",
    "Rosenbrock",
    "StyblinskiTang",
    "SumOfSquares",
    "TestFunction",
]
