"""BasicDet: Faster R-CNN with two relation layers over the boxes of 16 frames."""

from ultravid.config import LazyCall as L
from ultravid.layers import RelationModule
from ultravid.modeling import BasicDet

from .faster_rcnn import model

model._target_ = BasicDet
model.roi_heads.relation = L(RelationModule)(dim=256, num_heads=8, num_layers=2, geometry_dim=256)
model.context_frames = 15
model.context_stride = 1
model.causal = False
