"""YOLOX with a tracker (Kalman filter, Hungarian assignment on CIoU), small, on the phantom; it is trained as YOLOX.

Command:  python tools/lazyconfig_train.py --config-file projects/one_stage/configs/phantom_trackyolo.py
Metrics:  AP50 64.7, FP80 - (seed 0; - is a recall that is not reached).
Hardware: as phantom.py.
"""

from ultravid.config import get_config

from .phantom import *

model = get_config("common/models/trackyolo_small.py").model
train.output_dir = "./outputs/trackyolo_phantom"
