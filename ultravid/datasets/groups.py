"""Groups of videos by their metadata, such as one test set per device, with rare devices together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from ultravid.config.errors import did_you_mean
from ultravid.datasets.video import DataError, Video

__all__ = ["group_by_metadata", "label_groups", "select_group"]

UNKNOWN = "unknown"


def group_by_metadata(
    videos: Sequence[Video], key: str = "device", groups: Mapping[str, Sequence[str]] | None = None
) -> dict[str, list[Video]]:
    """Videos by the group of a metadata value, groups in the order of their names.

    Args:
        videos: to group.
        key: which metadata.
        groups: values by the name of their group, such as ``{"portable": ["A1", "A2"]}``. A value that is in no group is a group
            by itself; videos without the metadata are ``unknown``.

    Raises:
        DataError: a value is in two groups, no video has it, or a group's name is a value that is not in it.
    """
    named = _group_of_value(videos, key, groups or {})
    found: dict[str, list[Video]] = {}
    for video in videos:
        value = _value(video, key)
        found.setdefault(named.get(value, value), []).append(video)
    return {name: found[name] for name in sorted(found)}


def label_groups(
    videos: Sequence[Video],
    *,
    key: str = "device",
    groups: Mapping[str, Sequence[str]] | None = None,
    label: str = "device_group",
) -> list[Video]:
    """The videos with the name of their group in ``metadata[label]``, for metrics per group (``--strata device_group``).

    Arguments and errors are those of `group_by_metadata`.

    Args:
        videos: the videos, which are not changed; the copies are in the same order.
        key: the name of the metadata that groups the videos.
        groups: values by the name of their group. A value that is in no group is a group by itself.
        label: the name of the metadata that is added.
    """
    name_of = {video.video_id: name for name, part in group_by_metadata(videos, key, groups).items() for video in part}
    return [dataclasses.replace(v, metadata={**v.metadata, label: name_of[v.video_id]}) for v in videos]


def select_group(videos: Sequence[Video], *, name: str, label: str = "device_group") -> list[Video]:
    """The videos whose metadata ``label`` is ``name``, for a test set of one group.

    Args:
        videos: the videos to choose from; their order is kept.
        name: the group's name.
        label: the name of the metadata that holds it.

    Raises:
        DataError: there is no such video.
    """
    chosen = [video for video in videos if _value(video, label) == name]
    if not chosen:
        there = sorted({_value(video, label) for video in videos})
        raise DataError(
            f"No video has {label} {name!r}; there are: {', '.join(there) or 'none'}.{did_you_mean(name, there)}"
        )
    return chosen


def _value(video: Video, key: str) -> str:
    return str(video.metadata.get(key, UNKNOWN))


def _group_of_value(videos: Sequence[Video], key: str, groups: Mapping[str, Sequence[str]]) -> dict[str, str]:
    there = sorted({_value(video, key) for video in videos})
    named: dict[str, str] = {}
    for name, values in groups.items():
        for value in values:
            if value in named:
                raise DataError(f"{key} {value!r} is in two groups, {named[value]!r} and {name!r}.")
            if value not in there:
                raise DataError(f"Group {name!r}: no video has the {key} {value!r}.{did_you_mean(value, there)}")
            named[value] = name
    for name in groups:
        if name in there and named.get(name) != name:
            raise DataError(f"Group {name!r} has the name of a {key} that is not in it.")
    return named
