"""Checks the state of the run after a user's hook or evaluator, and names the hook before a wrong step is made.

The checks run after each call of a hook that is not ultravid's own, and after an evaluation: some microseconds, more with the number
of parameters and modules. Of several processes, the ranks are compared in a reduction that is made anyway.

Legend: a parameter is *trainable* if its ``requires_grad`` is True.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from ultravid.utils import comm
from ultravid.utils.errors import UserError

__all__ = ["HookChecks", "names_in_short", "synchronized_parameters", "waits_for_all", "without_gradient"]

logger = logging.getLogger(__name__)

_NUM_DIGITS = 8  # of a hash of 32 bits, to the base 16: a float32 adds up their squares exactly, for 70,000 processes
_FIRST_STEPS = 2  # first steps of a run after which the ranks' weights are compared
_PERIOD = 1000  # and iterations from one comparison to the next
_RTOL = 1e-6  # of norms: float32 reductions on other hardware


class HookChecks:
    """Checks of one training.

    Args:
        model: wrapped or not, in training mode.
        optimizer: the optimizer of its parameters.
        synchronized: the parameters whose gradients DDP reduces: those that were trainable when it was built; None without DDP.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, synchronized: frozenset[int] | None) -> None:
        self._model = model
        self._plain = comm.unwrapped(model)
        self._optimizer = optimizer
        self._synchronized = synchronized
        self._settings = _settings()
        self._reported: set[tuple[str, str]] = set()  # (hook, setting)
        self._named = dict(self._plain.named_parameters())
        self._parameters = list(self._named.values())
        self._trainable = [p.requires_grad for p in self._parameters]
        self._modules = dict(model.named_modules())
        self._modes = [m.training for m in self._modules.values()]
        self._num_groups = len(optimizer.param_groups)
        self._fingerprint: torch.Tensor | None = None

    def begin(self, hook_names: Iterable[str]) -> None:
        """Take the state in which all ``before_train`` left the run as the one to keep.

        Raises:
            UserError: the optimizer has none of the model's parameters, or DDP would not do what the parameters ask for.
        """
        hooks = ", ".join(map(repr, hook_names))
        self.after_hook(
            f"that began the training ({hooks})" if hooks else "", self._model, self._optimizer, may_set=True
        )
        self._settings = _settings()
        self._modules = dict(self._model.named_modules())
        self._modes = [m.training for m in self._modules.values()]
        self._num_groups = len(self._optimizer.param_groups)
        self.check_parameters()
        held = {id(p) for group in self._optimizer.param_groups for p in group["params"]}
        if not any(id(p) in held for p in self._parameters):
            raise UserError(
                f"The optimizer ({type(self._optimizer).__name__}) has no parameter of the model "
                f"({type(self._plain).__name__}): it was built for another one, or before the model was sharded."
            )
        left_out = [name for name, p in self._named.items() if p.requires_grad and id(p) not in held]
        if left_out:
            logger.warning(
                "The optimizer lacks %d parameters of the model that need a gradient; they stay as they are: %s.",
                len(left_out),
                names_in_short(left_out),
            )

    def after_hook(self, name: str, model: nn.Module, optimizer: Optimizer, *, may_set: bool = False) -> None:
        """Check what a hook left behind.

        Args:
            name: the hook's, quoted; "" if it is not known.
            model: the trainer's.
            optimizer: the trainer's.
            may_set: whether settings of the process, and modes of single modules, are the hook's to choose.

        Raises:
            UserError: what it left makes the next step wrong.
        """
        if not model.training:
            raise UserError(
                f"{_hook(name)} left the model in evaluation mode: call model.train() after it has been used, or use "
                "ultravid.evaluation.inference_context(model), which restores the mode."
            )
        if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
            raise UserError(
                f"{_hook(name)} left gradients off (torch.set_grad_enabled(False) or an inference mode that was not left): "
                "use `with torch.no_grad():`."
            )
        if model is not self._model or optimizer is not self._optimizer:
            self._check_replaced(name, model, optimizer)
        if len(optimizer.param_groups) != self._num_groups:
            raise UserError(
                f"{_hook(name)} changed the optimizer's parameter groups from {self._num_groups} to "
                f"{len(optimizer.param_groups)}. The schedule and a resumed run don't know the new ones: build the optimizer "
                "with all groups; a parameter that is frozen meanwhile is left alone."
            )
        if [p.requires_grad for p in self._parameters] != self._trainable:
            self._requires_grad_changed(name)
        if may_set:
            return
        if [m.training for m in self._modules.values()] != self._modes:
            self._modes_changed(name)
        if _settings() != self._settings:
            self._settings_changed(name)

    def check_parameters(self) -> None:
        """Look for parameters that the model has got since the optimizer was built; this walks through the model.

        Raises:
            UserError: their names.
        """
        held = {id(p) for group in self._optimizer.param_groups for p in group["params"]}
        known = {id(p) for p in self._parameters}
        new = [n for n, p in self._plain.named_parameters() if id(p) not in known | held and p.requires_grad]
        if new:
            raise UserError(
                f"The model has {len(new)} new parameters, which the optimizer does not have: {names_in_short(new)}. A hook "
                "replaced a part of the model: change the model in the config, before the optimizer is built."
            )

    def fingerprint(self, device: torch.device) -> torch.Tensor:
        """The digits of a hash of which parameters are trainable, then the digits' squares, for `compare_ranks`."""
        if self._fingerprint is None or self._fingerprint.device != device:
            trainable = "\n".join(n for n, is_on in zip(self._named, self._trainable, strict=True) if is_on)
            code = zlib.crc32(trainable.encode())
            digits = [code >> 4 * place & 15 for place in range(_NUM_DIGITS)]
            self._fingerprint = torch.tensor([*digits, *(d**2 for d in digits)], dtype=torch.float32, device=device)
        return self._fingerprint

    def compare_ranks(self, sums: Sequence[float]) -> None:
        """Compare the processes' fingerprints, given their sum.

        Numbers are equal if the sum of their squares is the square of their sum divided by their count.

        Raises:
            UserError: in all processes alike; the parameters that are trainable in some of them alone.
        """
        totals, squares = sums[:_NUM_DIGITS], sums[_NUM_DIGITS:]
        world_size = comm.get_world_size()
        if all(round(s) * world_size == round(t) ** 2 for t, s in zip(totals, squares, strict=True)):
            return
        frozen = [set(names) for names in comm.all_gather([n for n, p in self._named.items() if not p.requires_grad])]
        some = sorted(set.union(*frozen) - set.intersection(*frozen))
        raise UserError(
            f"{len(some)} parameters are frozen in some of {len(frozen)} processes and not in others: "
            f"{names_in_short(some)}. A hook that changes requires_grad must do so in all processes."
        )

    def compare_weights(self, iteration: int, start_iter: int) -> None:
        """Under DDP compare the weights of all processes: after the first steps of a run, then every 1000 iterations.

        Raises:
            UserError: in all processes alike; the parameters that differ.
        """
        if self._synchronized is None or not (iteration < start_iter + _FIRST_STEPS or (iteration + 1) % _PERIOD == 0):
            return
        # The others are frozen or left out of DDP, and of any type; what they are in each process is the user's to say.
        compared = {n: p.detach() for n, p in self._named.items() if id(p) in self._synchronized}
        real = [torch.view_as_real(p) if p.is_complex() else p for p in compared.values()]
        norms = torch._foreach_norm(real, dtype=torch.float32)
        mine = torch.stack([norm.to(norms[0].device) for norm in norms])
        all_ranks = [torch.empty_like(mine) for _ in range(comm.get_world_size())]
        torch.distributed.all_gather(all_ranks, mine)
        table = torch.stack(all_ranks).double().cpu()
        same = torch.isclose(table, table[0], rtol=_RTOL, atol=0, equal_nan=True).all(0)
        names = [name for name, equal in zip(compared, same.tolist(), strict=True) if not equal]
        if names:
            raise UserError(
                f"After iteration {iteration} the weights differ between the processes, in {len(names)} parameters: "
                f"{names_in_short(names)}. DDP keeps trainable parameters equal only if all processes change the weights in "
                "the same way: a hook must not change weights or gradients in only one process."
            )

    def _check_replaced(self, name: str, model: nn.Module, optimizer: Optimizer) -> None:
        if optimizer is not self._optimizer:
            raise UserError(
                f"{_hook(name)} replaced trainer.optimizer. The schedule and the checkpoints still use the previous one: build the "
                "optimizer in the config."
            )
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        foreign = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in held]
        if foreign:
            raise UserError(
                f"{_hook(name)} replaced trainer.model by one with {len(foreign)} parameters that the optimizer does not "
                f"have: {names_in_short(foreign)}. Change the model in the config, before the optimizer is built."
            )
        self._model = model
        self._modules = dict(model.named_modules())
        self._modes = [m.training for m in self._modules.values()]

    def _requires_grad_changed(self, name: str) -> None:
        now = [p.requires_grad for p in self._parameters]
        changed = [n for n, a, b in zip(self._named, self._trainable, now, strict=True) if a != b]
        on = [n for n in changed if self._named[n].requires_grad]
        off = [n for n in changed if not self._named[n].requires_grad]
        self._trainable = now
        self._fingerprint = None
        what = f"{_hook(name)} " + " and ".join(
            f"{verb} {len(names)} parameters ({names_in_short(names)})"
            for verb, names in (("froze", off), ("unfroze", on))
            if names
        )
        if any(hasattr(self._named[n], "full_tensor") for n in changed):
            raise UserError(
                f"{what}. A sharded model (FSDP2) does not follow: set requires_grad when the model is built, or use DDP."
            )
        held = {id(p) for group in self._optimizer.param_groups for p in group["params"]}
        unknown = [n for n in on if id(self._named[n]) not in held]
        if unknown:
            raise UserError(
                f"{what}. The optimizer does not have {names_in_short(unknown)}, so that nothing would train them: give it frozen "
                "parameters too, by include_frozen=True of get_default_optimizer_params (optimizer.params.include_frozen=true)."
            )
        if self._synchronized is not None:
            self._check_ddp(what, on, off)
        logger.info("%s.", what)

    def _check_ddp(self, what: str, on: list[str], off: list[str]) -> None:
        assert self._synchronized is not None
        late = [n for n in on if id(self._named[n]) not in self._synchronized]
        if late:
            raise UserError(
                f"{what}. DDP does not synchronize {names_in_short(late)}, which were frozen when it was built, so that the "
                "processes would train different weights: leave them trainable in the model and freeze them in the hook's "
                "before_train, with train.ddp.find_unused_parameters=True."
            )
        if off and waits_for_all(self._model):
            raise UserError(
                f"{what}. DDP would wait for their gradients: set train.ddp.find_unused_parameters=True, or freeze them where the "
                "model is built."
            )

    def _modes_changed(self, name: str) -> None:
        now = [m.training for m in self._modules.values()]
        changed = [n for n, a, b in zip(self._modules, self._modes, now, strict=True) if a != b]
        self._modes = now
        logger.warning(
            "The hook %s switched the training mode of %d modules: %s.", name, len(changed), names_in_short(changed)
        )

    def _settings_changed(self, name: str) -> None:
        found = _settings()
        for (what, _), before, now in zip(_SETTINGS, self._settings, found, strict=True):
            if before != now and (name, what) not in self._reported:
                self._reported.add((name, what))
                logger.warning(
                    "The hook %s changed %s from %s to %s, for this run from here on. If that is not meant, the hook has to "
                    "restore it; if it is, set it in before_train.",
                    *(name, what, before, now),
                )
        self._settings = found  # a user's choice is left alone


def _hook(name: str) -> str:
    return f"The hook {name}" if name else "Code that ran before the training"


def synchronized_parameters(model: nn.Module) -> frozenset[int] | None:
    """The ids of the parameters whose gradients DDP reduces, given one that has just been built; None without DDP."""
    if not isinstance(model, DistributedDataParallel):
        return None
    ignored = set(model.parameters_to_ignore)
    return frozenset(id(p) for n, p in model.module.named_parameters() if p.requires_grad and n not in ignored)


def without_gradient(model: nn.Module, synchronized: frozenset[int]) -> list[str]:
    """The parameters for whose gradients DDP waits, and that have none."""
    return [n for n, p in comm.unwrapped(model).named_parameters() if p.grad is None and id(p) in synchronized]


def waits_for_all(model: nn.Module) -> bool:
    """Whether a model is DDP's that expects a gradient of each parameter in each step."""
    is_ddp = isinstance(model, DistributedDataParallel)
    return is_ddp and not (model.find_unused_parameters or model.static_graph)


def names_in_short(names: Sequence[str], most: int = 5) -> str:
    """The first of some names."""
    shown = ", ".join(name or "the model itself" for name in names[:most])
    return f"{shown}, ... ({len(names) - most} more)" if len(names) > most else shown


_SETTINGS: tuple[tuple[str, Callable[[], Any]], ...] = (
    ("torch's default dtype", torch.get_default_dtype),
    ("torch's default device", lambda: torch.empty(0).device),
    ("the number of threads", torch.get_num_threads),
    ("torch's deterministic algorithms", lambda: ("off", "warn only", "on")[torch.get_deterministic_debug_mode()]),
    ("torch.backends.cudnn.benchmark", lambda: torch.backends.cudnn.benchmark),
    ("torch.backends.cudnn.deterministic", lambda: torch.backends.cudnn.deterministic),
    ("the precision of float32 products", torch.get_float32_matmul_precision),
)
"""Settings of the process that change what a step computes: name, and how it is read."""


def _settings() -> list[Any]:
    return [read() for _, read in _SETTINGS]
