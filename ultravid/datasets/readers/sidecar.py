"""``NAME.video.json`` beside a recording, which states what the recording does not.

``clip.video.json`` is beside ``clip.mp4``, ``clip.dcm`` or the folder ``clip``: an object with any of ``fps``, ``patient``,
``device``, ``organ``, ``hospital``, ``spacing_mm`` and ``spacing_y_mm``. It takes precedence over the recording.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultravid.datasets.bounds import MAX_SIDECAR_BYTES
from ultravid.datasets.boxes import is_number
from ultravid.datasets.frame_times import known_rate, rates_agree
from ultravid.datasets.json_files import read_json
from ultravid.datasets.readers.source import FrameSource
from ultravid.datasets.video import DataError
from ultravid.utils.text import nearest, shown

__all__ = ["OTHER_CLOCK", "OTHER_RATE", "Sidecar", "read_sidecar", "sidecar_path", "states_other_rate", "trusted_times"]

OTHER_CLOCK = "recordings have a sidecar with another fps than their time stamps; the time stamps are not used"
OTHER_RATE = "recordings have a sidecar with another fps than their own; the sidecar's is used"

_NUMBERS = ("fps", "spacing_mm", "spacing_y_mm")
_WORDS = ("patient", "device", "organ", "hospital")


@dataclass(frozen=True)
class Sidecar:
    """The file's content.

    Attributes:
        fps: frames per second; None if the file gives none, or 0, which means that it is not known.
        patient: who was scanned.
        metadata: the rest, for `Video.metadata`.
    """

    fps: float | None = None
    patient: str | None = None
    metadata: Mapping[str, str | float] = field(default_factory=dict)


def sidecar_path(recording: Path) -> Path:
    """The path of a recording's sidecar, whether or not it exists."""
    stem = recording.name if recording.is_dir() else recording.stem
    return recording.with_name(f"{stem}.video.json")


def read_sidecar(recording: str | Path) -> Sidecar:
    """The sidecar of a recording; an empty one if there is none.

    Args:
        recording: the path of the recording; the sidecar is the JSON file beside it.

    Raises:
        DataError: it is not a JSON object, or holds an unknown key or a value of the wrong kind.
    """
    path = sidecar_path(Path(recording))
    if not os.path.lexists(path):
        return Sidecar()
    content = read_json(path, most=MAX_SIDECAR_BYTES)
    if not isinstance(content, dict):
        raise DataError(f"{path}: must be a JSON object with any of {', '.join(_NUMBERS + _WORDS)}.")
    for key, value in content.items():
        _check(path, key, value)
    rest = {k: float(v) if k in _NUMBERS else str(v) for k, v in content.items() if k not in ("fps", "patient")}
    fps, patient = _rate(path, content.get("fps")), content.get("patient")
    return Sidecar(fps, None if patient is None else str(patient), rest)


def states_other_rate(source: FrameSource, sidecar: Sidecar) -> bool:
    """Whether a recording and its sidecar both state a rate, and these differ by more than rounding."""
    return sidecar.fps is not None and source.fps is not None and not rates_agree(sidecar.fps, source.fps)


def trusted_times(source: FrameSource, sidecar: Sidecar) -> Sequence[float] | None:
    """Time stamps of a recording's frames; None if it has none, or if its sidecar states another rate: its clock is wrong then."""
    return None if states_other_rate(source, sidecar) else source.times_s


def _rate(path: Path, fps: Any) -> float | None:
    try:
        return known_rate(fps)
    except ValueError as error:
        raise DataError(f"{path}: 'fps' is {error}.") from error


def _check(path: Path, key: str, value: Any) -> None:
    if key == "fps":
        return  # `_rate` checks it
    if key in _NUMBERS:
        if not is_number(value) or value <= 0:
            raise DataError(f"{path}: {key!r} is {shown(value)}, not a number above 0.")
    elif key in _WORDS:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise DataError(f"{path}: {key!r} is {shown(value)}, not text or a whole number.")
    else:
        near = nearest(key, _NUMBERS + _WORDS)
        hint = f" Did you mean {near!r}?" if near else f" Keys are {', '.join(_NUMBERS + _WORDS)}."
        raise DataError(f"{path}: unknown key {key!r}.{hint}")
