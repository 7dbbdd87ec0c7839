"""MEGA (Chen et al., "Memory enhanced global-local aggregation", CVPR 2020) on CVA-BUS, full size: clips of 6 memory and 10 local frames.

Command:   as cva_bus.py. With `model.token_mixer.recent_memory_frames=10` in evaluation, the memory is that of UltraDet's comparison,
           which reaches no further back than the local window; training is the same.
Metrics:   not measured here; UltraDet's paper reports AP50 90.9, Pr80 93.9, FP80 3.1 over four folds, with that memory.
Hardware:  as cva_bus.py.
"""

from ultravid.config import get_config

from .cva_bus import *

_recipe = get_config("common/cva_bus_recipe.py")

model = get_config("common/models/mega.py").model
dataloader.train.frame_sampler = _recipe.mega_clips
optimizer.lr = 2e-3
trainer.clip_grad = _recipe.clip_grad
train.output_dir = "./outputs/mega_cva_bus"
