"""Configs as code, and configs in YAML (`CfgNode`). Imports nothing of torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ultravid.config.check import check, load_checked, refuse_faults
from ultravid.config.configurable import configurable
from ultravid.config.diff import ABSENT, Difference, diff
from ultravid.config.errors import (
    ConfigError,
    ConfigImportError,
    Fault,
    InterpolationError,
    OverrideError,
    UnknownKeyError,
)
from ultravid.config.explain import Setting, explain, explain_text
from ultravid.config.instantiate import Builder, instantiate, locate
from ultravid.config.kinds import as_config
from ultravid.config.lazy import LazyCall, LazyConfig, LazyPartial, get_config, to_omegaconf
from ultravid.config.loader import importable_project, project_folders
from ultravid.config.nodes import ListNode, Node, resolve_environment
from ultravid.config.references import ref
from ultravid.config.serialize import config_hash
from ultravid.config.tree import MISSING

if TYPE_CHECKING:
    from ultravid.config.cfg_defaults import get_cfg, global_cfg, set_global_cfg
    from ultravid.config.cfg_node import CfgNode
    from ultravid.config.cfg_translation import config_from_cfg_node
    from ultravid.config.resume import check_resume_config
    from ultravid.config.versions import downgrade_config, upgrade_config

__all__ = [
    "ABSENT",
    "MISSING",
    "Builder",
    "CfgNode",
    "ConfigError",
    "ConfigImportError",
    "Difference",
    "Fault",
    "InterpolationError",
    "LazyCall",
    "LazyConfig",
    "LazyPartial",
    "ListNode",
    "Node",
    "OverrideError",
    "Setting",
    "UnknownKeyError",
    "as_config",
    "check",
    "check_resume_config",
    "config_from_cfg_node",
    "config_hash",
    "configurable",
    "diff",
    "downgrade_config",
    "explain",
    "explain_text",
    "get_cfg",
    "get_config",
    "global_cfg",
    "importable_project",
    "instantiate",
    "load_checked",
    "locate",
    "project_folders",
    "ref",
    "refuse_faults",
    "resolve_environment",
    "set_global_cfg",
    "to_omegaconf",
    "upgrade_config",
]


# Imported on first use: cfg_node takes 70 ms for iopath and yacs, which every start of a tool would wait for.
_LATER = {
    "CfgNode": "cfg_node",
    "check_resume_config": "resume",
    "config_from_cfg_node": "cfg_translation",
    "downgrade_config": "versions",
    "upgrade_config": "versions",
    "get_cfg": "cfg_defaults",
    "global_cfg": "cfg_defaults",
    "set_global_cfg": "cfg_defaults",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
