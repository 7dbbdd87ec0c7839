"""RelationNet: Faster R-CNN with two relation layers over the boxes of a frame."""

from ultravid.config import LazyCall as L
from ultravid.layers import RelationModule
from ultravid.modeling import RelationMixer

from .faster_rcnn import model

model.token_mixer = L(RelationMixer)(
    relation=L(RelationModule)(dim=256, num_heads=8, num_layers=2, geometry_dim=256), context_frames=0
)
