"""Readers: from annotation files to `Video`s."""

from ultravid.data.datasets.coco_video import load_coco_stills, load_cva_bus

__all__ = ["load_coco_stills", "load_cva_bus"]
