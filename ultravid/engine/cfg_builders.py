"""From the keys of a `CfgNode` to objects: what `DefaultTrainer` and `DefaultPredictor` build unless told otherwise.

Each function reads its keys and hands plain arguments on; nothing below the engine sees a config.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from fvcore.common.param_scheduler import CosineParamScheduler, MultiStepParamScheduler, ParamScheduler
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from torchvision.ops import RoIAlign

import ultravid.modeling
from ultravid.config import CfgNode, ConfigError, locate
from ultravid.config.errors import did_you_mean
from ultravid.data import (
    ClipLoader,
    RandomColor,
    RandomFlip,
    RandomScale,
    RandomTimeFlip,
    ResizeToArea,
    StridedFrameSampler,
    WindowFrameSampler,
    build_video_test_loader,
    build_video_train_loader,
    get_videos,
)
from ultravid.data.samplers import FrameSampler
from ultravid.data.transforms import ClipTransform
from ultravid.layers import Box2BoxTransform, RelationModule
from ultravid.modeling import (
    RPN,
    AnchorGenerator,
    BasicDet,
    BoxPredictor,
    FCBoxHead,
    Matcher,
    RoIHeads,
    RPNHead,
    anchor_shapes,
    make_stage,
)
from ultravid.solver import LRMultiplier, WarmupParamScheduler, clip_each_grad_norm_, get_default_optimizer_params
from ultravid.utils.env import select_device
from ultravid.utils.errors import UserError

__all__ = [
    "build_gradient_clipper",
    "build_lr_scheduler",
    "build_model",
    "build_optimizer",
    "build_test_loader",
    "build_train_loader",
    "check_values",
]

logger = logging.getLogger(__name__)

T = TypeVar("T")


_AT_LEAST_ONE = (
    *("SOLVER.MAX_ITER", "SOLVER.IMS_PER_BATCH", "SOLVER.ACCUMULATE", "SOLVER.CHECKPOINT_PERIOD", "LOG_PERIOD"),
    *("INPUT.CLIP.NUM_FRAMES", "INPUT.CLIP.STRIDE", "INPUT.CLIP.WINDOW", "MODEL.CONTEXT.STRIDE", "DATASETS.NUM_FOLDS"),
    *("MODEL.RPN.PRE_NMS_TOPK", "MODEL.RPN.POST_NMS_TOPK", "MODEL.ROI_HEADS.NUM_CLASSES", "TEST.PRECISE_BN.NUM_ITER"),
)
_NOT_NEGATIVE = (
    *("SOLVER.BASE_LR", "SOLVER.SKIP_NONFINITE", "SOLVER.CHECKPOINTS_TO_KEEP", "SOLVER.WARMUP_ITERS", "WALL_TIME_S"),
    *("TEST.EVAL_PERIOD", "DATALOADER.NUM_WORKERS", "INPUT.AREA_TRAIN", "INPUT.AREA_TEST", "MODEL.CONTEXT.FRAMES"),
)


def check_values(cfg: CfgNode) -> None:
    """Find numbers that are out of their range before anything is built.

    Raises:
        ConfigError: all of them.
    """
    faults = [f"{key} is {_value_at(cfg, key)}, not at least 1." for key in _AT_LEAST_ONE if _value_at(cfg, key) < 1]
    faults += [f"{key} is {_value_at(cfg, key)}, below 0." for key in _NOT_NEGATIVE if _value_at(cfg, key) < 0]
    for key in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"):
        if len(_value_at(cfg, key)) != 3:
            faults.append(f"{key} is {_value_at(cfg, key)!r}, not a number for each of three channels.")
    if cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        faults.append(f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}, neither 'RGB' nor 'BGR'.")
    if faults:
        raise ConfigError("\n".join(faults))


def build_model(cfg: CfgNode) -> nn.Module:
    """The detector of ``cfg.MODEL``, on its device, with weights from scratch.

    Parts are made in the order of their class's arguments, as from a config in Python: the same seed draws the same weights.

    Raises:
        ConfigError: a name is not known, or values do not go together.
    """
    check_values(cfg)
    architecture = _named(cfg, "MODEL.META_ARCHITECTURE")
    relates = isinstance(architecture, type) and issubclass(architecture, BasicDet)
    backbone = _build_backbone(cfg)
    proposal_generator = _build_proposal_generator(cfg, backbone)
    roi_heads = _build_roi_heads(cfg, backbone, relates)
    context = cfg.MODEL.CONTEXT
    only_video = {"context_frames": context.FRAMES, "context_stride": context.STRIDE, "causal": context.CAUSAL}
    with _told_with("MODEL"):
        model: nn.Module = architecture(
            backbone=backbone,
            proposal_generator=proposal_generator,
            roi_heads=roi_heads,
            pixel_mean=cfg.MODEL.PIXEL_MEAN,
            pixel_std=cfg.MODEL.PIXEL_STD,
            **(only_video if relates else {}),
        )
    return model.to(select_device(cfg.MODEL.DEVICE))


def _build_backbone(cfg: CfgNode) -> nn.Module:
    keys = cfg.MODEL.RESNETS
    with _told_with("MODEL.RESNETS"):
        backbone: nn.Module = _named(cfg, "MODEL.BACKBONE.NAME")(
            depth=keys.DEPTH or None,
            num_blocks=keys.NUM_BLOCKS or None,
            channels=keys.OUT_CHANNELS,
            strides=keys.STRIDES,
            stem_channels=keys.STEM_OUT_CHANNELS,
            norm=keys.NORM,
            freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        )
    return backbone


def _build_proposal_generator(cfg: CfgNode, backbone: Any) -> RPN:
    keys, anchors = cfg.MODEL.RPN, cfg.MODEL.ANCHOR_GENERATOR
    shapes = anchors.SHAPES or anchor_shapes(
        _one_level(anchors.SIZES, "SIZES"), _one_level(anchors.ASPECT_RATIOS, "ASPECT_RATIOS")
    )
    with _told_with("MODEL.RPN"):
        return RPN(
            rpn_head=RPNHead(in_channels=backbone.out_channels, num_anchors=len(shapes)),
            anchor_generator=AnchorGenerator(shapes=shapes, stride=backbone.stride, offset=anchors.OFFSET),
            box2box_transform=Box2BoxTransform(weights=keys.BBOX_REG_WEIGHTS),
            anchor_matcher=Matcher(tuple(keys.IOU_THRESHOLDS), tuple(keys.IOU_LABELS), allow_low_quality_matches=True),
            batch_size_per_image=keys.BATCH_SIZE_PER_IMAGE,
            positive_fraction=keys.POSITIVE_FRACTION,
            pre_nms_topk=keys.PRE_NMS_TOPK,
            post_nms_topk=keys.POST_NMS_TOPK,
            nms_threshold=keys.NMS_THRESH,
            loss_weight=keys.LOSS_WEIGHT,
        )


def _one_level(value: Sequence[Any], key: str) -> Sequence[float]:
    """Detectron2 writes a list for each level of features; there is one."""
    nested = [isinstance(part, list | tuple) for part in value]
    if not value or (any(nested) and (len(value) > 1 or not value[0])):
        raise ConfigError(
            f"MODEL.ANCHOR_GENERATOR.{key} is {value!r}; the detectors have one feature map, so it is [[a, b, ...]]."
        )
    return value[0] if nested[0] else value


def _build_roi_heads(cfg: CfgNode, backbone: Any, relates: bool) -> RoIHeads:
    keys, box_head = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
    with _told_with("MODEL.ROI_HEADS"):
        pooler = RoIAlign(
            output_size=box_head.POOLER_RESOLUTION,
            spatial_scale=1 / backbone.stride,
            sampling_ratio=box_head.POOLER_SAMPLING_RATIO,
            aligned=True,
        )
        return RoIHeads(
            box_pooler=pooler,
            box_head=_build_box_head(cfg, backbone.out_channels),
            box_predictor=BoxPredictor(
                in_features=box_head.DIM,
                num_classes=keys.NUM_CLASSES,
                box2box_transform=Box2BoxTransform(weights=box_head.BBOX_REG_WEIGHTS),
                score_threshold=keys.SCORE_THRESH_TEST,
                nms_threshold=keys.NMS_THRESH_TEST,
                max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
                cls_loss_weight=box_head.CLS_LOSS_WEIGHT,
                box_loss_weight=box_head.BBOX_REG_LOSS_WEIGHT,
            ),
            proposal_matcher=Matcher(tuple(keys.IOU_THRESHOLDS), tuple(keys.IOU_LABELS)),
            relation=_build_relation(cfg) if relates else None,
            batch_size_per_image=keys.BATCH_SIZE_PER_IMAGE,
            positive_fraction=keys.POSITIVE_FRACTION,
            gt_copies=keys.GT_COPIES,
            gt_jitter=keys.GT_JITTER,
            roi_scale=keys.ROI_SCALE,
        )


def _build_box_head(cfg: CfgNode, in_channels: int) -> nn.Module:
    keys = cfg.MODEL.ROI_BOX_HEAD
    heads: dict[str, Callable[[], nn.Module]] = {
        "Res5Head": lambda: make_stage(
            num_blocks=keys.RES5_NUM_BLOCKS,
            in_channels=in_channels,
            out_channels=keys.DIM,
            stride=keys.RES5_STRIDE,
            norm=keys.RES5_NORM,
            project=True,
        ),
        "FCBoxHead": lambda: FCBoxHead(in_channels=in_channels, pooled_size=keys.POOLER_RESOLUTION, dim=keys.DIM),
    }
    return _chosen(cfg, "MODEL.ROI_BOX_HEAD.NAME", heads)()


def _build_relation(cfg: CfgNode) -> RelationModule:
    keys = cfg.MODEL.RELATION
    with _told_with("MODEL.RELATION"):
        return RelationModule(
            dim=cfg.MODEL.ROI_BOX_HEAD.DIM,
            num_heads=keys.NUM_HEADS,
            num_layers=keys.NUM_LAYERS,
            geometry_dim=keys.GEOMETRY_DIM,
        )


def build_optimizer(cfg: CfgNode, model: nn.Module) -> Optimizer:
    """The optimizer of ``cfg.SOLVER`` for a prepared model's parameters.

    Raises:
        ConfigError: the name is not known, or a value is out of its range.
    """
    keys = cfg.SOLVER
    adam = {"betas": tuple(keys.BETAS)}
    choices: dict[str, tuple[Callable[..., Optimizer], dict[str, Any]]] = {
        "AdamW": (torch.optim.AdamW, adam),
        "Adam": (torch.optim.Adam, adam),
        "SGD": (torch.optim.SGD, {"momentum": keys.MOMENTUM, "nesterov": keys.NESTEROV}),
    }
    optimizer, own = _chosen(cfg, "SOLVER.OPTIMIZER", choices)
    groups = get_default_optimizer_params(
        model,
        base_lr=keys.BASE_LR,
        weight_decay_norm=keys.WEIGHT_DECAY_NORM,
        bias_lr_factor=keys.BIAS_LR_FACTOR,
        weight_decay_bias=keys.WEIGHT_DECAY_BIAS,
    )
    with _told_with("SOLVER"):
        return optimizer(groups, lr=keys.BASE_LR, weight_decay=keys.WEIGHT_DECAY, **own)


def build_lr_scheduler(cfg: CfgNode, optimizer: Optimizer) -> LRMultiplier:
    """The learning-rate schedule of ``cfg.SOLVER``.

    Raises:
        ConfigError: the name is not known, or the steps do not rise.
    """
    keys = cfg.SOLVER
    choices: dict[str, Callable[[], ParamScheduler]] = {
        "WarmupMultiStepLR": lambda: _multi_step(keys),
        "WarmupCosineLR": lambda: CosineParamScheduler(1.0, keys.BASE_LR_END / keys.BASE_LR),
    }
    with _told_with("SOLVER"):
        schedule = WarmupParamScheduler(
            _chosen(cfg, "SOLVER.LR_SCHEDULER_NAME", choices)(),
            warmup_factor=keys.WARMUP_FACTOR,
            warmup_length=min(keys.WARMUP_ITERS / keys.MAX_ITER, 1.0),
            warmup_method=keys.WARMUP_METHOD,
            rescale_interval=keys.RESCALE_INTERVAL,
        )
    return LRMultiplier(optimizer, schedule, max_iter=keys.MAX_ITER)


def _multi_step(keys: CfgNode) -> ParamScheduler:
    factors = [1.0, *keys.STEP_FACTORS] if keys.STEP_FACTORS else [keys.GAMMA**k for k in range(len(keys.STEPS) + 1)]
    if len(factors) != len(keys.STEPS) + 1:
        raise ConfigError(f"SOLVER.STEP_FACTORS holds {len(factors) - 1} factors for {len(keys.STEPS)} SOLVER.STEPS.")
    steps = [step for step in keys.STEPS if step < keys.MAX_ITER]
    if len(steps) < len(keys.STEPS):
        logger.warning("SOLVER.STEPS at or past SOLVER.MAX_ITER=%d are left out.", keys.MAX_ITER)
    return MultiStepParamScheduler(values=factors[: len(steps) + 1], milestones=steps, num_updates=keys.MAX_ITER)


def build_gradient_clipper(cfg: CfgNode) -> Callable[[list[Tensor]], Any] | None:
    """What is called with the parameters before a step, after ``cfg.SOLVER.CLIP_GRADIENTS``; None where it is off.

    Raises:
        ConfigError: the type is not known.
    """
    keys = cfg.SOLVER.CLIP_GRADIENTS
    if not keys.ENABLED:
        return None
    choices: dict[str, Callable[[list[Tensor]], Any]] = {
        "value": functools.partial(clip_grad_value_, clip_value=keys.CLIP_VALUE),
        "norm": functools.partial(clip_each_grad_norm_, max_norm=keys.CLIP_VALUE, norm_type=keys.NORM_TYPE),
        "full_model": functools.partial(clip_grad_norm_, max_norm=keys.CLIP_VALUE, norm_type=keys.NORM_TYPE),
    }
    return _chosen(cfg, "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", choices)


def build_train_loader(cfg: CfgNode) -> ClipLoader:
    """Clips of ``cfg.DATASETS.TRAIN``, drawn and augmented as ``cfg.INPUT`` says.

    Raises:
        ConfigError: a name is not known.
        DataError: the data can't be used.
    """
    _need_datasets(cfg, "TRAIN")
    return build_video_train_loader(
        videos=get_videos(cfg.DATASETS.TRAIN),
        frame_sampler=_build_frame_sampler(cfg),
        transforms=_build_transforms(cfg),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        seed=cfg.SEED,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        **_shared_by_loaders(cfg),
    )


def build_test_loader(cfg: CfgNode, dataset_name: str) -> DataLoader[dict[str, Any]]:
    """Frames of a data set's test videos, of this process's share.

    Raises:
        DataError: the data can't be used.
    """
    return build_video_test_loader(
        videos=get_videos([dataset_name]),
        area=cfg.INPUT.AREA_TEST or None,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        **_shared_by_loaders(cfg),
    )


def _shared_by_loaders(cfg: CfgNode) -> dict[str, Any]:
    has_folds = cfg.DATASETS.FOLD >= 0
    return {
        "fold": cfg.DATASETS.FOLD if has_folds else None,
        "num_folds": cfg.DATASETS.NUM_FOLDS if has_folds else None,
        "foreign_context": cfg.DATASETS.FOREIGN_CONTEXT,
        "image_format": cfg.INPUT.FORMAT,
    }


def _need_datasets(cfg: CfgNode, key: str) -> None:
    if not cfg.DATASETS[key]:
        raise ConfigError(f"DATASETS.{key} names no data set: give names of the DatasetCatalog, as ('phantom_train',).")


def _build_frame_sampler(cfg: CfgNode) -> FrameSampler:
    keys = cfg.INPUT.CLIP
    choices: dict[str, Callable[[], FrameSampler]] = {
        "WindowFrameSampler": lambda: WindowFrameSampler(num_frames=keys.NUM_FRAMES, window=keys.WINDOW),
        "StridedFrameSampler": lambda: StridedFrameSampler(num_frames=keys.NUM_FRAMES, stride=keys.STRIDE),
    }
    return _chosen(cfg, "INPUT.CLIP.SAMPLER", choices)()


def _build_transforms(cfg: CfgNode) -> list[ClipTransform]:
    """In this order: size, scale, colour, left and right, time."""
    keys = cfg.INPUT
    transforms: list[ClipTransform] = []
    if keys.AREA_TRAIN:
        transforms.append(ResizeToArea(area=keys.AREA_TRAIN, factor=_range(cfg, "INPUT.AREA_FACTOR_TRAIN")))
    if keys.SCALE.ENABLED:
        factor, aspect = _range(cfg, "INPUT.SCALE.FACTOR"), _range(cfg, "INPUT.SCALE.ASPECT")
        transforms.append(RandomScale(factor=factor, aspect=aspect, min_visible=keys.SCALE.MIN_VISIBLE))
    if keys.COLOR.ENABLED:
        transforms.append(
            RandomColor(
                contrast=_range(cfg, "INPUT.COLOR.CONTRAST"),
                sharpness=_range(cfg, "INPUT.COLOR.SHARPNESS"),
                saturation=_range(cfg, "INPUT.COLOR.SATURATION"),
            )
        )
    if _chosen(cfg, "INPUT.RANDOM_FLIP", {"horizontal": True, "none": False}):
        transforms.append(RandomFlip(prob=0.5))
    if keys.RANDOM_TIME_FLIP:
        transforms.append(RandomTimeFlip(prob=0.5))
    return transforms


def _value_at(cfg: CfgNode, key: str) -> Any:
    return functools.reduce(lambda node, part: node[part], key.split("."), cfg)


def _range(cfg: CfgNode, key: str) -> tuple[float, float]:
    value = _value_at(cfg, key)
    if len(value) != 2 or not all(isinstance(v, int | float) for v in value) or value[0] > value[1]:
        raise ConfigError(f"{key} is {value!r}, not a range [low, high].")
    return value[0], value[1]


def _chosen(cfg: CfgNode, key: str, choices: Mapping[str, T]) -> T:
    """The one of several things that a key names."""
    name = _value_at(cfg, key)
    if name not in choices:
        raise ConfigError(f"{key} is {name!r}.{did_you_mean(name, choices)}")
    return choices[name]


def _named(cfg: CfgNode, key: str) -> Callable[..., Any]:
    """The class that a key names: of `ultravid.modeling`, or anywhere by its dotted name."""
    name = _value_at(cfg, key)
    if "." in name:
        return locate(name)
    if name not in ultravid.modeling.__all__:
        raise ConfigError(
            f"{key} is {name!r}, which ultravid.modeling does not have; a class of your own is named with its module, "
            f"as 'my_module.{name or 'MyDetector'}'.{did_you_mean(name, ultravid.modeling.__all__)}"
        )
    return getattr(ultravid.modeling, name)


@contextmanager
def _told_with(key: str) -> Iterator[None]:
    """Tell what a part refuses together with the keys that its values came from."""
    try:
        yield
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{key}: {error}") from error
