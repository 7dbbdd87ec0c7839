"""MEGA: Faster R-CNN with two relation layers over the boxes of 10 frames and a memory of 16 earlier ones."""

from ultravid.config import LazyCall as L
from ultravid.layers import RelationModule
from ultravid.modeling import MEGAMixer

from .faster_rcnn import model

model.roi_pooler.box_pooler.output_size = 7
model.token_mixer = L(MEGAMixer)(
    relation=L(RelationModule)(dim=256, num_heads=8, num_layers=2, geometry_dim=256),
    local_frames=10,
    memory_frames=16,
    context_stride=1,
    causal=False,
    recent_memory_frames=0,  # 10: the memory of the published code
    gt_memory_keys=False,  # True: as the published code trains
)
