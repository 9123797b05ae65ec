"""Problems to be optimized, as plug-ins."""

from l2l_lightning.optimizees.base import OptimizeeModule
from l2l_lightning.optimizees.images import ImageClassifier, ImageMLP
from l2l_lightning.optimizees.quadratic import Quadratic

__all__ = ["ImageClassifier", "ImageMLP", "OptimizeeModule", "Quadratic"]
