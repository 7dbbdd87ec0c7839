"""A small PTSEFormer for images of about 128 px, causal: `deformable_detr_small.py` whose encoded map relates to those of 16 frames."""

from ultravid.config import LazyCall as L
from ultravid.modeling import ProgressiveAggregation

from .deformable_detr_small import model

model.memory_context = L(ProgressiveAggregation)(
    dim=96,
    stride=8,
    num_layers=1,
    num_heads=8,
    ffn_dim=192,
    context_frames=15,
    context_stride=2,
    num_transitions=1,  # with None each pair of a clip's frames is related: ten times as long a step
    causal=True,
)
