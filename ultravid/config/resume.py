"""A run that is taken up again under another config: what changed, and whether that was meant."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from ultravid.config.diff import Difference, diff
from ultravid.config.errors import ConfigError
from ultravid.config.lazy import LazyConfig
from ultravid.config.nodes import Node, resolve_environment
from ultravid.utils.file_io import require_local
from ultravid.utils.run_folder import RunFolder

__all__ = ["check_resume_config", "is_named", "significant_changes"]

if TYPE_CHECKING:
    from ultravid.config.cfg_node import CfgNode

_WITHOUT_INFLUENCE = frozenset({"num_workers", "pin_memory", "prefetch_factor", "NUM_WORKERS"})
"""Last steps of keys that change no number of a run."""
_OF_THE_JOB = frozenset({"train.output_dir", "train.wall_time_s", "OUTPUT_DIR", "WALL_TIME_S"})


def significant_changes(cfg: Node | CfgNode, saved_config: Path) -> list[Difference]:
    """What a config changes of one that a run saved.

    How many processes load the data, where the output folder lies and how long a job may take has no influence on a run's
    figures and is passed over, as is a seed that is to be drawn.
    """
    if isinstance(cfg, Node):
        new = copy.deepcopy(cfg)
        resolve_environment(new)
        old = LazyConfig.load(saved_config)
    else:
        new, old = Node(yaml.safe_load(cfg.dump())), Node(yaml.safe_load(saved_config.read_text(encoding="utf-8")))
    return [d for d in diff(old, new) if not _is_free(d)]


def check_resume_config(cfg: Node | CfgNode, allowed: Iterable[str] = ()) -> list[Difference]:
    """Compare a config with that of the run in its output folder, where there is a checkpoint of it.

    That is the config of the last attempt that came so far as to train, or where no attempt is recorded ``config.yaml``.

    Args:
        cfg: the new one; see `significant_changes`.
        allowed: keys that may differ, each with all below it.

    Returns:
        the differences, all of them allowed.

    Raises:
        ConfigError: others differ: what from what to what, and the option that allows it.
    """
    run = RunFolder(output_dir_of(cfg))
    saved_config = run.trained_config()
    if saved_config is None or not run.checkpoints():
        return []
    differences = significant_changes(cfg, saved_config)
    names = tuple(allowed)
    unnamed = [d for d in differences if not is_named(d, names)]
    if unnamed:
        rows = "\n".join(f"  {d}" for d in unnamed)
        keys = ",".join([*names, *(d.key for d in unnamed)])
        raise ConfigError(
            f"The run in {run} began with another config:\n{rows}\n"
            f"To go on with the new values, name their keys: --allow-change {_quoted(keys)}. Without --resume a new run begins."
        )
    return differences


def output_dir_of(cfg: Node | CfgNode) -> Path:
    """The output folder of a config of either kind."""
    if isinstance(cfg, Node):
        return require_local(cfg.train.output_dir, "train.output_dir")
    return require_local(cfg.OUTPUT_DIR, "OUTPUT_DIR")


def is_named(difference: Difference, keys: Iterable[str]) -> bool:
    """Whether one of the keys is the difference's or stands above it."""
    return any(difference.key == k or difference.key.startswith((f"{k}.", f"{k}[")) for k in keys)


def _is_free(difference: Difference) -> bool:
    key = difference.key
    if key in ("train.seed", "SEED"):
        return difference.new is None or (isinstance(difference.new, int) and difference.new < 0)
    return key in _OF_THE_JOB or key.rpartition(".")[2] in _WITHOUT_INFLUENCE


def _quoted(keys: str) -> str:
    return f"'{keys}'" if any(c in keys for c in "[]'\" ") else keys
