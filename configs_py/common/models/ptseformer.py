"""PTSEFormer: Deformable DETR whose encoded map gathers, cell by cell, what the maps of 16 frames show."""

from ultravid.config import LazyCall as L
from ultravid.modeling import ProgressiveAggregation

from .deformable_detr import model

model.memory_context = L(ProgressiveAggregation)(
    dim=256,
    stride=16,
    num_layers=2,
    num_heads=8,
    ffn_dim=2048,
    context_frames=15,
    context_stride=1,
    num_transitions=None,  # 1 is what the published code computes, and costs a fifth in a stream
    causal=False,
)
