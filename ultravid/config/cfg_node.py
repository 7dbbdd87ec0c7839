"""`CfgNode`: YAML configs with yacs' interface and detectron2's ``_BASE_``, and with precise errors.

Values are stored in a tree of known keys (`ultravid.config.get_cfg`); a YAML file or a list of keys and values changes some
of them. `ultravid.config.config_from_cfg_node` translates the tree to the config of the run. Imports nothing of torch.
"""

from __future__ import annotations

import functools
import logging
import math
from ast import literal_eval
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import BASE_KEY
from fvcore.common.config import CfgNode as _CfgNode

from ultravid.config.addresses import config_path, refuse_neighbours
from ultravid.config.cfg_keys import MODEL_KEYS, SAVED_KEYS, is_model_key, model_group, override_hint
from ultravid.config.errors import ConfigError, OverrideError, UnknownKeyError, did_you_mean
from ultravid.config.file_version import VERSION_KEY, accepted_version
from ultravid.config.shipped import shipped_config
from ultravid.config.synonyms import same_meaning
from ultravid.utils.text import nearest, quoted_for_shell, shell_argument

__all__ = ["CfgNode", "place_of"]

logger = logging.getLogger(__name__)

_LEAVES = (tuple, list, str, int, float, bool, type(None))
_PLACES = "__places__"


class CfgNode(_CfgNode):
    """A node of known keys, each with a value of a known type.

    Beside what yacs and fvcore document (``freeze``, ``defrost``, ``clone``, ``dump``, ``_BASE_``):

    - A merge reports all faults in one message, and changes nothing if there is any.
    - An integer is accepted for a float (and becomes one), and ``true`` and ``false`` for a bool. Where a string is expected,
      the text of the command line stays a string, even if it looks like a number.
    - A merge does not change a frozen node either.
    - ``_BASE_`` is searched beside its file, and then among the shipped configs: ``_BASE_: yacs/basicdet_small.yaml``.
    - Keys of model parts of earlier versions (``MODEL.RPN.NMS_THRESH``) are read with a warning.
    - The ``config.yaml`` that a run saved is read too: its keys are stored in it.
    """

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        if name.startswith("__"):
            raise UnknownKeyError(f"Unknown key {name!r}.")
        if "OPTS" in self and any(key.startswith(f"MODEL.{name}.") or key == f"MODEL.{name}" for key in MODEL_KEYS):
            raise UnknownKeyError(
                f"Unknown key {name!r}: parts of the model are configured by MODEL.CONFIG and MODEL.OPTS (docs/yaml.md)."
            )
        raise UnknownKeyError(f"Unknown key {name!r}.{did_you_mean(name, self)}")

    def merge_from_file(self, cfg_filename: str | Path, allow_unsafe: bool = False) -> None:
        """Set the values of a YAML file and of its ``_BASE_`` files; if a key has several values, the last one is used.

        Args:
            cfg_filename: the file, or its address (docs/addresses.md).
            allow_unsafe: read YAML tags that build Python objects, which may run any code.

        Raises:
            ConfigError: a file does not exist or is not YAML, or its keys or values are wrong; each with file and line.
        """
        found = _Changes(self)
        faults: list[str] = []
        for path, content in _files_with_bases(config_path(cfg_filename), allow_unsafe):
            lines = _lines_of(path)
            if "trainer" in content:  # saved by a run
                content = _saved_keys(content, path)
                lines = {key.removeprefix(f"{SAVED_KEYS}."): line for key, line in lines.items()}
            seen = len(found.faults)
            found.collect(_with_absolute_model_file(content, path), "", functools.partial(_place, path, lines))
            faults += [f"{_place(path, lines, key)}: {message}" for key, message in found.faults[seen:]]
        self._apply(found, faults, ConfigError)
        found.warn_of_model_keys(str(cfg_filename))

    def merge_from_list(self, cfg_list: Sequence[Any]) -> None:
        """Set values from ``[key, value, key, value, ...]``, as on a command line.

        Args:
            cfg_list: keys and values in turns; a value may be text, which is read as on a command line.

        Raises:
            OverrideError: a key without a value, an unknown key, or a value of another type.
        """
        known = {*_full_keys(self), *MODEL_KEYS}
        joined = [key for key in map(str, cfg_list) if key.partition("=")[1] and key.partition("=")[0] in known]
        if joined:
            key, _, value = joined[0].partition("=")
            raise OverrideError(f"Overrides are pairs, KEY VALUE: write {key} {shell_argument(value)}, without '='.")
        if len(cfg_list) % 2:
            raise OverrideError(f"Overrides are pairs, KEY VALUE KEY VALUE ...; {cfg_list[-1]!r} has no value.")
        found = _Changes(self)
        faults: list[str] = []
        for key, value in zip(cfg_list[0::2], cfg_list[1::2], strict=True):
            seen = len(found.faults)
            found.collect(_nested(str(key), value), "", lambda _: "command line")
            faults += [f"override '{key} {value}': {message}" for _, message in found.faults[seen:]]
        self._apply(found, faults, OverrideError)
        found.warn_of_model_keys("Command line")

    def merge_from_other_cfg(self, cfg_other: Mapping[str, Any]) -> None:
        """Set the values of another node or a plain dict.

        Args:
            cfg_other: values by key, nested as this config is; keys that it lacks keep their values.

        Raises:
            ConfigError: an unknown key, or a value of another type.
        """
        found = _Changes(self)
        found.collect(cfg_other, "", lambda _: "")
        self._apply(found, [message for _, message in found.faults], ConfigError)
        found.warn_of_model_keys("Merged config")

    @classmethod
    def load_yaml_with_base(cls, filename: str | Path, allow_unsafe: bool = False) -> dict[str, Any]:
        """The content of a YAML file and of its ``_BASE_`` files, as plain data.

        Args:
            filename: path or address of the file.
            allow_unsafe: whether the YAML may make Python objects, which runs code of the file.

        Raises:
            ConfigError: a file does not exist or is not YAML.
        """
        merged: dict[str, Any] = {}
        for _, content in _files_with_bases(config_path(filename), allow_unsafe):
            _update(merged, content)
        return merged

    def _apply(self, found: _Changes, faults: Sequence[str], error: type[ConfigError]) -> None:
        if self.is_frozen():
            raise error("The config is frozen: call cfg.defrost() before it is changed, or change a cfg.clone().")
        if faults:
            raise error("\n".join(faults))
        for change in found.changes:
            node = self
            *groups, last = change.key.split(".")
            for group in groups:
                if group not in node:  # of an earlier version's keys
                    node[group] = type(self)()
                node = node[group]
            node[last] = change.value
            if change.place:
                node.__dict__.setdefault(_PLACES, {})[last] = (change.value, change.place)


def place_of(cfg: CfgNode, key: str) -> str:
    """A key and where its value was set: ``"SOLVER.BASE_LR, runs/mine.yaml:7"``; the key alone if that is not known."""
    node: Any = cfg
    *groups, last = key.split(".")
    for group in groups:
        node = node[group]
    value, place = node.__dict__.get(_PLACES, {}).get(last, (None, ""))
    return f"{key}, {place}" if place and value == node[last] else key


@dataclass(frozen=True)
class _Change:
    """A full key, its new value, and where it is set (``file:line``, or "" if that is not known)."""

    key: str
    value: Any
    place: str


@dataclass
class _Changes:
    """What mappings would change in a config: the changes, and the faults as (full key, message)."""

    root: CfgNode
    changes: list[_Change] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)

    def collect(self, values: Mapping[str, Any], prefix: str, place: Callable[[str], str]) -> None:
        """Add the values below a prefix ("" or ``"SOLVER."``); ``place`` gives the place where a full key is set."""
        for key, given in values.items():
            full = f"{prefix}{key}"
            old = self._present(full)
            if old is _ABSENT:
                self._unknown(str(key), given, prefix, place(full))
            elif isinstance(old, Mapping):
                if isinstance(given, Mapping):
                    self.collect(given, f"{full}.", place)
                else:
                    self.faults.append((full, f"{full} is a group of keys ({', '.join(old)}), got {given!r}."))
            else:
                self._replace(full, given, old, place(full))

    def _present(self, full: str) -> Any:
        """The present value of a key, the default of a key of an earlier version, or `_ABSENT`."""
        node: Any = self.root
        for part in full.split("."):
            if not isinstance(node, CfgNode) or part not in node:
                return (model_group(full) or MODEL_KEYS[full].default) if is_model_key(full) else _ABSENT
            node = node[part]
        return (model_group(full) | node) if isinstance(node, CfgNode) and is_model_key(full) else node

    def _replace(self, full: str, given: Any, old: Any, place: str) -> None:
        try:
            value = _fitting(given, old)
        except TypeError:
            decoded = _decoded(given)
            what = f"{full} takes {_described(old)}, got {_described(decoded)}.{_right(given, decoded, old)}"
            self.faults.append((full, what))
            return
        if full == "VERSION" and value != old:
            self.faults.append((full, f"VERSION is {value}; this ultravid reads configs of version {old}."))
            return
        self.changes.append(_Change(full, value, place))

    def _unknown(self, key: str, given: Any, prefix: str, place: str) -> None:
        full = f"{prefix}{key}"
        node: Any = self.root
        for part in prefix.split(".")[:-1]:
            node = node.get(part, {})
        if isinstance(node, CfgNode) and node.is_new_allowed():
            value = type(node)(given) if isinstance(given, Mapping) else _decoded(given)
            self.changes.append(_Change(full, value, place))
        elif full == BASE_KEY:
            self.faults.append((full, f"{BASE_KEY} can be used in a file only."))
        elif self.root.key_is_deprecated(full):
            return
        elif self.root.key_is_renamed(full):
            try:
                self.root.raise_key_rename_error(full)
            except KeyError as error:
                self.faults.append((full, str(error.args[0])))
        else:
            near = node if isinstance(node, CfgNode) and not is_model_key(prefix[:-1]) else model_group(prefix[:-1])
            self.faults.append((full, f"Unknown key {full!r}.{_hint(self.root, near, key, prefix)}"))

    def warn_of_model_keys(self, source: str) -> None:
        """Say which keys of earlier versions were read, and what to write today."""
        old = [change for change in self.changes if is_model_key(change.key)]
        if old:
            examples = "; ".join(f"{c.key}: {override_hint(c.key, c.value)}" for c in old[:3])
            rest = f"; and {len(old) - 3} more" if len(old) > 3 else ""
            logger.warning(
                "%s: keys of model parts are now overrides in MODEL.OPTS on the model of MODEL.CONFIG; they are still read: %s%s",
                source,
                examples,
                rest,
            )


_ABSENT = object()


def _fitting(given: Any, old: Any) -> Any:
    """The given value as one of the old value's type.

    Raises:
        TypeError: it can't be one.
    """
    if isinstance(old, str) and isinstance(given, str):
        decoded = _decoded(given)
        return decoded if isinstance(decoded, str) else given
    if isinstance(old, bool) and isinstance(given, str) and given.lower() in ("true", "false"):
        return given.lower() == "true"
    value = _decoded(given)
    if type(value) not in _LEAVES:
        raise TypeError
    if isinstance(old, list | tuple) and isinstance(value, list | tuple):
        like = old[0] if len({type(item) for item in old}) == 1 and type(old[0]) in (bool, int, float, str) else None
        return type(old)(value if like is None else [_fitting_item(item, like) for item in value])
    if value is None or old is None or type(value) is type(old):
        return value
    if type(old) is float and type(value) is int:
        return float(value)
    raise TypeError


def _fitting_item(item: Any, like: Any) -> Any:
    """An item of a list as one of the type that the items of the old list have.

    Raises:
        TypeError: it can't be one; a whole number may become another.
    """
    if type(item) is type(like) or (type(like) is int and type(item) is float and not item.is_integer()):
        return item
    if type(like) is float and type(item) is int:
        return float(item)
    raise TypeError


def _right(given: Any, decoded: Any, old: Any) -> str:
    """What to write instead of a value of another type, if that is clear; begins with a space."""
    text = str(given).strip()
    if isinstance(old, bool) and text.lower() in ("yes", "on", "1", "no", "off", "0"):
        return f" Write {'true' if text.lower() in ('yes', 'on', '1') else 'false'}."
    if type(old) is int and isinstance(decoded, float) and decoded.is_integer():
        return f" Write {int(decoded)}."
    if isinstance(old, list | tuple) and isinstance(decoded, str | int | float):
        inner = text[1:-1] if text[:1] in ("[", "(") and text[-1:] in ("]", ")") else text
        items = [part.strip() for part in inner.split(",")] if isinstance(decoded, str) else [inner]
        written = ", ".join(map(repr, items) if isinstance(decoded, str) else items)
        return f" Write {quoted_for_shell(f'[{written}]')}."
    return ""


def _decoded(value: Any) -> Any:
    """A string as the Python literal that it spells, if it does: YAML reads 1e-4 as a string."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("null", "none"):
        return None
    try:
        decoded = literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value
    return value if _is_beyond_floats(decoded) else decoded


def _is_beyond_floats(value: Any) -> bool:
    """Whether Python made an infinite number of digits that are too many: ``3e563``."""
    return isinstance(value, float) and math.isinf(value)


def _described(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name} ({value!r})"


def _hint(root: CfgNode, node: Mapping[str, Any], key: str, prefix: str) -> str:
    """The nearest known key: in the same group, or of the same name or meaning elsewhere, or with a similar full name."""
    here = {str(name).lower() for name in node}
    if nearest(key, map(str, node)) or not here.isdisjoint(same_meaning(key)):
        return did_you_mean(key, node, prefix)
    everywhere = list(_full_keys(root))
    for name in (key.lower(), *same_meaning(key)):
        found = [full for full in everywhere if full.rpartition(".")[2].lower() == name]
        if len(found) == 1:
            return f" Did you mean {found[0]!r}?"
    if close := nearest(prefix + key, everywhere, cutoff=0.8):
        return f" Did you mean {close!r}?"
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
    """(file, content without ``_BASE_``) of the base files, then of the file itself."""
    if path.resolve() in above:
        raise ConfigError(f"{above[-1]}: {BASE_KEY} leads in a circle, back to {path.name}.")
    content = _read_yaml(path, allow_unsafe, above)
    if (stated := content.pop(VERSION_KEY, None)) is not None:
        accepted_version(str(stated), _place(path, _lines_of(path), VERSION_KEY))
    bases = content.pop(BASE_KEY, [])
    if isinstance(bases, str):
        bases = [bases]
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(
            f"{_place(path, _lines_of(path), BASE_KEY)}: {BASE_KEY} must be a file name or a list of them."
        )
    for base in bases:
        beside = config_path(base) if "://" in base else path.parent / Path(base).expanduser()
        shipped = shipped_config(base)
        found = shipped if shipped is not None and not beside.is_file() else beside
        if found == beside and not Path(base).is_absolute() and "://" not in base:
            refuse_neighbours(path, base)
        yield from _files_with_bases(found, allow_unsafe, (*above, path.resolve()))
    yield path, content


def _read_yaml(path: Path, allow_unsafe: bool, above: Sequence[Path]) -> dict[str, Any]:
    wanted_by = f" ({BASE_KEY} of {above[-1]})" if above else ""
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(
            f"Config file {path} is not a .yaml file{wanted_by}; tools/lazyconfig_train.py reads configs in Python."
        )
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.unsafe_load(text) if allow_unsafe else yaml.safe_load(text)
    except FileNotFoundError:
        there = sorted(p.name for p in path.parent.glob("*.y*ml"))
        hint = did_you_mean(path.name, there, others="That folder has")
        raise ConfigError(f"Config file {path} does not exist{wanted_by}.{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Config file {path} can't be read: {error}") from error
    except yaml.MarkedYAMLError as error:
        where = f"{path}:{error.problem_mark.line + 1}" if error.problem_mark else str(path)
        if isinstance(error, yaml.constructor.ConstructorError):
            hint = "Only plain YAML is read; allow_unsafe=True runs what a file asks for."
            raise ConfigError(f"{where}: {error.problem}. {hint}") from error
        raise ConfigError(f"{where}: is not YAML: {error.problem}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds a {type(content).__name__}, not keys and values.")
    return content


def _place(path: Path, lines: Mapping[str, int], key: str) -> str:
    """``file:line`` of a full key, or of the nearest group above it that the file has."""
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return f"{path}:{lines.get(key, 1)}"


def _lines_of(path: Path) -> dict[str, int]:
    """The line of each full key that a file sets."""
    lines: dict[str, int] = {}

    def walk(node: yaml.Node | None, prefix: str) -> None:
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            lines[f"{prefix}{key.value}"] = key.start_mark.line + 1
            walk(value, f"{prefix}{key.value}.")

    walk(yaml.compose(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)), "")
    return lines


def _saved_keys(content: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """The keys in the ``config.yaml`` of a run.

    Raises:
        ConfigError: the run was started from a config in Python.
    """
    keys = content.get(SAVED_KEYS)
    if not isinstance(keys, Mapping):
        raise ConfigError(
            f"{path} is the config of a run that was started from a Python config: it has no YAML keys. Load it with "
            "LazyConfig.load, or give its path to DefaultPredictor or to tools/lazyconfig_train.py."
        )
    return keys


def _with_absolute_model_file(content: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """``MODEL.CONFIG`` is searched beside the YAML file that names it: a file there is named by its full path."""
    model = content.get("MODEL")
    if not isinstance(model, Mapping) or not isinstance(model.get("CONFIG"), str):
        return content
    config: str = model["CONFIG"]
    if not config or not (path.parent / config).is_file():
        return content
    return {**content, "MODEL": {**model, "CONFIG": str((path.parent / config).resolve())}}


def _update(merged: dict[str, Any], content: Mapping[str, Any]) -> None:
    for key, value in content.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), dict):
            _update(merged[key], value)
        else:
            merged[key] = value
