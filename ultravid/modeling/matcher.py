"""detectron2's place of `Matcher`, which is defined in `ultravid.modeling.assign`."""

from ultravid.modeling.assign.matcher import Matcher, subsample_labels

__all__ = ["Matcher", "subsample_labels"]
