"""CVA-Net as UltraDet's published code has it (after Lin et al., MICCAI 2022) on CVA-BUS, full size: 8 memory and 8 local frames a clip.

Command:   as cva_bus.py.
Metrics:   not measured here; UltraDet's paper reports AP50 91.6, Pr80 92.3, FP80 4.7 over four folds.
Hardware:  as cva_bus.py.
"""

from ultravid.config import get_config

from .cva_bus import *

model = get_config("common/models/cvanet.py").model
dataloader.train.frame_sampler = get_config("common/cva_bus_recipe.py").cvanet_clips
train.output_dir = "./outputs/cvanet_cva_bus"
