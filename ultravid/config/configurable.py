"""A decorator for classes and functions that can be called with explicit arguments or with a config.

For code that was written for detectron2's decorator of the same name. New code takes explicit arguments and is described
with `LazyCall`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

from ultravid.config.nodes import Node

__all__ = ["configurable"]

F = TypeVar("F", bound=Callable[..., Any])

# By name: importing yacs, fvcore or OmegaConf takes longer than all of ultravid.config.
_CONFIG_TYPES = frozenset({"yacs.config.CfgNode", "fvcore.common.config.CfgNode", "omegaconf.dictconfig.DictConfig"})


@overload
def configurable(init_func: F, *, from_config: None = None) -> F: ...
@overload
def configurable(
    init_func: None = None, *, from_config: Callable[..., Mapping[str, Any]] | None = None
) -> Callable[[F], F]: ...


def configurable(init_func: Any = None, *, from_config: Any = None) -> Any:
    """Let an ``__init__`` or a function be called with a config, which a ``from_config`` function turns into arguments.

    A call whose first argument, or whose argument ``cfg``, is a config (a `CfgNode`, a `Node`, OmegaConf's ``DictConfig``)
    goes to ``from_config``; any other call is made as it is. Keyword arguments that ``from_config`` does not take override
    what it returns; with ``*args`` or ``**kwargs`` in its signature it gets all arguments::

        class Detector:
            @configurable
            def __init__(self, depth, width=64): ...

            @classmethod
            def from_config(cls, cfg):
                return {"depth": cfg.MODEL.DEPTH}

        Detector(depth=34)
        Detector(cfg)
        Detector(cfg, width=32)


        @configurable(from_config=lambda cfg: {"lr": cfg.SOLVER.BASE_LR})
        def make_optimizer(lr, momentum=0.9): ...

    Args:
        init_func: an ``__init__``. Its class needs a classmethod ``from_config``, which may be inherited.
        from_config: for any other function: a function that turns a config into its arguments; its first parameter is ``cfg``.

    Raises:
        TypeError: it decorates neither an ``__init__`` nor, with ``from_config``, a function. At a call: ``from_config`` is
            not a classmethod, or its first parameter is not ``cfg``.
        AttributeError: at a call: the class has no ``from_config``.
    """
    if init_func is not None:
        if from_config is not None or not inspect.isfunction(init_func) or init_func.__name__ != "__init__":
            raise TypeError(
                "@configurable decorates an __init__; for another function write @configurable(from_config=...)."
            )
        return _configurable_init(init_func)
    if from_config is None:  # @configurable() is @configurable
        return configurable
    if not callable(from_config):
        raise TypeError(f"from_config is a function that takes a config, got {from_config!r}.")

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if _is_called_with_config(args, kwargs):
                return function(**_explicit_arguments(from_config, args, kwargs))
            return function(*args, **kwargs)

        call.from_config = from_config  # type: ignore[attr-defined]
        return call

    return decorate


def _configurable_init(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        name = type(self).__name__
        from_config = getattr(type(self), "from_config", None)
        if from_config is None:
            raise AttributeError(f"{name} has a @configurable __init__, so it needs a classmethod 'from_config'.")
        if not inspect.ismethod(from_config):
            raise TypeError(f"{name}.from_config must be a classmethod.")
        if _is_called_with_config(args, kwargs):
            init(self, **_explicit_arguments(from_config, args, kwargs))
        else:
            init(self, *args, **kwargs)

    return call


def _is_called_with_config(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    return any(
        isinstance(value, Node) or any(f"{t.__module__}.{t.__name__}" in _CONFIG_TYPES for t in type(value).__mro__)
        for value in (*args[:1], kwargs.get("cfg"))
    )


def _explicit_arguments(
    from_config: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments that ``from_config`` makes of a config, and those of the call that it does not take."""
    parameters = inspect.signature(from_config).parameters
    if next(iter(parameters), None) != "cfg":
        raise TypeError(f"{getattr(from_config, '__qualname__', from_config)} must take 'cfg' as its first argument.")
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters.values()):
        return dict(from_config(*args, **kwargs))
    taken = {name: value for name, value in kwargs.items() if name in parameters}
    rest = {name: value for name, value in kwargs.items() if name not in parameters}
    return {**from_config(*args, **taken), **rest}
