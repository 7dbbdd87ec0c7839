"""UltraDet on CVA-BUS, causal: `cva_bus.py`, but each frame costs the same, and training gives a frame the contexts that a stream gives it.

A clip takes every second frame, and so does the window of a stream: then a key frame lies as far back in one as in the other.

Command:   as cva_bus.py.
Metrics:   not measured.
Hardware:  as cva_bus.py.
"""

from ultravid.config import LazyCall as L
from ultravid.data import StridedFrameSampler

from .cva_bus import *

dataloader.train.frame_sampler = L(StridedFrameSampler)(num_frames=16, stride=2)
model.token_mixer.causal = True
model.token_mixer.context_stride = 2
train.output_dir = "./outputs/ultradet_cva_bus_causal"
