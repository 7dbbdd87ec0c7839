"""Converts checkpoints and configs of the predecessor, of torchvision and of detectron2 to those of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ultravid.checkpoint import CheckpointError, DetectionCheckpointer, load_file
from ultravid.checkpoint.weights import match_weights, without_wrapper
from ultravid.config import Builder, ConfigError, LazyConfig
from ultravid.config.check import check
from ultravid.config.instantiate import as_user_error
from ultravid.engine.conversion.description import ModelOfKeys, model_of_keys, published_model, values_of_yaml
from ultravid.engine.conversion.likely import either, likely_models, resnet_depth
from ultravid.engine.conversion.recipe import held_out_folds, run_config
from ultravid.modeling.detector import VideoDetector
from ultravid.modeling.published import skip_reason
from ultravid.utils.run_folder import RunFolder
from ultravid.utils.text import counted, shown, visible

__all__ = ["Conversion", "convert_checkpoint"]

_CLASSIFIER = re.compile(r"^(backbone\.|stem\.)?(fc|linear|layer4|res5)\.")


@dataclass
class Conversion:
    """The result of `convert_checkpoint`.

    Attributes:
        config: the file of the config.
        weights: the file of the weights.
        name: the name of the published model.
        num_weights: number of weights of the model that the file has.
        changed: arguments with another value than published, as ``(argument, value, key of the YAML config)``.
        not_carried: keys of the YAML config that concern only training or data, and were not converted.
        unused: names in the file that nothing uses.
        skipped: names in the file that no model needs, and why.
        lacking: names of the model that are missing in the file: they start from scratch. Not empty for a file with only a backbone.
        computed: constants of the model that the file lacks; they follow from the config.
        held_out: the folds that the YAML config holds out; None without one, because the weights do not say it.
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
    held_out: list[int] | None = None


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
        depth: the depth of the ResNet, with ``model``.

    Raises:
        ConfigError: the config is none of the published models, or has values that are not supported; or the folder holds something
            that is not from an earlier conversion.
        CheckpointError: the file can't be read, its weights do not fit the model, or some of them are NaN or infinite; nothing is
            written.
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
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} can't be written: {error.strerror}.") from error
    conversion.config, conversion.weights = folder / "config.yaml", folder / "model_final.pth"
    conversion.changed, conversion.not_carried = described.changed, not_carried
    conversion.held_out = held_out_folds(values) if config is not None else None
    iteration = content.get("iteration")
    extra: dict[str, Any] = {"iteration": iteration} if isinstance(iteration, int) else {}
    DetectionCheckpointer(detector, folder).save("model_final", **extra)
    LazyConfig.save(cfg, conversion.config)
    return conversion


def _free_folder(output: str | Path) -> Path:
    folder = Path(output).expanduser().resolve()
    run = RunFolder(folder)
    if folder.is_file():
        raise ConfigError(f"{folder} is a file; give a folder to write to.")
    if run.metrics.exists() or [path for path in run.checkpoints() if path.name != "model_final.pth"]:
        raise ConfigError(f"{folder} holds a run, which would be overwritten; give another folder.")
    foreign = [path.name for path in (folder / "config.yaml", folder / "model_final.pth") if path.exists()]
    if foreign and not run.manifest.exists():  # an earlier conversion has one
        raise ConfigError(
            f"{folder} holds {' and '.join(foreign)}, not from an earlier conversion, which would be overwritten; give another folder."
        )
    return folder


def _state_dict(content: Mapping[str, Any], path: str | Path) -> Mapping[str, Tensor]:
    """The weights of a file: its entry ``model`` or ``state_dict``, or all of it."""
    entry = next((name for name in ("model", "state_dict") if name in content), None)
    weights = content if entry is None else content[entry]
    if not isinstance(weights, Mapping) or not weights:
        where = "it is empty" if entry is None else f"its {entry!r} is {shown(weights)}"
        raise CheckpointError(f"{path} holds no weights: {where}.")
    if not _holds_tensors(weights):
        found = ", ".join(repr(name) for name in list(weights)[:5])
        inner = next((name for name, value in weights.items() if _holds_tensors(value)), None)
        way = (
            ""
            if inner is None
            else f" The tensors in {inner!r} may be the weights: save that entry as a separate file."
        )
        raise CheckpointError(f"{path} holds no weights; its entries are {found}.{way}")
    return without_wrapper(weights)


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(item, Tensor) for item in value.values())


def _load(model: VideoDetector, described: ModelOfKeys, weights: Mapping[str, Tensor], path: str | Path) -> Conversion:
    """Give the model the weights, or say why they do not fit."""
    expected = model.state_dict()
    match = match_weights(model, weights, path)
    fitting = match.fitting(expected)
    names = model.current_names(weights)
    computed = model.computed_names()
    lacking = [name for name in expected if name not in fitting and name not in computed]
    dropped = [name for name in weights if _CLASSIFIER.match(name)]
    counters = [name for name in match.unexpected if name.endswith(".num_batches_tracked")]
    unused = sorted({*match.unexpected, *dropped} - {*counters})
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
    likely, depth = likely_models(weights), resnet_depth(weights)
    if not what and likely and described.name not in likely:
        what = f"it has {counted(len(unused), 'weight')} more ({_some(unused)})"
    if what:
        looks = f" It looks like {either(likely)} with ResNet-{depth}." if likely and depth else ""
        ours = described.model.backbone.depth
        if not likely and depth and depth != ours:
            looks = f" Its backbone is a ResNet-{depth}."
        raise CheckpointError(f"{path} doesn't fit {described.name} with ResNet-{ours}: {what}.{looks}")
    if broken := [name for name, value in fitting.items() if not torch.isfinite(value).all()]:
        what = f"{counted(len(broken), 'weight')} with values that are NaN or infinite ({_some(broken)})"
        raise CheckpointError(f"{path} holds {what}: the model's detections would mean nothing.")
    model.load_state_dict(fitting, strict=False)
    return Conversion(
        config=Path(),
        weights=Path(),
        name=described.name,
        num_weights=len(fitting),
        unused=unused,
        skipped={
            **{name: skip_reason(name) for name, new in names.items() if not new},
            **dict.fromkeys(counters, "frozen batch norms count no batches"),
        },
        lacking=lacking,
        computed=[name for name in expected if name in computed and name not in fitting],
    )


def _some(names: Sequence[str]) -> str:
    return visible(f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}")
