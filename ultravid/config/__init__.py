"""Configs as code. Imports nothing of torch."""

from ultravid.config.check import check, load_checked
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
from ultravid.config.lazy import LazyCall, LazyConfig, LazyPartial, get_config, to_omegaconf
from ultravid.config.loader import importable_project, project_folders
from ultravid.config.nodes import MISSING, ListNode, Node, ref, resolve_environment
from ultravid.config.resume import refuse_unnamed_changes
from ultravid.config.serialize import config_hash

__all__ = [
    "ABSENT",
    "MISSING",
    "Builder",
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
    "check",
    "config_hash",
    "diff",
    "explain",
    "explain_text",
    "get_config",
    "importable_project",
    "instantiate",
    "load_checked",
    "locate",
    "project_folders",
    "ref",
    "refuse_unnamed_changes",
    "resolve_environment",
    "to_omegaconf",
]
