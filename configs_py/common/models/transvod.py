"""TransVOD: Deformable DETR whose queries relate to those of 16 frames, then look at their own frame once more."""

from ultravid.config import LazyCall as L
from ultravid.modeling import TemporalQueries

from .deformable_detr import model

model.query_context = L(TemporalQueries)(
    dim=256,
    num_queries=16,
    num_layers=2,
    num_decoder_layers=1,
    num_heads=8,
    num_points=4,
    ffn_dim=512,
    context_frames=15,
    context_stride=1,
    causal=False,
    dropout=0.1,
)
