"""Config files as modules that any process can import by name, so that their definitions are pickled by reference.

A pickle holds the name of a module and the name of a class in it. For a config file's class that is ``ultravid.config.files.`` and
the encoded path (`ultravid.config.module_names`). A spawned worker, a resumed run, a reader of a queue imports it: this
package, then the module below it, which the finder here provides. Its attributes are this process's own definitions while they
are in use; for any others the file is run once, as for a name in a saved config.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from ultravid.config.definitions import living_definition
from ultravid.config.errors import ConfigImportError, did_you_mean
from ultravid.config.loader import namespace_of_file
from ultravid.config.module_names import content_hash, parse_module_name

__all__: list[str] = []

__path__: list[str] = []  # importlib looks below a package only

logger = logging.getLogger(__name__)


class _ConfigFile(ModuleType):
    """A config file as a module."""

    def __getattr__(self, name: str) -> Any:
        """A definition.

        Raises:
            ConfigError: the file does not exist any more, or can't be run.
        """
        if name.startswith("__") and name.endswith("__"):  # Python asks for its protocols
            raise AttributeError(name)
        found = living_definition(self.__name__, name)
        return self._in_file(name) if found is None else found

    def _in_file(self, name: str) -> Any:
        file = parse_module_name(self.__name__)
        assert file is not None
        names = namespace_of_file(file.path)
        if content_hash(file.path.read_bytes()) != file.content and file.path not in _said:
            _said.add(file.path)
            logger.warning(
                "%s was edited after objects that it defines were pickled (or sent to this process): its new definitions are "
                "used.",
                file.path,
            )
        if name not in names:
            raise ConfigImportError(
                f"A pickle needs {name!r} of {file.path}, which does not define it{_edited(file.path in _said)}."
                f"{did_you_mean(name, [n for n in names if not n.startswith('_')])}"
            )
        return names[name]


_said: set[Any] = set()


def _edited(edited: bool) -> str:
    return " any more: it was edited since" if edited else ""


class _Finder:
    """Finds the modules of config files; it is their loader too."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """What importlib asks each finder."""
        del path, target
        file = parse_module_name(name)
        return None if file is None else ModuleSpec(name, _Finder, origin=str(file.path))  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType:
        """The module, which runs nothing until it is asked for a name."""
        return _ConfigFile(spec.name)

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        """Set what a module of a file has."""
        file = parse_module_name(module.__name__)
        assert file is not None
        module.__file__ = str(file.path)


sys.meta_path.insert(0, _Finder)
