"""Lightning DataModules that stream windows of problems."""

from l2l_lightning.data.base import ProblemDataModule, WindowStream
from l2l_lightning.data.images import MNISTDataModule
from l2l_lightning.data.quadratics import QuadraticDataModule

__all__ = ["MNISTDataModule", "ProblemDataModule", "QuadraticDataModule", "WindowStream"]
