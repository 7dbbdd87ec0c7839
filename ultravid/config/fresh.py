"""A fresh copy of a config file's names for each import, so that changes in one importing file never reach another.

A file is run once in a load. Its first importer gets the names themselves, the others get copies of them as they were when the
file had run. Copied are nodes and whatever else compares by value: dicts, lists, sets, dataclasses, arrays. References among
the names of one file are kept. Shared are definitions (classes, functions, enumerations) and what compares by identity, because
that is what its identity is for: ``MISSING = object()``, a registry, a cache.

A function that uses a node of its file has to see the node of the import that it came with:

    train = dict(max_iter=90_000)
    def shorten(): train.max_iter = 100

So such a function is copied, with the copied names as its globals; so is one that calls it. Any other is shared. The methods of a
class see the names of the first import, because a copied class would no longer be the class of its objects.

The alternative, to run the file for each import and to return the earlier class from ``__build_class__``, holds for fewer cases:
decorators would be applied to a class twice, functions and sentinels would still be many, a data set would be registered twice,
and a file that draws a random number or reads the time would differ from itself within one config.
"""

from __future__ import annotations

import collections
import copy
import functools
import inspect
import types
from typing import Any

from ultravid.config.copying import copy_tree
from ultravid.config.definitions import global_names, new_run_of, register_copy
from ultravid.config.module_names import is_config_module
from ultravid.config.tree import LEAVES, Container, root_of

__all__ = ["fresh_copy"]

_LRU_CACHE = type(functools.lru_cache(lambda: None))


def fresh_copy(namespace: dict[str, Any]) -> dict[str, Any]:
    """A copy of the names of a config file that has run."""
    return _Copier().namespace(namespace)


class _Copier:
    """Copies the values of one import; what occurs twice is copied once."""

    def __init__(self) -> None:
        self._copies: dict[int, Any] = {}
        self._kept: list[Any] = []  # so that no id is used again
        self._uses_values: dict[int, bool] = {}

    def namespace(self, names: dict[str, Any]) -> dict[str, Any]:
        if id(names) in self._copies:
            return self._copies[id(names)]
        new = self._copies[id(names)] = dict(names)
        new["__name__"] = new_run_of(names["__name__"])
        for name, value in names.items():
            if not (name.startswith("__") and name.endswith("__")):
                new[name] = self.value(value)
        return new

    def value(self, value: Any) -> Any:
        kind = type(value)
        if kind in LEAVES and kind is not types.FunctionType:
            return value
        if id(value) in self._copies:
            return self._copies[id(value)]
        self._kept.append(value)
        if isinstance(value, Container):
            copy_tree(root_of(value), self.value, self._copies)
            return self._copies.get(id(value), value)
        made = self._copies[id(value)] = self._copied(value, kind)
        return made

    def _copied(self, value: Any, kind: type) -> Any:
        if kind in (list, set, collections.deque, dict, collections.OrderedDict):
            return self._collection(value, kind)
        if kind in (tuple, frozenset):
            items = [self.value(item) for item in value]
            return value if all(map(_is, items, value)) else kind(items)
        if kind is types.FunctionType:
            return self._function(value) if self.uses_values(value) else value
        if kind is _LRU_CACHE:
            inner = value.__wrapped__
            return (
                functools.lru_cache(**value.cache_parameters())(self.value(inner)) if self.uses_values(inner) else value
            )
        if kind is functools.partial:
            parts = (value.func, value.args, value.keywords)
            func, args, keywords = map(self.value, parts)
            if func is value.func and args is value.args and all(map(_is, keywords.values(), value.keywords.values())):
                return value
            return functools.partial(func, *args, **keywords)
        if kind is types.ModuleType:
            if not is_config_module(value.__name__):
                return value
            module = self._copies[id(value)] = types.ModuleType(value.__name__)
            vars(module).update(self.namespace(vars(value)))
            return module
        return self._object(value)

    def _collection(self, value: Any, kind: type) -> Any:
        new: Any = collections.deque(maxlen=value.maxlen) if kind is collections.deque else kind()
        self._copies[id(value)] = new
        if isinstance(value, dict):
            new.update((self.value(k), self.value(v)) for k, v in value.items())
        else:
            (new.update if kind is set else new.extend)([self.value(v) for v in value])
        return new

    def _object(self, value: Any) -> Any:
        if not _is_mutable_data(value):
            return value
        try:
            return copy.deepcopy(value, self._copies)
        except Exception:  # whatever the object's own copying raises: it is shared, as any object that has no copy
            return value

    def uses_values(self, function: types.FunctionType) -> bool:
        """Whether a function of a config file uses a value of its file that is copied, directly or through what it calls."""
        if id(function) not in self._uses_values:
            met, to_look_at, found = {id(function)}, [function], False
            while to_look_at and not found:
                for value in _used(to_look_at.pop()):
                    found = found or _is_copied(value)
                    called = inspect.unwrap(value) if type(value) is _LRU_CACHE else value
                    if type(called) is types.FunctionType and id(called) not in met:
                        met.add(id(called))
                        to_look_at.append(called)
            self._uses_values[id(function)] = found
        return self._uses_values[id(function)]

    def _function(self, function: types.FunctionType) -> types.FunctionType:
        names = function.__globals__
        belongs_here = is_config_module(names.get("__name__"))
        cells = tuple(types.CellType() for _ in function.__closure__ or ())
        new = types.FunctionType(
            function.__code__,
            self.namespace(names) if belongs_here else names,
            function.__name__,
            function.__defaults__,
            cells or None,
        )
        self._copies[id(function)] = new  # before what may lead back to it
        for cell, old in zip(cells, function.__closure__ or (), strict=True):
            if old != types.CellType():
                cell.cell_contents = self.value(old.cell_contents)
        new.__defaults__, new.__kwdefaults__ = self.value(function.__defaults__), self.value(function.__kwdefaults__)
        new.__qualname__, new.__doc__ = function.__qualname__, function.__doc__
        new.__annotations__ = function.__annotations__
        new.__dict__.update({key: self.value(value) for key, value in function.__dict__.items()})
        new.__module__ = new.__globals__["__name__"] if belongs_here else function.__module__
        if belongs_here and "<" not in new.__qualname__:
            register_copy(new.__module__, new)
        return new


def _is(a: Any, b: Any) -> bool:
    return a is b


def _used(function: types.FunctionType) -> list[Any]:
    """The values that a function finds in its file and in the functions around it."""
    used = [cell.cell_contents for cell in function.__closure__ or () if cell != types.CellType()]
    names = function.__globals__
    if is_config_module(names.get("__name__")):
        read, written = global_names(function.__code__)
        used += [names] if written or "globals" in read else [names[name] for name in read if name in names]
    return used


def _is_copied(value: Any) -> bool:
    if isinstance(value, types.ModuleType):
        return is_config_module(value.__name__)
    if type(value) in (tuple, frozenset):
        return any(map(_is_copied, value))
    return isinstance(value, Container) or _is_mutable_data(value)


def _is_mutable_data(value: Any) -> bool:
    """Whether a value is compared by what it says, and can be changed: dicts, dataclasses, arrays, but no enumeration or path."""
    kind = type(value)
    is_tensor = kind.__module__.partition(".")[0] == "torch" and hasattr(kind, "requires_grad")
    return kind.__hash__ is None or is_tensor
