"""Boxes, instances, image batches and clips: what data, models and metrics hand to each other."""

from ultravid.structures.boxes import Boxes, BoxMode, pairwise_intersection, pairwise_iou
from ultravid.structures.clip import Clip
from ultravid.structures.image_list import ImageList
from ultravid.structures.instances import Instances

__all__ = [
    "BoxMode",
    "Boxes",
    "Clip",
    "ImageList",
    "Instances",
    "pairwise_intersection",
    "pairwise_iou",
]
