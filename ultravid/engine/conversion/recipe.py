"""The run config for a converted model: training and evaluation on CVA-BUS."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ultravid.config import ConfigError, Node, get_config
from ultravid.config.tree import value_at
from ultravid.engine.conversion.description import ModelOfKeys, decoded
from ultravid.engine.conversion.keys import ARGUMENTS, CLIPS, ONE_VALUE, QUERY
from ultravid.utils.text import nearest

__all__ = ["held_out_folds", "run_config"]

_CLIPPED = ("BasicDet", "RelationNet", "FGFA", "MEGA", "DeFCN", "FCOS", "YOLOX", "TrackYOLO", "TransVOD")
_MEMORY_CLIPS = {"MEGA": "mega_clips", "CVANet": "cvanet_clips"}

_CARRIED = {
    # a key of the YAML config -> the key that has its value here
    "INPUT.FIXED_AREA_TEST": "dataloader.test.area",
    "SOLVER.BASE_LR": "optimizer.lr",
    "SOLVER.WEIGHT_DECAY": "optimizer.weight_decay",
    "SOLVER.MAX_ITER": "train.max_iter",
}
_FOLDS = frozenset({"DATASETS.TEST_FOLDS", "DATASETS.NUM_FOLDS", "DATASETS.SPLIT"})
_MISSPELT = 0.9
"""Likeness from which a key is taken for a misspelt one; detectron2's SOLVER.WEIGHT_DECAY_NORM has 0.88 to SOLVER.WEIGHT_DECAY."""


def run_config(described: ModelOfKeys, values: Mapping[str, Any], folder: Path) -> tuple[Node, list[str]]:
    """A complete config of a run on CVA-BUS for a model, and the keys that it does not carry over.

    Args:
        described: the model.
        values: the values of the YAML config by full key; empty without one.
        folder: the folder of the config; the run writes to ``run`` in it.

    Raises:
        ConfigError: the frames have other channels than RGB or BGR, the folds are no numbers, or a key is misspelt.
    """
    recipe = get_config("common/cva_bus_recipe.py")
    keys = ("data", "dataloader", "train", "prepared_model", "checkpointer", "trainer", "lr_multiplier")
    cfg = Node({key: recipe[key] for key in keys}, model=described.model)
    cfg.optimizer = recipe.query_optimizer if described.name in QUERY else recipe.optimizer
    cfg.train.output_dir = str(folder / "run")
    cfg.train.init_checkpoint = str(folder / "model_final.pth")
    if described.name in _CLIPPED:
        cfg.trainer.clip_grad = recipe.clip_grad
    if described.name in _MEMORY_CLIPS:
        cfg.dataloader.train.frame_sampler = recipe[_MEMORY_CLIPS[described.name]]
    if described.name == "MEGA":
        cfg.optimizer.lr = 2e-3
    for key, path in _CARRIED.items():
        if key in values:
            _set(cfg, path, decoded(values[key]), f"{key}, {described.source}")
    _set_folds(cfg, values, described.source)
    clips = {key: argument for key, argument in CLIPS.items() if argument[1] in cfg.dataloader.train.frame_sampler}
    for key, (default, argument) in clips.items() if values else ():
        path = f"dataloader.train.frame_sampler.{argument}"
        _set(cfg, path, decoded(values.get(key, default)), f"{key}, {described.source}")
    channels = values.get("INPUT.FORMAT", "BGR" if values else "RGB")
    if channels not in ("RGB", "BGR"):
        raise ConfigError(f"INPUT.FORMAT is {channels!r}; the models are supported only with 'RGB' or 'BGR'.")
    if channels == "BGR":
        cfg.dataloader.train.image_format = cfg.dataloader.test.image_format = "BGR"
    of_the_model = {key for names, keys in (*ARGUMENTS, *ONE_VALUE) if described.name in names for key in keys}
    known = {*_CARRIED, *of_the_model, *_FOLDS, *clips, "INPUT.FORMAT"}
    rest = [key for key in values if not key.startswith("MODEL.") and key not in known]
    misspelt = {key: close for key in rest if key not in CLIPS and (close := nearest(key, known, _MISSPELT))}
    if misspelt:
        rows = "".join(f"\n  {key}. Did you mean {close}?" for key, close in misspelt.items())
        raise ConfigError(f"{described.source} has keys that would have no effect:{rows}")
    return cfg, sorted([*described.training, *rest])


def held_out_folds(values: Mapping[str, Any]) -> list[int]:
    """The folds that a YAML config holds out; the patients of a fold are the same in the published code as here.

    Args:
        values: the values of the config by full key.

    Raises:
        ConfigError: they are no numbers.
    """
    key = "DATASETS.TEST_FOLDS"
    given = decoded(values.get(key, (0,)))
    folds = list(given) if isinstance(given, list | tuple) else [given]
    if not all(type(fold) is int and fold >= 0 for fold in folds):
        raise ConfigError(f"{key} is {given!r}; it lists the numbers of folds from 0, such as [0].")
    return folds


def _set_folds(cfg: Node, values: Mapping[str, Any], source: str) -> None:
    """Hold out what the YAML config holds out; of several folds the first, because one is held out at a time here."""
    for fold in held_out_folds(values)[:1]:
        _set(cfg, "dataloader.train.fold", fold, f"DATASETS.TEST_FOLDS, {source}")
    if "DATASETS.NUM_FOLDS" in values:
        _set(cfg, "dataloader.train.num_folds", decoded(values["DATASETS.NUM_FOLDS"]), f"DATASETS.NUM_FOLDS, {source}")
    if "DATASETS.SPLIT" in values:
        _set(cfg, "data.splits", [values["DATASETS.SPLIT"]], f"DATASETS.SPLIT, {source}")


def _set(cfg: Node, path: str, value: Any, place: str) -> None:
    above, _, last = path.rpartition(".")
    node = value_at(cfg, above)
    assert isinstance(node, Node)
    node.set(last, value, (place,))
