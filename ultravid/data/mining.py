"""Hard videos and frames: a list of where a trained model fired falsely, and how often its entries are trained on.

A list is a JSON file that `tools/mine_false_positives.py` makes of a run's predictions::

    {"videos": {"<video id>": weight, ...}, "frames": {"<video id>": [frame, ...], ...}, "about": {...}}

A video's weight says how often it is drawn beside the other listed ones; frames count from 0, each listed one is drawn as
often as any other. ``about`` is for people.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultravid.config.errors import did_you_mean
from ultravid.datasets.video import DataError, Video
from ultravid.utils.file_io import dump_json, replace_file

__all__ = ["HardList", "HardMining", "read_hard_list", "write_hard_list"]

_KEYS = ("videos", "frames", "about")


@dataclass(frozen=True)
class HardList:
    """What a list holds; see the module."""

    videos: Mapping[str, float]
    frames: Mapping[str, Sequence[int]]
    about: Mapping[str, Any] = field(default_factory=dict)


def read_hard_list(path: str | Path) -> HardList:
    """Read a list and check it.

    Raises:
        DataError: it can't be read or is no such list; the message names the entry.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: the list of hard videos can't be read ({error.strerror}).") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is no JSON: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(k, {}), dict) for k in _KEYS):
        raise DataError(
            f'{path}: a list of hard videos is {{"videos": {{id: weight}}, "frames": {{id: [frame, ...]}}}}.'
        )
    for key in content:
        if key not in _KEYS:
            raise DataError(f"{path}: unknown key {key!r}.{did_you_mean(key, _KEYS)}")
    videos, frames = content.get("videos", {}), content.get("frames", {})
    for video_id, weight in videos.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise DataError(f"{path}: video {video_id!r} has the weight {weight!r}, not a number above 0.")
    for video_id, indices in frames.items():
        if not isinstance(indices, list) or not all(type(i) is int and i >= 0 for i in indices):
            raise DataError(f"{path}: video {video_id!r} has the frames {indices!r}, not a list of numbers from 0.")
    return HardList(videos, frames, content.get("about", {}))


def write_hard_list(path: str | Path, hard: HardList) -> None:
    """Write a list, whole or not at all.

    Raises:
        OSError: the folder can't be written.
    """
    content = {"videos": dict(hard.videos), "frames": {k: list(v) for k, v in hard.frames.items()}}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replace_file(Path(path)) as file:
        file.write(dump_json({**content, "about": dict(hard.about)}, indent=1).encode())


class HardMining:
    """How often the entries of a list are trained on, beside the clips that are drawn anyway.

    Rates are numbers of clips for each ordinary one: ``video_rate=0.5, frame_rate=1.5`` makes three clips of one, so of six
    clips two are ordinary, one is of a listed video, at any place, and three hold a listed frame. Videos that are not trained
    on (of the held-out fold) are passed over.

    Args:
        path: the list.
        video_rate: clips of listed videos.
        frame_rate: clips that hold a listed frame.

    Raises:
        DataError: the list can't be used, or a rate is negative or not finite.
    """

    def __init__(self, *, path: str | Path, video_rate: float = 0.5, frame_rate: float = 1.5) -> None:
        for name, rate in (("video_rate", video_rate), ("frame_rate", frame_rate)):
            if not 0 <= rate < math.inf:
                raise DataError(f"{name}={rate} is not a number of clips, 0 or more, for each ordinary one.")
        self.path = Path(path)
        self.video_rate = video_rate
        self.frame_rate = frame_rate
        self.hard = read_hard_list(path)

    def listed_videos(self, videos: Sequence[Video]) -> list[tuple[int, float]]:
        """(place among ``videos``, weight) of those that are listed, in the order of ``videos``.

        Raises:
            DataError: none is.
        """
        found = [
            (i, float(self.hard.videos[v.video_id])) for i, v in enumerate(videos) if v.video_id in self.hard.videos
        ]
        self._check_any(len(found), "video_rate", "videos", videos)
        return found

    def listed_frames(self, videos: Sequence[Video]) -> list[tuple[int, int]]:
        """(place among ``videos``, frame) of those that are listed, each once.

        Raises:
            DataError: none is, or a video has no such frame.
        """
        found = []
        for place, video in enumerate(videos):
            for frame in sorted(set(self.hard.frames.get(video.video_id, ()))):
                if frame >= len(video):
                    raise DataError(
                        f"{self.path}: video {video.video_id!r} has {len(video)} frames, there is no frame {frame}."
                    )
                found.append((place, frame))
        self._check_any(len(found), "frame_rate", "frames", videos)
        return found

    def _check_any(self, number: int, rate: str, kind: str, videos: Sequence[Video]) -> None:
        if number == 0:
            raise DataError(
                f"{self.path}: lists no {kind} of the {len(videos)} videos that are trained on; "
                f"set {rate}=0, or mine a run over these videos."
            )
