"""The same detector without time: its boxes relate to those of their own frame alone.

Command:  python tools/lazyconfig_train.py --config-file projects/basicdet/configs/phantom_one_frame.py
Figure:   AP50 66.9 and 68.6, FP80 47.8 and 51.6 (seeds 0 and 1).
Hardware: as phantom.py.
"""

from .phantom import *

train.output_dir = "./outputs/phantom_one_frame"
model.context_frames = 0
