"""The three families that detectors are composed of."""

from ultravid.modeling.families.one_stage import OneStage
from ultravid.modeling.families.query import Query
from ultravid.modeling.families.two_stage import TwoStage

__all__ = ["OneStage", "Query", "TwoStage"]
