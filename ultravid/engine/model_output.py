"""Checks what a model returns in training: a loss or a dict of losses, each a scalar; anything else is refused by its name."""

from __future__ import annotations

import functools
import logging
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ultravid.utils import comm
from ultravid.utils.errors import UserError

__all__ = ["checked_losses", "total_of", "warn_about_losses"]

logger = logging.getLogger(__name__)

_TOTAL = "total_loss"
_RECORDED = frozenset({_TOTAL, "grad_norm"})  # what a trainer records beside the losses
_RIGHT = "In training a model returns a loss or a dict of losses by name, each a floating-point tensor of one element"
_FOR_THE_LOG = "A number for the log is recorded by get_event_storage().put_scalar({name!r}, value)"


def checked_losses(returned: Any, model: nn.Module) -> dict[str, Tensor]:
    """The losses that a model returned, by name; a loss of shape (1,) is made a scalar.

    Raises:
        UserError: it returned something else; the message names the loss, or the type.
    """
    if isinstance(returned, Tensor):
        returned = {"loss": returned}
    elif not isinstance(returned, Mapping):
        raise UserError(f"{_who(model)} returned {_kind(returned)}. {_RIGHT}.{_hint(returned)}")
    if not returned:
        raise UserError(f"{_who(model)} returned no loss, but an empty dict. {_RIGHT}.")
    losses = dict(returned)
    if not _RECORDED.isdisjoint(losses) or not all(type(name) is str for name in losses):
        _check_names(losses, model)
    device = None
    for name, value in losses.items():
        if not (isinstance(value, Tensor) and value.dim() == 0 and value.dtype.is_floating_point):
            losses[name] = value = _as_scalar(name, value, model)
        if device is None:
            device = value.device
        elif value.device != device:
            raise UserError(
                f"{_who(model)} returned the loss {name!r} on {value.device}, and {next(iter(losses))!r} on {device}. "
                "The losses must be on one device, the model's."
            )
    return losses


def total_of(losses: Mapping[str, Tensor], model: nn.Module) -> Tensor:
    """The sum of some losses.

    Raises:
        UserError: it does not depend on a parameter that needs a gradient.
    """
    total = functools.reduce(
        operator.add, losses.values()
    )  # sum() would start with 0 + loss: one more node in the graph
    if not total.requires_grad:
        raise UserError(_without_gradient(losses, model))
    return total


def warn_about_losses(losses: Mapping[str, Tensor]) -> None:
    """Log what is odd about the losses of a first step, which reads them from the device; ``total_loss`` is their sum."""
    if not comm.is_main_process():
        return
    parts = {name: value.item() for name, value in losses.items() if name != _TOTAL}
    for name, value in parts.items():
        if not losses[name].requires_grad and value != 0:
            logger.warning(
                "The loss %r has no gradient: it is part of total_loss, but trains nothing. %s.",
                name,
                _FOR_THE_LOG.format(name=name),
            )
    for name, value in parts.items():
        others = [v for other, v in parts.items() if other != name and v != 0]
        if len(others) > 1 and abs(sum(others) - value) <= 1e-6 * abs(value):
            logger.warning(
                "The loss %r is the sum of the others. All losses that a model returns are summed, so that each would count "
                "twice. %s.",
                name,
                _FOR_THE_LOG.format(name=name),
            )


def _check_names(losses: Mapping[Any, Any], model: nn.Module) -> None:
    foreign = next((name for name in losses if not isinstance(name, str)), None)
    if foreign is not None:
        raise UserError(f"{_who(model)} returned a loss by the name {foreign!r}, which is {_kind(foreign)}. {_RIGHT}.")
    if "grad_norm" in losses:
        raise UserError(
            f"{_who(model)} returned a loss 'grad_norm', a name that the trainer uses for the norm of the gradients: rename it."
        )
    if _TOTAL in losses and len(losses) > 1:
        raise UserError(
            f"{_who(model)} returned {_TOTAL!r} beside {_names(n for n in losses if n != _TOTAL)}. All losses that a model "
            f"returns are summed, so that each would count twice: return the parts, or {_TOTAL!r} alone."
        )


def _as_scalar(name: Any, value: Any, model: nn.Module) -> Tensor:
    """A loss as a scalar, if it has one element."""
    if not isinstance(value, Tensor):
        record = f" {_FOR_THE_LOG.format(name=name)}." if isinstance(value, bool | int | float) else ""
        raise UserError(f"{_who(model)} returned {_kind(value)} for the loss {name!r}. {_RIGHT}.{record}")
    if not value.dtype.is_floating_point:
        kind = str(value.dtype).removeprefix("torch.")
        raise UserError(
            f"{_who(model)} returned the loss {name!r} in {kind}. {_RIGHT}. {_FOR_THE_LOG.format(name=name)}."
        )
    if value.numel() != 1:
        raise UserError(
            f"{_who(model)} returned the loss {name!r} of shape {tuple(value.shape)}. {_RIGHT}: reduce it, by .mean() or .sum()."
        )
    return value.reshape(())


def _without_gradient(losses: Mapping[str, Tensor], model: nn.Module) -> str:
    what = f"The loss {next(iter(losses))!r} has" if len(losses) == 1 else f"The losses {_names(losses)} have"
    if not torch.is_grad_enabled():
        reason = "gradients are off (torch.set_grad_enabled(False) or torch.no_grad()), which something left so"
    elif not any(p.requires_grad for p in model.parameters()):
        reason = "all parameters of the model are frozen (requires_grad is False)"
    else:
        reason = "it was detached (.detach(), .item(), torch.tensor(...), torch.no_grad()), or depends only on frozen parameters"
    return f"{what} no gradient, so that nothing can be trained: {reason}. ({_who(model)} returned it.)"


def _who(model: nn.Module) -> str:
    return f"The model ({type(comm.unwrapped(model)).__name__})"


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    name = type(value).__name__
    size = f" of {len(value)}" if isinstance(value, list | tuple) else ""
    shown = f" ({value!r})" if isinstance(value, bool | int | float) else ""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}{size}{shown}"


def _hint(value: Any) -> str:
    if value is None:
        return " Is there a return statement in forward?"
    if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
        return " A list of dicts is what it returns in evaluation (if not self.training)."
    return ""


def _names(names: Any) -> str:
    return ", ".join(map(repr, names))
