"""A control: the temporal detector, with each frame's context taken from other videos, in training and in evaluation."""

from .phantom import *

train.output_dir = "./outputs/phantom_foreign_context"
dataloader.train.foreign_context = True
dataloader.test.foreign_context = True
