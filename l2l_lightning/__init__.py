"""Learning to learn by gradient descent by gradient descent.

The names below are imported when they are first used, so ``import l2l_lightning`` takes no time.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from l2l_lightning.data.base import ProblemDataModule
    from l2l_lightning.learned_optimizer import LearnedOptimizer
    from l2l_lightning.optimizees.base import OptimizeeModule
    from l2l_lightning.rules.base import UpdateRule
    from l2l_lightning.training.module import MetaOptimizerModule

__all__ = ["LearnedOptimizer", "MetaOptimizerModule", "OptimizeeModule", "ProblemDataModule", "UpdateRule"]
__version__ = version("l2l_lightning")

_MODULES = {
    "LearnedOptimizer": "learned_optimizer",
    "MetaOptimizerModule": "training.module",
    "OptimizeeModule": "optimizees",
    "ProblemDataModule": "data",
    "UpdateRule": "rules",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
