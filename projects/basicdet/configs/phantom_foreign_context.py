"""A control experiment: the temporal detector with each frame's context taken from other videos, in training and evaluation.

Command:  python tools/lazyconfig_train.py --config-file projects/basicdet/configs/phantom_foreign_context.py
Metrics:  AP50 65.9 and 68.2, FP80 51.1 and 51.6 (seeds 0 and 1): no better than a single frame.
Hardware: as phantom.py.
"""

from .phantom import *

train.output_dir = "./outputs/phantom_foreign_context"
dataloader.train.foreign_context = True
dataloader.test.foreign_context = True
