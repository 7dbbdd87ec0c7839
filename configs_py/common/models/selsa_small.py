"""A small SELSA for images of about 128 px: attention over the boxes of 16 frames, trained from scratch on a CPU in minutes."""

from ultravid.config import LazyCall as L
from ultravid.layers import SELSAModule
from ultravid.modeling import RelationMixer

from .faster_rcnn_small import model

model.token_mixer = L(RelationMixer)(
    relation=L(SELSAModule)(dim=128, num_layers=2), context_frames=15, context_stride=2, causal=True
)
