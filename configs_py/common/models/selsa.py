"""SELSA: Faster R-CNN with two layers of attention by appearance over the boxes of 16 frames."""

from ultravid.config import LazyCall as L
from ultravid.layers import SELSAModule
from ultravid.modeling import RelationMixer

from .faster_rcnn import model

model.token_mixer = L(RelationMixer)(
    relation=L(SELSAModule)(dim=256, num_layers=2), context_frames=15, context_stride=1, causal=False
)
