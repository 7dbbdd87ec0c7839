"""The definitions of config files: one object for one class or function, however often its file is run.

A file is run once in a load, but two loads in one process run it twice: the launcher's check and its run, a saved config whose
names lead to the file, a test that compares two configs. Each run has to compute its own values (it may read the environment),
yet ``first.mode is second.mode`` should hold. So each definition at the top level of a file is compared with what the same line
of the same content defined before, and the earlier object takes the new one's place if the two can't be told apart: not the
code, nor default values, class attributes, base classes, or the values of the global names that it reads. What reads a global
node or another mutable value of its file is a definition of its own run, because its result may differ. So is what a decorator or
a base class may have noted elsewhere (a registry): it would know the object that was replaced.

The comparison is made when a name is bound, after the decorators. Returning the earlier class from ``__build_class__`` instead
would apply them to it a second time, and ``dataclass`` does not survive that.
"""

from __future__ import annotations

import ast
import builtins
import collections
import dataclasses
import datetime
import dis
import enum
import functools
import itertools
import logging
import re
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any
from weakref import WeakValueDictionary

from ultravid.config.module_names import content_hash, module_name, parse_module_name
from ultravid.config.packages import parsing

if typing.TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "HOOK",
    "Definitions",
    "compile_config",
    "global_names",
    "living_definition",
    "name_in_file",
    "new_module_name",
    "new_run_of",
    "register_copy",
]

HOOK = "__definition__"
"""The name by which the compiled code of a config file reports its definitions; in the file's builtins."""

_living: WeakValueDictionary[tuple[str, str], Any] = WeakValueDictionary()  # by module name and name in the module
_shared: WeakValueDictionary[tuple[Path, str, str, int], Any] = (
    WeakValueDictionary()
)  # by path, content, name and place
_sentinels: dict[tuple[Path, str, str, int], object] = {}  # an object() takes no weak reference
_runs: dict[tuple[Path, str], Iterator[int]] = {}
_constant: dict[tuple[Path, str], dict[str, frozenset[str]]] = {}  # by path and content: see `_constant_definitions`
_lock = threading.RLock()

_MAY_DEFINE = re.compile(rb"\b(?:class|def)\b|\bobject\(\)|NewType|namedtuple|NamedTuple|TypedDict|Enum|Flag|dataclass")
_IMMUTABLE = (int, float, complex, str, bytes, bool, type(None), type(...), range)
_BY_VALUE = (PurePath, datetime.date, datetime.time, datetime.timedelta)
_NO_TRACE = frozenset({"attr", "attrs", "torch", "numpy", "typing_extensions"})
"""Packages besides the standard library whose decorators and base classes keep no list of what they were applied to."""
_OF_THE_RUN = frozenset({"__module__", "__dict__", "__weakref__", "_abc_impl", "__slotnames__"})
"""Attributes of a class that say where and how it was made, or that pickle adds."""
_OF_ENUM = frozenset(vars(enum.Flag("_", "a"))) | {"__new__", "_generate_next_value_", "_sort_order_"}


def new_module_name(path: Path, source: bytes) -> str:
    """The name of the next run of a file in this process."""
    content = content_hash(source)
    with _lock:
        run = next(_runs.setdefault((path, content), itertools.count(1)))
    return module_name(path, content, run)


def new_run_of(module: str) -> str:
    """A new name for a copy of the names of a run."""
    name = parse_module_name(module)
    assert name is not None
    with _lock:
        run = next(_runs.setdefault((name.path, name.content), itertools.count(2)))
    return module_name(name.path, name.content, run)


def living_definition(module: str, name: str) -> Any:
    """What a run of a config file in this process has defined; None if it is no longer in use, or was another process's."""
    return _living.get((module, name))


def name_in_file(module: str, value: Any) -> str | None:
    """The name that leads to a class or a function in the config file that defines it; None if it is known that none does."""
    top, *inner = value.__qualname__.split(".")
    found: Any = _living.get((module, top))
    if found is None and "<" not in value.__qualname__:
        return value.__qualname__
    for name in inner:
        found = getattr(found, name, None)
    if found is value:
        return value.__qualname__
    return next((name for (of, name), known in list(_living.items()) if of == module and known is value), None)


class Definitions:
    """The definitions of one run of a file.

    Args:
        module: the run's name.
        namespace: the run's names.
    """

    def __init__(self, module: str, namespace: dict[str, Any]) -> None:
        self.module = module
        self.namespace = namespace
        self._places: dict[str, int] = {}

    def hook(self, name: str, *decorators: str) -> Callable[[Any], Any]:
        """What the compiled code calls for a definition: the function that gives the object to bind to the name.

        Args:
            name: the name to be bound.
            decorators: the global names that begin the decorators, ``"dataclasses"`` for ``@dataclasses.dataclass``.
        """
        return functools.partial(self._to_bind, name, all(map(self._leaves_no_trace, decorators)))

    def _to_bind(self, name: str, may_share: bool, value: Any) -> Any:
        if type(value) is not object:
            if getattr(value, "__module__", None) != self.module:
                return value
            if getattr(value, "__qualname__", None) != name:  # an instance of such a class, or another name's object
                if isinstance(value, types.FunctionType | type):  # stretched = stretch(double), with functools.wraps
                    _living[self.module, name] = value
                return value
        file = parse_module_name(self.module)
        assert file is not None
        place = self._places[name] = self._places.get(name, 0) + 1
        key = (file.path, file.content, name, place)
        with _lock:
            if type(value) is object:
                return _sentinels.setdefault(key, value)
            if may_share and not _notes_subclasses(value):
                earlier = _shared.get(key)
                if earlier is not None and _Comparison(name).same(earlier, value):
                    return earlier
                _shared[key] = value
            _living[self.module, name] = value
        return value

    def _leaves_no_trace(self, name: str) -> bool:
        decorator = self.namespace.get(name, vars(builtins).get(name))
        origin = (
            decorator.__name__ if isinstance(decorator, types.ModuleType) else getattr(decorator, "__module__", None)
        )
        return isinstance(origin, str) and _keeps_no_list(origin)


def register_copy(module: str, value: Any) -> None:
    """Note a function that was copied for another import of its file, so that it can be pickled."""
    _living[module, value.__qualname__] = value


def _keeps_no_list(module: str) -> bool:
    package = module.partition(".")[0]
    return package in sys.stdlib_module_names or package in _NO_TRACE


def _notes_subclasses(value: Any) -> bool:
    """Whether a class is known to others by being defined: through a base's ``__init_subclass__`` or a metaclass."""
    if not isinstance(value, type):
        return False
    makers = [type(value), *(base for base in value.__mro__[1:] if "__init_subclass__" in vars(base))]
    return not all(_keeps_no_list(maker.__module__) for maker in makers)


# --- the compiled code ----------------------------------------------------------------------------------------------------


def compile_config(source: bytes, path: Path) -> types.CodeType:
    """The code of a config file, which reports its definitions.

    Raises:
        SyntaxError: as `compile`.
        ValueError: as `compile`.
    """
    if _MAY_DEFINE.search(source) is None:
        return compile(source, str(path), "exec", dont_inherit=True)
    with parsing:
        tree = ast.parse(source, str(path))
        _constant[path, content_hash(source)] = _constant_definitions(tree)
        return _compiled_with_hooks(tree, path)


def _compiled_with_hooks(tree: ast.Module, path: Path) -> types.CodeType:
    for statement in _top_statements(tree.body):
        if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            roots = [_root(decorator) for decorator in statement.decorator_list]
            at = statement.decorator_list[0] if statement.decorator_list else statement
            statement.decorator_list.insert(0, _hook_call(statement.name, roots, at))
        elif isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call):
            target, call = statement.targets[0], statement.value
            if isinstance(target, ast.Name) and isinstance(call.func, ast.Name | ast.Attribute):
                hook = _hook_call(target.id, [], call)
                statement.value = ast.copy_location(ast.Call(hook, [call], []), call)
    return compile(tree, str(path), "exec", dont_inherit=True)


def _hook_call(name: str, decorators: list[str], at: ast.AST) -> ast.Call:
    arguments: list[ast.expr] = [ast.Constant(text) for text in (name, *decorators)]
    call = ast.Call(ast.Name(HOOK, ast.Load()), arguments, [])
    for node in ast.walk(call):
        if isinstance(node, ast.expr):
            # On one line: a function's first line is that of its first decorator.
            node.lineno = node.end_lineno = at.lineno  # type: ignore[attr-defined]
            node.col_offset = node.end_col_offset = at.col_offset  # type: ignore[attr-defined]
    return call


def _root(node: ast.expr) -> str:
    """The global name with which a decorator begins; "" if it begins with something else."""
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Call):
            node = node.func
        elif isinstance(node, ast.Attribute):
            node = node.value
        else:
            return ""
    return node.id


def _top_statements(body: list[Any]) -> Iterator[ast.stmt]:
    """The statements of a module, those within ``if``, ``try``, ``with`` and loops too."""
    for statement in body:
        yield statement
        if not isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            for part in ("body", "orelse", "finalbody", "handlers", "cases"):
                yield from _top_statements(getattr(statement, part, []))


def _constant_definitions(tree: ast.Module) -> dict[str, frozenset[str]]:
    """The classes and functions of a file that are the same in each run if the global names that they read are: with those names."""
    times = collections.Counter(getattr(statement, "name", None) for statement in _top_statements(tree.body))
    return {
        statement.name: frozenset(node.id for node in ast.walk(statement) if isinstance(node, ast.Name))
        for statement in tree.body
        if isinstance(statement, ast.ClassDef | ast.FunctionDef)
        and times[statement.name] == 1
        and _is_constant(statement)
    }


def _is_constant(statement: ast.stmt) -> bool:
    """Whether a definition computes nothing when it is made: no default values but literals and names, no decorators that note it."""
    if isinstance(statement, ast.ClassDef):
        return (
            not statement.keywords
            and all(isinstance(base, ast.Name | ast.Attribute) for base in statement.bases)
            and all(_root(each) in ("dataclass", "dataclasses") for each in statement.decorator_list)
            and all(map(_is_constant, statement.body))
        )
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
        defaults = [*statement.args.defaults, *filter(None, statement.args.kw_defaults)]
        return (
            all(map(_is_literal, defaults))
            and all(_root(each) in ("staticmethod", "classmethod", "property") for each in statement.decorator_list)
            and not any(isinstance(node, ast.Global) for node in ast.walk(statement))
        )
    if isinstance(statement, ast.Assign | ast.AnnAssign | ast.Expr):
        return statement.value is None or _is_literal(statement.value)
    return isinstance(statement, ast.Pass)


def _is_literal(node: ast.expr) -> bool:
    """Whether an expression is a literal or a name; names are compared."""
    if isinstance(node, ast.Tuple):
        return all(map(_is_literal, node.elts))
    return isinstance(node, ast.Constant | ast.Name) or (isinstance(node, ast.UnaryOp) and _is_literal(node.operand))


# --- sameness -------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=512)
def global_names(code: types.CodeType) -> tuple[frozenset[str], frozenset[str]]:
    """The global names that a function's code reads, and those that it sets; those of functions inside it too."""
    read, written = set(), set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            read.add(instruction.argval)
        elif instruction.opname in ("STORE_GLOBAL", "DELETE_GLOBAL"):
            written.add(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner_read, inner_written = global_names(constant)
            read |= inner_read
            written |= inner_written
    return frozenset(read), frozenset(written)


class _Comparison:
    """Whether two definitions of one place in a file can't be told apart; False if that can't be known."""

    def __init__(self, name: str) -> None:
        self.name = name.partition(".")[0]
        self._assumed: set[tuple[int, int]] = set()

    def same(self, old: Any, new: Any) -> bool:
        """Whether two values of a definition are the same. Pairs under comparison count as such: definitions hold themselves."""
        if old is new or (id(old), id(new)) in self._assumed:
            return True
        if type(old) is not type(new):
            return False
        self._assumed.add((id(old), id(new)))
        if isinstance(new, types.FunctionType):
            return self._same_function(old, new)
        if isinstance(new, type):
            return self._same_class(old, new)
        kind = type(new)
        if kind in _IMMUTABLE:
            return repr(old) == repr(new)  # 0.0 equals -0.0
        if isinstance(new, _BY_VALUE) or (kind.__module__ == "torch" and kind.__name__ in ("device", "dtype", "Size")):
            return bool(old == new)
        if kind in (dict, types.MappingProxyType):
            return list(old) == list(new) and all(self.same(old[key], new[key]) for key in new)
        if kind in (list, tuple):
            return len(old) == len(new) and all(map(self.same, old, new))
        if kind in (set, frozenset):
            return old == new and all(type(v) in _IMMUTABLE for v in new)
        if isinstance(new, enum.Enum):
            return old.name == new.name and self.same(type(old), type(new)) and self.same(old.value, new.value)
        return self._same_by_parts(old, new)

    def _same_by_parts(self, old: Any, new: Any) -> bool:
        """The rest: descriptors, and what the standard library puts into classes."""
        if isinstance(new, staticmethod | classmethod):
            parts: tuple[str, ...] = ("__func__",)
        elif isinstance(new, property):
            parts = ("fget", "fset", "fdel")
        elif isinstance(new, functools.cached_property):
            parts = ("func", "attrname")
        elif isinstance(new, types.MemberDescriptorType | types.GetSetDescriptorType):
            parts = ("__name__",)
        elif isinstance(new, typing.NewType):
            parts = ("__name__", "__supertype__")
        elif isinstance(new, logging.Logger):  # getLogger(__name__)
            names = [parse_module_name(each.name) for each in (old, new)]
            return None not in names and names[0] is not None and names[0][:2] == names[1][:2]  # type: ignore[index]
        elif isinstance(new, dataclasses.Field):
            parts = tuple(dataclasses.Field.__slots__)
        elif type(new).__name__ == "_DataclassParams":
            return repr(old) == repr(new)
        elif type(new).__name__ == "_tuplegetter":
            return bool(old.__reduce__() == new.__reduce__())
        elif isinstance(new, types.GenericAlias | types.UnionType) or type(new).__module__ == "typing":
            return bool(old == new)
        else:
            return False
        return all(self.same(getattr(old, part), getattr(new, part)) for part in parts)

    def _same_class(self, old: type, new: type) -> bool:
        if old.__qualname__ != new.__qualname__ or len(old.__bases__) != len(new.__bases__):
            return False
        left_out = _OF_THE_RUN
        if isinstance(new, enum.EnumMeta):
            assert isinstance(old, enum.EnumMeta)
            members: tuple[Any, Any] = (old.__members__, new.__members__)
            values = [{name: member.value for name, member in each.items()} for each in members]
            if not self.same(*values):
                return False
            left_out |= _OF_ENUM | set(new.__members__)
        names, own = vars(old).keys() - left_out, vars(new).keys() - left_out
        return (
            names == own
            and all(map(self.same, old.__bases__, new.__bases__))
            and all(self.same(vars(old)[name], vars(new)[name]) for name in own)
        )

    def _same_function(self, old: types.FunctionType, new: types.FunctionType) -> bool:
        parts = ("__defaults__", "__kwdefaults__", "__annotations__", "__dict__")
        if old.__code__ != new.__code__ or not all(self.same(getattr(old, p), getattr(new, p)) for p in parts):
            return False
        cells = zip(old.__closure__ or (), new.__closure__ or (), strict=True)
        return all(self._same_cell(a, b) for a, b in cells) and self._reads_the_same(old, new)

    def _same_cell(self, old: types.CellType, new: types.CellType) -> bool:
        try:
            return self.same(old.cell_contents, new.cell_contents)
        except ValueError:  # one of them is empty
            return False

    def _reads_the_same(self, old: types.FunctionType, new: types.FunctionType) -> bool:
        before, now = old.__globals__, new.__globals__
        if before is now:
            return True
        read, written = global_names(new.__code__)
        return (
            not written
            and "globals" not in read
            and all(
                name == self.name or self._is_settled(name, before, now)
                for name in read
                if name in before or name in now
            )
        )

    def _is_settled(
        self, name: str, before: dict[str, Any], now: dict[str, Any], above: frozenset[str] = frozenset()
    ) -> bool:
        """Whether a global name means the same in both runs. What is defined further down in the file is not known yet."""
        if name in before and name in now:
            value = now[name]
            mutable = isinstance(value, dict | list | set) and not isinstance(value, type)
            return not mutable and self.same(before[name], value)
        if name in now or _notes_subclasses(before[name]):
            return False
        if type(before[name]) is object:  # UNSET = object() is the same in each run
            return any(before[name] is sentinel for sentinel in _sentinels.values())
        file = parse_module_name(before.get("__name__", ""))
        read = _constant.get(file[:2], {}).get(name) if file is not None else None
        return read is not None and all(
            n in (self.name, name) or n in above or self._is_settled(n, before, now, above | {name})
            for n in read
            if n in before or n in now
        )
