"""Reads config files: Python that is run, but not imported.

A config file may import another by relative path, without any ``__init__.py``. Its code runs with its own ``__import__`` in
its own builtins, so nothing of the process is patched. A load runs each file once, so that its classes and enumerations are one,
and each import gets nodes of its own: what one config changes never reaches another (`ultravid.config.fresh`).
"""

from __future__ import annotations

import builtins
import functools
import logging
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import BuiltinFunctionType, FrameType, FunctionType, ModuleType
from typing import Any

from ultravid.config.addresses import address_of, config_path, refuse_neighbours
from ultravid.config.copying import adopt
from ultravid.config.definitions import HOOK, Definitions, compile_config, new_module_name
from ultravid.config.errors import ConfigError, ConfigImportError, did_you_mean
from ultravid.config.file_version import VERSION_KEY, version_in_python
from ultravid.config.fresh import fresh_copy
from ultravid.config.module_names import MODULE_PREFIX, is_config_module
from ultravid.config.nodes import Node
from ultravid.config.packages import defines, is_ordinary_module
from ultravid.config.projects import (
    Project,
    active_projects,
    hidden_file,
    import_for,
    loaded_files,
    module_at,
    projects_active,
)
from ultravid.config.shipped import shipped_root
from ultravid.config.tree import Container, ensure_record, root_of
from ultravid.config.yaml_files import load_yaml
from ultravid.utils.errors import StoppedBySignal, UserError

__all__ = [
    "config_errors",
    "importable_project",
    "load_config_file",
    "load_namespace",
    "namespace_of_file",
    "note_import",
    "own_folders",
    "own_project",
    "project_folders",
    "with_project_folders",
]

logger = logging.getLogger(__name__)


def load_config_file(path: str | Path, *, allow_pickle: bool = False) -> Node:
    """The root node of a config: a Python file's dicts and nodes by name, or a YAML file's content.

    Args:
        path: the path of the file, or its address.
        allow_pickle: unpickle what a YAML file holds as pickles, which may run any code.

    Raises:
        ConfigError: the file does not exist, is neither Python nor YAML, or has a syntax error; the message names the line.
    """
    path = _existing(config_path(path))
    if path.suffix in {".yaml", ".yml"}:
        return load_yaml(path, allow_pickle)
    if path.suffix != ".py":
        raise ConfigError(f"Config file {path} is neither .py nor .yaml.")
    names = load_namespace(path)
    version = names.pop(VERSION_KEY, "")
    chosen = {k: v for k, v in names.items() if isinstance(v, dict) and not k.startswith("_")}
    root = Node._make(chosen.items(), (str(path),))
    ignored = {k: v for k, v in names.items() if k not in chosen and not k.startswith("_") and _is_a_value(v)}
    if ignored:
        ensure_record(root).ignored_names = {name: type(value).__name__ for name, value in ignored.items()}
    if isinstance(version, str) and version:
        ensure_record(root).version = version
    return root


def _is_a_value(value: Any) -> bool:
    """Whether the author of a file may have meant a value to be part of the config; a function of the file or an imported file too."""
    if is_config_module(value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)):
        return isinstance(value, FunctionType | ModuleType) or not isinstance(value, type)
    return not isinstance(value, type | ModuleType | FunctionType | BuiltinFunctionType) and not hasattr(
        value, "__wrapped__"
    )


def load_namespace(path: str | Path) -> dict[str, Any]:
    """Run a Python config file, given by its path or address, and return its names.

    A config file that calls this, through `ultravid.config.get_config` say, reads the other file as a part of its own load.
    """
    path = _existing(config_path(path))
    with importable_project(path):
        load, importers = _running.get() or (_Load(active_projects()), ())
        return load.names_of(path, importers)


def namespace_of_file(path: Path) -> dict[str, Any]:
    """The names of a file for those who look up its definitions.

    It is run once, until it or a file that it imports changes, so that two of its classes, located apart, know each other.
    """
    path = _existing(path)
    if is_ordinary_module(path):
        return vars(module_at(path, active_projects()))
    key = _identity(path)
    known = _looked_up.get(key)
    if known is None or any(_version(file) != version for file, version in known[0].items()):
        with importable_project(path):
            load = _Load(active_projects())
            known = _looked_up[key] = (load.versions, load.names_of(path, ()))
    return known[1]


_looked_up: dict[Path, tuple[dict[Path, Any], dict[str, Any]]] = {}
_running: ContextVar[tuple[_Load, tuple[Path, ...]] | None] = ContextVar("_running", default=None)
"""The load that runs a file now, and the files whose imports led to it, itself included."""


class _Load:
    """One load of a config: the files that it has run, each once.

    Attributes:
        projects: whose modules the files may import.
        versions: the version of each file, by path.
    """

    def __init__(self, projects: tuple[Project, ...]) -> None:
        self.projects = projects
        self.versions: dict[Path, Any] = {}
        self._names: dict[Path, dict[str, Any]] = {}  # as they were when the file had run

    def names_of(self, path: Path, importers: tuple[Path, ...]) -> dict[str, Any]:
        """The names of a file, fresh for this import; ``importers`` are the files whose imports led here.

        Raises:
            ConfigImportError: they import each other in a circle.
        """
        key = _identity(path)
        if key in importers:
            circle = " -> ".join(p.name for p in [*importers[importers.index(key) :], key])
            raise ConfigImportError(f"Config files import each other in a circle: {circle} (in {path.parent}).")
        if key in self._names:
            return fresh_copy(self._names[key])
        self.versions[path] = _version(path)
        was = _running.set((self, (*importers, key)))
        try:
            names = _run(path, self, (*importers, key))
        finally:
            _running.reset(was)
        if importers:  # nobody else imports the file that the load began with: that would be a circle
            self._names[key] = fresh_copy(names)
        else:
            self._warn_of_two_styles()
        return names

    def _warn_of_two_styles(self) -> None:
        """Name the files that were run as config files and imported as modules too: each way has its own classes."""
        modules = loaded_files()
        for path in self._names.keys() & modules.keys():
            name = modules[path]
            logger.warning(
                "%s is imported in two ways, 'from .%s import ...' and 'from %s import ...'. Their classes and enumerations differ, "
                "so a member of one is not a member of the other. Write the import with a dot everywhere.",
                path,
                name.rpartition(".")[2],
                name,
            )


def _identity(path: Path) -> Path:
    """One path for a file that is reached through several: by links to folders above it, or with ``..``."""
    return path.parent.resolve() / path.name


def _version(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size


def project_folders(config_file: str | Path) -> list[str]:
    """Folders whose modules a config may import: its project's folder, which holds a folder ``configs`` above it, and its own.

    A saved config names those of the config that it was saved from; a downloaded one has none itself.

    Args:
        config_file: path or address of the config.
    """
    path = config_path(config_file)
    own = _folders_by_place(path)
    if path.suffix in {".yaml", ".yml"} and path.is_file():
        return [*own, *load_config_file(path).get("project_folders", [])]
    return own


def with_project_folders(cfg: Node, config_file: str | Path) -> Node:
    """A copy of a config that states its `project_folders`, so that it is built in the same way wherever it is saved.

    Args:
        cfg: the config; folders that it states already stay.
        config_file: the file that it was read from.
    """
    stated = cfg.copy()
    stated.setdefault("project_folders", project_folders(config_file))
    return stated


def _folders_by_place(path: Path) -> list[str]:
    if address_of(path) is not None:
        return []
    folder = path.resolve().parent
    configs = next((f for f in (folder, *folder.parents) if f.name == "configs"), None)
    return [str(configs.parent), str(folder)] if configs is not None else [str(folder)]


@contextmanager
def importable_project(config_file: str | Path) -> Iterator[None]:
    """Make the modules of a config's project importable in the block; installed ones of the same name come first.

    Args:
        config_file: path or address of the config.
    """
    folders = project_folders(config_file)
    added = [f for f in folders if f not in sys.path]
    sys.path.extend(added)  # for a spawned process, which gets this process's path
    try:
        with projects_active(Project(folders)):
            yield
    finally:
        for folder in added:
            sys.path.remove(folder)


@contextmanager
def own_project(node: Container) -> Iterator[None]:
    """In the block, names of targets mean first the modules of the project whose config a node belongs to."""
    if not (folders := own_folders(node)):
        yield
        return
    project = Project(folders)
    if active_projects()[:1] == (project,):
        yield
        return
    with projects_active(project):
        yield


def own_folders(node: Container) -> list[str]:
    """The `project_folders` of the config that a node belongs to; none if it was read from no file, or the file is gone."""
    root = root_of(node)
    origin = root._origin or (None,)
    path = origin[-1] if len(origin) == 1 or origin[0] == "yaml" else None
    if not isinstance(path, str) or not path.endswith((".py", ".yaml", ".yml")) or not Path(path).is_file():
        return []
    saved = root.raw.get("project_folders") if isinstance(root, Node) else None
    return [*_folders_by_place(Path(path)), *(saved if isinstance(saved, list) else ())]


def _existing(path: Path) -> Path:
    path = path.absolute()
    if path.is_file():
        return path
    if path.is_dir():
        inside = did_you_mean("config.yaml", _configs_in(path), f"{path}/", "It has")  # of a run
        raise ConfigError(f"Config file {path} is a folder.{inside}")
    there = _configs_in(path.parent)
    hint = (
        did_you_mean(path.name, there, others="That folder has")
        if there
        else f" Nor does the folder {path.parent}."
        if not path.parent.is_dir()
        else ""
    )
    raise ConfigError(f"Config file {path} does not exist.{_shipped_hint(path) or hint}")


def _configs_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.glob("*") if p.suffix in {".py", ".yaml"})


def _shipped_hint(path: Path) -> str:
    """The address of a shipped config that ends like a path; "" if there is none."""
    for start in range(len(path.parts) - 1):
        found = shipped_root() / Path(*path.parts[start:])
        if found.is_file():
            here = Path.cwd()
            return f" Did you mean {found.relative_to(here) if found.is_relative_to(here) else found}?"
    return ""


def _run(path: Path, load: _Load, chain: tuple[Path, ...]) -> dict[str, Any]:
    """Run one file; ``chain`` are the files whose imports led here, and this one."""
    try:
        source = path.read_bytes()
        code = compile_config(source, path)
    except SyntaxError as error:
        line = f":{error.lineno}" if error.lineno else ""
        text = f": {error.text.strip()}" if error.text else ""
        raise ConfigError(f"{path}{line}: syntax error: {error.msg}{text}") from error
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"{path}: is not Python text: {error}") from error
    version_in_python(source, path)  # before its code, which may need what a later version has

    def import_(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if level == 0:
            return import_for(load.projects, name, globals, locals, fromlist)
        return _import_relative(path, name, fromlist or (), level, load, chain, sys._getframe(1))

    # Decorators such as dataclass look up the module of their class by name while the file runs.
    module = ModuleType(new_module_name(path, source))
    namespace = module.__dict__
    hook = Definitions(module.__name__, namespace).hook
    namespace.update(
        __file__=str(path),
        __package__=f"{MODULE_PREFIX}{path.parent}",
        __builtins__={**vars(builtins), "__import__": import_, HOOK: hook},
    )
    sys.modules[module.__name__] = module
    try:
        exec(code, namespace)
    except StoppedBySignal:
        raise
    except SystemExit as error:  # else a run that never began would leave with its code, 0 perhaps
        raise ConfigError(
            f"{path} ends the process while it is read: {error.code!r}. A config file describes a run; raise an error if it can't."
        ) from error
    except Exception as error:
        if type(error).__module__.startswith("omegaconf."):
            error.add_note(
                "A node can't be put in an OmegaConf config; write Node() where detectron2 has OmegaConf.create()."
            )
        raise
    finally:
        sys.modules.pop(module.__name__, None)
    for key, value in namespace.items():
        if type(value).__name__ == "DictConfig" and type(value).__module__.startswith("omegaconf."):
            value = adopt({"it": value}, Node())["it"]
            value._up, value._origin = None, ("assigned", str(path), key)
            namespace[key] = value
        elif type(value) is dict and not key.startswith("_"):
            namespace[key] = Node._make(value.items(), ("assigned", str(path), key))
        elif type(value) is list and not key.startswith("_"):
            holder = Node._make([("list", value)], ("assigned", str(path), key))
            namespace[key] = holder["list"]
            namespace[key]._up = None
    return namespace


def note_import(values: Iterable[Any], importer: FrameType) -> None:
    """Remember for each node that the line that a config file's frame is at imported it."""
    if is_config_module(importer.f_globals.get("__name__")):
        place = f"{importer.f_code.co_filename}:{importer.f_lineno}"
        for value in values:
            if isinstance(value, Container):
                items = [v for v in list.__iter__(value) if isinstance(v, Container)] if isinstance(value, list) else []
                for node in (value, *items):  # an item may be taken out of its list
                    record = ensure_record(node)
                    record.via = (*record.via, place)


def _import_relative(
    file: Path, name: str, names: tuple[str, ...], level: int, load: _Load, chain: tuple[Path, ...], importer: FrameType
) -> Any:
    """What ``from ..name import names`` gives in a config file."""
    written = "." * level + name
    refuse_neighbours(file, written)
    if level > len(file.parents):
        raise ConfigImportError(f"{file}: the relative import from {written!r} fails: it leads above {file.anchor}.")
    folder = file.parents[level - 1]
    target = folder.joinpath(*name.split(".")) if name else folder
    read = functools.partial(_read, load=load, chain=chain, importer=importer)
    module_file, package_file = target.parent / f"{target.name}.py", target / "__init__.py"
    if name and module_file.is_file() and not package_file.is_file():  # as in Python, a package comes first
        return _with_names(read(module_file), module_file, names)
    if not target.is_dir():
        there = sorted(p.stem for p in target.parent.glob("*.py")) if target.parent.is_dir() else []
        raise ConfigImportError(
            f"{file}: the relative import from {written!r} fails: {module_file} does not exist."
            f"{did_you_mean(target.name, there, others='That folder has')}"
        )
    # A package with content; an empty __init__.py only marks a folder, and that of the importing file runs already.
    is_package = package_file.is_file() and file != package_file and package_file.read_bytes().strip() != b""
    if is_package and file.parent == target and not defines(package_file, names):
        is_package = False  # the file's own folder: its __init__.py may import this file
    package = read(package_file) if is_package else None
    if package is not None and all(hasattr(package, n) or (n == "*" and names == ("*",)) for n in names):
        return package
    found = {}
    for wanted in names:
        if package is not None and hasattr(package, wanted):
            found[wanted] = getattr(package, wanted)
            continue
        path, inner = target / f"{wanted}.py", target / wanted / "__init__.py"
        if inner.is_file() and inner.read_bytes().strip() != b"":
            found[wanted] = read(inner)
        elif path.is_file():
            found[wanted] = read(path)
        else:
            raise ConfigImportError(_not_found(file, written, target, wanted, package))
    return _as_module(found)


def _not_found(file: Path, written: str, target: Path, wanted: str, package: ModuleType | None) -> str:
    fails = f"{file}: the relative import of {wanted!r} from {written!r} fails:"
    if (target / wanted).is_dir():
        module = f"{written}{'' if written.endswith('.') else '.'}{wanted}"
        return f"{fails} it is a folder; write 'from {module} import NAME'."
    there = sorted(p.stem for p in target.glob("*.py") if p.stem != "__init__")
    if package is None:
        return f"{fails} {target / wanted}.py does not exist.{did_you_mean(wanted, there, others='That folder has')}"
    defined = [name for name in vars(package) if not name.startswith("_")]
    return f"{fails} {target / '__init__.py'} does not define it, and there is no {wanted}.py.{did_you_mean(wanted, [*defined, *there])}"


def _read(path: Path, load: _Load, chain: tuple[Path, ...], importer: FrameType) -> ModuleType:
    """A file that a config imports by relative path: an ordinary module of a package, or a config file with names of its own."""
    if is_ordinary_module(path):
        return module_at(path, load.projects)
    namespace = load.names_of(path, chain)
    note_import(namespace.values(), importer)
    return _as_module(namespace)


def _with_names(module: ModuleType, path: Path, names: tuple[str, ...]) -> ModuleType:
    exported = getattr(module, "__all__", ()) if names == ("*",) else ()
    for wanted in (*names, *exported):
        if wanted != "*" and not hasattr(module, wanted):
            known = [k for k in vars(module) if not k.startswith("_")]
            listed = ", which its __all__ lists" if wanted in exported else ""
            raise ConfigImportError(f"File {path} has no {wanted!r}{listed}.{did_you_mean(wanted, known)}")
    return module


def _as_module(names: dict[str, Any]) -> ModuleType:
    module = ModuleType(names.get("__name__", MODULE_PREFIX))
    module.__dict__.update(names)
    return module


@contextmanager
def config_errors() -> Iterator[None]:
    """Turn an error that a config file's code raises in the block into a `ConfigError` with its file, line and traceback."""
    try:
        yield
    except Exception as error:
        reported = _with_place(error)
        if reported is None:
            raise
        raise reported from error


def _with_place(error: Exception) -> ConfigError | None:
    """An error of a config file's code as one message: file and line, the error, and the traceback from that file on.

    None if no config file was running.
    """
    frames = traceback.extract_tb(error.__traceback__)
    modules = [f.f_globals.get("__name__", "") for f, _ in traceback.walk_tb(error.__traceback__)]
    in_config = [i for i, name in enumerate(modules) if is_config_module(name)]
    if not in_config:
        return None
    last = frames[in_config[-1]]
    place = f"{last.filename}:{last.lineno}"
    if isinstance(error, UserError):  # its message says the rest
        return ConfigError(str(error) if last.filename in str(error) else f"{place}: {error}")
    machinery = ("ultravid.config.", "importlib.")
    own = [
        f for f, name in zip(frames, modules, strict=True) if is_config_module(name) or not name.startswith(machinery)
    ]
    lines = "".join(traceback.format_list(own[own.index(frames[in_config[0]]) :])).rstrip()
    notes = "".join(f"\n{note}" for note in (*getattr(error, "__notes__", ()), hidden_file(error)) if note)
    return ConfigError(f"{place}: {type(error).__name__}: {error}\n{lines}{notes}")
