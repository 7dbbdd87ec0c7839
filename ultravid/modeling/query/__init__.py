"""Parts of query-based detectors."""

from ultravid.modeling.query.base import Cells, FrameQueries, NoQueryContext, QueryContext, QueryPredictions
from ultravid.modeling.query.criterion import QueryCriterion
from ultravid.modeling.query.decoder import QueryDecoder
from ultravid.modeling.query.deformable import DeformableAttention
from ultravid.modeling.query.detections import detections_of_queries
from ultravid.modeling.query.encoder import DeformableEncoder
from ultravid.modeling.query.positions import sine_positions
from ultravid.modeling.query.temporal import TemporalQueries

__all__ = [
    "Cells",
    "DeformableAttention",
    "DeformableEncoder",
    "FrameQueries",
    "NoQueryContext",
    "QueryContext",
    "QueryCriterion",
    "QueryDecoder",
    "QueryPredictions",
    "TemporalQueries",
    "detections_of_queries",
    "sine_positions",
]
