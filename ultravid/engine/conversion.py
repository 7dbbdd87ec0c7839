"""Checkpoints and configs of the predecessor, of torchvision and of detectron2 as those of a run here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn.utils import clip_grad_value_

from ultravid.checkpoint import CheckpointError, DetectionCheckpointer, load_file
from ultravid.checkpoint.weights import match_weights
from ultravid.config import Builder, CfgNode, ConfigError, LazyCall, LazyConfig, LazyPartial, Node, get_config
from ultravid.config.check import check
from ultravid.config.instantiate import as_user_error
from ultravid.data import MemoryFrameSampler
from ultravid.modeling.detector import VideoDetector
from ultravid.modeling.published import LIKELY_MODELS, skip_reason
from ultravid.modeling.published_keys import ModelOfKeys, model_of_keys, published_model
from ultravid.solver import FactorByName
from ultravid.utils.run_folder import RunFolder
from ultravid.utils.text import counted

__all__ = ["Conversion", "convert_checkpoint", "run_config", "values_of_yaml"]

_CLIPPED = ("BasicDet", "RelationNet", "FGFA", "MEGA", "DeFCN", "FCOS", "YOLOX", "TrackYOLO", "TransVOD")
_QUERIES = ("DeformDETR", "CVANet", "TransVOD", "PTSEFormer")
_MEMORY_FRAMES = {
    "MEGA": {"num_memory": 6, "memory_interval": 10, "num_frames": 10, "window": 20},
    "CVANet": {"num_memory": 8, "memory_interval": 15, "num_frames": 8, "window": 15},
}
_CLASSIFIER = re.compile(r"^(backbone\.|stem\.)?(fc|linear|layer4|res5)\.")


@dataclass
class Conversion:
    """What `convert_checkpoint` did.

    Attributes:
        config: the file of the config.
        weights: the file of the weights.
        name: of the published model.
        num_weights: number of weights of the model that the file has.
        changed: arguments with another value than published, as ``(argument, value, key of the YAML config)``.
        not_carried: keys of the YAML config that decide about training or data alone, and were not carried over.
        unused: names of the file that nothing uses.
        skipped: names of the file that no model needs, and why.
        lacking: names of the model that the file lacks: they start from scratch. Not empty for a file of a backbone alone.
        computed: constants of the model that the file lacks; they follow from the config.
    """

    config: Path
    weights: Path
    name: str
    num_weights: int
    changed: list[tuple[str, Any, str]] = field(default_factory=list)
    not_carried: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    lacking: list[str] = field(default_factory=list)
    computed: list[str] = field(default_factory=list)


def convert_checkpoint(
    weights: str | Path,
    output: str | Path,
    *,
    config: str | Path | None = None,
    options: Sequence[str] = (),
    model: str | None = None,
    depth: int = 34,
) -> Conversion:
    """Write ``config.yaml`` and ``model_final.pth`` for a checkpoint of the predecessor.

    Args:
        weights: the file, or its address: of detectron2's checkpointer, a bare state dict, detectron2's ``.pkl``, or torchvision's
            ResNet. A file of a backbone alone leaves the rest of the model untrained.
        output: folder to write, created if needed.
        config: the predecessor's YAML file; its ``_BASE_`` files are read too. Either this or ``model``.
        options: keys and values in turn that replace those of ``config``.
        model: one of `ultravid.modeling.published.PUBLISHED_MODELS`, with its published values.
        depth: of the ResNet, with ``model``.

    Raises:
        ConfigError: the config is none of the published models, or has values that are not supported.
        CheckpointError: the file can't be read, or its weights do not fit the model; nothing is written.
    """
    if (config is None) == (model is None):
        raise ConfigError("Give either the predecessor's YAML file or the name of a model.")
    folder = _free_folder(output)
    if config is not None:
        values = values_of_yaml(config, options)
        described = model_of_keys(values, str(config))
    else:
        values, described = {}, ModelOfKeys(str(model), published_model(str(model), depth))
    content = load_file(weights)
    given = _state_dict(content, weights)
    cfg, not_carried = run_config(described, values, folder)
    if faults := [str(fault) for fault in check(cfg) if fault.fatal]:
        raise ConfigError("\n".join(faults))
    with as_user_error():
        detector: VideoDetector = Builder(cfg).build("model")
    conversion = _load(detector, described, given, weights)
    conversion.config, conversion.weights = folder / "config.yaml", folder / "model_final.pth"
    conversion.changed, conversion.not_carried = described.changed, not_carried
    folder.mkdir(parents=True, exist_ok=True)
    iteration = content.get("iteration")
    extra: dict[str, Any] = {"iteration": iteration} if isinstance(iteration, int) else {}
    DetectionCheckpointer(detector, folder).save("model_final", **extra)
    LazyConfig.save(cfg, conversion.config)
    return conversion


def values_of_yaml(path: str | Path, options: Sequence[str] = ()) -> dict[str, Any]:
    """The values of a YAML file and of its ``_BASE_`` files by full key, ``MODEL.RPN.NMS_THRESH``.

    Args:
        path: the file.
        options: keys and values in turn, which replace those of the file.

    Raises:
        ConfigError: a file is missing or is not plain YAML, or it is no config of the predecessor.
    """
    content = CfgNode.load_yaml_with_base(path)
    values = dict(_flat(content, ""))
    if len(options) % 2:
        raise ConfigError(f"Options are keys and values in turn; the last one, {options[-1]!r}, has no value.")
    values.update(zip(options[::2], options[1::2], strict=True))
    if "model._target_" in values or "MODEL.CONFIG" in values:
        raise ConfigError(f"{path} is a config of this package already, not of the predecessor: run it as it is.")
    return values


def _flat(node: Mapping[str, Any], prefix: str) -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in node.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return rows


def run_config(described: ModelOfKeys, values: Mapping[str, Any], folder: Path) -> tuple[Node, list[str]]:
    """A complete config of a run on CVA-BUS for a model, and the keys that it does not carry over.

    Args:
        described: the model.
        values: of the YAML config by full key; empty without one.
        folder: of the config; the run writes to ``run`` in it.
    """
    data, train = get_config("common/data/cva_bus.py"), get_config("common/train.py")
    cfg = Node(
        data=data.data,
        dataloader=data.dataloader,
        model=described.model,
        train=train.train,
        prepared_model=train.prepared_model,
        checkpointer=train.checkpointer,
        trainer=train.trainer,
        optimizer=get_config("common/optim.py").AdamW,
        lr_multiplier=get_config("common/schedules.py").steps_60_80,
    )
    cfg.train.output_dir = str(folder / "run")
    cfg.train.init_checkpoint = str(folder / "model_final.pth")
    if described.name in _CLIPPED:
        cfg.trainer.clip_grad = LazyPartial(clip_grad_value_)(clip_value=1.0)
    if described.name in _QUERIES:
        cfg.optimizer.weight_decay = 1e-4
        factors = {"backbone": 0.1, "reference_points": 0.1, "sampling_offsets": 0.1}
        cfg.optimizer.params.lr_factor_func = LazyCall(FactorByName)(factors=factors)
    if described.name == "MEGA":
        cfg.optimizer.lr = 2e-3
    if described.name == "RetinaNet":
        cfg.model.dense_head.normalizer_momentum = 0.9
    if described.name in _MEMORY_FRAMES:
        cfg.dataloader.train.frame_sampler = LazyCall(MemoryFrameSampler)(**_MEMORY_FRAMES[described.name])
    carried = {
        "INPUT.FIXED_AREA_TEST": "dataloader.test.area",
        "SOLVER.BASE_LR": "optimizer.lr",
        "SOLVER.WEIGHT_DECAY": "optimizer.weight_decay",
        "SOLVER.MAX_ITER": "train.max_iter",
    }
    for key, path in carried.items():
        if key in values:
            LazyConfig.apply_overrides(cfg, [f"{path}={values[key]}"])
    channels = values.get("INPUT.FORMAT", "BGR" if values else "RGB")
    if channels not in ("RGB", "BGR"):
        raise ConfigError(f"INPUT.FORMAT is {channels!r}; the models are supported with 'RGB' or 'BGR' alone.")
    if channels == "BGR":
        cfg.dataloader.train.image_format = cfg.dataloader.test.image_format = "BGR"
    known = {*carried, "INPUT.FORMAT", "INPUT.SCALE_TEST", "TEST.DETECTIONS_PER_IMAGE", "TEST.AUG.ENABLED"}
    rest = [key for key in values if not key.startswith("MODEL.") and key not in known]
    return cfg, sorted([*described.training, *rest])


def _free_folder(output: str | Path) -> Path:
    folder = Path(output).expanduser().resolve()
    run = RunFolder(folder)
    if folder.is_file():
        raise ConfigError(f"{folder} is a file; give a folder to write to.")
    if run.metrics.exists() or [path for path in run.checkpoints() if path.name != "model_final.pth"]:
        raise ConfigError(f"{folder} holds a run, which would be overwritten; give another folder.")
    return folder


def _state_dict(content: Mapping[str, Any], path: str | Path) -> Mapping[str, Tensor]:
    """The weights of a file: its entry ``model``, or all of it."""
    weights = content.get("model", content)
    if not isinstance(weights, Mapping) or not weights:
        raise CheckpointError(f"{path} holds no weights: its 'model' is a {type(weights).__name__}.")
    if not any(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{path} holds no weights; its entries are {', '.join(map(str, list(weights)[:5]))}.")
    return weights


def _load(model: VideoDetector, described: ModelOfKeys, weights: Mapping[str, Tensor], path: str | Path) -> Conversion:
    """Give the model the weights, or say why they do not fit."""
    expected = model.state_dict()
    match = match_weights(model, weights, path)
    fitting = match.fitting(expected)
    names = model.current_names(weights)
    computed = model.computed_names()
    lacking = [name for name in expected if name not in fitting and name not in computed]
    dropped = [name for name in weights if _CLASSIFIER.match(name)]
    unused = sorted({*match.unexpected, *dropped})
    is_backbone = (
        bool(fitting)
        and all(name.startswith("backbone.") for name in fitting)
        and not any(name.startswith("backbone.") for name in lacking)
        and all(_CLASSIFIER.match(name) for name in unused)
    )
    misfits = match.other_shapes(expected)
    what = f"{counted(len(misfits), 'weight')} of another shape ({'; '.join(misfits[:2])})" if misfits else ""
    if lacking and not misfits and not is_backbone:
        what = f"it lacks {counted(len(lacking), 'weight')} of the model ({_some(lacking)})"
    likely, depth = _likely(weights), _depth(weights)
    if not what and likely and described.name not in likely:
        what = f"it has {counted(len(unused), 'weight')} more ({_some(unused)})"
    if what:
        looks = f" It looks like {_either(likely)} with ResNet-{depth}." if likely and depth else ""
        ours = described.model.backbone.depth
        if not likely and depth and depth != ours:
            looks = f" Its backbone is a ResNet-{depth}."
        raise CheckpointError(f"{path} doesn't fit {described.name} with ResNet-{ours}: {what}.{looks}")
    model.load_state_dict(fitting, strict=False)
    return Conversion(
        config=Path(),
        weights=Path(),
        name=described.name,
        num_weights=len(fitting),
        unused=unused,
        skipped={name: skip_reason(name) for name, new in names.items() if not new},
        lacking=lacking,
        computed=[name for name in expected if name in computed and name not in fitting],
    )


def _likely(weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The published models that have a file's names; empty if the names say nothing."""
    for pattern, models in LIKELY_MODELS:
        if any(re.search(pattern, name) for name in weights):
            return models
    return ()


def _depth(weights: Mapping[str, Tensor]) -> int | None:
    """18 or 34, by the number of blocks in res3; None if the file has no such names, or blocks of three convolutions."""
    found = {m[0]: m[1] for name in weights if (m := re.search(r"\b(?:res3|layer2)\.(\d)\.conv\d", name))}
    if any(name.endswith("conv3") for name in found):
        return None
    return {2: 18, 4: 34}.get(len({*found.values()}))


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}" if len(names) > 1 else names[0]


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
