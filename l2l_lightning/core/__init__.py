"""Pure functions and dataclasses: no Lightning, no data sets, no files."""

from l2l_lightning.core.horizon import FixedHorizon, GrowingHorizon, Horizon, RandomHorizon, Stage
from l2l_lightning.core.objective import Objective

__all__ = ["FixedHorizon", "GrowingHorizon", "Horizon", "Objective", "RandomHorizon", "Stage"]
