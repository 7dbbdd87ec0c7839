"""A small CVA-Net for images of about 128 px: `deformable_detr_small.py` on the mean of two frames' feature maps."""

from ultravid.config import LazyCall as L
from ultravid.modeling import FrameFusion

from .deformable_detr_small import model

model.feature_context = L(FrameFusion)(channels=64, stride=8, lag=8, channel_pairs=False)
