"""Configs of both kinds, nodes and `CfgNode`, as the config of a run in nodes.

Launchers and what they call first use these functions; nothing below them knows that YAML keys exist. What needs yacs is imported
when a `CfgNode` is met: it would make every start of a tool wait 70 ms.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from ultravid.config.cfg_keys import SAVED_KEYS, TOP_KEYS
from ultravid.config.loader import load_config_file
from ultravid.config.nodes import Node
from ultravid.config.upgrade import upgrade
from ultravid.utils.run_folder import RunFolder

if TYPE_CHECKING:
    from ultravid.config.cfg_node import CfgNode

__all__ = ["as_config", "config_to_save", "has_cfg_node_keys", "load_config", "store_seed"]


def as_config(cfg: Node | CfgNode | str | Path) -> Node:
    """The config of a run, in whichever form it is given.

    Args:
        cfg: a config in nodes, which is returned itself; a `CfgNode`; a config file, ``.py`` or ``.yaml`` of either kind; or
            the folder of a run, whose ``config.yaml`` is read.

    Raises:
        ConfigError: a file can't be read, or keys have wrong values.
    """
    if isinstance(cfg, Node):
        return cfg
    if isinstance(cfg, str | Path):
        return load_config(RunFolder(cfg).config if Path(cfg).is_dir() else cfg)
    from ultravid.config.cfg_translation import config_from_cfg_node

    return config_from_cfg_node(cfg)


def load_config(path: str | Path, *, allow_pickle: bool = False) -> Node:
    """Read a config file: Python, YAML of nodes, or YAML of `CfgNode` keys, which is translated.

    Raises:
        ConfigError: the file can't be read, or its keys or values are wrong.
    """
    node = load_config_file(path, allow_pickle=allow_pickle)
    if Path(path).suffix == ".py" or not has_cfg_node_keys(node):
        upgrade(node)
        return node
    from ultravid.config.cfg_defaults import get_cfg

    cfg = get_cfg()
    cfg.merge_from_file(path)
    return as_config(cfg)


def has_cfg_node_keys(content: Iterable[str]) -> bool:
    """Whether the top keys of a YAML file are those of a `CfgNode`."""
    keys = set(content)
    return "trainer" not in keys and not keys.isdisjoint(TOP_KEYS)


def config_to_save(cfg: Node | CfgNode) -> Node:
    """What a run writes to its ``config.yaml``: the config in nodes.

    For a `CfgNode` its keys are added, so that ``cfg.merge_from_file("config.yaml")`` reads them.
    """
    if isinstance(cfg, Node):
        cfg.pop(SAVED_KEYS, None)  # of the run that it was loaded from: its values may have been changed since
        return cfg
    node = as_config(cfg)
    node[SAVED_KEYS] = yaml.safe_load(cfg.dump())
    return node


def store_seed(cfg: Node | CfgNode, seed: int) -> None:
    """Write the seed that was drawn for a run into its config, even if that is frozen."""
    if isinstance(cfg, Node):
        cfg.train.seed = seed
        return
    frozen = cfg.is_frozen()
    cfg.defrost()
    cfg.SEED = seed
    if frozen:
        cfg.freeze()
