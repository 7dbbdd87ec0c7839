"""Learning-rate schedules, as functions of the training progress from 0 to 1."""

from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler

from ultravid.config import LazyCall as L
from ultravid.solver import WarmupParamScheduler

# The published recipe: divide the rate by ten after 6,000 and 8,000 of 10,000 iterations; 1,000 iterations of warm-up.
steps_60_80 = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(values=[1.0, 0.1, 0.01], milestones=[6000, 8000, 10000]),
    warmup_factor=0.001,
    warmup_length=0.1,
)

cosine = L(WarmupParamScheduler)(
    scheduler=L(CosineParamScheduler)(
        start_value=1.0,  # factor of the optimizer's rate at the start
        end_value=0.0,  # and at the end
    ),
    warmup_factor=0.001,
    warmup_length=0.1,
)
