"""The classes of the data against those of the model, and of the data for evaluation: compared before any long work."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from torch import nn

from ultravid.data.loader_videos import loader_videos
from ultravid.utils.errors import UserError

__all__ = ["check_evaluated_classes", "check_num_classes", "class_lists"]

logger = logging.getLogger(__name__)


def class_lists(loader: Any) -> list[tuple[str, ...]]:
    """The lists of classes of the videos that a loader draws from, each once; empty for a loader without `Video`.

    Args:
        loader: a loader, or several by name.
    """
    return list(dict.fromkeys(video.class_names for video in loader_videos(loader) if video.class_names))


def check_num_classes(model: nn.Module, loader: Any) -> None:
    """Refuse a model that has fewer classes than the data: their lesions would be trained as background.

    A part of the model has classes if it has a whole number as ``num_classes``. More classes than the data have are warned of.

    Raises:
        UserError: it has fewer.
    """
    largest: tuple[str, ...] = max(class_lists(loader), key=len, default=())
    for name, module in model.named_modules():
        number = getattr(module, "num_classes", None)
        if not largest or isinstance(number, bool) or not isinstance(number, int) or number == len(largest):
            continue
        key = f"{name}.num_classes" if name else "num_classes"
        have = f"The data have {len(largest)} {'class' if len(largest) == 1 else 'classes'} ({', '.join(largest)})"
        if number < len(largest):
            raise UserError(
                f"{have}, but the model has {number}: set model.{key}={len(largest)}, or class_agnostic=True of the reader, "
                "which reads all classes as one."
            )
        logger.warning("%s, but the model has %d (model.%s).", have, number, key)


def check_evaluated_classes(trained: Any, evaluated: Any) -> None:
    """Refuse data for evaluation whose classes are numbered in another way than those of the training.

    Args:
        trained: the loader of the training.
        evaluated: a loader of the evaluation, or several by name.

    Raises:
        UserError: they differ.
    """
    known: Sequence[tuple[str, ...]] = class_lists(trained)
    for names in class_lists(evaluated) if known else ():
        if names not in known:
            raise UserError(
                f"The classes are {', '.join(known[0])} in training, but {', '.join(names)} in evaluation: a number would stand "
                "for two classes. Give both readers the same list as their argument classes, and the same class_agnostic."
            )
