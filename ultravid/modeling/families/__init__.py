"""The three families of detectors."""

from ultravid.modeling.families.one_stage import OneStage
from ultravid.modeling.families.query import Query
from ultravid.modeling.families.two_stage import TwoStage

__all__ = ["OneStage", "Query", "TwoStage"]
