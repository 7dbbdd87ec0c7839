"""A scheduler of torch in a checkpoint: its settings and position, and how it is restored if it was changed.

torch's ``load_state_dict`` overwrites all attributes of a scheduler, those that the config sets too. So a checkpoint holds the
state of the scheduler as it was built, beside its current one: if a resumed run builds another one, the saved state is of no use.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CodeType
from typing import Any

from torch import Tensor
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LambdaLR,
    LRScheduler,
    OneCycleLR,
    PolynomialLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from ultravid.solver.lr_scheduler import WarmupCosineLR

__all__ = [
    "HORIZONS",
    "configuration",
    "is_changed",
    "parts_of",
    "plain_state",
    "restore",
    "restore_plateau",
    "set_rates",
    "step_again",
]

_KIND = "class"
_FUNCTIONS = "functions"
_PROGRESS = frozenset(
    {
        *("last_epoch", "_step_count", "_last_lr", "T_cur", "T_i", "best", "num_bad_epochs", "cooldown_counter"),
        *("_get_lr_called_within_step", "_is_initial"),
    }
)
"""Entries that change while a schedule runs, of torch's own."""

HORIZONS: dict[type[LRScheduler], tuple[str, str]] = {
    OneCycleLR: ("total_steps", "ends"),
    CosineAnnealingLR: ("T_max", "rises again"),
    WarmupCosineLR: ("max_iters", "rises again"),
    PolynomialLR: ("total_iters", "stays at 0"),
}
"""The attribute that holds the number of steps for which a schedule is made, and what its rate does after them."""


def configuration(scheduler: LRScheduler) -> dict[str, Any]:
    """The state of a scheduler that has made no step: plain data that a checkpoint can hold, for functions a hash of each."""
    return {**plain_state(scheduler), _KIND: _kinds(scheduler), _FUNCTIONS: _functions(scheduler)}


def plain_state(scheduler: LRScheduler) -> dict[str, Any]:
    """The state of a scheduler without functions, which a checkpoint can't hold; the config has them."""
    state: dict[str, Any] = _without_functions(scheduler.state_dict())
    return state


def is_changed(scheduler: LRScheduler, state: Mapping[str, Any], configured: Mapping[str, Any] | None) -> bool:
    """Whether a scheduler that has made no step is another one than that of a checkpoint.

    Args:
        scheduler: the one of this run.
        state: the saved one's state.
        configured: its `configuration`; None in checkpoints of versions that did not save it.
    """
    now = configuration(scheduler)
    if configured is not None:
        return _differ(now, configured)
    del now[_KIND], now[_FUNCTIONS]
    return now.keys() != state.keys() or _differ(_static(now), _static(state))


def restore(scheduler: LRScheduler, state: Mapping[str, Any]) -> None:
    """Give an unchanged scheduler its saved state, and its optimizer the rates that it had set."""
    fresh = scheduler.state_dict()
    scheduler.load_state_dict(_as_before(state, fresh))
    if isinstance(scheduler, LambdaLR):
        # Its functions are the config's, not the checkpoint's; the rate is a function of the step alone.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that get_lr is called outside of a step
            scheduler._last_lr = scheduler.get_lr()
    # torch's schedulers compute the next rate from the current one, so a newly configured rate must not take its place.
    set_rates(scheduler, scheduler.get_last_lr())


def step_again(scheduler: LRScheduler, groups: Sequence[Mapping[str, Any]], num_steps: int) -> None:
    """Bring a new scheduler to where it would be after some steps, as if the run had been made with it.

    Args:
        scheduler: it has made no step.
        groups: hyperparameters of the optimizer's groups when the scheduler was built.
        num_steps: number of steps.
    """
    for group, fresh in zip(scheduler.optimizer.param_groups, groups, strict=True):
        of_schedule = {"lr", "momentum", "betas"} | (fresh.keys() - scheduler.optimizer.defaults.keys())
        group.update({name: copy.deepcopy(value) for name, value in fresh.items() if name in of_schedule})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the optimizer has made no step
        for _ in range(num_steps):
            scheduler.step()


def restore_plateau(
    scheduler: ReduceLROnPlateau, state: Mapping[str, Any], configured: Mapping[str, Any], *, same_metric: bool
) -> None:
    """Give a changed `ReduceLROnPlateau` what the saved one has seen, and the rates of now times its reductions so far.

    Args:
        scheduler: it has made no step.
        state: the saved one's state.
        configured: the saved one's state when it was built.
        same_metric: whether both are given the same metric; values of another one, or of another mode, mean nothing.
    """
    rates, first, last = scheduler.get_last_lr(), configured["_last_lr"], state["_last_lr"]
    if same_metric and scheduler.mode == state["mode"]:
        for name in ("best", "num_bad_epochs", "cooldown_counter", "last_epoch"):
            setattr(scheduler, name, state[name])
    if len(rates) == len(first) == len(last):
        rates = [
            float(now) * float(b) / float(a) if a else float(b) for now, a, b in zip(rates, first, last, strict=True)
        ]
    scheduler._last_lr = rates
    set_rates(scheduler, rates)


def set_rates(scheduler: LRScheduler, rates: Sequence[float | Tensor]) -> None:
    """Give the optimizer of a scheduler its rates."""
    for group, lr in zip(scheduler.optimizer.param_groups, rates, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def parts_of(scheduler: LRScheduler, num_steps: int) -> Iterator[tuple[LRScheduler, int]]:
    """The schedulers that others are composed of, each with the number of steps that it makes of a number of steps in all."""
    inner = getattr(scheduler, "_schedulers", None)
    if inner is None:
        yield scheduler, num_steps
    elif isinstance(scheduler, SequentialLR):
        starts = [0, *scheduler._milestones]
        for part, start, end in zip(inner, starts, [*starts[1:], num_steps], strict=True):
            yield from parts_of(part, max(0, min(end, num_steps) - start))
    else:
        for part in inner:
            yield from parts_of(part, num_steps)


def _kinds(scheduler: LRScheduler) -> list[Any]:
    return [type(scheduler).__name__, *map(_kinds, getattr(scheduler, "_schedulers", ()))]


def _functions(scheduler: LRScheduler) -> list[Any]:
    """A hash of the functions that a scheduler and its parts were given: what a state does not hold, and may change the rates."""
    own = {k: v for k, v in vars(scheduler).items() if k not in ("optimizer", "_schedulers")}
    found = [(name, _outline(function)) for name, value in own.items() for function in _callables(value)]
    parts = map(_functions, getattr(scheduler, "_schedulers", ()))
    return [hashlib.sha256(repr(found).encode()).hexdigest() if found else "", *parts]


def _callables(value: Any) -> Iterator[Callable[..., Any]]:
    values = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    if callable(value):
        yield value
    for item in values:
        yield from _callables(item)


def _outline(value: Any, depth: int = 0) -> Any:
    """What a function does, as plain data that is the same in every process: its code, and the values that it holds."""
    if isinstance(value, str | bytes | bool | int | float | complex) or value is None or depth > 5:
        return repr(value) if depth <= 5 else type(value).__qualname__
    inner = functools.partial(_outline, depth=depth + 1)
    if isinstance(value, list | tuple):
        return list(map(inner, value))
    if isinstance(value, Mapping):
        return [(inner(k), inner(v)) for k, v in value.items()]
    if isinstance(value, Tensor):
        return inner(value.tolist()) if value.numel() <= 64 else list(value.shape)
    if isinstance(value, CodeType):
        return value.co_code, value.co_names, inner(value.co_consts)
    if isinstance(value, functools.partial):
        return inner([value.func, value.args, value.keywords])
    if inspect.ismethod(value):
        return inner([value.__func__, vars(value.__self__) if hasattr(value.__self__, "__dict__") else None])
    if inspect.isfunction(value):
        cells = [_content(cell) for cell in value.__closure__ or ()]
        return inner([value.__code__, value.__defaults__, value.__kwdefaults__, cells])
    name = getattr(value, "__qualname__", type(value).__qualname__)
    if inspect.isclass(value) or not callable(value):
        return name
    calls = [vars(kind)["__call__"] for kind in type(value).__mro__ if "__call__" in vars(kind)][:1]
    return [name, inner([f for f in calls if inspect.isfunction(f)]), inner(getattr(value, "__dict__", None))]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # of a name that has no value yet
        return None


def _without_functions(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_functions(v) for k, v in value.items() if not callable(v)}
    if isinstance(value, list | tuple):
        return [_without_functions(v) for v in value]
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def _static(state: Any) -> Any:
    if isinstance(state, Mapping):
        return {k: _static(v) for k, v in state.items() if k not in _PROGRESS}
    return [_static(v) for v in state] if isinstance(state, list | tuple) else state


def _differ(a: Any, b: Any) -> bool:
    """Whether two states differ; an entry that only one of them has is of another version of torch."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if not all(isinstance(key, str) for key in (*a, *b)):  # not attributes: MultiStepLR's milestones
            return dict(a) != dict(b)
        return any(_differ(a[key], b[key]) for key in a.keys() & b.keys())
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) != len(b) or any(map(_differ, a, b))
    return bool(a != b) and not (a != a and b != b)  # nan is nan


def _as_before(state: Any, fresh: Any) -> Any:
    """A saved state with the types that the scheduler's own has: a checkpoint makes a dict of a Counter."""
    if isinstance(fresh, Mapping) and isinstance(state, Mapping):
        items = {k: _as_before(v, fresh.get(k)) for k, v in state.items()}
        return items if type(fresh) is dict else type(fresh)(items)  # type: ignore[call-arg]
    if isinstance(fresh, list | tuple) and isinstance(state, list | tuple):
        padded = [*fresh, *[None] * len(state)]
        return type(fresh)(_as_before(v, f) for v, f in zip(state, padded, strict=False))
    return copy.deepcopy(state)
