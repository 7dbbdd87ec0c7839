"""A small RelationNet for images of about 128 px: relation layers over the boxes of a frame, trained from scratch on a CPU in minutes."""

from ultravid.config import LazyCall as L
from ultravid.layers import RelationModule
from ultravid.modeling import RelationMixer

from .faster_rcnn_small import model

model.token_mixer = L(RelationMixer)(
    relation=L(RelationModule)(dim=128, num_heads=8, num_layers=2, geometry_dim=64), context_frames=0
)
