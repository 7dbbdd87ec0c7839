"""Configs as code. Imports nothing of torch."""

from ultravid.config.check import check, load_checked
from ultravid.config.errors import (
    ConfigError,
    ConfigImportError,
    Fault,
    InterpolationError,
    OverrideError,
    UnknownKeyError,
)
from ultravid.config.instantiate import Builder, instantiate, locate
from ultravid.config.lazy import LazyCall, LazyConfig, LazyPartial, get_config, to_omegaconf
from ultravid.config.loader import importable_project, project_folders
from ultravid.config.nodes import MISSING, ListNode, Node, ref, resolve_environment
from ultravid.config.serialize import config_hash

__all__ = [
    "MISSING",
    "Builder",
    "ConfigError",
    "ConfigImportError",
    "Fault",
    "InterpolationError",
    "LazyCall",
    "LazyConfig",
    "LazyPartial",
    "ListNode",
    "Node",
    "OverrideError",
    "UnknownKeyError",
    "check",
    "config_hash",
    "get_config",
    "importable_project",
    "instantiate",
    "load_checked",
    "locate",
    "project_folders",
    "ref",
    "resolve_environment",
    "to_omegaconf",
]
