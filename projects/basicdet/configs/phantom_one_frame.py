"""The same detector without time: its boxes relate to those of their own frame alone."""

from .phantom import *

train.output_dir = "./outputs/phantom_one_frame"
model.context_frames = 0
