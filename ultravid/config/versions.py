"""Versions of the keys of a `CfgNode`, under detectron2's names.

There is one version so far, 1. Keys that were renamed since are declared in `ultravid.config.migrations` and `cfg_keys`, and are
read whatever version a file states.
"""

from __future__ import annotations

from ultravid.config.cfg_node import CfgNode
from ultravid.config.errors import ConfigError

__all__ = ["downgrade_config", "upgrade_config"]

_NEWEST = 1


def upgrade_config(cfg: CfgNode, to_version: int | None = None) -> CfgNode:
    """A copy of a config in the keys of a version; None is the newest.

    Args:
        cfg: the config, which is not changed.
        to_version: the version to convert to.

    Raises:
        ConfigError: there is no such version, or the config is of a later one.
    """
    return _converted(cfg, _NEWEST if to_version is None else to_version)


def downgrade_config(cfg: CfgNode, to_version: int) -> CfgNode:
    """A copy of a config in the keys of an earlier version.

    Args:
        cfg: the config, which is not changed.
        to_version: the version to convert to.

    Raises:
        ConfigError: there is no such version.
    """
    return _converted(cfg, to_version)


def _converted(cfg: CfgNode, to_version: int) -> CfgNode:
    if to_version != _NEWEST or cfg.VERSION != _NEWEST:
        raise ConfigError(
            f"A config of version {cfg.VERSION} can't be converted to version {to_version}: there is only version {_NEWEST}."
        )
    return cfg.clone()
