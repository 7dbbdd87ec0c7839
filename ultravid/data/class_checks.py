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

_warned: set[str] = set()  # a training evaluates many times


def class_lists(loader: Any) -> list[tuple[str, ...]]:
    """The lists of classes of the videos that a loader draws from, each once; empty for a loader without `Video`.

    Args:
        loader: a loader, or several by name.
    """
    return list(dict.fromkeys(video.class_names for video in loader_videos(loader) if video.class_names))


def check_num_classes(model: nn.Module, loader: Any) -> None:
    """Refuse a model that has fewer classes than the data: their lesions would be trained as background.

    A part of the model has classes if it has a whole number as ``num_classes``. One with a single class, as a region proposal network
    that tells objects from background, is left out if another part has several. More classes than the data have are warned of,
    once per process.

    Raises:
        UserError: it has fewer.
    """
    largest: tuple[str, ...] = max(class_lists(loader), key=len, default=())
    numbers: dict[str, int] = {}
    for name, module in model.named_modules():
        number = getattr(module, "num_classes", None)
        if type(number) is int:
            numbers[f"model.{name}.num_classes" if name else "model.num_classes"] = number
    several = {key: number for key, number in numbers.items() if number > 1} or numbers
    wrong = {key: number for key, number in several.items() if largest and number != len(largest)}
    if not wrong:
        return
    have = f"The data have {len(largest)} {'class' if len(largest) == 1 else 'classes'} ({', '.join(largest)})"
    fewest = min(wrong, key=lambda key: wrong[key])
    if wrong[fewest] < len(largest):
        raise UserError(
            f"{have}, but the model has {wrong[fewest]}: set {fewest}={len(largest)}, or class_agnostic=True of the reader, "
            "which reads all classes as one."
        )
    text = f"{have}, but the model has {', '.join(map(str, sorted(set(wrong.values()))))} ({', '.join(wrong)})."
    if text not in _warned:
        _warned.add(text)
        logger.warning("%s", text)


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
