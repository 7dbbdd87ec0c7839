"""TrackYOLO on CVA-BUS, full size: YOLOX, trained as in cva_bus_yolox.py, and a tracker.

Command:   as cva_bus.py.
Metrics:   not measured here; UltraDet's paper reports AP50 80.1, Pr80 75.1, FP80 18.1 over four folds.
Hardware:  as cva_bus.py.
"""

from ultravid.config import get_config

from .cva_bus_yolox import *

model = get_config("common/models/trackyolo.py").model
train.output_dir = "./outputs/trackyolo_cva_bus"
