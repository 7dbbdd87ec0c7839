"""Hard videos and frames: a list of a trained model's false positives, and how often a training uses its entries.

A list is a JSON file that `tools/mine_false_positives.py` makes from a run's predictions::

    {"videos": {"<video id>": weight, ...}, "frames": {"<video id>": [frame, ...], ...}, "about": {...}}

A video's weight is how often it is drawn relative to the other listed videos. Frames are places in the video, from 0; all listed
frames are drawn equally often. ``about`` is for people.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultravid.config.errors import did_you_mean
from ultravid.datasets.boxes import is_number
from ultravid.datasets.json_files import read_json
from ultravid.datasets.video import DataError, Video
from ultravid.utils.file_io import dump_json, replace_file
from ultravid.utils.text import shown

__all__ = ["HardList", "HardMining", "read_hard_list", "write_hard_list"]

_KEYS = ("videos", "frames", "about")


@dataclass(frozen=True)
class HardList:
    """The content of a list; see the module."""

    videos: Mapping[str, float]
    frames: Mapping[str, Sequence[int]]
    about: Mapping[str, Any] = field(default_factory=dict)


def read_hard_list(path: str | Path) -> HardList:
    """Read a list, at any address, and check it.

    Raises:
        DataError: it can't be read or isn't such a list; the message names the entry.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(content.get(k, {}), dict) for k in _KEYS):
        raise DataError(
            f'{path}: is not a list of hard videos, {{"videos": {{id: weight}}, "frames": {{id: [frame, ...]}}}}.'
        )
    for key in content:
        if key not in _KEYS:
            raise DataError(f"{path}: unknown key {key!r}.{did_you_mean(key, _KEYS)}")
    videos, frames = content.get("videos", {}), content.get("frames", {})
    for video_id, weight in videos.items():
        if not is_number(weight) or weight <= 0:
            raise DataError(f"{path}: video {video_id!r} has the weight {shown(weight)}, not a number above 0.")
    for video_id, indices in frames.items():
        if not isinstance(indices, list) or not all(type(i) is int and i >= 0 for i in indices):
            raise DataError(
                f"{path}: video {video_id!r} has the frames {shown(indices)}, not a list of numbers from 0."
            )
    return HardList(videos, frames, content.get("about", {}))


def write_hard_list(path: str | Path, hard: HardList) -> None:
    """Write a list; the file is complete or absent.

    Raises:
        OSError: the folder can't be written.
    """
    content = {"videos": dict(hard.videos), "frames": {k: list(v) for k, v in hard.frames.items()}}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replace_file(Path(path)) as file:
        file.write(dump_json({**content, "about": dict(hard.about)}, indent=1).encode())


class HardMining:
    """How often the entries of a list are trained on, in addition to ordinary clips.

    Rates are clips per ordinary clip: with ``video_rate=0.5, frame_rate=1.5``, of six clips two are ordinary, one is of a listed
    video, at any place, and three hold a listed frame. Videos that are not trained on (of the held-out fold) are skipped.

    Args:
        path: the path of the list, at any address.
        video_rate: clips of listed videos.
        frame_rate: clips that hold a listed frame.

    Raises:
        DataError: the list can't be used, or a rate is negative or not finite.
    """

    def __init__(self, *, path: str | Path, video_rate: float = 0.5, frame_rate: float = 1.5) -> None:
        for name, rate in (("video_rate", video_rate), ("frame_rate", frame_rate)):
            if not 0 <= rate < math.inf:
                raise DataError(f"{name}={rate} is not a number of clips per ordinary clip, 0 or more.")
        self.path = path
        self.video_rate = video_rate
        self.frame_rate = frame_rate
        self.hard = read_hard_list(path)

    def listed_videos(self, videos: Sequence[Video]) -> list[tuple[int, float]]:
        """(place among ``videos``, weight) of those that are listed, in the order of ``videos``.

        Raises:
            DataError: no video is listed.
        """
        found = [
            (i, float(self.hard.videos[v.video_id])) for i, v in enumerate(videos) if v.video_id in self.hard.videos
        ]
        self._check_any(len(found), "video_rate", "videos", videos)
        return found

    def listed_frames(self, videos: Sequence[Video]) -> list[tuple[int, int]]:
        """(place among ``videos``, frame) of the listed frames, each once.

        Raises:
            DataError: no frame is listed, or a video has no such frame.
        """
        found = []
        for place, video in enumerate(videos):
            for frame in sorted(set(self.hard.frames.get(video.video_id, ()))):
                if frame >= len(video):
                    raise DataError(
                        f"{self.path}: video {video.video_id!r} has {len(video)} frames, and no frame {frame}."
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
