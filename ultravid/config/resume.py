"""Compares the config of a resumed run with the one it was started with, and refuses changes that are not allowed by name."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultravid.config.default_arguments import alike, is_default_argument
from ultravid.config.diff import ABSENT, Difference, diff
from ultravid.config.errors import ConfigError
from ultravid.config.everywhere import is_everywhere, may_set
from ultravid.config.identity import has_no_influence
from ultravid.config.kinds import as_config, load_config
from ultravid.config.nodes import Node, resolve_environment
from ultravid.config.provenance import where
from ultravid.config.references import is_reference, referred_key
from ultravid.config.tree import raw_children, value_at, walk
from ultravid.config.upgrade import regroup
from ultravid.utils.file_io import require_local
from ultravid.utils.run_folder import RunFolder
from ultravid.utils.text import shell_argument

__all__ = ["check_resume_config", "is_named", "significant_changes"]

if TYPE_CHECKING:
    from ultravid.config.cfg_node import CfgNode


def significant_changes(cfg: Node | CfgNode, saved_config: Path) -> list[Difference]:
    """The differences between a config and the one that a run saved, as far as they can change the run's results.

    The number of processes that load the data, the place of the output folder and the time limit of a job do not influence the
    metrics of a run and are ignored, as is the number of threads, of which the log of the run warns, as is a seed that is still to be drawn, and an argument that only one of the two configs
    writes, with its default. A reference equals the value that it stands for, so a value that got a key of its own has not changed.
    """
    new, old = copy.deepcopy(as_config(cfg)), load_config(saved_config)
    regroup(new)
    resolve_environment(new)
    resolve_environment(old)  # a YAML file of keys that was saved is translated here
    return [d for d in diff(old, new) if not (_is_free(d) or _means_the_same(d, old, new))]


def _means_the_same(difference: Difference, old: Node, new: Node) -> bool:
    if ABSENT in (difference.old, difference.new):
        return _is_default(difference, old, new) or _is_only_referred_to(difference, old, new)
    if is_reference(difference.old) != is_reference(difference.new):
        a, b = value_at(old, difference.key), value_at(new, difference.key)
        return alike(a, b) or _was_typed_alike(a, b)
    return _was_typed_alike(difference.old, difference.new)


def _was_typed_alike(old: Any, new: Any) -> bool:
    """Whether values differ only in their kind: earlier versions read the override ``lr=1`` as an int, and ``name=2024`` too."""
    if isinstance(old, list | tuple) and isinstance(new, list | tuple):
        return len(old) == len(new) and all(map(_was_typed_alike, old, new))
    if isinstance(old, bool) or isinstance(new, bool) or not isinstance(old, int | float | str):
        return old is new
    return bool(old == new) or (isinstance(old, int | float) and isinstance(new, str) and str(old) == new)


def _is_default(difference: Difference, old: Node, new: Node) -> bool:
    """Whether one config omits an argument and the other gives its default value, which means the same."""
    config = new if difference.old is ABSENT else old
    above, _, name = difference.key.rpartition(".")
    call = value_at(config, above) if above else config
    return isinstance(call, Node) and is_default_argument(call, name, value_at(config, difference.key))


def _is_only_referred_to(difference: Difference, old: Node, new: Node) -> bool:
    """Whether a key that one config lacks is no argument and acts through references alone, whose values are compared anyway."""
    config = new if difference.old is ABSENT else old
    above = difference.key.rpartition(".")[0]
    if difference.key.startswith("train.") or "_target_" in (value_at(config, above) if above else config):
        return False  # the launcher reads keys of `train` itself
    return any(referred_key(value) == difference.key for node in walk(config) for _, value in raw_children(node))


def check_resume_config(cfg: Node | CfgNode, allowed: Iterable[str] = ()) -> list[Difference]:
    """Compare a config with that of the run in its output folder, if there is a checkpoint of it.

    That is the config of the last attempt that got as far as training, or ``config.yaml`` if no attempt is recorded.

    Args:
        cfg: the config to resume with.
        allowed: keys that may differ, each with all keys below it.

    Returns:
        the differences, as `significant_changes` defines them, all of them allowed.

    Raises:
        ConfigError: others differ: the values before and now, where the new one was set, and the option that allows it.
    """
    run = RunFolder(output_dir_of(cfg))
    saved_config = run.trained_config()
    if saved_config is None or not run.checkpoints():
        return []
    differences = significant_changes(cfg, saved_config)
    names = tuple(allowed)
    unnamed = [d for d in differences if not is_named(d, names)]
    if unnamed:
        config = as_config(cfg)
        rows = "\n".join(f"  {d}{_set_at(config, d)}" for d in unnamed)
        keys = ",".join([*names, *(d.key for d in unnamed)])
        raise ConfigError(
            f"The run in {run} was started with another config:\n{rows}\n"
            f"To continue with the new values, name their keys: --allow-change {shell_argument(keys)}. Without --resume a new run starts."
        )
    return differences


def _set_at(config: Node, difference: Difference) -> str:
    """Where the new value of a difference was set, in brackets; "" if it is not known."""
    above, _, name = difference.key.rpartition(".")
    owner = value_at(config, above) if above and difference.new is not ABSENT else config
    place = where(owner, name) if isinstance(owner, Node) and name in owner else ""
    return f" ({place})" if place else ""


def output_dir_of(cfg: Node | CfgNode) -> Path:
    """The output folder of a config of either kind."""
    return require_local(as_config(cfg).train.output_dir, "train.output_dir")


def is_named(difference: Difference, keys: Iterable[str]) -> bool:
    """Whether one of the keys, or of the patterns such as ``**.dropout``, is that of the difference or of a node above it."""
    return any(
        may_set(key, difference.key)
        if is_everywhere(key)
        else difference.key == key or difference.key.startswith((f"{key}.", f"{key}["))
        for key in keys
    )


def _is_free(difference: Difference) -> bool:
    key = difference.key
    if key == "train.seed":
        return difference.new is None or (isinstance(difference.new, int) and difference.new < 0)
    return has_no_influence(key)
