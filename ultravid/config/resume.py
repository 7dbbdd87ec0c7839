"""A run that is taken up again under another config: what changed, and whether that was meant."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path

from ultravid.config.diff import Difference, diff
from ultravid.config.errors import ConfigError
from ultravid.config.lazy import LazyConfig
from ultravid.config.nodes import Node, resolve_environment

__all__ = ["changes_that_count", "is_named", "refuse_unnamed_changes"]

_WITHOUT_INFLUENCE = frozenset({"num_workers", "pin_memory", "prefetch_factor"})
"""Last steps of keys that change no number of a run."""


def changes_that_count(cfg: Node, saved_config: Path) -> list[Difference]:
    """What a config changes of one that a run saved.

    How many processes load the data, where the output folder lies and how long a job may take has no influence on a run's
    figures and is passed over, as is a seed that is to be drawn.
    """
    new = copy.deepcopy(cfg)
    resolve_environment(new)
    return [d for d in diff(LazyConfig.load(saved_config), new) if not _is_free(d)]


def refuse_unnamed_changes(cfg: Node, allowed: Iterable[str] = ()) -> list[Difference]:
    """Compare a config with the one that the run in its ``train.output_dir`` began with, where there is a checkpoint of it.

    Args:
        cfg: the new one; see `changes_that_count`.
        allowed: keys that may differ, each with all below it.

    Returns:
        the differences, all of them allowed.

    Raises:
        ConfigError: others differ: what from what to what, and the option that allows it.
    """
    folder = Path(cfg.train.output_dir)
    saved_config = folder / "config.yaml"
    if not (saved_config.is_file() and any(folder.glob("model_*"))):
        return []
    differences = changes_that_count(cfg, saved_config)
    names = tuple(allowed)
    unnamed = [d for d in differences if not is_named(d, names)]
    if unnamed:
        rows = "\n".join(f"  {d}" for d in unnamed)
        keys = ",".join([*names, *(d.key for d in unnamed)])
        raise ConfigError(
            f"The run in {folder} began with another config:\n{rows}\n"
            f"To go on with the new values, name their keys: --allow-change {_quoted(keys)}. Without --resume a new run begins."
        )
    return differences


def is_named(difference: Difference, keys: Iterable[str]) -> bool:
    """Whether one of the keys is the difference's or stands above it."""
    return any(difference.key == k or difference.key.startswith((f"{k}.", f"{k}[")) for k in keys)


def _is_free(difference: Difference) -> bool:
    key = difference.key
    if key == "train.seed":
        return difference.new is None or (isinstance(difference.new, int) and difference.new < 0)
    return key in ("train.output_dir", "train.wall_time_s") or key.rpartition(".")[2] in _WITHOUT_INFLUENCE


def _quoted(keys: str) -> str:
    return f"'{keys}'" if any(c in keys for c in "[]'\" ") else keys
