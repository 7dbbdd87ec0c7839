"""Keys of YAML configs, as text: those of the top level, and those of earlier versions. Imports nothing.

YAML configs of version 0.1 had keys for each part of the model. Today ``MODEL.CONFIG`` names a Python file with the model, and
``MODEL.OPTS`` overrides values of it. Files and saved configs with the earlier keys go on loading: `ultravid.config.cfg_model`
applies them to the model of ``MODEL.CONFIG``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["MODEL_KEYS", "SAVED_KEYS", "TOP_KEYS", "ModelKey", "is_model_key", "model_group", "override_hint"]

SAVED_KEYS = "cfg_node"
"""The key of a run's ``config.yaml`` below which the values of its `CfgNode` are stored."""

TOP_KEYS = frozenset(
    {
        *("_BASE_", "VERSION", "MODEL", "INPUT", "DATASETS", "DATALOADER", "SOLVER", "TEST", "OUTPUT_DIR", "SEED"),
        *("DETERMINISTIC", "LOG_PERIOD", "WALL_TIME_S"),
    }
)
"""Keys that a YAML file of a `CfgNode` can have at its top."""


@dataclass(frozen=True)
class ModelKey:
    """One earlier key.

    Attributes:
        default: its default; a value that is set has its type.
        path: the key in the model's config that it sets; "" if it means more than one argument.
    """

    default: Any
    path: str


_PARTS: dict[str, dict[str, tuple[Any, str]]] = {
    "MODEL": {
        "META_ARCHITECTURE": ("BasicDet", ""),
        "PIXEL_MEAN": ([123.675, 116.28, 103.53], "pixel_mean"),
        "PIXEL_STD": ([58.395, 57.12, 57.375], "pixel_std"),
    },
    "MODEL.BACKBONE": {
        "NAME": ("ResNet", "backbone._target_"),
        "FREEZE_AT": (2, "backbone.freeze_at"),
    },
    "MODEL.RESNETS": {
        "DEPTH": (34, "backbone.depth"),
        "NUM_BLOCKS": ([], "backbone.num_blocks"),
        "NORM": ("FrozenBN", "backbone.norm"),
        "STEM_OUT_CHANNELS": (64, "backbone.stem_channels"),
        "OUT_CHANNELS": ([64, 128, 256], "backbone.channels"),
        "STRIDES": ([1, 2, 2], "backbone.strides"),
    },
    "MODEL.ANCHOR_GENERATOR": {
        "SIZES": ([[32, 64, 128, 256, 512]], "proposal_head.anchor_generator.shapes.sizes"),
        "ASPECT_RATIOS": (
            [[0.33, 0.5, 0.66, 1.0, 2.0, 3.0]],
            "proposal_head.anchor_generator.shapes.aspect_ratios",
        ),
        "SHAPES": ([], "proposal_head.anchor_generator.shapes"),
        "OFFSET": (0.0, "proposal_head.anchor_generator.offset"),
    },
    "MODEL.RPN": {
        "IOU_THRESHOLDS": ([0.3, 0.7], "proposal_head.anchor_matcher.thresholds"),
        "IOU_LABELS": ([0, -1, 1], "proposal_head.anchor_matcher.labels"),
        "BBOX_REG_WEIGHTS": ((1.0, 1.0, 1.0, 1.0), "proposal_head.box2box_transform.weights"),
        "BATCH_SIZE_PER_IMAGE": (256, "proposal_head.batch_size_per_image"),
        "POSITIVE_FRACTION": (0.5, "proposal_head.positive_fraction"),
        "PRE_NMS_TOPK": (256, "proposal_head.pre_nms_topk"),
        "POST_NMS_TOPK": (16, "proposal_head.post_nms_topk"),
        "NMS_THRESH": (0.7, "proposal_head.nms_threshold"),
        "LOSS_WEIGHT": (1.0, "proposal_head.loss_weight"),
    },
    "MODEL.ROI_HEADS": {
        "NUM_CLASSES": (1, "box_predictor.num_classes"),
        "IOU_THRESHOLDS": ([0.5], "roi_sampler.matcher.thresholds"),
        "IOU_LABELS": ([0, 1], "roi_sampler.matcher.labels"),
        "BATCH_SIZE_PER_IMAGE": (16, "roi_sampler.num_samples"),
        "POSITIVE_FRACTION": (0.5, "roi_sampler.positive_fraction"),
        "GT_COPIES": (1, "roi_sampler.gt_copies"),
        "GT_JITTER": (0.0, "roi_sampler.gt_jitter"),
        "ROI_SCALE": (1.0, "roi_pooler.roi_scale"),
        "SCORE_THRESH_TEST": (0.0, "box_predictor.score_threshold"),
        "NMS_THRESH_TEST": (0.5, "box_predictor.nms_threshold"),
    },
    "MODEL.ROI_BOX_HEAD": {
        "NAME": ("Res5Head", ""),
        "POOLER_RESOLUTION": (14, ""),
        "POOLER_SAMPLING_RATIO": (0, "roi_pooler.box_pooler.sampling_ratio"),
        "DIM": (256, ""),
        "RES5_NUM_BLOCKS": (3, "roi_pooler.head.num_blocks"),
        "RES5_STRIDE": (2, "roi_pooler.head.stride"),
        "RES5_NORM": ("FrozenBN", "roi_pooler.head.norm"),
        "BBOX_REG_WEIGHTS": ((10.0, 10.0, 5.0, 5.0), "box_predictor.box2box_transform.weights"),
        "CLS_LOSS_WEIGHT": (1.0, "box_predictor.cls_loss_weight"),
        "BBOX_REG_LOSS_WEIGHT": (1.0, "box_predictor.box_loss_weight"),
    },
    "MODEL.RELATION": {
        "NUM_LAYERS": (2, "token_mixer.relation.num_layers"),
        "NUM_HEADS": (8, "token_mixer.relation.num_heads"),
        "GEOMETRY_DIM": (256, "token_mixer.relation.geometry_dim"),
    },
    "MODEL.CONTEXT": {
        "FRAMES": (15, "token_mixer.context_frames"),
        "STRIDE": (1, "token_mixer.context_stride"),
        "CAUSAL": (False, "token_mixer.causal"),
    },
    "TEST": {"DETECTIONS_PER_IMAGE": (100, "box_predictor.max_detections")},
}

MODEL_KEYS = {
    f"{group}.{key}": ModelKey(default, path) for group, keys in _PARTS.items() for key, (default, path) in keys.items()
}
"""The earlier keys by full key."""


def is_model_key(key: str) -> bool:
    """Whether a full key is an earlier key of a model part, or a group of such keys alone."""
    return key in MODEL_KEYS or (key in _PARTS and key not in ("MODEL", "TEST"))


def model_group(key: str) -> dict[str, Any]:
    """The keys of a group with their defaults; empty if the key is no group of earlier keys."""
    return {name: default for name, (default, _) in _PARTS[key].items()} if is_model_key(key) and key in _PARTS else {}


def override_hint(key: str, value: Any) -> str:
    """What to write in ``MODEL.OPTS`` instead of an earlier key."""
    path = MODEL_KEYS[key].path
    text = str(list(value) if isinstance(value, tuple) else value).replace(" ", "")
    return f"{path}={text}" if path else "a model file of MODEL.CONFIG that has it"
