"""The same detector without time: its boxes relate to those of their own frame alone.

Command:  python tools/lazyconfig_train.py --config-file projects/basicdet/configs/phantom_one_frame.py
Figure:   ONEFRAME
Hardware: as phantom.py.
"""

from .phantom import *

train.output_dir = "./outputs/phantom_one_frame"
model.context_frames = 0
