"""The version of ultravid that a config file is for.

What ultravid saves states it at the top, below `VERSION_KEY`. The key belongs to the file, not to the config: a reader takes it off
before it makes a node of the rest, so that no run, comparison or identity sees it. A Python config may state it in an assignment at
its top level. A file of a later version is refused, because it may mean what this version does not know.
"""

from __future__ import annotations

import ast
import functools
import logging
import os
from pathlib import Path
from typing import Any

from ultravid import __version__
from ultravid.config.errors import ConfigError
from ultravid.config.packages import parsing

__all__ = ["BESIDE_THE_RUN", "LOAD_NEWER", "VERSION_KEY", "accepted_version", "is_earlier", "version_in_python"]

logger = logging.getLogger(__name__)

VERSION_KEY = "ultravid_version"
"""The key of a saved config, or the name in a Python config, that states the version of ultravid."""

BESIDE_THE_RUN = frozenset({"project_folders", "cfg_node", VERSION_KEY})
"""Keys at the top of a saved config that record something beside the run."""

LOAD_NEWER = "ULTRAVID_LOAD_NEWER_CONFIGS"
"""The environment variable that lets configs of later versions be read all the same."""


def accepted_version(stated: Any, place: str) -> str:
    """The version that a file states, if this version of ultravid may read it.

    Args:
        stated: the value of `VERSION_KEY`, which should be a text.
        place: ``file:line``, for messages.

    Raises:
        ConfigError: it is not a version, or it is later than this one.
    """
    if stated == __version__:
        return __version__
    if not isinstance(stated, str) or _order(stated) is None:
        raise ConfigError(
            f"{place}: {VERSION_KEY} is {stated!r}, which is not a version. It names the version of ultravid that the config is "
            f"for, as {__version__!r}; delete the line if that is not known."
        )
    if not is_earlier(__version__, stated):
        return stated
    if os.environ.get(LOAD_NEWER, "") not in ("", "0"):
        _warn_of_newer(place, stated)
        return stated
    raise ConfigError(
        f"{place}: the config is for ultravid {stated}, and this is ultravid {__version__}, which may not understand all of it. "
        f"Install ultravid {stated} or later. To read it all the same set {LOAD_NEWER}=1 in the environment."
    )


@functools.lru_cache(maxsize=256)
def _warn_of_newer(place: str, text: str) -> None:
    """Warn of a file once: a launcher reads it more than once."""
    logger.warning(
        "%s: the config is for ultravid %s and is read by ultravid %s, because %s is set: what it says is checked, but the same name "
        "may mean something else.",
        place,
        text,
        __version__,
        LOAD_NEWER,
    )


def is_earlier(version: str, other: str = __version__) -> bool:
    """Whether a version comes before another, by default this one; a build's own mark (``+cu128``) does not count."""
    first, second = _order(version), _order(other)
    return first is not None and second is not None and bool(first < second)


@functools.lru_cache(maxsize=64)
def _order(text: str) -> Any:
    """A version that can be compared; None if it is not one."""
    from packaging.version import InvalidVersion, Version  # only here: most files state the version that reads them

    try:
        return Version(Version(text).public)
    except InvalidVersion:
        return None


def version_in_python(source: bytes, path: Path) -> str:
    """The version that a Python config states at its top level; "" if it states none. The file is not run.

    Raises:
        ConfigError: what it states is not a text with a version, or the version is later than this one.
        SyntaxError: as `ast.parse`.
        ValueError: as `ast.parse`.
    """
    if VERSION_KEY.encode() not in source:
        return ""
    with parsing:
        tree = ast.parse(source, str(path))
    for statement in tree.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        value = statement.value if isinstance(statement, ast.Assign | ast.AnnAssign) else None
        if value is not None and any(isinstance(t, ast.Name) and t.id == VERSION_KEY for t in targets):
            stated = value.value if isinstance(value, ast.Constant) else ast.unparse(value)
            return accepted_version(stated, f"{path}:{statement.lineno}")
    return ""
