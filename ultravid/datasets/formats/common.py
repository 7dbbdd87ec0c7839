"""What readers of annotations share: files of JSON, tables of patients, boxes that are put right or refused."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ultravid.datasets.faults import Faults
from ultravid.datasets.video import DataError, Frame, Video

__all__: list[str] = []

logger = logging.getLogger(__name__)

CLIPPED = "boxes went past the frame's edge and were clipped to it"
TURNED = "boxes had a negative width or height and were turned round"

_SIDE_SUFFIX = re.compile(r"[-_]\d?-?[lr]?$")
_METADATA_KEYS = ("device", "organ", "hospital", "spacing_mm", "spacing_y_mm")

LARGEST = float(np.finfo(np.float32).max)

Row = tuple[list[float], int, int]
"""(XYXY box, class, track id)."""


def read_json(path: Path) -> Any:
    """A file's JSON.

    Raises:
        DataError: it is not there, can't be read or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: is not JSON: {error}") from error
    except RecursionError:
        raise DataError(f"{path}: is JSON that is nested too deeply.") from None
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}).") from error


def read_patients(path: str | Path | None) -> dict[str, str]:
    """A table from video name to patient, a JSON object; empty where there is none.

    Raises:
        DataError: the file can't be read or holds no object.
    """
    if path is None:
        return {}
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: the table of patients can't be read: {error}") from error
    if not isinstance(table, dict):
        raise DataError(f"{path}: the table of patients must be an object from video name to patient.")
    for name, patient in table.items():
        if not isinstance(patient, str | int) or isinstance(patient, bool):
            raise DataError(f"{path}: the patient of {name!r} is {patient!r}, no text or whole number.")
    return {str(k): str(v) for k, v in table.items()}


def check_patients(table: Mapping[str, str], names: Iterable[str], path: str | Path) -> None:
    """Refuse a table that names none of a data set's videos; names that are none of them are logged.

    Args:
        table: see `read_patients`.
        names: of the videos.
        path: of the data set, for messages.

    Raises:
        DataError: no video has a patient by it.
    """
    unknown = sorted(set(table) - set(names))
    if table and len(unknown) == len(table):
        raise DataError(f"{path}: the table of patients names none of its videos; {unknown[0]!r} is none.")
    if unknown:
        logger.info("%s: %d names of the table of patients are no videos of it, as %r.", path, len(unknown), unknown[0])


def patient_from_name(name: str) -> str:
    """The stem of a video's file less a trailing side, as ``-1-l``."""
    return _SIDE_SUFFIX.sub("", Path(name).stem)


def metadata_of(row: Mapping[str, Any]) -> dict[str, str | float]:
    """What a video's row says of device, organ, hospital and spacing, itself or under ``metadata``."""
    under = row.get("metadata")
    found = {k: row[k] for k in _METADATA_KEYS if row.get(k) is not None}
    found |= under if isinstance(under, dict) else {}
    return {
        str(k): v if isinstance(v, float | int) and not isinstance(v, bool) else str(v)
        for k, v in found.items()
        if v is not None
    }


def rate_of(value: Any, where: str, faults: Faults) -> float | None:
    """Frames a second, None where nothing is said; anything but a number above 0 is a fault."""
    if value is None or value == 0:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < LARGEST:
        faults.add("bad frame rate", f"{where}: fps is {value!r}, not a number above 0")
        return None
    return float(value)


def static_frames_fault(stretches: Any, num_frames: int) -> str | None:
    """What is wrong with a list of stretches [first, last]; None where nothing is."""
    for stretch in stretches if isinstance(stretches, list) else [stretches]:
        pair = isinstance(stretch, list) and len(stretch) == 2 and all(isinstance(v, int) for v in stretch)
        if not pair or not 0 <= stretch[0] <= stretch[1] < num_frames:
            return f"static_frames holds {stretch!r}, not [first, last] of {num_frames} frames"
    return None


def duplicates(values: Iterable[Any]) -> set[Any]:
    """Values that come more than once."""
    return {value for value, times in Counter(map(hashable, values)).items() if times > 1}


def hashable(value: Any) -> Any:
    """A value that can be a key, whatever a file holds."""
    return value if isinstance(value, int | str) or value is None else repr(value)


def check_unique_ids(videos: Sequence[Video], faults: Faults) -> list[Video]:
    """The videos, each id once; two with one id are a fault."""
    for video_id in sorted(duplicates(v.video_id for v in videos)):
        faults.add("two videos with one id", f"two videos have the id {video_id!r}")
    return list({v.video_id: v for v in videos}.values())


def usable_box(
    corners: Any, height: int, width: int, where: str, faults: Faults, written: Any = None
) -> list[float] | None:
    """XYXY corners as a box inside the frame, or None with the fault noted.

    A corner on the wrong side is turned round, a box past the edge clipped; both are noted as mended. ``written`` is how
    the file writes the box, where it isn't by its corners.
    """
    written = corners if written is None else written
    whole = isinstance(corners, list | tuple) and len(corners) == 4
    if not whole or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in corners):
        faults.add("box is not four numbers", f"{where}: box {written!r} is not four numbers")
        return None
    if not all(abs(v) < LARGEST for v in corners):
        faults.add("box holds nan", f"{where}: box {written!r} holds a nan, an infinite or a huge number")
        return None
    x1, y1, x2, y2 = (float(v) for v in corners)
    if x2 < x1 or y2 < y1:
        faults.mend(TURNED, f"{where} {written}")
    left, right = sorted((x1, x2))
    top, bottom = sorted((y1, y2))
    clipped = [max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))]
    # As float32: that is what is kept, and two corners may fall together.
    kept = np.asarray(clipped, np.float32)
    if not (kept[2] > kept[0] and kept[3] > kept[1]):
        empty = right == left or bottom == top
        kind, what = ("box is empty", "is empty") if empty else ("box outside the frame", "lies outside the frame")
        faults.add(kind, f"{where}: box {written} {what} ({width}x{height} px)")
        return None
    if clipped != [left, top, right, bottom]:
        faults.mend(CLIPPED, f"{where} {written}")
    return clipped


def make_frame(
    place: tuple[str, int | None], image_id: Any, size: tuple[int, int], rows: Sequence[Row], **more: Any
) -> Frame:
    """A frame of annotated rows; ``size`` is (height, width)."""
    path, index_in_file = place
    return Frame(
        path=path,
        image_id=image_id,
        height=size[0],
        width=size[1],
        boxes=np.asarray([r[0] for r in rows], np.float32).reshape(-1, 4),
        classes=np.asarray([r[1] for r in rows], np.int64),
        track_ids=np.asarray([r[2] for r in rows], np.int64),
        index_in_file=index_in_file,
        **more,
    )


def picture_fault_kind(fault: str) -> str:
    """The kind of what `image_fault` says."""
    if "truncated" in fault or "is empty" in fault:
        return "frame is truncated"
    return "frame has another size" if "annotation says" in fault else "frame can't be read"
