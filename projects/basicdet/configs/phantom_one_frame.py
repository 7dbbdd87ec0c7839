"""The same detector without temporal context: boxes are related only to those of their own frame.

Command:  python tools/lazyconfig_train.py --config-file projects/basicdet/configs/phantom_one_frame.py
Metrics:  AP50 66.9 and 68.6, FP80 47.8 and 51.6 (seeds 0 and 1).
Hardware: as phantom.py.
"""

from .phantom import *

train.output_dir = "./outputs/phantom_one_frame"
model.token_mixer.context_frames = 0
