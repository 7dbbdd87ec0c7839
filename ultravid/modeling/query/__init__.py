"""Encoders, decoders and contexts of query-based detectors."""

from ultravid.modeling.query.base import FrameQueries, NoQueryContext, QueryContext, QueryPredictions

__all__ = ["FrameQueries", "NoQueryContext", "QueryContext", "QueryPredictions"]
