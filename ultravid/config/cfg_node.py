"""Configs of the YAML world: `CfgNode`, yacs' nodes with detectron2's ``_BASE_`` and with errors that help.

Values live in a tree of known keys (`get_cfg`); a YAML file or a list of keys and values changes some of them. What a run
is made of is then built from the tree by `ultravid.engine.DefaultTrainer`. Imports nothing of torch.
"""

from __future__ import annotations

import difflib
from ast import literal_eval
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import BASE_KEY
from fvcore.common.config import CfgNode as _CfgNode

from ultravid.config.errors import ConfigError, OverrideError, UnknownKeyError, did_you_mean
from ultravid.config.shipped import shipped_config

__all__ = ["CfgNode", "get_cfg", "global_cfg", "set_global_cfg"]

_LEAVES = (tuple, list, str, int, float, bool, type(None))


class CfgNode(_CfgNode):
    """A node of keys that are known, each with a value of a known type.

    Beside what yacs and fvcore document (``freeze``, ``defrost``, ``clone``, ``dump``, ``_BASE_``):

    - A merge finds all faults, tells them in one message, and changes nothing if there is any.
    - A whole number is taken where a float stands (it becomes one), ``true`` and ``false`` where a bool stands, and what the
      command line gives for a text is that text, though it look like a number.
    - A frozen node is not changed by a merge either.
    - ``_BASE_`` is looked for beside its file, and then among the shipped configs: ``_BASE_: yacs/basicdet_small.yaml``.
    """

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        hint = "" if name.startswith("__") else did_you_mean(name, self)
        raise UnknownKeyError(f"Unknown key {name!r}.{hint}")

    def merge_from_file(self, cfg_filename: str | Path, allow_unsafe: bool = False) -> None:
        """Take the values of a YAML file and of the files that it is based on, the last of a key's winning.

        Args:
            cfg_filename: the file.
            allow_unsafe: read YAML tags that build Python objects, which may run any code.

        Raises:
            ConfigError: a file is missing or is no YAML, or its keys or values are wrong; each with file and line.
        """
        changes: list[_Change] = []
        faults: list[str] = []
        for path, content in _files_with_bases(Path(cfg_filename), allow_unsafe):
            found = self._changes(content)
            changes += found.changes
            faults += [f"{path}:{_line_of(path, key)}: {message}" for key, message in found.faults]
        self._apply(changes, faults, ConfigError)

    def merge_from_list(self, cfg_list: Sequence[Any]) -> None:
        """Take values from ``[key, value, key, value, ...]``, as a command line gives them.

        Raises:
            OverrideError: a key without a value, an unknown key, or a value of another type.
        """
        joined = [
            key for key in map(str, cfg_list) if key.partition("=")[1] and key.partition("=")[0] in _full_keys(self)
        ]
        if joined:
            raise OverrideError(
                f"Overrides are pairs, KEY VALUE: write {joined[0].replace('=', ' ', 1)!r}, without '='."
            )
        if len(cfg_list) % 2:
            raise OverrideError(f"Overrides are pairs, KEY VALUE KEY VALUE ...; {cfg_list[-1]!r} is left alone.")
        changes: list[_Change] = []
        faults: list[str] = []
        for key, value in zip(cfg_list[0::2], cfg_list[1::2], strict=True):
            found = self._changes(_nested(str(key), value))
            changes += found.changes
            faults += [f"override '{key} {value}': {message}" for _, message in found.faults]
        self._apply(changes, faults, OverrideError)

    def merge_from_other_cfg(self, cfg_other: Mapping[str, Any]) -> None:
        """Take the values of another node or a plain dict.

        Raises:
            ConfigError: an unknown key, or a value of another type.
        """
        found = self._changes(cfg_other)
        self._apply(found.changes, [message for _, message in found.faults], ConfigError)

    @classmethod
    def load_yaml_with_base(cls, filename: str | Path, allow_unsafe: bool = False) -> dict[str, Any]:
        """The content of a YAML file and of the files that it is based on, as plain data.

        Raises:
            ConfigError: a file is missing or is no YAML.
        """
        merged: dict[str, Any] = {}
        for _, content in _files_with_bases(Path(filename), allow_unsafe):
            _update(merged, content)
        return merged

    def _changes(self, values: Mapping[str, Any]) -> _Changes:
        found = _Changes(self)
        found.collect(values, self, "")
        return found

    def _apply(self, changes: Sequence[_Change], faults: Sequence[str], error: type[ConfigError]) -> None:
        if self.is_frozen():
            raise error("The config is frozen: call cfg.defrost() before it is changed, or change a cfg.clone().")
        if faults:
            raise error("\n".join(faults))
        for node, key, value in changes:
            node[key] = value


_Change = tuple[CfgNode, str, Any]


class _Changes:
    """What a mapping would change in a config: the changes, and the faults as (full key, message)."""

    def __init__(self, root: CfgNode) -> None:
        self.root = root
        self.changes: list[_Change] = []
        self.faults: list[tuple[str, str]] = []

    def collect(self, values: Mapping[str, Any], node: CfgNode, prefix: str) -> None:
        for key, given in values.items():
            full = f"{prefix}{key}"
            if key not in node:
                self._unknown(str(key), given, node, prefix)
            elif isinstance(node[key], CfgNode):
                if isinstance(given, Mapping):
                    self.collect(given, node[key], f"{full}.")
                else:
                    self.faults.append((full, f"{full} is a group of keys ({', '.join(node[key])}), got {given!r}."))
            else:
                self._replace(key, given, node, full)

    def _replace(self, key: str, given: Any, node: CfgNode, full: str) -> None:
        old = node[key]
        try:
            value = _fitting(given, old)
        except TypeError:
            what = f"{full} takes {_described(old)}, got {_described(_decoded(given))}."
            self.faults.append((full, what))
            return
        if full == "VERSION" and value != old:
            self.faults.append((full, f"VERSION is {value}; this ultravid reads configs of version {old}."))
            return
        self.changes.append((node, key, value))

    def _unknown(self, key: str, given: Any, node: CfgNode, prefix: str) -> None:
        full = f"{prefix}{key}"
        if node.is_new_allowed():
            value = type(node)(given) if isinstance(given, Mapping) else _decoded(given)
            self.changes.append((node, key, value))
        elif full == BASE_KEY:
            self.faults.append((full, f"{BASE_KEY} is for files alone."))
        elif self.root.key_is_deprecated(full):
            return
        elif self.root.key_is_renamed(full):
            try:
                self.root.raise_key_rename_error(full)
            except KeyError as error:
                self.faults.append((full, str(error.args[0])))
        else:
            self.faults.append((full, f"Unknown key {full!r}.{_hint(self.root, node, key, prefix)}"))


def get_cfg() -> CfgNode:
    """A fresh copy of the defaults: `ultravid.config.cfg_defaults` names every key and says what it does."""
    from ultravid.config.cfg_defaults import DEFAULTS

    return DEFAULTS.clone()


global_cfg = CfgNode()
"""For code that was written for it: empty until `set_global_cfg`. Nothing in ultravid reads it."""


def set_global_cfg(cfg: CfgNode) -> None:
    """Let `global_cfg` hold this config's keys."""
    global_cfg.clear()
    global_cfg.update(cfg)


def _fitting(given: Any, old: Any) -> Any:
    """The given value as one of the old value's type.

    Raises:
        TypeError: it is none.
    """
    if isinstance(old, str) and isinstance(given, str):
        decoded = _decoded(given)
        return decoded if isinstance(decoded, str) else given
    if isinstance(old, bool) and isinstance(given, str) and given.lower() in ("true", "false"):
        return given.lower() == "true"
    value = _decoded(given)
    if type(value) not in _LEAVES:
        raise TypeError
    if value is None or old is None or type(value) is type(old):
        return value
    if type(old) is float and type(value) is int:
        return float(value)
    if isinstance(old, list | tuple) and isinstance(value, list | tuple):
        return type(old)(value)
    raise TypeError


def _decoded(value: Any) -> Any:
    """A text as the Python literal that it is, if it is one: YAML reads 1e-4 as a text."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("null", "none"):
        return None
    try:
        return literal_eval(value)
    except (ValueError, SyntaxError):
        return value


def _described(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name} ({value!r})"


def _hint(root: CfgNode, node: CfgNode, key: str, prefix: str) -> str:
    """The nearest right key: beside the wrong one, or of the same name elsewhere, or written much like it."""
    if difflib.get_close_matches(key, list(map(str, node)), n=1, cutoff=0.6):
        return did_you_mean(key, node, prefix)
    everywhere = list(_full_keys(root))
    same_name = [full for full in everywhere if full.rpartition(".")[2] == key]
    if len(same_name) == 1:
        return f" Did you mean {same_name[0]!r}?"
    if close := difflib.get_close_matches(prefix + key, everywhere, n=1, cutoff=0.8):
        return f" Did you mean {close[0]!r}?"
    return did_you_mean(key, node, prefix)


def _full_keys(node: CfgNode, prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, CfgNode):
            yield from _full_keys(value, f"{prefix}{key}.")


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def _files_with_bases(path: Path, allow_unsafe: bool, above: tuple[Path, ...] = ()) -> Iterator[tuple[Path, Any]]:
    """(file, content without ``_BASE_``), those that a file is based on before it."""
    if path.resolve() in above:
        raise ConfigError(f"{above[-1]}: {BASE_KEY} leads in a circle, back to {path.name}.")
    content = _read_yaml(path, allow_unsafe, above)
    bases = content.pop(BASE_KEY, [])
    if isinstance(bases, str):
        bases = [bases]
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{path}:{_line_of(path, BASE_KEY)}: {BASE_KEY} is a file's name or a list of them.")
    for base in bases:
        beside = path.parent / Path(base).expanduser()
        shipped = shipped_config(base)
        found = shipped if shipped is not None and not beside.is_file() else beside
        yield from _files_with_bases(found, allow_unsafe, (*above, path.resolve()))
    yield path, content


def _read_yaml(path: Path, allow_unsafe: bool, above: Sequence[Path]) -> dict[str, Any]:
    wanted_by = f" ({BASE_KEY} of {above[-1]})" if above else ""
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            f"Config file {path} is no .yaml{wanted_by}; tools/lazyconfig_train.py reads configs in Python."
        )
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.unsafe_load(text) if allow_unsafe else yaml.safe_load(text)
    except FileNotFoundError:
        there = sorted(p.name for p in path.parent.glob("*.y*ml"))
        raise ConfigError(f"Config file {path} is not there{wanted_by}.{did_you_mean(path.name, there)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Config file {path} can't be read: {error}") from error
    except yaml.MarkedYAMLError as error:
        where = f"{path}:{error.problem_mark.line + 1}" if error.problem_mark else str(path)
        if isinstance(error, yaml.constructor.ConstructorError):
            hint = "Only plain YAML is read; allow_unsafe=True runs what a file asks for."
            raise ConfigError(f"{where}: {error.problem}. {hint}") from error
        raise ConfigError(f"{where}: is no YAML: {error.problem}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is no YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds a {type(content).__name__}, not keys and values.")
    return content


def _line_of(path: Path, key: str) -> int:
    """The line of a file that sets a key."""
    node, line = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader), 1
    for part in key.split("."):
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = next(((k, v) for k, v in pairs if str(k.value) == part), None)
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def _update(merged: dict[str, Any], content: Mapping[str, Any]) -> None:
    for key, value in content.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), dict):
            _update(merged[key], value)
        else:
            merged[key] = value
