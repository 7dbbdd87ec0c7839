"""Parameter groups, clipping and learning-rate schedules."""

from ultravid.solver.build import build_lr_scheduler, build_optimizer, maybe_add_gradient_clipping
from ultravid.solver.clipping import clip_each_grad_norm_
from ultravid.solver.lr_scheduler import WarmupCosineLR, WarmupMultiStepLR
from ultravid.solver.param_groups import FactorByName, get_default_optimizer_params, reduce_param_groups
from ultravid.solver.schedules import IterationMultiplier, LRMultiplier, WarmupParamScheduler

__all__ = [
    "FactorByName",
    "IterationMultiplier",
    "LRMultiplier",
    "WarmupCosineLR",
    "WarmupMultiStepLR",
    "WarmupParamScheduler",
    "build_lr_scheduler",
    "build_optimizer",
    "clip_each_grad_norm_",
    "get_default_optimizer_params",
    "maybe_add_gradient_clipping",
    "reduce_param_groups",
]
