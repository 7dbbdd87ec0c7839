"""Translates the keys of a `CfgNode` to the config of a run: the same tree of nodes that a Python config describes.

It is laid out as ``configs_py/common/train.py``: ``model``, ``dataloader``, ``optimizer``, ``lr_multiplier``, ``train``,
``prepared_model``, ``checkpointer`` and ``trainer``. Each value that a key sets remembers the key, and the file and line that
set it, so that errors, ``--explain`` and the like name what the user wrote. Launchers translate; nothing below them knows YAML.
Imports nothing of torch itself; the shipped configs do.
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any

from ultravid.config.cfg_defaults import DEFAULTS
from ultravid.config.cfg_model import model_of_cfg_node
from ultravid.config.cfg_node import CfgNode, place_of
from ultravid.config.errors import ConfigError, did_you_mean
from ultravid.config.loader import load_config_file
from ultravid.config.nodes import Node
from ultravid.config.provenance import where
from ultravid.config.references import ref
from ultravid.config.shipped import shipped_config
from ultravid.config.tree import Container, full_key, raw_children

__all__ = [
    "config_from_cfg_node",
    "test_set_key",
    "with_tree_keys",
]

logger = logging.getLogger(__name__)


def with_tree_keys(config: Node, keys: Iterable[str]) -> list[str]:
    """Keys of a config in nodes in place of the `CfgNode` keys, or groups of them, that set them; other keys stay.

    ``SOLVER.BASE_LR`` gives ``optimizer.lr``, and ``lr_multiplier``, which is derived from it too.
    """
    set_by = dict(_keys_set_by(config))
    found: list[str] = []
    for key in keys:
        own = [at for at, setter in set_by.items() if setter == key or setter.startswith(f"{key}.")]
        found += [*own, *_DERIVED.get(key, ())] or [key]
    return list(dict.fromkeys(found))


_DERIVED = {
    **dict.fromkeys(("SOLVER.MAX_ITER", "SOLVER.BASE_LR"), ("lr_multiplier",)),
    **dict.fromkeys(("MODEL", "MODEL.CONFIG", "MODEL.OPTS"), ("model",)),
}


def _keys_set_by(container: Container) -> Iterator[tuple[str, str]]:
    """(key of the config, key of the `CfgNode` that set it)."""
    for name, value in raw_children(container):
        setter = where(container, name).partition(",")[0]
        if re.fullmatch(r"[A-Z][A-Z0-9_.]*", setter):
            yield full_key(container, name), setter
        if isinstance(value, Container):
            yield from _keys_set_by(value)


def config_from_cfg_node(cfg: CfgNode) -> Node:
    """The config of the run that a `CfgNode` describes, a fresh one each time.

    Args:
        cfg: the config in keys, read from YAML or made by `get_cfg`. It is not changed.

    Raises:
        ConfigError: values are out of their range, or the model's file or its overrides are wrong; all in one message, each
            with its key, file and line.
    """
    keys = _Keys(cfg)
    if keys.faults:
        raise ConfigError("\n".join(keys.faults))
    tree = Node()
    try:
        tree.model = model_of_cfg_node(cfg)
    except ConfigError as error:
        keys.faults.append(str(error))
    shipped = _shipped("common/train.py")
    tree.dataloader = _dataloader(keys)
    tree.optimizer = _optimizer(keys)
    tree.lr_multiplier = _lr_multiplier(keys)
    for name in ("train", "prepared_model", "checkpointer", "trainer"):
        tree[name] = shipped[name]
    _set_run(keys, tree.train)
    _set_trainer(keys, tree.trainer)
    if keys.faults:
        raise ConfigError("\n".join(keys.faults))
    return tree


class _Keys:
    """Reads keys of a config, checks their values, and sets nodes from them.

    Attributes:
        faults: the values that are wrong, each with its key and place.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg
        self.faults: list[str] = []
        self._refuse_missing_numbers(DEFAULTS)

    def __getitem__(self, key: str) -> Any:
        value, default = (
            functools.reduce(lambda node, part: node[part], key.split("."), cfg) for cfg in (self.cfg, DEFAULTS)
        )
        return default[:0] if value is None and isinstance(default, list | tuple) else value

    def _refuse_missing_numbers(self, defaults: CfgNode, above: str = "") -> None:
        """Report numbers that are None; a list that is None is empty, and a negative seed and no seed are the same."""
        for name, default in defaults.items():
            key = above + name
            if isinstance(default, CfgNode):
                self._refuse_missing_numbers(default, f"{key}.")
            elif type(default) in (int, float) and key not in ("SEED", "VERSION") and self[key] is None:
                self.refuse(key, ", not a number.")

    def refuse(self, key: str, why: str) -> None:
        """Report a key whose value is wrong."""
        self.faults.append(f"{key} is {self[key]!r}{why} ({place_of(self.cfg, key)})")

    def at_least(self, key: str, low: int) -> Any:
        """A number that must not be less than ``low``."""
        value = self[key]
        if value < low:
            self.refuse(key, f", not at least {low}." if low else ", below 0.")
        return value

    def range(self, key: str) -> tuple[float, float]:
        """A pair (low, high)."""
        value = self[key]
        if len(value) != 2 or not all(isinstance(v, int | float) for v in value) or value[0] > value[1]:
            self.refuse(key, ", not a range [low, high].")
        return tuple(value)

    def one_of(self, key: str, choices: Iterable[str]) -> str:
        """A name that must be one of several; the first of them in place of one that is not."""
        names, name = list(choices), self[key]
        if name in names:
            return str(name)
        self.refuse(key, f".{did_you_mean(name, names)}")
        return names[0]

    def set(self, node: Node, name: str, key: str, value: Any) -> None:
        """Set a value of a node that comes from a key."""
        node.set(name, value, self.origin(key))

    def origin(self, key: str) -> tuple[str]:
        """What a value remembers as the place where it was set."""
        return (place_of(self.cfg, key),)

    def call(self, key: str, target: str, /, **arguments: Any) -> Node:
        """A call that a key asks for."""
        return Node._make([("_target_", target), *arguments.items()], self.origin(key))


def _shipped(name: str) -> Node:
    path = shipped_config(name)
    assert path is not None, name
    return load_config_file(path)


def _set_run(keys: _Keys, train: Node) -> None:
    """The values of ``train``."""
    from_keys = {
        "output_dir": ("OUTPUT_DIR", keys["OUTPUT_DIR"]),
        "init_checkpoint": ("MODEL.WEIGHTS", keys["MODEL.WEIGHTS"]),
        "max_iter": ("SOLVER.MAX_ITER", keys.at_least("SOLVER.MAX_ITER", 1)),
        "eval_period": ("TEST.EVAL_PERIOD", keys.at_least("TEST.EVAL_PERIOD", 0)),
        "log_period": ("LOG_PERIOD", keys.at_least("LOG_PERIOD", 1)),
        "device": ("MODEL.DEVICE", keys["MODEL.DEVICE"]),
        "wall_time_s": ("WALL_TIME_S", keys.at_least("WALL_TIME_S", 0) or None),
        "seed": ("SEED", keys["SEED"]),
        "deterministic": ("DETERMINISTIC", keys["DETERMINISTIC"]),
    }
    for name, (key, value) in from_keys.items():
        keys.set(train, name, key, value)
    keys.set(train.amp, "enabled", "SOLVER.AMP.ENABLED", keys["SOLVER.AMP.ENABLED"])
    precision = keys.one_of("SOLVER.AMP.PRECISION", ("bfloat16", "float16"))
    keys.set(train.amp, "precision", "SOLVER.AMP.PRECISION", precision)
    period, to_keep = "SOLVER.CHECKPOINT_PERIOD", "SOLVER.CHECKPOINTS_TO_KEEP"
    keys.set(train.checkpointer, "period", period, keys.at_least(period, 1))
    keys.set(train.checkpointer, "max_to_keep", to_keep, keys.at_least(to_keep, 0) or None)


def _set_trainer(keys: _Keys, trainer: Node) -> None:
    """Gradients, accumulation and the hooks of ``trainer``."""
    accumulate, skip = "SOLVER.ACCUMULATE", "SOLVER.SKIP_NONFINITE"
    keys.set(trainer.accumulation, "num_batches", accumulate, keys.at_least(accumulate, 1))
    keys.set(trainer.nonfinite, "max_skipped", skip, keys.at_least(skip, 0))
    keys.set(trainer, "clip_grad", "SOLVER.CLIP_GRADIENTS.ENABLED", _gradient_clipper(keys))
    hooks, names = trainer.hooks, [test_set_key(name) for name in keys["DATASETS.TEST"]]
    origin = keys.origin("DATASETS.TEST")
    if not names:
        hooks.record.datasets.delete_key("test", origin)
        hooks.set("eval", None, origin)
        hooks.set("best", None, origin)
    elif len(names) > 1:
        hooks.record.datasets.delete_key("test", origin)
        hooks.record.datasets.update({name: ref(f"dataloader.test.{name}") for name in names})
        hooks.eval.eval_function.set("_target_", "ultravid.evaluation.inference_on_datasets", origin)
    metric, precise = "TEST.BEST_METRIC", "TEST.PRECISE_BN."
    if hooks.best is not None and keys[metric]:
        keys.set(hooks.best, "val_metric", metric, keys[metric])
    elif hooks.best is not None:
        keys.set(hooks, "best", metric, None)
    num_iter = keys.at_least(f"{precise}NUM_ITER", 1)
    if keys[f"{precise}ENABLED"]:
        keys.set(hooks, "precise_bn", f"{precise}ENABLED", _shipped("common/hooks.py").PreciseBN)
        keys.set(hooks.precise_bn, "num_iter", f"{precise}NUM_ITER", num_iter)


def test_set_key(name: str) -> str:
    """The key of a data set below ``dataloader.test`` and ``dataloader.evaluator``, if there are several."""
    return re.sub(r"\W", "_", name)


def _gradient_clipper(keys: _Keys) -> Node | None:
    group = "SOLVER.CLIP_GRADIENTS."
    key = f"{group}CLIP_TYPE"
    kind = keys.one_of(key, ("value", "norm", "full_model"))
    if not keys[f"{group}ENABLED"]:
        return None
    limit = keys[f"{group}CLIP_VALUE"]
    if kind == "value":
        return keys.call(key, "torch.nn.utils.clip_grad_value_", _partial_=True, clip_value=limit)
    target = "torch.nn.utils.clip_grad_norm_" if kind == "full_model" else "ultravid.solver.clip_each_grad_norm_"
    call = keys.call(key, target, _partial_=True, max_norm=limit)
    if keys[f"{group}NORM_TYPE"] != 2.0:
        keys.set(call, "norm_type", f"{group}NORM_TYPE", keys[f"{group}NORM_TYPE"])
    return call


def _optimizer(keys: _Keys) -> Node:
    shipped, name = _shipped("common/optim.py"), keys.one_of("SOLVER.OPTIMIZER", ("AdamW", "Adam", "SGD"))
    optimizer: Node = shipped.SGD if name == "SGD" else shipped.AdamW
    if name == "Adam":
        keys.set(optimizer, "_target_", "SOLVER.OPTIMIZER", "torch.optim.Adam")
    keys.set(optimizer, "lr", "SOLVER.BASE_LR", keys.at_least("SOLVER.BASE_LR", 0))
    keys.set(optimizer, "weight_decay", "SOLVER.WEIGHT_DECAY", keys["SOLVER.WEIGHT_DECAY"])
    own = ("momentum", "nesterov") if name == "SGD" else ("betas",)
    for argument in own:
        key = f"SOLVER.{argument.upper()}"
        if argument in optimizer or keys[key]:
            keys.set(optimizer, argument, key, keys[key])
    for argument, default in (("weight_decay_norm", None), ("weight_decay_bias", None), ("bias_lr_factor", 1.0)):
        key = f"SOLVER.{argument.upper()}"
        if argument in optimizer.params or keys[key] != default:
            keys.set(optimizer.params, argument, key, keys[key])
    return optimizer


def _lr_multiplier(keys: _Keys) -> Node:
    name = keys.one_of("SOLVER.LR_SCHEDULER_NAME", ("WarmupMultiStepLR", "WarmupCosineLR"))
    multiplier: Node = _shipped("common/schedules.py").cosine
    max_iter, warmup = keys["SOLVER.MAX_ITER"], "SOLVER.WARMUP_ITERS"
    if name == "WarmupMultiStepLR":
        keys.set(multiplier, "scheduler", "SOLVER.STEPS", _multi_step(keys))
    elif keys["SOLVER.BASE_LR"] > 0:
        end = keys["SOLVER.BASE_LR_END"] / keys["SOLVER.BASE_LR"]
        keys.set(multiplier.scheduler, "end_value", "SOLVER.BASE_LR_END", end)
    keys.set(multiplier, "warmup_factor", "SOLVER.WARMUP_FACTOR", keys["SOLVER.WARMUP_FACTOR"])
    share = min(keys.at_least(warmup, 0) / max_iter, 1.0) if max_iter > 0 else 0.0
    keys.set(multiplier, "warmup_length", warmup, share)
    for argument, default in (("warmup_method", "linear"), ("rescale_interval", False)):
        key = f"SOLVER.{argument.upper()}"
        if keys[key] != default:
            keys.set(multiplier, argument, key, keys[key])
    return multiplier


def _multi_step(keys: _Keys) -> Node:
    factors, steps, max_iter = keys["SOLVER.STEP_FACTORS"], keys["SOLVER.STEPS"], keys["SOLVER.MAX_ITER"]
    if factors and len(factors) != len(steps):
        keys.faults.append(
            f"SOLVER.STEP_FACTORS has {len(factors)} factors for {len(steps)} SOLVER.STEPS. "
            f"({place_of(keys.cfg, 'SOLVER.STEP_FACTORS')})"
        )
    values = [1.0, *factors] if factors else [keys["SOLVER.GAMMA"] ** k for k in range(len(steps) + 1)]
    kept = [step for step in steps if step < max_iter]
    if len(kept) < len(steps):
        _warn_once(f"SOLVER.STEPS at or past SOLVER.MAX_ITER={max_iter} are ignored.")
    return keys.call(
        "SOLVER.STEPS",
        "fvcore.common.param_scheduler.MultiStepParamScheduler",
        values=values[: len(kept) + 1],
        milestones=kept,
        num_updates=max_iter,
    )


@functools.cache
def _warn_once(message: str) -> None:
    """Log a warning the first time: a run translates its config more than once."""
    logger.warning(message)


def _dataloader(keys: _Keys) -> Node:
    shipped = _shipped("common/data/cva_bus.py").dataloader
    train, test, evaluator = (shipped[name] for name in ("train", "test", "evaluator"))
    keys.set(train, "videos", "DATASETS.TRAIN", _videos(keys, "DATASETS.TRAIN", keys["DATASETS.TRAIN"]))
    keys.set(train, "frame_sampler", "INPUT.CLIP.SAMPLER", _frame_sampler(keys))
    keys.set(train, "transforms", "INPUT", _transforms(keys))
    batch_size, area = "SOLVER.IMS_PER_BATCH", "INPUT.AREA_TEST"
    keys.set(train, "total_batch_size", batch_size, keys.at_least(batch_size, 1))
    fold = keys["DATASETS.FOLD"]
    num_folds = keys.at_least("DATASETS.NUM_FOLDS", 1)
    keys.set(train, "fold", "DATASETS.FOLD", fold if fold >= 0 else None)
    keys.set(train, "num_folds", "DATASETS.NUM_FOLDS", num_folds if fold >= 0 else None)
    keys.set(test, "area", area, keys.at_least(area, 0) or None)
    num_workers = keys.at_least("DATALOADER.NUM_WORKERS", 0)
    image_format = keys.one_of("INPUT.FORMAT", ("RGB", "BGR"))
    for loader in (train, test):
        keys.set(loader, "foreign_context", "DATASETS.FOREIGN_CONTEXT", keys["DATASETS.FOREIGN_CONTEXT"])
        keys.set(loader, "image_format", "INPUT.FORMAT", image_format)
        keys.set(loader, "num_workers", "DATALOADER.NUM_WORKERS", num_workers)
    names = keys["DATASETS.TEST"]
    keys.set(test, "videos", "DATASETS.TEST", _videos(keys, "DATASETS.TEST", names))
    if len(names) < 2:
        return Node(train=train, test=test, evaluator=evaluator)
    loaders, evaluators = Node(), Node()
    for name in names:
        key = test_set_key(name)
        loaders[key], evaluators[key] = test.copy(), evaluator.copy()
        keys.set(loaders[key], "videos", "DATASETS.TEST", _videos(keys, "DATASETS.TEST", [name]))
        for part in evaluators[key].evaluators:
            part.output_dir = f"{part.raw.output_dir}/{name}"
    return Node(train=train, test=loaders, evaluator=evaluators)


def _videos(keys: _Keys, key: str, names: Iterable[str]) -> Node:
    return keys.call(key, "ultravid.datasets.get_videos", names=list(names))


def _frame_sampler(keys: _Keys) -> Node:
    group = "INPUT.CLIP."
    num_frames, window, stride = (keys.at_least(group + key, 1) for key in ("NUM_FRAMES", "WINDOW", "STRIDE"))
    name = keys.one_of(f"{group}SAMPLER", ("WindowFrameSampler", "StridedFrameSampler"))
    own = {"window": window} if name == "WindowFrameSampler" else {"stride": stride}
    sampler = keys.call(f"{group}SAMPLER", f"ultravid.data.{name}")
    for argument, value in {"num_frames": num_frames, **own}.items():
        keys.set(sampler, argument, group + argument.upper(), value)
    return sampler


def _transforms(keys: _Keys) -> list[Node]:
    """In this order: size, scale, colour, left and right, time."""
    transforms: list[Node] = []

    def add(key: str, target: str, **arguments: Any) -> None:
        transforms.append(keys.call(key, f"ultravid.data.{target}", **arguments))

    area, factor = keys.at_least("INPUT.AREA_TRAIN", 0), keys.range("INPUT.AREA_FACTOR_TRAIN")
    if area:
        add("INPUT.AREA_TRAIN", "ResizeToArea", area=area, factor=factor)
    scale, color = "INPUT.SCALE.", "INPUT.COLOR."
    if keys[f"{scale}ENABLED"]:
        ranges = {name: keys.range(scale + name.upper()) for name in ("factor", "aspect")}
        add(f"{scale}ENABLED", "RandomScale", **ranges, min_visible=keys[f"{scale}MIN_VISIBLE"])
    if keys[f"{color}ENABLED"]:
        ranges = {name: keys.range(color + name.upper()) for name in ("contrast", "sharpness", "saturation")}
        add(f"{color}ENABLED", "RandomColor", **ranges)
    if keys.one_of("INPUT.RANDOM_FLIP", ("horizontal", "none")) == "horizontal":
        add("INPUT.RANDOM_FLIP", "RandomFlip", prob=0.5)
    if keys["INPUT.RANDOM_TIME_FLIP"]:
        add("INPUT.RANDOM_TIME_FLIP", "RandomTimeFlip", prob=0.5)
    return transforms
