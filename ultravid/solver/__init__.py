"""Parameter groups, clipping and learning-rate schedules."""

from ultravid.solver.clipping import clip_each_grad_norm_
from ultravid.solver.param_groups import get_default_optimizer_params
from ultravid.solver.schedules import LRMultiplier, WarmupParamScheduler

__all__ = ["LRMultiplier", "WarmupParamScheduler", "clip_each_grad_norm_", "get_default_optimizer_params"]
