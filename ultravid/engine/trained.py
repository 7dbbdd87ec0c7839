"""Loads a trained detector from a run's folder, a config file or a config, for predictors: the model with its weights, and its preprocessing."""

from __future__ import annotations

import contextlib
import logging
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ultravid.checkpoint import CheckpointError, DetectionCheckpointer
from ultravid.checkpoint.checkpointer import split_heuristics
from ultravid.checkpoint.origin import WeightsOrigin, weights_origin
from ultravid.config import Builder, CfgNode, ConfigError, Node, as_config
from ultravid.config.addresses import config_path
from ultravid.config.instantiate import as_user_error
from ultravid.config.kinds import has_cfg_node_keys
from ultravid.config.loader import load_config_file
from ultravid.config.shipped import shipped_config
from ultravid.engine.default_trainer import test_sets
from ultravid.engine.trusted import TrustError, allowed_targets, parts_of, trusted_targets
from ultravid.utils.env import device_fault, is_device_name, select_device
from ultravid.utils.errors import UserError
from ultravid.utils.file_io import AddressError, local_path
from ultravid.utils.run_folder import RunFolder

__all__ = ["Preprocessing", "TrainedModel", "best_checkpoint", "load_trained_model"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preprocessing:
    """How a frame becomes a model's input, as the config's test loader has it.

    Attributes:
        area: square pixels that frames are resized to; None keeps their size.
        image_format: "RGB" or "BGR", the order of channels that the model needs.
        organ: what is scanned; "" if the loader does not say.
    """

    area: float | None = None
    image_format: str = "RGB"
    organ: str = ""


@dataclass(frozen=True)
class TrainedModel:
    """What `load_trained_model` returns.

    Attributes:
        config: in nodes.
        model: in evaluation mode, on its device.
        preprocessing: the preprocessing of its frames.
        test_set: name of the config's first test data set; "" without one.
        origin: the checkpoint that the weights come from; None if there is none, so that the model is untrained.
    """

    config: Node
    model: nn.Module
    preprocessing: Preprocessing
    test_set: str
    origin: WeightsOrigin | None


def load_trained_model(
    cfg: CfgNode | Node | str | Path,
    *,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    trust: Iterable[str] | None = (),
) -> TrainedModel:
    """Build the model of a config, and nothing else of it, and load its weights.

    Args:
        cfg: a `CfgNode`; a config in nodes; a config file, ``.py`` or ``.yaml``; or the folder of a run.
        weights: a checkpoint or its address; None: the newest good one of the folder, else ``train.init_checkpoint``.
        device: None: the config's ``train.device``.
        trust: names of targets that a YAML file or the ``config.yaml`` of a folder may have besides the parts on ultravid's own list
            (`ultravid.engine.trusted`): such a file is data, and may be somebody else's. None: it may name anything, as one's own may. A
            Python file is code that the caller names, and runs.

    Raises:
        UserError: the device is not one of this machine's.
        ConfigError: a value of the config is wrong, or it has no model.
        TrustError: targets are neither on the list nor trusted.
        CheckpointError: the weights can't be read or don't fit the model.
    """
    accepted = None if trust is None else frozenset([trust] if isinstance(trust, str) else trust)
    tree, is_data = _read(cfg, accepted)
    if not isinstance(tree.get("model"), Node):
        raise ConfigError(f"{_name(cfg)} describes no model: a config has it under the key 'model'.")
    folder = Path(cfg) if isinstance(cfg, str | Path) and Path(cfg).is_dir() else None
    address = str(weights) if weights is not None else "" if folder is not None else _init_checkpoint(tree)
    chosen = _device(device, tree)
    targets = trusted_targets(tree, "model", accepted) if is_data and accepted is not None else None
    if accepted is not None:
        _check_shards(address, folder, accepted)
    described = _without_backbone_weights(tree) if address or folder is not None else tree
    with as_user_error():
        model = Builder(described, targets=targets).build("model")
    model = model.to(chosen).eval()
    _load_weights(model, address, folder)
    preprocessing, test_set = _preprocessing(tree)
    return TrainedModel(tree, model, preprocessing, test_set, weights_origin(model)[0])


def _read(cfg: CfgNode | Node | str | Path, trust: frozenset[str] | None) -> tuple[Node, bool]:
    """The config in nodes, and whether it is data that somebody else may have made."""
    if not isinstance(cfg, str | Path):
        return as_config(cfg), False
    path = config_path(cfg)
    if path.is_dir():
        run = RunFolder(path)
        if run.saved_config is None:
            raise ConfigError(f"{path} is not the folder of a run: it has no {run.config.name}.")
        path = run.saved_config
    is_data = path.suffix != ".py"
    if is_data and trust is not None and path.is_file() and has_cfg_node_keys(load_config_file(path)):
        _check_cfg_node_file(path, trust)
    return as_config(path), is_data


def _check_cfg_node_file(path: Path, trust: frozenset[str]) -> None:
    """Refuse a YAML file of `CfgNode` keys that names code: its model is a Python file, and classes are looked up while it is read."""
    keys = CfgNode.load_yaml_with_base(path).get("MODEL") or {}
    file = keys.get("CONFIG")
    is_shipped = file and not (path.parent / file).is_file() and not Path(file).is_file() and shipped_config(file)
    named = [] if is_shipped else [("MODEL.CONFIG", file)]
    classes = [("MODEL.META_ARCHITECTURE", keys.get("META_ARCHITECTURE"))]
    classes.append(("MODEL.BACKBONE.NAME", (keys.get("BACKBONE") or {}).get("NAME")))
    known = allowed_targets()
    named += [row for row in classes if row[1] not in known and f"ultravid.modeling.{row[1]}" not in known]
    opts = map(str, keys.get("OPTS") or ())
    named += [("MODEL.OPTS", text) for text in opts if "_target_" in text or "_object_" in text]
    refused = [(key, name) for key, name in named if name and name not in trust]
    if refused:
        rows = "; ".join(f"{key} is {name!r}" for key, name in refused)
        names = tuple(name for _, name in refused)
        raise TrustError(
            f"{path} names parts that are not on ultravid's list: {rows}. If you know what they do and trust the author of the config, add "
            f"{' '.join(f'--trust {shlex.quote(name)}' for name in names)} (in Python: trust={names!r})."
        )


def _check_shards(address: str, folder: Path | None, trust: frozenset[str]) -> None:
    """Refuse checkpoints in shards, or what may be read as such."""
    candidates: list[Path] = []
    if address:
        with contextlib.suppress(AddressError):  # is reported when it is loaded
            candidates.append(local_path(split_heuristics(address)[0]))
    elif folder is not None:
        checkpointer = DetectionCheckpointer(nn.Module(), folder)
        candidates += [Path(checkpointer.get_checkpoint_file()), *checkpointer.periodic_checkpoints()]
    for checkpoint in candidates:
        if checkpoint.is_dir() and (checkpoint / ".metadata").exists() and checkpoint.name not in trust:
            raise TrustError(
                f"Checkpoint {checkpoint} is in shards, and their index is a pickle, which may run any code when it is read. If you trust "
                f"whoever made it: --trust {shlex.quote(checkpoint.name)} (in Python: trust=({checkpoint.name!r},))."
            )


def _device(device: str | torch.device | None, tree: Node) -> torch.device:
    """The device that was asked for; else the config's, or what there is if it names one that this machine lacks."""
    named = str((tree.get("train") or Node()).get("device", "auto") if device is None else device)
    if (fault := device_fault(named)) is None:
        return select_device(named)
    if device is not None or not is_device_name(named):
        raise UserError(f"{'device' if device is not None else 'train.device'}={named!r} {fault}.")
    chosen = select_device()
    logger.warning("The config's train.device=%r %s. The model runs on %s.", named, fault, chosen)
    return chosen


def _init_checkpoint(tree: Node) -> str:
    return str((tree.get("train") or Node()).get("init_checkpoint") or "")


def _without_backbone_weights(tree: Node) -> Node:
    """A copy whose backbones start from scratch: their weights come with the checkpoint, and may be at an address."""
    tree = tree.copy()
    for part in parts_of(tree["model"]):
        if isinstance(part, Node) and isinstance(part.get("weights"), str) and part["weights"]:
            part["weights"] = ""
    return tree


def _load_weights(model: nn.Module, address: str, folder: Path | None) -> None:
    if folder is not None and not address:
        checkpointer = DetectionCheckpointer(model, folder)
        if checkpointer.has_checkpoint():
            checkpointer.resume_or_load("", resume=True)
            return
        complete = RunFolder(folder).final_checkpoint() or best_checkpoint(RunFolder(folder))
        if complete is None:
            raise CheckpointError(f"{folder} holds no checkpoint.")
        address = str(complete)
    if not address:
        logger.warning("The config names no weights (MODEL.WEIGHTS, train.init_checkpoint): the model is untrained.")
        return
    DetectionCheckpointer(model).load(address, strict=True)


def best_checkpoint(run: RunFolder) -> Path | None:
    """The best checkpoint of a run; None if there is none."""
    try:
        name = run.best_checkpoint.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        name = ""
    path = run.path / name if name else run.checkpoint("model_best")
    return path if path.exists() else None


def _preprocessing(tree: Node) -> tuple[Preprocessing, str]:
    """That of the first test data set, and its name."""
    dataloader = tree.get("dataloader")
    if not isinstance(dataloader, Node) or not isinstance(dataloader.get("test"), Node):
        return Preprocessing(), ""
    sets = test_sets(tree)
    name = next(iter(sets), "")
    loader: Any = sets.get(name, dataloader.test)
    return Preprocessing(loader.get("area"), loader.get("image_format", "RGB"), loader.get("organ") or ""), name


def _name(cfg: Any) -> str:
    return str(cfg) if isinstance(cfg, str | Path) else "The config"
