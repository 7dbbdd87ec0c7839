"""The frame rate and the times of frames of a DICOM file, with contradictions between its elements.

Sources: DICOM PS3.3 C.7.6.5 (cine), C.7.6.6 (multi-frame).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ultravid.datasets.bounds import is_rate
from ultravid.datasets.frame_times import is_evenly_spaced, rates_agree, usual_interval_s
from ultravid.datasets.readers.dicom_file import DicomHeader

__all__ = ["DicomTimes", "dicom_times"]

_BAD = "DICOM files state times that can't be used"
_CONTRADICTION = "DICOM files state two frame rates"
_GUESS = "DICOM files do not state at which rate they were taken"


@dataclass
class DicomTimes:
    """The rate and the times of a file's frames.

    Attributes:
        fps: frames per second, of uneven frames the usual rate; None if the file does not state it.
        times_s: the time of each frame in seconds from the first one; None if frames are evenly spaced, or no times are stated.
        repairs: what does not fit or was guessed, as `FrameSource.repairs`.
    """

    fps: float | None = None
    times_s: Sequence[float] | None = None
    repairs: list[tuple[str, str]] = field(default_factory=list)


def dicom_times(header: DicomHeader, num_frames: int) -> DicomTimes:
    """The rate of acquisition: CineRate, FrameTime, FrameTimeVector or ActualFrameDuration, in this order.

    If none is stated, the recommended rate of display is taken, or else the frames over the duration of the acquisition; this is
    reported. Uneven intervals of FrameTimeVector take precedence over any rate.
    """
    found = DicomTimes()
    intervals = _intervals(header, num_frames, found)
    stated = {
        "CineRate": _rate(header, "CineRate", found),
        "FrameTime": _rate(header, "FrameTime", found, of_milliseconds=True),
        "FrameTimeVector": 1000.0 * len(intervals) / sum(intervals) if intervals else None,
        "ActualFrameDuration": _rate(header, "ActualFrameDuration", found, of_milliseconds=True),
    }
    times_s = np.cumsum([0.0, *intervals]) / 1000.0
    if intervals and not is_evenly_spaced(times_s):
        stated["FrameTimeVector"] = 1.0 / usual_interval_s(times_s)
        found.times_s = times_s.tolist()
        stated = {"FrameTimeVector": stated.pop("FrameTimeVector"), **stated}
    rates = {name: rate for name, rate in stated.items() if rate is not None}
    if not rates:
        rates = _guessed(header, num_frames, found)
    if rates:
        name, found.fps = next(iter(rates.items()))
        others = [
            f"{other} {rate:.4g}"
            for other, rate in rates.items()
            if not rates_agree(rate, found.fps) and not (name == "CineRate" and round(rate) == found.fps)
        ]
        if others and num_frames > 1:
            found.repairs.append(
                (_CONTRADICTION, f"{name} says {found.fps:.4g} frames a second, {', '.join(others)}; the first is used")
            )
    if num_frames == 1:
        found.repairs.clear()  # a still has no rate
    return found


def _guessed(header: DicomHeader, num_frames: int, found: DicomTimes) -> dict[str, float]:
    rate = _rate(header, "RecommendedDisplayFrameRate", found)
    name = "RecommendedDisplayFrameRate"
    if rate is None:
        for name in ("EffectiveDuration", "AcquisitionDuration"):
            seconds = header.number(name)
            if seconds and is_rate(num_frames / seconds):
                rate = num_frames / seconds
                break
    if rate is None:
        return {}
    found.repairs.append((_GUESS, f"{rate:.4g} frames a second are taken from {name}"))
    return {name: rate}


def _rate(header: DicomHeader, name: str, found: DicomTimes, *, of_milliseconds: bool = False) -> float | None:
    if not header.has_content(name):
        return None
    value = header.number(name)
    rate = 1000.0 / value if value and of_milliseconds else value
    if rate is not None and is_rate(rate):
        return rate
    found.repairs.append((_BAD, f"its {name} is {'not a number' if value is None else f'{value:g}'} and is not used"))
    return None


def _intervals(header: DicomHeader, num_frames: int, found: DicomTimes) -> list[float]:
    """Milliseconds between frames; empty if they are not stated, or not in a way that can be used."""
    if not header.has_content("FrameTimeVector") or num_frames == 1:
        return []
    values = header.numbers("FrameTimeVector")
    if len(values) == num_frames:
        values = values[1:]  # the first is the time before the first frame
    elif len(values) != num_frames - 1:
        found.repairs.append(
            (_BAD, f"its FrameTimeVector has {len(values)} values for {num_frames} frames and is not used")
        )
        return []
    good = [v for v in values if v is not None and v > 0 and is_rate(1000.0 / v)]
    if len(good) < len(values):
        bad = len(values) - len(good)
        found.repairs.append(
            (_BAD, f"its FrameTimeVector has {bad} values that are no times between frames and is not used")
        )
        return []
    return good
