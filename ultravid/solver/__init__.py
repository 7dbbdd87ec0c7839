"""Parameter groups and learning-rate schedules."""

from ultravid.solver.param_groups import get_default_optimizer_params
from ultravid.solver.schedules import LRMultiplier, WarmupParamScheduler

__all__ = ["LRMultiplier", "WarmupParamScheduler", "get_default_optimizer_params"]
