"""Loads a detector for serving from a run's folder, a config file or a config."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ultravid.checkpoint import CheckpointError
from ultravid.config import CfgNode, ConfigError, Node
from ultravid.datasets import DatasetCatalog, MetadataCatalog
from ultravid.engine.trained import Preprocessing, TrainedModel, best_checkpoint, load_trained_model
from ultravid.evaluation.prediction_store import read_manifest, read_video
from ultravid.modeling.detector import VideoDetector
from ultravid.utils.errors import UserError
from ultravid.utils.hashing import sha256_of
from ultravid.utils.run_folder import RunFolder, RunState
from ultravid.utils.text import counted, nearest

__all__ = ["LoadedDetector", "final_part", "load_detector"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class LoadedDetector:
    """A loaded detector with its preprocessing, class names and thresholds; the result of `load_detector`.

    Attributes:
        model: in evaluation mode, on its device, with the weights.
        name: for messages and output files: that of the run's folder, or of the config's file.
        preprocessing: how a frame becomes the model's input.
        class_names: by class number.
        score_threshold: the model's own: it gives no detection with a lower score.
        nms_threshold: IoU above which the model drops the worse of two detections of a class; None if it has no such step, or does not
            say.
        weights: the file of the weights; None for an untrained model.
        weights_sha256: the SHA-256 of that file; "" for an untrained model.
        config: in nodes.
    """

    model: VideoDetector
    name: str
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    class_names: tuple[str, ...] = ("lesion",)
    score_threshold: float = 0.0
    nms_threshold: float | None = None
    weights: Path | None = None
    weights_sha256: str = ""
    config: Node = field(default_factory=Node)


def load_detector(
    cfg: CfgNode | Node | str | Path,
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    trust: Iterable[str] = (),
) -> LoadedDetector:
    """Load a detector for serving; of the config only ``model`` is built.

    Args:
        cfg: the folder of a run, a Python config file, a YAML config file, or a config. A folder and a YAML file are data, which may be
            somebody else's: `ultravid.engine.trusted` says what may be built of it.
        weights: a checkpoint or its address. Of a run's folder also "last", "best", "final" or the name of one of its checkpoints; None is
            the newest good one. Of a config None is its ``train.init_checkpoint``; without it the model is untrained, with a warning.
        device: None: the config's ``train.device``.
        trust: names of targets that are accepted besides those on ultravid's list.

    Raises:
        UserError: there is no such folder or file; the run is still in training and no checkpoint is named; or the model is not a detector
            in video.
        ConfigError: a value of the config is wrong.
        TrustError: targets of the model are neither on the list nor trusted.
        CheckpointError: there are no weights, or they can't be read, or are those of another model.
    """
    _check_exists(cfg)
    run = RunFolder(cfg) if isinstance(cfg, str | Path) and Path(cfg).is_dir() else None
    chosen = weights if run is None else _checkpoint_of(run, weights)
    trained = load_trained_model(cfg, weights=chosen, device=device, trust=trust)
    model = trained.model
    if not isinstance(model, VideoDetector):
        raise UserError(
            f"The model of {cfg} is a {type(model).__name__}, not a detector in video: only a VideoDetector is applied to "
            "recordings, served or exported. docs/reference/contracts.md shows how to write one."
        )
    _check_complete(trained)
    origin = trained.origin
    file = None if origin is None else Path(origin.path)
    return LoadedDetector(
        model=model,
        name=run.path.resolve().name
        if run is not None
        else Path(cfg).stem
        if isinstance(cfg, str | Path)
        else type(model).__name__,
        preprocessing=trained.preprocessing,
        class_names=_class_names(trained, run),
        score_threshold=float(_own(model, "score_threshold") or 0.0),
        nms_threshold=_own(model, "nms_threshold"),
        weights=file,
        weights_sha256="" if file is None else sha256_of(file),
        config=trained.config,
    )


def final_part(model: nn.Module, name: str) -> nn.Module | None:
    """The part of a model that its detections come from, if it has an attribute of this name: ``num_classes``, ``score_threshold``, ``nms_threshold``."""
    parts = (getattr(model, part, None) for part in ("box_predictor", "dense_head", "decoder"))
    return next((part for part in (model, *parts) if isinstance(part, nn.Module) and hasattr(part, name)), None)


def _own(model: nn.Module, name: str) -> Any:
    return getattr(final_part(model, name), name, None)


def _checkpoint_of(run: RunFolder, weights: str | Path | None) -> str | Path | None:
    """The checkpoint of a folder that is asked for; None is the newest good one.

    Raises:
        UserError: none is named, and the run is still in training.
        ConfigError: it is no run's folder.
        CheckpointError: there is none.
    """
    if run.saved_config is None:
        raise ConfigError(f"{run} is not the folder of a run: it has no {run.config.name}.{_runs_inside(run.path)}")
    if weights is not None and str(weights):
        named = {"last": run.newest_checkpoint(), "final": run.final_checkpoint(), "best": best_checkpoint(run)}
        if str(weights) in named:
            found = named[str(weights)]
            if found is None:
                raise CheckpointError(f"{run} has no {weights} checkpoint. {_what_there_is(run)}")
            return found
        if Path(weights).exists() or "://" in str(weights):
            return weights
        inside = run.checkpoint(str(weights).removesuffix(".pth"))
        if not inside.is_file():
            raise CheckpointError(
                f"There is no checkpoint {weights}: it is neither a file nor in {run}. {_what_there_is(run)} "
                "last, best and final name a checkpoint too."
            )
        return inside
    if run.state() is RunState.RUNNING:
        checkpoints = run.checkpoints()
        hint = f", or name one of its checkpoints: --weights {checkpoints[-1]}" if checkpoints else ""
        raise UserError(f"The run {run} is still in training: wait for its end{hint}")
    if not run.checkpoints() and run.newest_checkpoint() is None:
        raise CheckpointError(
            f"{run} holds no checkpoint: its training has not saved one. Give the file of its weights: --weights FILE (in Python: weights=...)."
        )
    return None


def _what_there_is(run: RunFolder) -> str:
    names = [path.name for path in run.checkpoints()]
    return f"It has {', '.join(names)}." if names else "It has none at all."


def _check_exists(cfg: CfgNode | Node | str | Path) -> None:
    """Refuse the misspelled name of a folder, which would be reported as a config file."""
    if not isinstance(cfg, str | Path) or "://" in str(cfg) or Path(cfg).exists() or Path(cfg).suffix:
        return
    near = nearest(Path(cfg).name, [path.name for path in _folders_in(Path(cfg).parent)])
    hint = "" if near is None else f" Did you mean {Path(cfg).with_name(near)}?"
    raise UserError(f"{cfg} does not exist: it is neither the folder of a run nor a config file.{hint}")


def _runs_inside(folder: Path) -> str:
    """A hint at the runs in a folder that was given in place of one of them."""
    runs = [path for path in _folders_in(folder) if RunFolder(path).saved_config is not None]
    if not runs:
        return ""
    more = f" and {len(runs) - 3} more" if len(runs) > 3 else ""
    return f" Did you mean {runs[0]}?" if len(runs) == 1 else f" It holds runs: {', '.join(map(str, runs[:3]))}{more}."


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:
        return []


def _check_complete(trained: TrainedModel) -> None:
    """Refuse weights of a part of the model, as of a backbone: the rest would be random."""
    if trained.origin is None or not isinstance(trained.model, VideoDetector):
        return
    model = trained.model
    constant = model.computed_names() | {name for name in model.state_dict() if name.endswith("num_batches_tracked")}
    missing = trained.origin.from_scratch
    if missing > len(constant):
        raise CheckpointError(
            f"{trained.origin.address} holds a part of the model: {counted(missing, 'weight')} of {len(model.state_dict())} are not in it, "
            "as in a file of a backbone. Give the weights of the whole detector."
        )


def _class_names(trained: TrainedModel, run: RunFolder | None) -> tuple[str, ...]:
    """The names by class number: those that the data set's metadata has, or the config, or the run's evaluation; else made up."""
    number = int(_own(trained.model, "num_classes") or 1)
    for names in (_of_catalog(trained), _of_config(trained.config), () if run is None else _of_evaluation(run)):
        if len(names) == number:
            return names
    return ("lesion",) if number == 1 else tuple(f"class {n}" for n in range(number))


def _of_catalog(trained: TrainedModel) -> tuple[str, ...]:
    name = trained.test_set
    known = MetadataCatalog.get(name).get("thing_classes") if name in DatasetCatalog.list() else None
    return tuple(known or ())


def _of_config(config: Node) -> tuple[str, ...]:
    data = config.get("data")
    classes = data.get("classes") if isinstance(data, Node) and not data.get("class_agnostic") else None
    return tuple(map(str, classes)) if isinstance(classes, list | tuple | dict) else ()


def _of_evaluation(run: RunFolder) -> tuple[str, ...]:
    """Those of the first video that was evaluated."""
    try:
        files = read_manifest(run.prediction_manifest)
        return tuple(read_video(files[0][1]).video.class_names) if files else ()
    except (UserError, OSError):
        return ()
