"""Help on the keys of a YAML config (`CfgNode`): the defaults and comments of `ultravid.config.cfg_defaults`."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ultravid.config import cfg_defaults
from ultravid.config.cfg_node import CfgNode, place_of
from ultravid.config.errors import UnknownKeyError, did_you_mean
from ultravid.config.key_help import KeyHelp, helps_as_text
from ultravid.config.serialize import py_text

__all__ = ["cfg_help_text"]


def cfg_help_text(cfg: CfgNode, prefix: str = "", width: int = 100) -> str:
    """Each key with type, value, default, comment and the place that set it, as lines of at most so many characters.

    Raises:
        UnknownKeyError: no key begins with the prefix.
    """
    helps = [each for each in _helps(cfg, cfg_defaults.get_cfg(), "") if each.key.startswith(prefix)]
    if not helps:
        known = [each.key for each in _helps(cfg, cfg_defaults.get_cfg(), "")]
        raise UnknownKeyError(f"Unknown key {prefix!r}.{did_you_mean(prefix, known)}")
    return helps_as_text(helps, width)


def _helps(node: Any, defaults: Any, above: str) -> Iterator[KeyHelp]:
    for name, value in node.items():
        key = f"{above}{name}"
        comment = _comments().get(key, "")
        if isinstance(value, CfgNode):
            if comment:
                yield KeyHelp(key, "", "", "", "", comment, "")
            yield from _helps(value, defaults.get(name, {}), f"{key}.")
            continue
        default = defaults.get(name)
        place = _place(node, name)
        kind = "" if default is None else type(default).__name__
        yield KeyHelp(key, py_text(value), kind, py_text(default) if name in defaults else "", "", comment, place)


def _place(node: Any, name: str) -> str:
    return place_of(node, name).partition(", ")[2]


@functools.lru_cache(maxsize=1)
def _comments() -> dict[str, str]:
    """The comment at each key of the defaults."""
    lines = Path(cfg_defaults.__file__).read_text(encoding="utf-8").splitlines()
    found = (re.fullmatch(r"_C\.([\w.]+) = .*?  # (.*)", line) for line in lines)
    return {match[1]: re.sub(r"\s*noqa.*", "", match[2]) for match in found if match is not None}
