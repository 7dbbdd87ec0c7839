"""The number of threads of a run on the CPU: ``train.num_threads``."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from ultravid.utils.errors import UserError
from ultravid.utils.run_folder import RunFolder
from ultravid.utils.threads import NumThreads, number_of_threads, threads_for

__all__ = ["NumThreads", "set_evaluation_threads", "set_training_threads"]

logger = logging.getLogger(__name__)


def set_training_threads(num_threads: NumThreads, resumed: RunFolder | None) -> None:
    """Set the number of threads of a training, and log it.

    The last digits of a step depend on it, so a resumed run keeps its own.

    Args:
        num_threads: "auto" is what the process has: the cores, shared by the processes of a run on this machine, or what
            ``OMP_NUM_THREADS`` says; in a resumed run, what that run had.
        resumed: the folder of the run that is resumed.

    Raises:
        UserError: ``num_threads`` is neither "auto" nor a number of at least 1.
    """
    number = _checked(num_threads)
    record = None if resumed is None else resumed.newest_record()
    earlier = (record or {}).get("threads")
    if number is not None:
        torch.set_num_threads(number)
    elif isinstance(earlier, int) and earlier >= 1:
        torch.set_num_threads(earlier)
    threads = torch.get_num_threads()
    logger.info("%d threads on the CPU (train.num_threads=%s).", threads, num_threads)
    if isinstance(earlier, int) and earlier != threads:
        logger.warning(
            "The run has had %d threads so far and continues with %d: its metrics will differ in the last digits from those of a run that "
            "was not interrupted. train.num_threads=%d, or 'auto', keeps the number.",
            earlier,
            threads,
            earlier,
        )


def set_evaluation_threads(model: nn.Module, num_threads: NumThreads = "auto") -> None:
    """Set the number of threads for frames one by one through a model, and log it.

    Args:
        model: "auto" is one thread for a small model (`ultravid.utils.threads.SMALL_MODEL`), for others what the process has.
        num_threads: "auto" or a number.

    Raises:
        UserError: ``num_threads`` is neither "auto" nor a number of at least 1.
    """
    number = _checked(num_threads)
    size = sum(parameter.numel() for parameter in model.parameters())
    threads = threads_for(size, torch.get_num_threads()) if number is None else number
    torch.set_num_threads(threads)
    logger.info(
        "%d threads on the CPU for a model of %.1f million parameters (train.num_threads=%s).",
        threads,
        size / 1e6,
        num_threads,
    )


def _checked(num_threads: Any) -> int | None:
    try:
        return number_of_threads(num_threads)
    except ValueError:
        raise UserError(f"train.num_threads={num_threads!r} is neither 'auto' nor a number of at least 1.") from None
