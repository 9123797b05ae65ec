"""Pure functions and dataclasses: no Lightning, no data sets, no files."""

from l2l_lightning.core.horizon import FixedHorizon, GrowingHorizon, Horizon, RandomHorizon, Restarts, Stage, ToldTotal
from l2l_lightning.core.objective import Objective

__all__ = ["FixedHorizon", "GrowingHorizon", "Horizon", "Objective", "RandomHorizon", "Restarts", "Stage", "ToldTotal"]
