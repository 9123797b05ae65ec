"""How phi's gradient is found over one window."""

from l2l_lightning.core.estimators.backpropagation import Backpropagation
from l2l_lightning.core.estimators.base import Estimator, EstimatorState
from l2l_lightning.core.estimators.evolution import EvolutionStrategies

__all__ = ["Backpropagation", "Estimator", "EstimatorState", "EvolutionStrategies"]
