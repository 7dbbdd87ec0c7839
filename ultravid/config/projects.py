"""The modules of projects: each project has its own, also if two have modules of the same name.

A config imports modules of its project's folder, ``from net import Net``. Two projects with a ``net.py`` may be loaded by one process
(a comparison, a test), and a file like ``evaluate.py`` may be there twice: in the project, and beside the tool that was started. So the
code of config files, and that of the modules which they import from their project, has its own ``__import__``, which looks for a
module by who imports it: also later, in a function, and in any thread. Nothing of the process is patched.

A module of a project is called by its plain name, ``net``, if that is free in this process. If another module has the name, it is
called ``ultravid.config.projects.`` and its folder. Both names are importable, so that its classes are pickled and found by spawned
processes. A saved config has the plain name, with the folders of its project.

Names of the standard library and of installed packages win over those of a project; that is said when it happens.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader, all_suffixes
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = [
    "Project",
    "active_projects",
    "hidden_file",
    "import_for",
    "loaded_files",
    "module_at",
    "owner_of",
    "plain_name",
    "projects_active",
    "real_name",
]

logger = logging.getLogger(__name__)

__path__: list[str] = []  # importlib looks below a package only

_PREFIX = f"{__name__}.in:"

_lock = threading.RLock()
_known: dict[tuple[str, ...], Project] = {}
_claimed: dict[str, tuple[Project, str]] = {}  # plain names that a project's module has: the project and the folder
_owners: dict[str, Project] = {}  # by the name of a module in sys.modules
_said: set[str] = set()
_entered: list[Project] = []  # by any thread, the last one last
_active: ContextVar[tuple[Project, ...]] = ContextVar("_active", default=())


class Project:
    """The folders whose modules the configs of a project may import; one object for the same folders.

    Attributes:
        folders: absolute, in the order in which they are searched.
        is_of_a_config: whether a config's place says that these are its folders; else they are where a relative import led.
    """

    folders: tuple[str, ...]
    is_of_a_config: bool

    def __new__(cls, folders: Iterable[str]) -> Project:
        """The project of these folders."""
        key = tuple(str(Path(folder).absolute()) for folder in folders)
        with _lock:
            if key not in _known:
                project = super().__new__(cls)
                project.folders = key
                project.is_of_a_config = False
                project._names = {}
                _known[key] = project
            return _known[key]

    _names: dict[str, str]

    def name_of(self, top: str) -> str | None:
        """The name in ``sys.modules`` of the project's own top-level module; None if an ordinary import is right."""
        with _lock:
            if top in self._names:
                return self._names[top]
            found = self._own(top)
            if found is None:
                return None
            spec, folder = found
            loaded = sys.modules.get(top)
            if loaded is not None and top not in _claimed and _is_from(loaded, spec):
                return top
            installed = _installed(top)
            if installed is not None and not _is_same(installed, spec):
                if spec.origin is not None:  # a folder without __init__.py may be anything
                    _say_hidden(top, spec, installed)
                return None
            ordinary = PathFinder.find_spec(top)
            is_free = loaded is None and top not in _claimed and (ordinary is None or _is_same(ordinary, spec))
            if not is_free and spec.origin is None and ordinary is not None and ordinary.origin is not None:
                return None  # as in Python, a module comes before a folder that is not a package
            name = top if is_free else f"{_PREFIX}{_encoded(folder)}:{top}"
            if is_free:
                _claimed[top] = (self, folder)
            self._names[top] = name
            return name

    def _own(self, top: str) -> tuple[ModuleSpec, str] | None:
        """Where the project has a module of this name."""
        for folder in self.folders:
            if any(os.path.exists(f"{folder}/{top}{suffix}") for suffix in ("", *all_suffixes())):
                spec = _fresh_spec(top, folder)
                if spec is not None:
                    return spec, folder
        return None


def active_projects() -> tuple[Project, ...]:
    """The projects whose modules are importable here, the innermost first; in a new thread, those of the process."""
    return _active.get() or tuple(reversed(_entered))


@contextmanager
def projects_active(project: Project) -> Iterator[None]:
    """Make a project the innermost one in the block."""
    project.is_of_a_config = True
    token = _active.set((project, *(p for p in _active.get() if p is not project)))
    _entered.append(project)
    try:
        yield
    finally:
        _entered.reverse()
        _entered.remove(project)
        _entered.reverse()
        _active.reset(token)


def real_name(name: str, projects: Sequence[Project]) -> str:
    """The name in ``sys.modules`` of what code of these projects calls ``name``: itself, or that of a project's module."""
    top, dot, rest = name.partition(".")
    for project in projects:
        own = project.name_of(top)
        if own is not None:
            return f"{own}{dot}{rest}"
    return name


def import_for(
    projects: Sequence[Project], name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0
) -> Any:
    """``__import__`` for code of these projects."""
    if level:
        return builtins.__import__(name, globals, locals, fromlist, level)
    real = real_name(name, projects)
    if real != name and not fromlist:
        importlib.import_module(real)
        return sys.modules[real[: len(real) - len(name)] + name.partition(".")[0]]
    found = builtins.__import__(real, globals, locals, fromlist, 0)
    return _Importlib(projects) if found is importlib else found


class _Importlib(ModuleType):
    """``importlib`` for code of these projects: its ``import_module`` finds their modules."""

    def __init__(self, projects: Sequence[Project]) -> None:
        super().__init__("importlib", importlib.__doc__)
        self._projects = projects

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib, name)

    def import_module(self, name: str, package: str | None = None) -> ModuleType:
        """As `importlib.import_module`."""
        return importlib.import_module(name if name.startswith(".") else real_name(name, self._projects), package)


def hidden_file(error: Exception) -> str:
    """What a failed import of an installed module's name has to say about a project's file of that name; "" if nothing."""
    return _hidden.get(error.name or "", "") if isinstance(error, ImportError) else ""


def plain_name(module: str) -> str:
    """The name by which a project's own code imports a module: ``net.parts``."""
    if not module.startswith(_PREFIX):
        return module
    return module.removeprefix(_PREFIX).partition(":")[2]


def owner_of(module: Any) -> Project | None:
    """The project that a module of this name belongs to; None for any other module."""
    return _owners.get(module) if isinstance(module, str) else None


def loaded_files() -> dict[Path, str]:
    """The plain names of the projects' modules that this process has imported, by their files."""
    with _lock:
        modules = {name: sys.modules.get(name) for name in _owners}
    files = {name: getattr(module, "__file__", None) for name, module in modules.items()}
    return {Path(file): plain_name(name) for name, file in files.items() if file is not None}


def module_at(path: Path, projects: Sequence[Project]) -> ModuleType:
    """The module of a file in a package, or of a package's ``__init__.py``: the one that an absolute import gives, if there is one.

    Args:
        path: the path of the file.
        projects: those of the importing code.
    """
    parts = [] if path.stem == "__init__" else [path.stem]
    folder = path.parent
    while (folder / "__init__.py").is_file():
        parts.insert(0, folder.name)
        folder = folder.parent
    name = ".".join(parts)
    above = [(folder, name)]
    above += [(parent, ".".join([*folder.relative_to(parent).parts, name])) for parent in folder.parents]
    for _, dotted in above:
        loaded = sys.modules.get(real_name(dotted, projects) if dotted == name else dotted)
        if loaded is not None and _is_file(loaded, path):
            return loaded
    for project in projects:
        if str(folder) in project.folders:
            return importlib.import_module(real_name(name, [project]))
    for root, dotted in above:
        if str(root) in sys.path and _leads_to(dotted, path):
            return importlib.import_module(dotted)
    return importlib.import_module(real_name(name, [Project([str(folder)])]))


def _leads_to(dotted: str, path: Path) -> bool:
    try:
        spec = importlib.util.find_spec(dotted)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() == path.resolve()


# --- which module wins ------------------------------------------------------------------------------------------------------


def _installed(top: str) -> ModuleSpec | None:
    """The module of the standard library or of an installed package of this name."""
    if top in sys.stdlib_module_names:
        loaded = sys.modules.get(top)
        return ModuleSpec(top, None, origin=getattr(loaded, "__file__", None) or "the standard library")
    folders = [folder for folder in sys.path if Path(folder).name in ("site-packages", "dist-packages")]
    spec = PathFinder.find_spec(top, folders)
    if spec is not None and spec.origin is not None:
        return spec
    for finder in sys.meta_path:
        kind = finder if isinstance(finder, type) else type(finder)
        if kind.__module__.startswith("__editable__"):  # pip install -e
            spec = finder.find_spec(top, None)
            if spec is not None and spec.origin is not None:
                return spec
    return None


_hidden: dict[str, str] = {}


def _say_hidden(top: str, spec: ModuleSpec, installed: ModuleSpec) -> None:
    whose = "the standard library" if top in sys.stdlib_module_names else "the installed package"
    at = f" ({installed.origin})" if whose != installed.origin else ""
    _hidden[top] = (
        f"{spec.origin} is hidden: 'import {top}' gives the module of {whose}{at}. To import the file, give it another name."
    )
    if str(spec.origin) not in _said:
        _said.add(str(spec.origin))
        logger.warning("%s", _hidden[top])


def _is_same(a: ModuleSpec, b: ModuleSpec) -> bool:
    if a.origin is None or b.origin is None:  # folders without __init__.py: the first one counts
        folders = [list(each.submodule_search_locations or ()) for each in (a, b)]
        return a.origin is b.origin and folders[0][:1] == folders[1][:1]
    return Path(a.origin).resolve() == Path(b.origin).resolve()


def _is_from(module: ModuleType, spec: ModuleSpec) -> bool:
    if spec.origin is not None:
        return _is_file(module, Path(spec.origin))
    folders = list(getattr(module, "__path__", ()))
    return getattr(module, "__file__", None) is None and folders[:1] == list(spec.submodule_search_locations or ())


def _is_file(module: ModuleType, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and (file == str(path) or Path(file).resolve() == path.resolve())


# --- finding and loading ----------------------------------------------------------------------------------------------------


class _Loader(SourceFileLoader):
    """Loads a module whose imports look in its project first."""

    def __init__(self, name: str, path: str, project: Project) -> None:
        super().__init__(name, path)
        self._project = project

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's code."""

        def import_(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
            return import_for((self._project,), name, globals, locals, fromlist, level)

        vars(module)["__builtins__"] = {**vars(builtins), "__import__": import_}
        super().exec_module(module)


class _Finder:
    """Finds the modules of projects."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """What importlib asks each finder."""
        del target
        if name.startswith(_PREFIX):
            folder, _, inner = name.removeprefix(_PREFIX).partition(":")
            if "." not in inner:
                folder = _decoded(folder)
                return _for_project(name, _fresh_spec(inner, folder), _project_with(folder))
        parent = name.rpartition(".")[0]
        if parent:
            project = _owners.get(parent)
            return None if project is None else _for_project(name, PathFinder.find_spec(name, path), project)
        if name in _claimed:
            project, folder = _claimed[name]
            return _for_project(name, _fresh_spec(name, folder), project)
        return None


def _for_project(name: str, found: ModuleSpec | None, project: Project) -> ModuleSpec | None:
    """A spec that was found by path, as that of a project's module."""
    if found is None:
        return None
    _owners[name] = project
    loader = found.loader
    if type(loader) is SourceFileLoader:
        loader = _Loader(name, loader.path, project)
    spec = ModuleSpec(name, loader, origin=found.origin, is_package=found.submodule_search_locations is not None)
    if found.submodule_search_locations is not None:
        spec.submodule_search_locations = list(found.submodule_search_locations)
    spec.has_location = found.has_location
    spec.cached = found.cached
    return spec


def _fresh_spec(top: str, folder: str) -> ModuleSpec | None:
    """What a folder has by this name, also if that was written a moment ago."""
    invalidate = getattr(sys.path_importer_cache.get(folder), "invalidate_caches", None)
    if invalidate is not None:
        invalidate()
    return PathFinder.find_spec(top, [folder])


def _project_with(folder: str) -> Project:
    """The project of a module that this process knows from a pickle alone, or the one that it has."""
    for project in (*active_projects(), *_known.values()):
        if folder in project.folders:
            return project
    configs = Path(folder) / "configs"
    return Project([folder, str(configs)] if configs.is_dir() else [folder])


def _encoded(folder: str) -> str:
    return folder.replace("%", "%25").replace(".", "%2E").replace(":", "%3A")


def _decoded(text: str) -> str:
    return text.replace("%3A", ":").replace("%2E", ".").replace("%25", "%")


sys.meta_path.insert(0, _Finder)
