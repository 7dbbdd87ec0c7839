"""Boxes, instances, image batches and clips: what data, models and metrics pass to each other."""

from ultravid.structures.box_mode import BoxMode
from ultravid.structures.boxes import (
    Boxes,
    matched_pairwise_iou,
    pairwise_intersection,
    pairwise_ioa,
    pairwise_iou,
    pairwise_point_box_distance,
)
from ultravid.structures.clip import Clip
from ultravid.structures.image_list import ImageList
from ultravid.structures.instances import Instances

__all__ = [
    "BoxMode",
    "Boxes",
    "Clip",
    "ImageList",
    "Instances",
    "matched_pairwise_iou",
    "pairwise_intersection",
    "pairwise_ioa",
    "pairwise_iou",
    "pairwise_point_box_distance",
]
