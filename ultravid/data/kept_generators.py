"""Warns about parts that keep a random generator from one sample to the next, which a run can't seed."""

from __future__ import annotations

import collections
import functools
import inspect
import itertools
import logging
import random
import sys
from collections.abc import Iterator
from types import CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

__all__ = ["warn_of_kept_generators"]

logger = logging.getLogger(__name__)

_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
_SYSTEM = (random.SystemRandom,)  # keeps nothing
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
# A part may hold a data set: steps from the part, items of one container, values in all.
_DEPTH, _ITEMS, _VALUES = 4, 100, 10_000


def warn_of_kept_generators(**parts: Any) -> None:
    """Log a warning for each generator that a transform, a sampler or a mapper keeps.

    It may hold it in an attribute, an argument or a closure, or use one that its module or its class defines. Each worker of a
    loader would have its own copy, and a resumed run would start it again. Only the first items of a large container are
    looked at.

    Args:
        parts: by the name of the argument that they are.
    """
    for name, part in parts.items():
        for place in dict.fromkeys(_places(part, name)):
            logger.warning(
                "%s is a random generator that is kept from sample to sample: its numbers depend on the number of workers, and a "
                "resumed run draws them again. Draw from the given rng, or from random, np.random or torch, which are seeded "
                "for each sample.",
                place,
            )


def _places(part: Any, name: str) -> Iterator[str]:
    """Where a part keeps generators, the nearest first."""
    waiting = collections.deque([(part, name, 0)])
    seen: dict[int, Any] = {}
    while waiting and len(seen) < _VALUES:
        value, place, depth = waiting.popleft()
        if isinstance(value, _GENERATORS):
            if not (isinstance(value, _SYSTEM) or _is_global(value)):
                yield place
        elif depth < _DEPTH and id(value) not in seen and not isinstance(value, type | ModuleType):
            seen[id(value)] = value
            inside = itertools.islice(_inside(value, place), _ITEMS)
            waiting.extend((item, where, depth + 1) for item, where in inside if type(item) not in _PLAIN)


def _is_global(generator: Any) -> bool:
    """Whether it is one that a run seeds, as ``np.random.mtrand._rand``, which scikit-learn hands out."""
    return any(generator is each for each in (random._inst, np.random.mtrand._rand, torch.default_generator))


def _inside(value: Any, place: str) -> Iterator[tuple[Any, str]]:
    """What a value holds or uses, and where."""
    if isinstance(value, list | tuple):
        yield from ((item, f"{place}[{i}]") for i, item in enumerate(value))
    elif isinstance(value, dict):  # a mapping of another kind may read each item from a file
        yield from ((item, f"{place}[{key!r}]") for key, item in value.items())
    elif isinstance(value, MethodType):
        yield value.__self__, place
        yield value.__func__, place
    elif isinstance(value, functools.partial):
        yield value.func, place
        yield from ((item, f"{place}.args[{i}]") for i, item in enumerate(value.args))
        yield from ((item, f"{place}.keywords[{key!r}]") for key, item in value.keywords.items())
    elif isinstance(value, FunctionType):
        yield from _inside_function(value, place)
    else:
        yield from ((item, f"{place}.{key}") for key, item in getattr(value, "__dict__", {}).items())
        yield from _inside_class(value, place)


def _inside_function(function: FunctionType, place: str) -> Iterator[tuple[Any, str]]:
    """The closure and the defaults of a function, and the generators and the functions of its module that it names."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield cell.cell_contents, f"{place}, {name!r} around {function.__qualname__}"
        except ValueError:  # nothing is in it yet
            continue
    defaults = (
        inspect.signature(function).parameters.values() if function.__defaults__ or function.__kwdefaults__ else ()
    )
    yield from ((p.default, f"{place}, argument {p.name!r} of {function.__qualname__}") for p in defaults)
    for name in _names(function.__code__):
        found = function.__globals__.get(name)
        is_beside = isinstance(found, FunctionType) and found.__module__ == function.__module__
        if isinstance(found, _GENERATORS):
            yield found, f"{place}, {name!r} of {function.__module__}"
        elif is_beside:
            yield found, place


def _names(code: CodeType) -> set[str]:
    """The names that code uses, that of functions and comprehensions inside it included."""
    inner = (_names(each) for each in code.co_consts if isinstance(each, CodeType))
    return set(code.co_names).union(*inner)


def _inside_class(value: Any, place: str) -> Iterator[tuple[Any, str]]:
    """What an object has in slots, the generators among its class's attributes, and those that its methods use."""
    for kind in type(value).__mro__:
        if kind.__module__ in sys.stdlib_module_names:
            continue
        for name, item in vars(kind).items():
            if isinstance(item, MemberDescriptorType):
                yield getattr(value, name, None), f"{place}.{name}"
            elif isinstance(item, _GENERATORS):
                yield item, f"{place}.{name}"
            elif isinstance(item, FunctionType):
                used = _inside_function(item, place)
                yield from ((found, where) for found, where in used if isinstance(found, (FunctionType, *_GENERATORS)))
