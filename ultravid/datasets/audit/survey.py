"""Counts of a dataset's splits, as tables for the terminal and the page."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from ultravid.datasets.classes import count_merged_classes
from ultravid.datasets.faults import Fault
from ultravid.datasets.patients import num_unknown_patients, patient_key
from ultravid.datasets.readers.source import ImageArray
from ultravid.datasets.video import Frame, Video

__all__ = ["AuditReport", "Example", "Split", "Table", "count_tables"]


@dataclass(frozen=True)
class Split:
    """One part of a dataset.

    Attributes:
        name: such as "train".
        videos: what could be read.
        faults: what could not, and what the reader repaired.
    """

    name: str
    videos: Sequence[Video]
    faults: Sequence[Fault] = ()


@dataclass(frozen=True)
class Example:
    """An image that shows a finding.

    Attributes:
        caption: which frames, and what of them.
        images: one or more, ``(H, W, 3)`` uint8 RGB.
    """

    caption: str
    images: Sequence[ImageArray]


@dataclass(frozen=True)
class Table:
    """Rows of text under a title.

    Attributes:
        title: what the rows are.
        columns: the headings of the columns.
        rows: the rows, with a text for each column.
        examples: pictures that show some of the rows.
        note: a sentence below the table; "" for none.
        leak: True if the rows are what splits must not share.
        every: rows of text that the rows sum up; the page lists them too.
    """

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    examples: Sequence[Example] = ()
    note: str = ""
    leak: bool = False
    every: Sequence[tuple[str, ...]] = ()


@dataclass
class AuditReport:
    """The results of an audit.

    Attributes:
        num_splits: number of splits that were compared.
        unseen: splits from which no frame could be read.
        unknown_patients: a sentence about videos whose patients are not known; "" without such videos.
        rejected: a sentence about what could not be used; "" if all was.
        notes: sentences about how the data were read, shown with the verdict.
        counts: what the splits hold.
        findings: what is wrong, worst first; without empty tables.
    """

    num_splits: int
    counts: list[Table]
    findings: list[Table] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    unknown_patients: str = ""
    rejected: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def has_leak(self) -> bool:
        """Whether two splits share a patient or a frame."""
        return any(t.leak and t.rows for t in self.findings)

    @property
    def verdict(self) -> str:
        """The result in one sentence, then what of the data it does not cover, and whether patients are not known."""
        return " ".join(filter(None, (self._result, self.rejected, self.unknown_patients)))

    @property
    def _result(self) -> str:
        if self.num_splits < 2 and self.unseen:
            return "No frame could be read."
        if self.num_splits < 2:
            return "There is one split, and nothing to compare it with."
        if self.has_leak:
            return "Splits share patients or frames."
        if self.unseen:
            return f"The splits could not be compared: no frame could be read from {', '.join(self.unseen)}."
        return f"No {'known ' if self.unknown_patients else ''}patient and no frame was found in two splits."


def count_tables(splits: Sequence[Split]) -> list[Table]:
    """The splits side by side, then by class, organ, hospital, device, size and rate; without tables of what is not known.

    Args:
        splits: the splits of one dataset.
    """
    tables = [
        *([_overview(splits)] if any(split.videos for split in splits) else []),
        _by_class(splits),
        _by_annotated_class(splits),
    ]
    tables += [_by_video(splits, key, _metadata(key)) for key in ("organ", "hospital", "device")]
    tables.append(_by_video(splits, "size", lambda v: f"{v.frames[0].width}x{v.frames[0].height} px", most=12))
    tables.append(_by_video(splits, "rate", lambda v: "unknown" if v.fps is None else f"{v.fps:.4g} frames/s", most=12))
    return [t for t in tables if t.rows]


def _frames(videos: Iterable[Video]) -> list[Frame]:
    return [f for v in videos for f in v.frames]


def _overview(splits: Sequence[Split]) -> Table:
    rows: list[tuple[str, ...]] = []
    facts: dict[str, Callable[[Sequence[Video]], str]] = {
        "videos": lambda vs: str(len(vs)),
        "patients": lambda vs: str(len({patient_key(v.patient) for v in vs if v.patient_known})),
        "videos of unknown patients": lambda vs: str(num_unknown_patients(vs) or "-"),
        "frames": lambda vs: str(sum(map(len, vs))),
        "frames with a box": lambda vs: str(sum(len(f.boxes) > 0 for f in _frames(vs))),
        "frames with several": lambda vs: str(sum(len(f.boxes) > 1 for f in _frames(vs))),
        "boxes": lambda vs: str(sum(len(f.boxes) for f in _frames(vs))),
        "lesions (tracks)": lambda vs: str(sum(len(_tracks(v)) for v in vs)),
        "videos without lesion": lambda vs: str(sum(not _tracks(v) for v in vs)),
        "frames per video (least, median, most)": lambda vs: _three([len(v) for v in vs]),
        "seconds per video (least, median, most)": lambda vs: _three(
            [v.times.duration_s for v in vs if not v.times.is_assumed]
        ),
        "videos with gaps or pauses": lambda vs: str(sum(not v.times.is_even for v in vs) or "-"),
        "box side, px (5%, median, 95%)": lambda vs: _three(_sides(vs), (5, 50, 95)),
        "box side, share of the image's (5%, median, 95%)": lambda vs: _three(_relative_sides(vs), (5, 50, 95)),
    }
    for name, fact in facts.items():
        values = tuple(fact(s.videos) for s in splits)
        if any(v != "-" for v in values):
            rows.append((name, *values))
    return Table("Contents", ("", *(s.name for s in splits)), rows, note="A box's side is the square root of its area.")


def _tracks(video: Video) -> set[int]:
    return {int(t) for f in video.frames for t in f.track_ids}


def _sides(videos: Sequence[Video]) -> list[float]:
    return [float(s) for f in _frames(videos) for s in np.sqrt(np.prod(f.boxes[:, 2:] - f.boxes[:, :2], axis=1))]


def _relative_sides(videos: Sequence[Video]) -> list[float]:
    return [
        float(s)
        for f in _frames(videos)
        for s in np.sqrt(np.prod(f.boxes[:, 2:] - f.boxes[:, :2], axis=1) / (f.height * f.width))
    ]


def _three(values: Sequence[float], percentiles: tuple[int, int, int] = (0, 50, 100)) -> str:
    return ", ".join(f"{v:.3g}" for v in np.percentile(values, percentiles)) if len(values) else "-"


def _by_class(splits: Sequence[Split]) -> Table:
    """Videos, frames and boxes of each class."""
    found: dict[str, dict[str, list[int]]] = defaultdict(lambda: {s.name: [0, 0, 0] for s in splits})
    for split in splits:
        for video in split.videos:
            per_frame = [Counter(int(c) for c in f.classes) for f in video.frames]
            for c in {c for counts in per_frame for c in counts}:
                name = video.class_names[c] if c < len(video.class_names) else f"class {c}"
                cell = found[name][split.name]
                cell[0] += 1
                cell[1] += sum(c in counts for counts in per_frame)
                cell[2] += sum(counts[c] for counts in per_frame)
    rows = [(name, *(" / ".join(map(str, found[name][s.name])) for s in splits)) for name in sorted(found)]
    return Table("By class: videos / frames / boxes", ("class", *(s.name for s in splits)), rows)


def _by_annotated_class(splits: Sequence[Split]) -> Table:
    """Videos and boxes of each class that the annotations name, if the reader read all classes as one."""
    counts = {split.name: count_merged_classes(split.videos) for split in splits}
    names = sorted({name for count in counts.values() for name in count})
    rows = (
        []
        if len(names) == 1 and names[0] == "lesion"
        else [
            (name, *(f"{_videos_with(s.videos, name)} / {counts[s.name].get(name, 0)}" for s in splits))
            for name in names
        ]
    )
    return Table("By annotated class: videos / boxes", ("class", *(s.name for s in splits)), rows)


def _videos_with(videos: Sequence[Video], annotated_class: str) -> int:
    return sum(video.merged_classes.get(annotated_class, 0) > 0 for video in videos)


def _metadata(key: str) -> Callable[[Video], str | None]:
    return lambda video: str(video.metadata[key]) if key in video.metadata else None


def _by_video(splits: Sequence[Split], title: str, key: Callable[[Video], str | None], most: int = 40) -> Table:
    """Videos, frames and boxes by a property of the video; without a row if no video has it."""
    found: dict[str, dict[str, list[int]]] = defaultdict(lambda: {s.name: [0, 0, 0] for s in splits})
    for split in splits:
        for video in split.videos:
            cell = found[key(video) or "unknown"][split.name]
            cell[0] += 1
            cell[1] += len(video)
            cell[2] += sum(len(f.boxes) for f in video.frames)
    if set(found) <= {"unknown"}:
        found.clear()
    order = sorted(found, key=lambda name: (-sum(cell[1] for cell in found[name].values()), name))
    rows = [(name, *(" / ".join(map(str, found[name][s.name])) for s in splits)) for name in order[:most]]
    note = f"{len(order) - most} more are not shown." if len(order) > most else ""
    return Table(f"By {title}: videos / frames / boxes", (title, *(s.name for s in splits)), rows, note=note)
