"""Classes of lesions: boxes whose classes a reader merges are counted, and all videos must number their classes in the same way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ultravid.datasets.video import DataError, Video

__all__ = ["check_same_classes", "class_names_of", "count_merged_classes", "describe_merged_classes"]


def count_merged_classes(videos: Sequence[Video]) -> dict[str, int]:
    """Number of boxes by the class that they were annotated with, of all videos whose classes were read as one; names rise."""
    counts: Counter[str] = Counter()
    for video in videos:
        counts.update(video.merged_classes)
    return dict(sorted(counts.items()))


def describe_merged_classes(counts: dict[str, int]) -> str:
    """A sentence that says which classes are read as one; "" if there are not several.

    Args:
        counts: see `count_merged_classes`.
    """
    if len(counts) < 2:
        return ""
    named = ", ".join(f"{name} ({number})" for name, number in counts.items())
    return f"{named} are read as one class, 'lesion'; class_agnostic=False (data.class_agnostic=false of a config, --option class_agnostic=false of a tool) keeps them."


def class_names_of(videos: Sequence[Video]) -> tuple[str, ...]:
    """The class names of videos that number their classes alike; empty if no video names them."""
    return next((video.class_names for video in videos if video.class_names), ())


def check_same_classes(videos: Sequence[Video]) -> None:
    """Refuse videos in which one class number means two classes.

    Raises:
        DataError: two videos name different classes, or the same in another order.
    """
    named = [video for video in videos if video.class_names]
    for video in named:
        if video.class_names != named[0].class_names:
            both = f"{', '.join(named[0].class_names)} in video {named[0].video_id!r}"
            raise DataError(
                f"The classes are {both}, but {', '.join(video.class_names)} in video {video.video_id!r}: one class number would "
                "mean two classes. Give the reader of each data set the same list as its argument classes, or "
                "class_agnostic=True."
            )
