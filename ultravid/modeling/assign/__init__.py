"""Assignment of ground truth to predictions, for training."""

from ultravid.modeling.assign.base import DenseAssigner, DensePredictions
from ultravid.modeling.assign.center_sampling import CenterSampling
from ultravid.modeling.assign.hungarian import HungarianAssigner, lowest_cost_pairs
from ultravid.modeling.assign.matcher import Assignment, Matcher, sample_labels, subsample_labels
from ultravid.modeling.assign.one_to_one import OneToOne, TopQuality
from ultravid.modeling.assign.sim_ota import SimOTA

__all__ = [
    "Assignment",
    "CenterSampling",
    "DenseAssigner",
    "DensePredictions",
    "HungarianAssigner",
    "Matcher",
    "OneToOne",
    "SimOTA",
    "TopQuality",
    "lowest_cost_pairs",
    "sample_labels",
    "subsample_labels",
]
