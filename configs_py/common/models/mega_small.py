"""A small MEGA for images of about 128 px: 10 frames and a memory of 6 earlier ones, trained from scratch on a CPU in minutes."""

from ultravid.config import LazyCall as L
from ultravid.layers import RelationModule
from ultravid.modeling import MEGAMixer

from .faster_rcnn_small import model

model.token_mixer = L(MEGAMixer)(
    relation=L(RelationModule)(dim=128, num_heads=8, num_layers=2, geometry_dim=64),
    local_frames=10,
    memory_frames=6,
    context_stride=2,
    causal=True,
)
