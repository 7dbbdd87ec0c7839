"""The run config for a converted model: training and evaluation on CVA-BUS."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ultravid.config import ConfigError, LazyConfig, Node, get_config
from ultravid.engine.conversion.description import ModelOfKeys
from ultravid.engine.conversion.keys import QUERY

__all__ = ["run_config"]

_CLIPPED = ("BasicDet", "RelationNet", "FGFA", "MEGA", "DeFCN", "FCOS", "YOLOX", "TrackYOLO", "TransVOD")
_CLIPS = {"MEGA": "mega_clips", "CVANet": "cvanet_clips"}

_CARRIED = {
    # a key of the YAML config -> the key that has its value here
    "INPUT.FIXED_AREA_TEST": "dataloader.test.area",
    "SOLVER.BASE_LR": "optimizer.lr",
    "SOLVER.WEIGHT_DECAY": "optimizer.weight_decay",
    "SOLVER.MAX_ITER": "train.max_iter",
}
_OF_THE_MODEL = frozenset({"INPUT.SCALE_TEST", "TEST.DETECTIONS_PER_IMAGE", "TEST.AUG.ENABLED"})


def run_config(described: ModelOfKeys, values: Mapping[str, Any], folder: Path) -> tuple[Node, list[str]]:
    """A complete config of a run on CVA-BUS for a model, and the keys that it does not carry over.

    Args:
        described: the model.
        values: the values of the YAML config by full key; empty without one.
        folder: the folder of the config; the run writes to ``run`` in it.

    Raises:
        ConfigError: the frames have other channels than RGB or BGR.
    """
    recipe = get_config("common/cva_bus_recipe.py")
    keys = ("data", "dataloader", "train", "prepared_model", "checkpointer", "trainer", "lr_multiplier")
    cfg = Node({key: recipe[key] for key in keys}, model=described.model)
    cfg.optimizer = recipe.query_optimizer if described.name in QUERY else recipe.optimizer
    cfg.train.output_dir = str(folder / "run")
    cfg.train.init_checkpoint = str(folder / "model_final.pth")
    if described.name in _CLIPPED:
        cfg.trainer.clip_grad = recipe.clip_grad
    if described.name in _CLIPS:
        cfg.dataloader.train.frame_sampler = recipe[_CLIPS[described.name]]
    if described.name == "MEGA":
        cfg.optimizer.lr = 2e-3
    for key, path in _CARRIED.items():
        if key in values:
            LazyConfig.apply_overrides(cfg, [f"{path}={values[key]}"])
    channels = values.get("INPUT.FORMAT", "BGR" if values else "RGB")
    if channels not in ("RGB", "BGR"):
        raise ConfigError(f"INPUT.FORMAT is {channels!r}; the models are supported only with 'RGB' or 'BGR'.")
    if channels == "BGR":
        cfg.dataloader.train.image_format = cfg.dataloader.test.image_format = "BGR"
    known = {*_CARRIED, *_OF_THE_MODEL, "INPUT.FORMAT"}
    rest = [key for key in values if not key.startswith("MODEL.") and key not in known]
    return cfg, sorted([*described.training, *rest])
