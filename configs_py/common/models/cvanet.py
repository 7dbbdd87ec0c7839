"""CVA-Net as UltraDet's published code has it: Deformable DETR on the mean of a frame's feature map and that of 8 frames before."""

from ultravid.config import LazyCall as L
from ultravid.modeling import FrameFusion

from .deformable_detr import model

model.feature_context = L(FrameFusion)(channels=256, stride=16, lag=8, channel_pairs=False)
