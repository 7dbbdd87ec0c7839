"""Reading config files: Python that is run, but not imported.

A config file may import another by relative path, without any ``__init__.py``. Its code runs with an ``__import__`` of its
own in its own builtins, so nothing of the process is patched, and each import runs the file anew: what one config
changes never reaches another.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from ultravid.config.errors import ConfigError, ConfigImportError, did_you_mean
from ultravid.config.nodes import Node

__all__ = [
    "MODULE_PREFIX",
    "from_data",
    "importable_project",
    "load_config_file",
    "load_namespace",
    "project_folders",
    "shipped_config",
    "shipped_root",
]

MODULE_PREFIX = "ultravid_config_file:"


def load_config_file(path: str | Path) -> Node:
    """The root node of a config: a Python file's dicts and nodes by name, or a YAML file's content.

    Raises:
        ConfigError: the file is not there, is neither Python nor YAML, or has a syntax error: in which line.
    """
    path = _existing(Path(path))
    if path.suffix in {".yaml", ".yml"}:
        return _load_yaml(path)
    if path.suffix != ".py":
        raise ConfigError(f"Config file {path} is neither .py nor .yaml.")
    names = load_namespace(path)
    chosen = {k: v for k, v in names.items() if isinstance(v, dict) and not k.startswith("_")}
    return Node._make(chosen.items(), (str(path),))


def load_namespace(path: str | Path) -> dict[str, Any]:
    """Run a Python config file and give its names."""
    path = _existing(Path(path))
    with importable_project(path):
        return _run(path, ())


def project_folders(config_file: str | Path) -> list[str]:
    """Folders whose modules a config may import: its project's (the parent of ``configs``) and its own."""
    folder = Path(config_file).resolve().parent
    own = [str(folder)]
    if Path(config_file).suffix in {".yaml", ".yml"} and Path(config_file).is_file():  # a saved config names them
        return [*own, *load_config_file(config_file).get("project_folders", [])]
    return [str(folder.parent), *own] if folder.name == "configs" else own


@contextmanager
def importable_project(config_file: str | Path) -> Iterator[None]:
    """Make the modules of a config's project importable in the block; installed ones of the same name come first."""
    added = [f for f in project_folders(config_file) if f not in sys.path]
    sys.path.extend(added)
    try:
        yield
    finally:
        for folder in added:
            sys.path.remove(folder)


def _existing(path: Path) -> Path:
    path = path.absolute()
    if path.is_file():
        return path
    there = (
        sorted(p.name for p in path.parent.glob("*") if p.suffix in {".py", ".yaml"}) if path.parent.is_dir() else []
    )
    hint = (
        did_you_mean(path.name, there)
        if there
        else f" Folder {path.parent} is not there."
        if not path.parent.is_dir()
        else ""
    )
    raise ConfigError(f"Config file {path} is not there.{hint}")


def _load_yaml(path: Path) -> Node:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{path}{line}: is not YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: holds a {type(data).__name__}, not a mapping.")
    node = from_data(data)
    node._origin = (str(path),)
    return node


def _run(path: Path, importers: tuple[Path, ...]) -> dict[str, Any]:
    """Run one file; ``importers`` are the files whose imports led here."""
    if path in importers:
        circle = " -> ".join(p.name for p in [*importers[importers.index(path) :], path])
        raise ConfigImportError(f"Config files import each other in a circle: {circle} (in {path.parent}).")
    try:
        code = compile(path.read_text(encoding="utf-8"), str(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        text = f": {error.text.strip()}" if error.text else ""
        raise ConfigError(f"{path}:{error.lineno}: syntax error: {error.msg}{text}") from error
    except (UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"{path}: is not Python text: {error}") from error

    def import_(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if level == 0:
            return builtins.__import__(name, globals, locals, fromlist, level)
        return _import_relative(path, name, fromlist or (), level, (*importers, path))

    namespace: dict[str, Any] = {
        "__name__": f"{MODULE_PREFIX}{path}",
        "__file__": str(path),
        "__package__": f"{MODULE_PREFIX}{path.parent}",
        "__builtins__": {**vars(builtins), "__import__": import_},
    }
    # Decorators as dataclass look their class's module up by name, while the file runs.
    module = ModuleType(namespace["__name__"])
    module.__dict__.update(namespace)
    namespace = module.__dict__
    outer = sys.modules.get(module.__name__)
    sys.modules[module.__name__] = module
    try:
        exec(code, namespace)
    finally:
        if outer is None:
            del sys.modules[module.__name__]
        else:
            sys.modules[module.__name__] = outer
    for key, value in namespace.items():
        if type(value) is dict and not key.startswith("_"):
            namespace[key] = Node._make(value.items(), ("assigned", str(path), key))
        elif type(value) is list and not key.startswith("_"):
            holder = Node._make([("list", value)], ("assigned", str(path), key))
            namespace[key] = holder["list"]
            namespace[key]._up = None
    return namespace


def _import_relative(file: Path, name: str, names: tuple[str, ...], level: int, importers: tuple[Path, ...]) -> Any:
    """What ``from ..name import names`` gives in a config file."""
    folder = file.parent
    for _ in range(level - 1):
        folder = folder.parent
    target = folder.joinpath(*name.split(".")) if name else folder
    if name and target.with_suffix(".py").is_file():
        return _as_module(_run(target.with_suffix(".py"), importers))
    if not target.is_dir():
        there = sorted(p.stem for p in target.parent.glob("*.py")) if target.parent.is_dir() else []
        written = "." * level + name
        raise ConfigImportError(
            f"{file}: can't import {written!r}: there is no {target.with_suffix('.py')}.{did_you_mean(target.name, there)}"
        )
    found = {}
    for wanted in names:
        path = target / f"{wanted}.py"
        if not path.is_file():
            there = sorted(p.stem for p in target.glob("*.py"))
            raise ConfigImportError(
                f"{file}: can't import {wanted!r}: there is no {path}.{did_you_mean(wanted, there)}"
            )
        found[wanted] = _as_module(_run(path, importers))
    return _as_module(found)


def _as_module(names: dict[str, Any]) -> ModuleType:
    module = ModuleType(names.get("__name__", MODULE_PREFIX))
    module.__dict__.update(names)
    return module


def from_data(data: dict[str, Any]) -> Node:
    """The node that `ultravid.config.serialize.to_data` wrote as plain data; nothing is imported."""
    return Node._make(((k, _undo(v)) for k, v in data.items()), None)


def _undo(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"_tuple_"}:
            return tuple(_undo(v) for v in value["_tuple_"])
        return {k: _undo(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_undo(v) for v in value]
    return value


def shipped_config(name: str) -> Path | None:
    """The file of a shipped config, ``common/optim.py``; None where there is none of that name."""
    root = shipped_root()
    path = root / name
    return path if path.is_file() and root in path.resolve().parents else None


def shipped_root() -> Path:
    """``configs_py`` of the checkout, or of the installed package."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / "configs_py"
    return checkout if checkout.is_dir() else package / "configs_py"
