"""Errors that end a training: finds out whether the user's config or code caused one, and where.

The line between a user's error and ours: the user's is one that passed through his own code; one of a library in the first step, where
shapes, dtypes and devices meet for the first time, since the config chose them; one in what his own model or loader is used for,
as a backward pass through a graph that his model kept from the step before; and a lack of memory. Any other is a bug of ultravid's,
which keeps its traceback.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ultravid.engine import train_loop
from ultravid.engine.hook_checks import names_in_short
from ultravid.engine.rendezvous import lost_peer
from ultravid.engine.train_loop import SimpleTrainer, TrainerBase
from ultravid.utils import comm
from ultravid.utils.error_origin import error_in_one_line, is_of_others, shown_frames, users_frames
from ultravid.utils.errors import StopTraining, UserError

__all__ = ["evaluation_failures", "training_failures"]

logger = logging.getLogger(__name__)

_PHASES = {
    "_next_batch": ("loading a batch", "dataloader.train"),
    "_forward": ("the forward pass", "model"),
    "backward": ("the backward pass", "model"),
    "finish_gradients": ("the gradients", "trainer"),
    "optimizer_step": ("the optimizer's step", "optimizer"),
}
_OF_HOOKS = ("_call_hooks", "before_train", "after_train", "state_dict", "load_state_dict")
_UNUSED = re.compile(r"did not receive grad for rank \d+: ([\d ]+)")


@dataclass
class _Place:
    """Where in a training an error was raised: when, if in no iteration, what was being done, by the object of which key, in which module."""

    when: str = ""
    what: str = ""
    key: str = ""
    module: str = ""

    def __str__(self) -> str:
        parts = (self.what, self.module and f"module {self.module}", self.key and f"key {self.key!r}")
        return ", ".join(part for part in parts if part)


@contextmanager
def training_failures(trainer: TrainerBase) -> Iterator[None]:
    """A block in which a trainer loads a checkpoint and trains: an error that the user's config or code caused is reported in one message.

    Raises:
        UserError: instead of such an error; it names iteration, key, module, and the lines in the user's code. The log has the
            traceback. Any other error passes with a note of the place.
    """
    try:
        yield
    except (UserError, StopTraining, FloatingPointError):
        raise
    except Exception as error:
        model = comm.unwrapped(trainer.model) if isinstance(trainer, SimpleTrainer) else None
        place = _place_of(error, model)
        if place.when:  # before `train`, which logs the others
            logger.debug("The traceback:", exc_info=True)
        parts = {"model": model, "dataloader.train": getattr(trainer, "data_loader", None)}
        reported = _unused_parameters(error, trainer) or _reported(
            error,
            place.when or f"Iteration {trainer.iter}",
            place,
            is_first=trainer.iter == trainer.start_iter,
            users_parts=[key for key, part in parts.items() if part is not None and _is_users(part)],
        )
        if reported is None:
            error.add_note(f"{place.when or f'Iteration {trainer.iter}'}{f', {place}' if str(place) else ''}")
            raise
        raise reported from error


@contextmanager
def evaluation_failures(model: nn.Module, when: str = "Evaluation") -> Iterator[None]:
    """As `training_failures`, for a block that evaluates a model, or trains it without a trainer; ``when`` begins the message."""
    try:
        yield
    except (UserError, StopTraining, FloatingPointError):
        raise
    except Exception as error:
        logger.debug("The traceback:", exc_info=True)
        place = _place_of(error, model)
        if place.module:
            place.key = "model"
        reported = _reported(error, when, place, users_parts=["model"] if _is_users(model) else [])
        if reported is None:
            raise
        raise reported from error


def _reported(
    error: Exception, when: str, place: _Place, *, is_first: bool = False, users_parts: Sequence[str] = ()
) -> UserError | None:
    """The message for a user; None if the error is not his.

    Args:
        error: what was raised.
        when: what the message begins with.
        place: where it was raised.
        is_first: whether it was in the first step.
        users_parts: the keys of parts that are of a class of the user's own.
    """
    if lost_peer(error):  # the process that ended first says why
        return None
    frames = users_frames(error)
    detail = f" ({place})" if str(place) else ""
    if isinstance(error, torch.OutOfMemoryError):
        first = str(error).partition(". ")[0]
        return UserError(
            f"{when}{detail}: {first}. To save memory, lower dataloader.train.total_batch_size, the number of frames or the size of "
            "images, or set trainer.accumulation.num_batches or train.amp.enabled=true. The log has the traceback."
        )
    if not frames and not _is_of_config(error, place, is_first, users_parts):
        return None
    message = UserError(f"{when}{detail}: {error_in_one_line(error)}")
    if frames:
        message.add_note(f"In your code:\n{shown_frames(frames)}")
    message.add_note("The log has the whole traceback.")
    return message


def _is_of_config(error: Exception, place: _Place, is_first: bool, users_parts: Sequence[str]) -> bool:
    """Whether an error in a step that passed through no code of the user's came from what his config, or a part of his, gave it."""
    if isinstance(error, AssertionError):
        return False
    if place.key in users_parts or (place.module and "model" in users_parts):  # the second: a hook evaluates the model
        return True
    of_step = place.key in ("model", "dataloader.train")
    return of_step and is_first and (bool(users_parts) or isinstance(error, RuntimeError | ValueError))


def _is_users(part: object) -> bool:
    """Whether an object, or a module in it, is of a class that is neither ultravid's nor a library's."""
    if isinstance(part, nn.Module) and any(map(_is_users, part.children())):
        return True
    module = sys.modules.get(type(part).__module__)
    file = getattr(module, "__file__", None)
    return file is None or not is_of_others(file)


def _place_of(error: Exception, model: nn.Module | None) -> _Place:
    """Where in a training an error was raised, from the frames that it passed through."""
    place = _Place()
    names = {id(module): name for name, module in model.named_modules()} if model is not None else {}
    for frame, _ in traceback.walk_tb(error.__traceback__):
        function, variables = frame.f_code.co_name, frame.f_locals
        if frame.f_code.co_filename == train_loop.__file__:
            if function in _PHASES:
                place.what, place.key = _PHASES[function]
            elif function == "resume_or_load":
                place.when = "Loading a checkpoint"
            elif function in _OF_HOOKS and isinstance(variables.get("name"), str):
                name = variables["name"].removeprefix("hooks/")
                place.what, place.key = f"the hook {name!r}", f"trainer.hooks.{name}"
        owner = variables.get("self")
        if function == "backward" and isinstance(owner, torch.Tensor):
            place.what, place.key = _PHASES[function]
        if isinstance(owner, nn.Module) and id(owner) in names and function != "__getattr__":
            place.module = f"{names[id(owner)] or 'at the root'} ({type(owner).__name__})"
    return place


def _unused_parameters(error: Exception, trainer: TrainerBase) -> UserError | None:
    """The message for DDP's error that parameters had no gradient in the step before, with their names."""
    model = trainer.model if isinstance(trainer, SimpleTrainer) else None
    if "Expected to have finished reduction in the prior iteration" not in str(error):
        return None
    names: list[str] = []
    if isinstance(model, DistributedDataParallel) and (found := _UNUSED.search(str(error))):
        trained = [n for n, p in model.module.named_parameters() if p.requires_grad]
        names = [trained[i] for i in map(int, found[1].split()) if i < len(trained)]
    which = f"{len(names)} parameters ({names_in_short(names)})" if names else "Parameters"
    return UserError(
        f"{which} got no gradient in iteration {trainer.iter - 1}. DDP waits for the gradient of each parameter: set "
        "train.ddp.find_unused_parameters=True, or freeze those that no loss depends on."
    )
