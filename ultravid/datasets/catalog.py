"""Datasets by name, as in detectron2: a function that returns the videos, and metadata.

Registered from the start, with their files in the folder of the environment variable ``ULTRAVID_DATASETS`` (``datasets``
if it is not set), which is read when a dataset is asked for: ``phantom_train``, ``phantom_test``
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
    """No dataset is registered under a name."""

    def __str__(self) -> str:
        return str(self.args[0])


class _DatasetCatalog(UserDict[str, VideoFunction]):
    """Functions that return datasets, by the dataset's name."""

    def register(self, name: str, func: VideoFunction) -> None:
        """Register a function without arguments that returns the videos, the same each time.

        Raises:
            DataError: the name is already registered, or the function is not callable.
        """
        if not callable(func):
            raise DataError(
                f"Dataset {name!r}: register a function that returns its videos, got {type(func).__name__}."
            )
        if name in self:
            raise DataError(
                f"A dataset {name!r} is already registered; DatasetCatalog.remove({name!r}) frees the name."
            )
        self[name] = func

    def get(self, name: str) -> list[Video]:  # type: ignore[override]  # detectron2's: it calls the function
        """The videos of a dataset, read again at each call.

        Raises:
            UnknownDatasetError: no dataset has the name.
            DataError: its files can't be used.
        """
        if name not in self:
            raise UnknownDatasetError(f"No dataset {name!r} is registered.{did_you_mean(name, self)}")
        return self[name]()

    def list(self) -> builtins.list[str]:
        """All names."""
        return list(self)

    def remove(self, name: str) -> None:
        """Remove a dataset.

        Raises:
            UnknownDatasetError: no dataset has the name.
        """
        if name not in self:
            raise UnknownDatasetError(f"No dataset {name!r} is registered.{did_you_mean(name, self)}")
        del self[name]


class Metadata:
    """Information about a dataset besides its videos, as attributes: ``name``, ``thing_classes``, ....

    A value can't be changed once it is set: two parts of a program would otherwise see different values.

    Args:
        known: the first values by name.

    Raises:
        AttributeError: on reading, there is no such value; on setting, the name has another value already.
    """

    name: str

    def __init__(self, **known: Any) -> None:
        self.set(**known)

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__"):
            raise AttributeError(key)
        name = vars(self).get("name", "?")
        raise AttributeError(f"Dataset {name!r} has no metadata {key!r}.{did_you_mean(key, vars(self))}")

    def __setattr__(self, key: str, value: Any) -> None:
        known = vars(self)
        if key in known and known[key] != value:
            raise AttributeError(
                f"{key!r} of dataset {known.get('name', '?')!r} is already {known[key]!r} and can't be changed to {value!r}."
            )
        known[key] = value

    def __repr__(self) -> str:
        return f"Metadata({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"

    def as_dict(self) -> dict[str, Any]:
        """All values by name, as a copy."""
        return dict(vars(self))

    def set(self, **known: Any) -> Metadata:
        """Set several values, and return this object."""
        for key, value in known.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """A value, or the default if it is not set.

        Args:
            key: the name of the value.
            default: what is returned if there is none.
        """
        return vars(self).get(key, default)


class _MetadataCatalog(UserDict[str, Metadata]):
    """Metadata by the dataset's name; asking for a new name makes an empty one."""

    def get(self, name: str) -> Metadata:  # type: ignore[override]  # detectron2's: there is no default
        """The metadata of a name, the same object each time."""
        if name not in self:
            self[name] = Metadata(name=name)
        return self[name]

    def list(self) -> builtins.list[str]:
        """All names that were asked for."""
        return list(self)

    def remove(self, name: str) -> None:
        """Remove the metadata of a name.

        Raises:
            UnknownDatasetError: there is no metadata of the name.
        """
        if name not in self:
            raise UnknownDatasetError(f"There is no metadata of {name!r}.{did_you_mean(name, self)}")
        del self[name]


DatasetCatalog = _DatasetCatalog()
"""The one catalog of datasets."""

MetadataCatalog = _MetadataCatalog()
"""The one catalog of metadata."""


def get_videos(names: Sequence[str]) -> list[Video]:
    """The videos of several datasets, one after the other.

    Args:
        names: names that are registered in `DatasetCatalog`.

    Raises:
        DataError: ``names`` is empty, two datasets hold a video with the same id, or `DatasetCatalog.get` fails.
    """
    if not names:
        raise DataError(f"Name at least one dataset; there are {', '.join(DatasetCatalog.list())}.")
    videos: list[Video] = []
    owner: dict[str, str] = {}
    for name in names:
        for video in DatasetCatalog.get(name):
            if owner.setdefault(video.video_id, name) != name:
                raise DataError(
                    f"Datasets {owner[video.video_id]!r} and {name!r} both hold a video {video.video_id!r}."
                )
            videos.append(video)
    return videos


def _load_from_datasets(folder: str, splits: tuple[str, ...]) -> list[Video]:
    root = Path(os.environ.get("ULTRAVID_DATASETS", "datasets")) / folder
    return load_cva_bus(root=root, splits=splits, patients="stem_without_side")  # as configs_py/common/data/cva_bus.py


for _name, _folder, _splits in (
    ("phantom_train", "phantom", ("trainval",)),
    ("phantom_test", "phantom", ("test",)),
    ("cva_bus_trainval", "CVA-BUS", ("trainval",)),
    ("cva_bus_test", "CVA-BUS", ("test",)),
    ("cva_bus_all", "CVA-BUS", ("trainval", "test")),
):
    DatasetCatalog.register(_name, functools.partial(_load_from_datasets, _folder, _splits))
    MetadataCatalog.get(_name).set(thing_classes=["lesion"])
