"""The names of the modules that config files are run as.

A class, function or enumeration that a config file defines has such a name as its ``__module__``, so that it is pickled by
reference like any other: a process that has never read the file imports the module by this name and finds the definition
(`ultravid.config.files`). The name holds the file's path, the hash of its content (a file that was edited since is another
module) and, from the second time on that this process has run the file, a number: what those runs define may differ.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["MODULE_PREFIX", "ModuleName", "content_hash", "is_config_module", "module_name", "parse_module_name"]

MODULE_PREFIX = "ultravid.config.files."

_NAME = re.compile(r"config-([0-9a-f]{8})(?:-(\d+))?:(.*)", re.DOTALL)


class ModuleName(NamedTuple):
    """What the name of a config file's module says: ``run`` counts from 1."""

    path: Path
    content: str
    run: int


def content_hash(source: bytes) -> str:
    """Eight hex digits that tell versions of a file apart."""
    return hashlib.sha256(source).hexdigest()[:8]


def module_name(path: Path, content: str, run: int) -> str:
    """The name of one run of a file. Only a dot, which would part packages, and ``%`` are encoded."""
    number = f"-{run}" if run > 1 else ""
    return f"{MODULE_PREFIX}config-{content}{number}:{str(path).replace('%', '%25').replace('.', '%2E')}"


def is_config_module(name: Any) -> bool:
    """Whether a ``__module__`` or ``__name__`` is that of a config file."""
    return isinstance(name, str) and name.startswith(f"{MODULE_PREFIX}config-")


def parse_module_name(name: str) -> ModuleName | None:
    """The file of a module, from its name; None if it is not a config file's."""
    found = _NAME.fullmatch(name.removeprefix(MODULE_PREFIX)) if is_config_module(name) else None
    if found is None:
        return None
    path = Path(found[3].replace("%2E", ".").replace("%25", "%"))
    return ModuleName(path, found[1], int(found[2] or 1))
