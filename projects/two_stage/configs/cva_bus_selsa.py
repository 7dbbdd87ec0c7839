"""SELSA (Wu et al., "Sequence level semantics aggregation", ICCV 2019) on CVA-BUS, full size.

Command:   as cva_bus.py.
Metrics:   not measured here; UltraDet's paper reports AP50 89.2, Pr80 91.6, FP80 7.5 over four folds.
Hardware:  as cva_bus.py.
"""

from ultravid.config import get_config

from .cva_bus import *

model = get_config("common/models/selsa.py").model
train.output_dir = "./outputs/selsa_cva_bus"
