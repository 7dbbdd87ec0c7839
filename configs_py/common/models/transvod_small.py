"""A small TransVOD for images of about 128 px, causal: `deformable_detr_small.py` whose queries relate to those of 16 frames."""

from ultravid.config import LazyCall as L
from ultravid.modeling import TemporalQueries

from .deformable_detr_small import model

model.query_context = L(TemporalQueries)(
    dim=96,
    num_queries=8,
    num_layers=2,
    num_decoder_layers=1,
    num_heads=8,
    num_points=4,
    ffn_dim=256,
    context_frames=15,
    context_stride=2,
    causal=True,
    dropout=0.0,
)
