"""Checks whether a value of a config contradicts the annotation of its parameter.

Only certain contradictions are reported. An annotation that can't be read, a protocol, a type variable, a live object and
the result of a function all pass. So do an int for a float, a list for a tuple (a YAML file has no tuples), and a value that
equals the parameter's default.
"""

from __future__ import annotations

import abc
import collections.abc
import dataclasses
import enum
import functools
import inspect
import math
import sys
import types
import typing
from collections.abc import Callable, Mapping, Set
from pathlib import PurePath
from typing import Any

from ultravid.config.errors import ConfigError
from ultravid.config.instantiate import locate
from ultravid.config.module_names import is_config_module
from ultravid.config.nodes import Node
from ultravid.config.references import is_reference
from ultravid.config.targets import target_name
from ultravid.config.tree import MISSING, Container, raw_children
from ultravid.utils.limits import Accepts, EitherThisOr, Hint, Limits, as_limits

__all__ = [
    "Mismatch",
    "Parameters",
    "hint_of",
    "is_function",
    "mismatch",
    "parameters_of",
    "resolved_items",
    "type_text",
]

_EMPTY = inspect.Parameter.empty
_SCALARS = (bool, int, float, complex, str, bytes)
_ANYTHING: tuple[Any, ...] = (Any, object)
_CALLABLES: tuple[Any, ...] = (collections.abc.Callable,)
_UNIONS: tuple[Any, ...] = (typing.Union, types.UnionType)
_WRAPPERS: tuple[Any, ...] = (typing.Annotated, typing.Final, typing.ClassVar)
_LISTS = (list, tuple, set, frozenset)
# The limits of arguments in torch, by class (and those derived from it) or function. Classes enforce them when they are built;
# functions take any number, and a negative norm would turn gradients around.
_LIMITS_IN_TORCH = {
    "torch.optim.optimizer.Optimizer": {
        "lr": Limits(ge=0, lt=math.inf),
        **dict.fromkeys(("weight_decay", "momentum", "eps"), Limits(ge=0)),
    },
    "torch.nn.utils.clip_grad.clip_grad_norm_": {"max_norm": Limits(gt=0)},
    "torch.nn.utils.clip_grad.clip_grad_value_": {"clip_value": Limits(gt=0)},
    "torch.utils.data.dataloader.DataLoader": {"num_workers": Limits(ge=0), "batch_size": Limits(ge=1)},
}


@dataclasses.dataclass(frozen=True)
class Mismatch:
    """A value that contradicts its annotation.

    Attributes:
        steps: keys and indices that lead to it from the argument.
        value: as resolved.
        annotation: the annotation that it contradicts.
        right_type: the type fits, but the value is outside of its limits.
    """

    steps: tuple[Any, ...]
    value: Any
    annotation: Any
    right_type: bool = False


@dataclasses.dataclass(frozen=True)
class Parameters:
    """The parameters of a target.

    Attributes:
        by_name: parameters that can be given by name.
        positional: parameters that can be given by position, in order.
        positional_only: those of them that can't be given by name.
        any_name: the ``**kwargs`` parameter; None if its annotation, an ``Unpack`` of a `typing.TypedDict`, lists what it takes.
        any_number: the ``*args`` parameter.
        annotations: those that can be checked, by the parameter's name.
        bounds: the argument that bounds another one from above, by that one's name.
        alternatives: the argument that is given in place of another one, by that one's name.
    """

    by_name: dict[str, inspect.Parameter]
    positional: list[inspect.Parameter]
    positional_only: list[inspect.Parameter]
    any_name: inspect.Parameter | None
    any_number: inspect.Parameter | None
    annotations: dict[str, Any]
    bounds: dict[str, str]
    alternatives: dict[str, str]


def parameters_of(target: Callable[..., Any]) -> Parameters | None:
    """The parameters of a target; None if it has no signature (some built-ins)."""
    try:
        return _parameters_of(target)
    except TypeError:  # it can't be hashed
        return _parameters_of.__wrapped__(target)


@functools.lru_cache(maxsize=4096)
def _parameters_of(target: Callable[..., Any]) -> Parameters | None:
    target = typing.get_origin(target) or target  # of a generic class with its arguments, the class
    try:
        parameters = inspect.signature(target).parameters
    except (ValueError, TypeError):
        return None
    kinds = inspect.Parameter
    names = _namespace(target)
    annotations = {}
    for parameter in parameters.values():
        annotation = _evaluated(parameter.annotation, names)
        if annotation is not _EMPTY and annotation is not Any and annotation is not object:
            annotations[parameter.name] = annotation
    if hasattr(target, "registry") and hasattr(
        target, "dispatch"
    ):  # functools.singledispatch: they are the first form's
        annotations = {}
    any_name = next((p for p in parameters.values() if p.kind is kinds.VAR_KEYWORD), None)
    listed: dict[str, inspect.Parameter] = {}
    if any_name is not None and typing.get_origin(annotations.get(any_name.name)) is typing.Unpack:
        (keywords,) = typing.get_args(annotations.pop(any_name.name))
        annotations |= typing.get_type_hints(keywords, include_extras=True)
        defaults = {name: _EMPTY if name in keywords.__required_keys__ else ... for name in keywords.__annotations__}
        listed = {n: inspect.Parameter(n, kinds.KEYWORD_ONLY, default=default) for n, default in defaults.items()}
        any_name = None
    for name, limits in _limits_in_torch(target).items():
        if name in parameters:
            annotations[name] = typing.Annotated[annotations.get(name, Any), limits]
    return Parameters(
        {n: p for n, p in parameters.items() if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)} | listed,
        [p for p in parameters.values() if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)],
        [p for p in parameters.values() if p.kind is kinds.POSITIONAL_ONLY],
        any_name,
        next((p for p in parameters.values() if p.kind is kinds.VAR_POSITIONAL), None),
        annotations,
        {name: bound for name, each in annotations.items() if (bound := _bound_by_argument(each)) is not None},
        {name: other for name, each in annotations.items() if (other := _alternative_of(each)) is not None},
    )


def _limits_in_torch(target: Any) -> dict[str, Limits]:
    """The limits of the arguments of torch's classes, of classes derived from them, and of torch's functions."""
    kinds = target.__mro__ if isinstance(target, type) else (target,)
    names = (f"{getattr(each, '__module__', '')}.{getattr(each, '__qualname__', '')}" for each in kinds)
    found = (_LIMITS_IN_TORCH.get(name, {}) for name in names)
    return {name: limits for each in found for name, limits in each.items()}


def _namespace(target: Any) -> dict[str, Any]:
    """The names that a target's annotations refer to."""
    while isinstance(target, functools.partial):
        target = target.func
    if isinstance(target, type):
        made_by: Any = None
        for kind in target.__mro__:  # the class whose constructor it is
            own = vars(kind).get("__init__") or vars(kind).get("__new__")
            if own is not None:
                made_by = own
                break
        module = vars(sys.modules[target.__module__]) if target.__module__ in sys.modules else {}
        function = inspect.unwrap(getattr(made_by, "__func__", made_by)) if made_by is not None else None
        return getattr(function, "__globals__", module)
    function = inspect.unwrap(getattr(target, "__func__", target))
    if not hasattr(function, "__globals__"):
        function = inspect.unwrap(getattr(type(target).__call__, "__func__", type(target).__call__))
    return getattr(function, "__globals__", {})


def _evaluated(annotation: Any, names: dict[str, Any]) -> Any:
    """An annotation as an object; `Any` if it can't be read (because it is imported only for type checkers, say)."""
    if not isinstance(annotation, str):
        if "ForwardRef(" not in repr(annotation):
            return annotation
        holder = types.SimpleNamespace(__annotations__={"it": annotation})
        try:
            return typing.get_type_hints(holder, names, include_extras=True)["it"]
        except Exception:  # as below
            return Any
    try:
        return eval(annotation, names)  # the module's own text, as `typing.get_type_hints` reads it
    except Exception:  # whatever an unreadable annotation raises
        return Any


def type_text(annotation: Any) -> str:
    """An annotation as in source code: ``int``, ``float | None``, ``torch.nn.Module``."""
    if annotation is None or annotation is type(None):
        return "None"
    origin = typing.get_origin(annotation)
    if origin in _UNIONS:
        return " | ".join(type_text(a) for a in typing.get_args(annotation))
    if origin is typing.Literal:
        return " | ".join(map(repr, typing.get_args(annotation)))
    if origin is typing.Annotated:
        return _annotated_text(*typing.get_args(annotation))
    if isinstance(annotation, type) and origin is None and annotation.__module__ != "builtins":
        return target_name(annotation)
    return inspect.formatannotation(annotation).replace("typing.", "").replace("collections.abc.", "")


def _annotated_text(annotation: Any, *metadata: Any) -> str:
    for each in metadata:
        if isinstance(each, Accepts):
            return each.text
        if (limits := as_limits(each)) is not None:
            is_union = annotation is Any or typing.get_origin(annotation) in _UNIONS
            return limits.described("number" if is_union else type_text(annotation))
    return type_text(annotation)


def hint_of(annotation: Any, is_function: bool) -> str:
    """What a message about a wrong value of this annotation adds; "" if it has no `Hint` about such a value."""
    hints = (each for each in getattr(annotation, "__metadata__", ()) if isinstance(each, Hint))
    return "".join(f" {each.text}" for each in hints if is_function or not each.of_functions)


def is_function(value: Any) -> bool:
    """Whether a value of a config is a function, or names one."""
    if isinstance(value, Node):
        value = _named_object(value) if "_object_" in value else None
    return callable(value) and not isinstance(value, type)


def _bound_by_argument(annotation: Any) -> str | None:
    """The argument of the same call that bounds a number from above; None if there is none."""
    for each in (annotation, *typing.get_args(annotation)):
        for item in getattr(each, "__metadata__", ()):
            if isinstance(item, Limits) and isinstance(item.lt, str):
                return item.lt
    return None


def _alternative_of(annotation: Any) -> str | None:
    """The argument of the same call that is given in place of this one; None if there is none."""
    items = getattr(annotation, "__metadata__", ())
    return next((item.other for item in items if isinstance(item, EitherThisOr)), None)


def mismatch(value: Any, annotation: Any) -> Mismatch | None:
    """The part of a resolved value that contradicts an annotation; None if nothing certainly does."""
    if type(value) is annotation or (type(value) is str and value == MISSING):
        return None
    kind: Any = type(annotation)
    if kind is typing.TypeVar or kind is str or annotation in _ANYTHING:
        return None
    if annotation is None:
        annotation = type(None)
    if kind is typing.NewType:
        return mismatch(value, annotation.__supertype__)
    if isinstance(annotation, dataclasses.InitVar):
        return mismatch(value, annotation.type)
    if kind.__name__ == "TypeAliasType":
        return mismatch(value, annotation.__value__)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is None:
        return _of_class(value, annotation) if isinstance(annotation, type) else None
    if origin in _UNIONS:
        found = [mismatch(value, a) for a in arguments]
        if not all(found):
            return None
        deeper = [f for f in found if f is not None and f.steps]  # list[int] | None, say: report the item
        right_type = any(f.right_type for f in found if f is not None)
        return deeper[0] if len(deeper) == 1 else Mismatch((), value, annotation, right_type)
    if origin is typing.Literal:
        fits = any(
            isinstance(value, type(a)) and value == a and isinstance(value, bool) == isinstance(a, bool)
            for a in arguments
        )
        return None if fits or _unknown(value) else Mismatch((), value, annotation)
    if origin is typing.Annotated:
        return mismatch(value, arguments[0]) or _outside(value, annotation, arguments[1:])
    if origin in _WRAPPERS:
        return mismatch(value, arguments[0])
    if not isinstance(origin, type):
        return None
    if origin is type:
        return None if isinstance(value, type) or _unknown(value) else Mismatch((), value, annotation)
    if (wrong := _of_class(value, origin)) is not None:
        return dataclasses.replace(wrong, annotation=annotation)
    return _of_items(value, annotation, origin, arguments)


def _outside(value: Any, annotation: Any, metadata: tuple[Any, ...]) -> Mismatch | None:
    """A value of the right type that is outside of its limits, or fails a test."""
    for each in metadata:
        if isinstance(each, Accepts):
            wrong = not _unknown(value) and not each.test(value)
        else:
            limits = as_limits(each)
            wrong = limits is not None and type(value) in (int, float) and not limits.allow(value)
        if wrong:
            return Mismatch((), value, annotation, right_type=True)
    return None


def _of_items(value: Any, annotation: Any, origin: type, arguments: tuple[Any, ...]) -> Mismatch | None:
    """The items of a container that fits as such."""
    is_call = isinstance(value, Node) and ("_target_" in value or "_object_" in value)
    if is_call or origin in _CALLABLES or not arguments:
        return None
    if issubclass(origin, collections.abc.Mapping):
        if not isinstance(value, Mapping) or len(arguments) != 2:
            return None
        for key, item in resolved_items(value):
            if mismatch(key, arguments[0]):
                return Mismatch((key,), key, arguments[0])
            if wrong := mismatch(item, arguments[1]):
                return dataclasses.replace(wrong, steps=(key, *wrong.steps))
        return None
    if isinstance(value, str):
        return Mismatch((), value, annotation) if mismatch(value, arguments[0]) else None
    if not isinstance(value, list | tuple):
        return None
    wanted: tuple[Any, ...] = (arguments[0],) * len(value)
    if origin is tuple and arguments[-1:] != (...,):
        if len(arguments) != len(value):
            return Mismatch((), value, annotation)
        wanted = arguments
    for (index, item), each in zip(resolved_items(value), wanted, strict=True):
        if wrong := mismatch(item, each):
            return dataclasses.replace(wrong, steps=(index, *wrong.steps))
    return None


def resolved_items(value: Any, names: Set[Any] | None = None) -> list[tuple[Any, Any]]:
    """(key, value) with references resolved; a wrong reference, which is reported elsewhere, counts as ???.

    Args:
        value: a container, or a mapping or sequence that is none of the config's.
        names: only these keys; None: all.
    """
    pairs = []
    for key, item in raw_children(value) if isinstance(value, Container) else _pairs(value):
        if names is not None and key not in names:
            continue
        if is_reference(item) and isinstance(value, Container):
            try:
                item = value[key]
            except ConfigError:
                item = MISSING
        pairs.append((key, item))
    return pairs


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    return list(value.items() if isinstance(value, Mapping) else enumerate(value))


def _unknown(value: Any) -> bool:
    """Whether a value is of unknown type until it is built, or a live object, whose type is not checked."""
    if isinstance(value, Node):
        return "_target_" in value or "_object_" in value
    return not (value is None or isinstance(value, (*_SCALARS, *_LISTS, Mapping)))


def _of_class(value: Any, wanted: type) -> Mismatch | None:
    return None if _may_be(value, wanted) else Mismatch((), value, wanted)


def _may_be(value: Any, wanted: type) -> bool:
    if getattr(wanted, "_is_protocol", False):
        return _may_have_members(value, wanted)
    if typing.is_typeddict(wanted):
        return _unknown(value) or isinstance(value, Mapping)
    if isinstance(value, Node):
        made = _made_class(value)
        if made is None:
            named = _named_object(value) if "_object_" in value else None
            return named is None or isinstance(named, wanted) or not isinstance(named, type | types.FunctionType)
        if made is not dict or "_target_" in value:
            return _may_be_class(made, wanted)
        return issubclass(dict, wanted) or issubclass(wanted, Mapping) or _is_known_by_its_shape(wanted)
    if isinstance(value, list | tuple) and not hasattr(type(value), "_fields"):
        return any(issubclass(kind, wanted) for kind in _LISTS) or _is_known_by_its_shape(wanted)
    if isinstance(value, str) and (_is_named(wanted, value) or _is_torch_device(wanted)):
        return True
    if isinstance(value, type | types.FunctionType):
        return isinstance(value, wanted)
    if value is not None and not isinstance(value, (*_SCALARS, *_LISTS, Mapping)):  # a live object
        return isinstance(value, wanted) or wanted not in _SCALARS or _acts_as(type(value), wanted)
    if wanted is float:
        return isinstance(value, int | float)
    if wanted is complex:
        return isinstance(value, int | float | complex)
    return isinstance(value, wanted)


def _may_have_members(value: Any, protocol: type) -> bool:
    """Whether a value may have the methods of a protocol; that of an object whose class is not certain is not known."""
    if isinstance(value, Node):
        made = _named_object(value) if "_object_" in value else _made_class(value)
        if made is None:
            return True
    else:
        made = value if isinstance(value, type) else type(value)
    if made is functools.partial or hasattr(made, "__getattr__"):
        return True
    inherited = [kind for kind in protocol.__mro__ if getattr(kind, "_is_protocol", False)]
    names = {
        name for kind in inherited for name, member in vars(kind).items() if isinstance(member, types.FunctionType)
    }
    names -= {"__init__", "__subclasshook__", "__init_subclass__"}
    given_class = isinstance(value, type) or (
        isinstance(value, Node) and "_object_" in value and isinstance(made, type)
    )
    # Not hasattr: a class has a __call__, by which its objects are made.
    defined = {name for kind in (made if isinstance(made, type) else type(made)).__mro__ for name in vars(kind)}
    return not given_class and names <= defined


def _named_object(node: Node) -> Any:
    """The object of ``{_object_: name}``; None if it can't be imported, which is reported elsewhere."""
    try:
        return locate(node["_object_"])
    except ConfigError:
        return None


def _may_be_class(made: type, wanted: type) -> bool:
    if isinstance(wanted, abc.ABCMeta) and wanted.__module__ not in ("collections.abc", "numbers"):
        return True  # classes of its shape may do as well
    if _is_known_by_its_shape(wanted):
        return True
    if wanted in (list, tuple, set, dict) or wanted.__module__ == "collections.abc":  # a ModuleList for a list
        return issubclass(made, wanted) or hasattr(made, "__getitem__") or hasattr(made, "__iter__") or made in _LISTS
    if "__new__" in vars(made) and issubclass(wanted, made):  # pathlib.Path makes a PosixPath
        return True
    if wanted is float and made is int:
        return True
    if is_config_module(wanted.__module__):  # two loads of a config file may define its classes twice
        return any(target_name(k) == target_name(wanted) for k in made.__mro__)
    return issubclass(made, wanted) or _acts_as(made, wanted) or (made in _LISTS and wanted in _LISTS)


def _is_known_by_its_shape(wanted: type) -> bool:
    """Whether a class has no public member, so that any class of the same shape will do (torch's Dataset)."""
    if wanted.__module__ == "builtins" or dataclasses.is_dataclass(wanted) or issubclass(wanted, enum.Enum | PurePath):
        return False
    if wanted.__module__ in ("collections.abc", "numbers"):
        return False
    inherited = [kind for kind in wanted.__mro__ if kind not in (object, typing.Generic)]
    return not any(name for kind in inherited for name in vars(kind) if not name.startswith("_")) and not any(
        "__init__" in vars(kind) for kind in inherited
    )


def _is_named(wanted: type, value: str) -> bool:
    """Whether a value is the name of torchvision weights, which its functions accept too."""
    return (
        issubclass(wanted, enum.Enum) and wanted.__module__.startswith("torchvision.") and value in wanted.__members__
    )


def _is_torch_device(wanted: type) -> bool:
    return (wanted.__module__, wanted.__name__) == ("torch", "device")


def _acts_as(made: type, wanted: type) -> bool:
    """Whether objects of a class can be used as a number, as numpy's and torch's scalars can."""
    return (wanted is int and hasattr(made, "__index__")) or (
        wanted in (float, complex, int, bool) and hasattr(made, "__float__") and made not in _SCALARS
    )


def _made_class(node: Node) -> type | None:
    """The class of the object that a node describes; None if that is not certain."""
    if "_object_" in node:
        return None
    if "_target_" not in node:
        return dict
    if node.get("_partial_", False):
        return functools.partial
    try:
        target = node["_target_"]
        target = locate(target) if isinstance(target, str) else target
    except ConfigError:
        return None
    if not isinstance(target, type):
        return None
    if "__new__" in vars(target) and target.__module__.partition(".")[0] not in sys.stdlib_module_names:
        return None  # its __new__ may give anything
    if type(target).__call__ is not type.__call__:  # and so may its metaclass
        return None
    return target
