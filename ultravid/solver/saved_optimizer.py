"""An optimizer in a checkpoint: its state by the names of parameters, and how it is restored if it was changed."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

__all__ = ["hyperparameters", "load_optimizer", "saved_optimizer"]

logger = logging.getLogger(__name__)


def hyperparameters(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The hyperparameters of each parameter group."""
    return [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


def saved_optimizer(optimizer: Optimizer, model: nn.Module, configured: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What `load_optimizer` needs, as entries of a checkpoint.

    Args:
        optimizer: the optimizer.
        model: the plain module, which names the parameters.
        configured: the `hyperparameters` that the config set.
    """
    return {
        "optimizer": optimizer.state_dict(),
        "configured": list(configured),
        "optimizer_class": type(optimizer).__name__,
        "parameter_names": _names(optimizer, model),
    }


def load_optimizer(
    optimizer: Optimizer, model: nn.Module, configured: Sequence[Mapping[str, Any]], saved: Mapping[str, Any]
) -> None:
    """Restore an optimizer; what the config has changed since the checkpoint gets its new value.

    A hyperparameter whose configured value has changed gets the new one, in the groups where it has changed. The state follows
    the names of the parameters, so that groups may be other ones. An optimizer of another class starts without a state, with a
    warning, as does a parameter that the saved one did not have.

    Args:
        optimizer: the new one.
        model: the plain module; a `VideoDetector` knows earlier names of its parameters (``current_names``).
        configured: the `hyperparameters` that the config sets now.
        saved: what `saved_optimizer` returned; versions that did not save names and class are read too.

    Raises:
        ValueError: the groups differ, and the checkpoint has no names.
    """
    kind = saved.get("optimizer_class", type(optimizer).__name__)
    if kind != type(optimizer).__name__:
        logger.warning(
            "The optimizer is %s, that of the checkpoint %s: it starts without a state.", type(optimizer).__name__, kind
        )
        return
    names, before = _names(optimizer, model), _names_of_today(saved.get("parameter_names"), model)
    state = saved["optimizer"]
    if before is not None and before != names:
        state = _by_names(optimizer, state, names, before)
    optimizer.load_state_dict(state)
    if len(configured) != len(saved.get("configured", configured)):
        groups: Sequence[Mapping[str, Any]] = [{} for _ in configured]  # all of them are new
    else:
        groups = saved.get("configured", configured)
    changed: set[str] = set()
    for group, now, then in zip(optimizer.param_groups, configured, groups, strict=True):
        new = {name: value for name, value in now.items() if then.get(name) != value}
        group.update(new)
        changed.update(new)
    if changed - {"lr", "weight_decay", "initial_lr"}:
        _drop_incomplete_state(optimizer, names)


def _names(optimizer: Optimizer, model: nn.Module) -> list[list[str]]:
    """The names of each group's parameters; "" for one that is not the model's."""
    known = {id(parameter): name for name, parameter in model.named_parameters()}
    return [[known.get(id(p), "") for p in group["params"]] for group in optimizer.param_groups]


def _names_of_today(names: list[list[str]] | None, model: nn.Module) -> list[list[str]] | None:
    """Saved names of parameters as the model has them now."""
    ask: Callable[[Iterable[str]], dict[str, str]] | None = getattr(model, "current_names", None)
    if names is None or ask is None:
        return names
    renamed = ask(name for group in names for name in group)
    return [[renamed.get(name) or name for name in group] for group in names]


def _by_names(
    optimizer: Optimizer, state: Mapping[str, Any], names: list[list[str]], before: list[list[str]]
) -> dict[str, Any]:
    """A saved state for other groups of parameters."""
    saved = {
        name: state["state"][index]
        for group, of_group in zip(state["param_groups"], before, strict=True)
        for index, name in zip(group["params"], of_group, strict=True)
        if index in state["state"] and name
    }
    present = optimizer.state_dict()
    if len(names) == len(before):
        groups = [
            {**old, "params": new["params"]}
            for old, new in zip(state["param_groups"], present["param_groups"], strict=True)
        ]
    else:
        groups = present["param_groups"]
    flat = [name for group in names for name in group]
    indices = [index for group in groups for index in group["params"]]
    new = sorted(set(flat) - {name for group in before for name in group})
    gone = sorted({name for group in before for name in group} - set(flat))
    if new:
        logger.warning("The optimizer has %d parameters that the checkpoint's did not have%s.", len(new), _shown(new))
    if gone:
        logger.warning("The optimizer lacks %d parameters that the checkpoint's had%s.", len(gone), _shown(gone))
    return {
        "state": {index: saved[name] for index, name in zip(indices, flat, strict=True) if name in saved},
        "param_groups": groups,
    }


def _drop_incomplete_state(optimizer: Optimizer, names: list[list[str]]) -> None:
    """Remove the state of parameters for which the optimizer, with its changed settings, needs entries that are not there."""
    lacking: list[str] = []
    for group, of_group in zip(optimizer.param_groups, names, strict=True):
        needed = _entries_of_state(optimizer, group)
        for parameter, name in zip(group["params"], of_group, strict=True):
            if (state := optimizer.state.get(parameter)) and needed - state.keys():
                del optimizer.state[parameter]
                lacking.append(name)
    if lacking:
        logger.warning(
            "With its changed settings, %s needs a state that the checkpoint does not have: %d parameters start without a state%s.",
            type(optimizer).__name__,
            len(lacking),
            _shown(lacking),
        )


def _entries_of_state(optimizer: Optimizer, group: Mapping[str, Any]) -> set[str]:
    """The names of what an optimizer keeps for a parameter; empty if that can't be tried."""
    try:
        parameter = nn.Parameter(torch.zeros(1))
        taken = inspect.signature(type(optimizer)).parameters.keys() - {"params", "fused", "capturable"}
        settings = {k: v for k, v in group.items() if k in taken}
        other = type(optimizer)([parameter], **settings)
        parameter.grad = torch.zeros(1)
        other.step()
        return {str(name) for name in other.state.get(parameter, {})}
    except Exception:  # the constructor of a user's own optimizer may take anything
        return set()


def _shown(names: Sequence[str]) -> str:
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
