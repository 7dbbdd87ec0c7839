"""MEGA (Chen et al., "Memory enhanced global-local aggregation", CVPR 2020) on CVA-BUS, full size: clips of 6 memory and 10 local frames.

Command:   as cva_bus.py. With `model.token_mixer.recent_memory_frames=10` in evaluation, the memory is that of UltraDet's comparison,
           which reaches no further back than the local window; training is the same.
Metrics:   not measured here; UltraDet's paper reports AP50 90.9, Pr80 93.9, FP80 3.1 over four folds, with that memory.
Hardware:  as cva_bus.py.
"""

from torch.nn.utils import clip_grad_value_

from ultravid.config import LazyCall as L
from ultravid.config import LazyPartial, get_config
from ultravid.data import MemoryFrameSampler

from .cva_bus import *

model = get_config("common/models/mega.py").model
dataloader.train.frame_sampler = L(MemoryFrameSampler)(num_memory=6, memory_interval=10, num_frames=10, window=20)
optimizer.lr = 2e-3
trainer.clip_grad = LazyPartial(clip_grad_value_)(clip_value=1.0)
train.output_dir = "./outputs/mega_cva_bus"
