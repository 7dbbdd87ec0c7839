"""Data sets by name, as detectron2 has them: a function that gives the videos, and what is known about them.

Registered from the start, with their files in the folder of the environment variable ``ULTRAVID_DATASETS`` (``datasets``
where it is not set), which is looked up when a data set is asked for, not before: ``phantom_train``, ``phantom_test``
(`tools/make_phantom.py`), ``cva_bus_trainval``, ``cva_bus_test``, and ``cva_bus_all``, which folds split.
"""

from __future__ import annotations

import builtins
import functools
import os
from collections import UserDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ultravid.config.errors import did_you_mean
from ultravid.datasets.formats import load_cva_bus
from ultravid.datasets.video import DataError, Video

__all__ = ["DatasetCatalog", "Metadata", "MetadataCatalog", "get_videos"]

VideoFunction = Callable[[], list[Video]]


class UnknownDatasetError(DataError, KeyError):
    """A name that no data set is registered under."""

    def __str__(self) -> str:
        return str(self.args[0])


class _DatasetCatalog(UserDict[str, VideoFunction]):
    """Functions by the names of the data sets that they give."""

    def register(self, name: str, func: VideoFunction) -> None:
        """Let ``get(name)`` call a function of no argument, the same videos each time.

        Raises:
            DataError: the name is taken, or the function is none.
        """
        if not callable(func):
            raise DataError(f"Data set {name!r}: register a function that gives its videos, got {type(func).__name__}.")
        if name in self:
            raise DataError(
                f"A data set {name!r} is registered already; DatasetCatalog.remove({name!r}) frees the name."
            )
        self[name] = func

    def get(self, name: str) -> list[Video]:  # type: ignore[override]  # detectron2's: it calls the function
        """The videos of a data set, read anew.

        Raises:
            UnknownDatasetError: no data set has the name.
            DataError: its files can't be used.
        """
        if name not in self:
            raise UnknownDatasetError(f"No data set {name!r} is registered.{did_you_mean(name, self)}")
        return self[name]()

    def list(self) -> builtins.list[str]:
        """All names."""
        return list(self)

    def remove(self, name: str) -> None:
        """Forget a data set.

        Raises:
            UnknownDatasetError: no data set has the name.
        """
        if name not in self:
            raise UnknownDatasetError(f"No data set {name!r} is registered.{did_you_mean(name, self)}")
        del self[name]


class Metadata:
    """What is known about a data set beside its videos, as attributes: ``name``, ``thing_classes``, ....

    A value that was set is not changed to another one: two parts of a program would else know different things.
    """

    name: str

    def __init__(self, **known: Any) -> None:
        self.set(**known)

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__"):
            raise AttributeError(key)
        name = vars(self).get("name", "?")
        raise AttributeError(f"Nothing is known as {key!r} of data set {name!r}.{did_you_mean(key, vars(self))}")

    def __setattr__(self, key: str, value: Any) -> None:
        known = vars(self)
        if key in known and known[key] != value:
            raise AttributeError(
                f"{key!r} of data set {known.get('name', '?')!r} is {known[key]!r} already, and is not changed to {value!r}."
            )
        known[key] = value

    def __repr__(self) -> str:
        return f"Metadata({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"

    def as_dict(self) -> dict[str, Any]:
        """All that is known, by name; changing it changes nothing here."""
        return dict(vars(self))

    def set(self, **known: Any) -> Metadata:
        """Set several at once, and give this object."""
        for key, value in known.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """A value, or the default where nothing is known."""
        return vars(self).get(key, default)


class _MetadataCatalog(UserDict[str, Metadata]):
    """Metadata by the data set's name; asking for a name makes it."""

    def get(self, name: str) -> Metadata:  # type: ignore[override]  # detectron2's: there is no default
        """The one object of a name, the same each time."""
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]

    def list(self) -> builtins.list[str]:
        """All names that were asked for."""
        return list(self)

    def remove(self, name: str) -> None:
        """Forget what is known.

        Raises:
            UnknownDatasetError: nothing is known under the name.
        """
        if name not in self:
            raise UnknownDatasetError(f"There is no metadata of {name!r}.{did_you_mean(name, self)}")
        del self[name]


DatasetCatalog = _DatasetCatalog()
"""The one catalog of data sets."""

MetadataCatalog = _MetadataCatalog()
"""The one catalog of what is known about them."""


def get_videos(names: Sequence[str]) -> list[Video]:
    """The videos of several data sets, one after the other.

    Raises:
        DataError: there is no name, two data sets hold a video of one id, or `DatasetCatalog.get` fails.
    """
    if not names:
        raise DataError(f"No data set is named; there are {', '.join(DatasetCatalog.list())}.")
    videos: list[Video] = []
    owner: dict[str, str] = {}
    for name in names:
        for video in DatasetCatalog.get(name):
            if owner.setdefault(video.video_id, name) != name:
                raise DataError(
                    f"Data sets {owner[video.video_id]!r} and {name!r} both hold a video {video.video_id!r}."
                )
            videos.append(video)
    return videos


def _load_from_datasets(folder: str, splits: tuple[str, ...]) -> list[Video]:
    return load_cva_bus(root=Path(os.environ.get("ULTRAVID_DATASETS", "datasets")) / folder, splits=splits)


for _name, _folder, _splits in (
    ("phantom_train", "phantom", ("trainval",)),
    ("phantom_test", "phantom", ("test",)),
    ("cva_bus_trainval", "CVA-BUS", ("trainval",)),
    ("cva_bus_test", "CVA-BUS", ("test",)),
    ("cva_bus_all", "CVA-BUS", ("trainval", "test")),
):
    DatasetCatalog.register(_name, functools.partial(_load_from_datasets, _folder, _splits))
    MetadataCatalog.get(_name).set(thing_classes=["lesion"])
