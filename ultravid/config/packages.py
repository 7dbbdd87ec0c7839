"""Tells from the text of a file in a Python package whether it is code that a config uses, or a config.

A config may import both by relative path. Code, ``from ..modeling import Net``, is imported as any module is, so that ``Net`` is the class
that the rest of the process has. A config file is read again. A package may hold either, because many people put an
``__init__.py`` into every folder.
"""

from __future__ import annotations

import ast
import functools
import threading
from pathlib import Path

__all__ = ["defines", "is_ordinary_module", "parsing"]

parsing = threading.RLock()
"""Held while a file is parsed: Python 3.11 confuses the depths of syntax trees that two threads make at a time."""


def is_ordinary_module(path: Path) -> bool:
    """Whether a file is in a package and defines classes and functions, or imports those of its package, and has no values.

    Values are what a config is made of; constants (``RATE = 0.1``, ``__all__``, a logger) are not.
    """
    return (path.parent / "__init__.py").is_file() and _judge(path, frozenset())


def defines(path: Path, names: tuple[str, ...]) -> bool:
    """Whether a file binds one of the names at its top level, other than by importing a file of its folder of that name."""
    bound = set()
    for statement in _statements(path, _version(path)):
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            bound.add(statement.name)
        elif isinstance(statement, ast.ImportFrom | ast.Import):
            bound |= {alias.asname or alias.name for alias in statement.names}
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            bound |= {target.id for target in targets if isinstance(target, ast.Name)}
    return not bound.isdisjoint(names)


def _judge(path: Path, above: frozenset[Path]) -> bool:
    has_code = False
    for statement in _statements(path, _version(path)):
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            has_code = True
        elif isinstance(statement, ast.ImportFrom) and statement.level:
            for file in _imported(path, statement):
                if file not in above and file != path:
                    if not _judge(file, above | {path}):
                        return False
                    has_code = True
        elif isinstance(statement, ast.ImportFrom | ast.Import):
            modules = [getattr(statement, "module", None), *(alias.name for alias in statement.names)]
            if any(map(_is_config_library, modules)):
                return False
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            if statement.value is not None and _is_value(statement.value) and not all(n.startswith("_") for n in names):
                return False
    return has_code


def _is_config_library(module: str | None) -> bool:
    return module is not None and (
        module in ("ultravid.config", "detectron2.config") or module.partition(".")[0] == "omegaconf"
    )


def _is_value(node: ast.expr) -> bool:
    """Whether an expression may be a dict or a node of a config."""
    if isinstance(node, ast.Dict | ast.DictComp | ast.List | ast.ListComp):
        return True
    if isinstance(node, ast.Call):
        return not (
            isinstance(node.func, ast.Attribute)
            or (isinstance(node.func, ast.Name) and node.func.id not in ("dict", "list"))
        )
    return False


def _imported(path: Path, statement: ast.ImportFrom) -> list[Path]:
    """The files that a relative import statement reads."""
    folder = path.parents[statement.level - 1] if statement.level <= len(path.parents) else path.parent
    target = folder.joinpath(*statement.module.split(".")) if statement.module else folder
    options = [target / "__init__.py"] if statement.module else []
    options += [target.parent / f"{target.name}.py"] if statement.module else []
    options += [target / f"{alias.name}.py" for alias in statement.names]
    return [option for option in options if option.is_file()]


def _version(path: Path) -> int:
    return path.stat().st_mtime_ns


@functools.lru_cache(maxsize=256)
def _statements(path: Path, version: int) -> list[ast.stmt]:
    del version
    try:
        with parsing:
            return ast.parse(path.read_bytes(), str(path)).body
    except (SyntaxError, ValueError):  # reported when it is run
        return []
