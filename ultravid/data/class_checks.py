"""Compares the classes and organs of the data with those of the model and of the test data, before any long work."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ultravid.config.errors import did_you_mean
from ultravid.data.loader_videos import loader_videos, videos_by_organ
from ultravid.utils.errors import UserError

__all__ = ["check_evaluated_classes", "check_num_classes", "check_organs", "class_lists"]

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


def check_organs(model: nn.Module, loader: Any) -> None:
    """Refuse videos of an organ that a model does not know, and classes that the organ's classifier does not have.

    Args:
        model: has a classifier per organ if it has names of organs as ``organs``; parts of it may have a number of classes of each organ as
            ``organ_classes``.
        loader: the loader of videos, or several by name.

    Raises:
        UserError: an organ is unknown; the message names it and a video.
    """
    organs = getattr(model, "organs", ())
    if not isinstance(organs, Sequence) or not organs:
        return
    numbers = [n for m in model.modules() if isinstance(n := getattr(m, "organ_classes", None), Mapping)]
    for organ, videos in videos_by_organ(loader).items():
        where = f"{len(videos)} of the videos, the first {videos[0].video_id!r}"
        if organ == "":
            raise UserError(
                f"The model has a classifier per organ ({', '.join(organs)}), but the organ of {where}, is not known: state it in the "
                "videos' metadata, or for all videos as the argument organ of the loader."
            )
        if organ not in organs:
            raise UserError(
                f"{organ!r}, the organ of {where}, is not an organ of the model.{did_you_mean(organ, organs)}"
            )
        for number in numbers:
            for video in videos:
                if video.num_classes > number[organ]:
                    raise UserError(
                        f"Video {video.video_id!r} of organ {organ!r} has a box of class {video.num_classes - 1}, but the model has "
                        f"{number[organ]} classes for it (organ_classes), numbered from 0."
                    )


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
                f"The classes are {', '.join(known[0])} in training, but {', '.join(names)} in evaluation: one class number would "
                "mean two classes. Give both readers the same list as their argument classes, and the same class_agnostic."
            )
