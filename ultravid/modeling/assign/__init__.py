"""Which ground truth a prediction is trained towards."""

from ultravid.modeling.assign.matcher import Assignment, Matcher, sample_labels, subsample_labels

__all__ = ["Assignment", "Matcher", "sample_labels", "subsample_labels"]
