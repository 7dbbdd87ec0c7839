"""Errors in a dataset, and patients or frames that its splits share.

A leak is a patient, a frame or nearly the same frame in two splits: the detector is then tested on data it was trained on.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ultravid.datasets.audit.similarity import FrameTable, NearDuplicate, find_near_duplicates
from ultravid.datasets.audit.survey import AuditReport, Example, Split, Table, count_tables
from ultravid.datasets.classes import count_merged_classes, describe_merged_classes
from ultravid.datasets.faults import Fault
from ultravid.datasets.patients import (
    BY_OPTION,
    PatientRule,
    describe_unknown_patients,
    num_unknown_patients,
    patient_identities,
    patient_key,
)
from ultravid.datasets.readers import read_frame_image
from ultravid.datasets.readers.kinds import is_dicom
from ultravid.datasets.readers.shown import TEXT_FAULTS
from ultravid.datasets.readers.source import ImageArray
from ultravid.datasets.video import DataError, Frame, Video
from ultravid.utils.drawing import TRUTH, draw_boxes

__all__ = ["audit_splits"]

_EXAMPLES = 8  # images per finding
_FIRST_FAULTS = 3  # of a kind


@dataclass(frozen=True)
class _Place:
    """A frame that could be decoded: its split, its video's number in all splits, its number in the video."""

    split: int
    video: int
    frame: int


@dataclass
class _Seen:
    """All frames that could be decoded."""

    splits: Sequence[Split]
    videos: list[Video]
    split_of: list[int]
    places: list[_Place]
    frames: FrameTable
    unreadable: list[Fault]

    @property
    def blank(self) -> NDArray[np.bool_]:
        """Which frames show nothing."""
        return np.asarray(~self.frames.thumbnails.any(axis=1), np.bool_)

    def name(self, frame: int) -> str:
        place = self.places[frame]
        return f"{self.videos[place.video].video_id} frame {place.frame}"

    def image(self, frame: int) -> ImageArray:
        place = self.places[frame]
        return _picture(self.videos[place.video], place.frame)


def audit_splits(
    splits: Sequence[Split],
    frozen_frames: int = 10,
    advance: Callable[[int], object] = lambda _: None,
    unknown_tags: Sequence[str] = (),
) -> AuditReport:
    """Count the contents of splits, and decode every frame to compare it with the others.

    Args:
        splits: one or more. Faults found by the readers are part of the report, together with frames that can't be decoded.
        frozen_frames: a box that stays the same over this many frames is reported.
        advance: called with the number of frames that were decoded since the last call.
        unknown_tags: values of the DICOM tag PatientID that mean an unknown patient, besides `UNKNOWN_DICOM_PATIENTS`.
    """
    names_nobody = PatientRule(unknown_tags=unknown_tags).names_nobody
    seen = _look_at(splits, advance)
    faults = [*(f for s in splits for f in s.faults), *seen.unreadable]
    report = AuditReport(len(splits), count_tables(splits))
    read = {place.split for place in seen.places}
    videos = [video for split in splits for video in split.videos]
    report.unknown_patients = describe_unknown_patients(num_unknown_patients(videos), len(videos), BY_OPTION)
    report.rejected = _describe_rejected([f for f in faults if not f.repaired])
    merged = describe_merged_classes(count_merged_classes(videos))
    report.notes = [merged] if merged else []
    report.unseen = [split.name for number, split in enumerate(splits) if number not in read]
    identical_leaks, identical_inside = _identical(seen)
    near_leaks, near_inside = _near(seen)
    candidates = [
        _shared_patients(splits, names_nobody),
        _spellings(splits),
        _shared_dicom_patients(seen, names_nobody),
        identical_leaks,
        near_leaks,
        _fault_table([f for f in faults if not f.repaired], "Errors: data that can't be used"),
        near_inside,
        identical_inside,
        _frozen_pictures(seen),
        _frozen_boxes(splits, frozen_frames),
        _fault_table(
            [f for f in faults if f.repaired and f.kind not in TEXT_FAULTS], "Repaired or guessed by the reader"
        ),
        _blank(seen),
        _hidden(seen),
    ]
    report.findings = [t for t in candidates if t.rows]
    report.counts.append(_samples(splits))
    return report


def _look_at(splits: Sequence[Split], advance: Callable[[int], object]) -> _Seen:
    seen = _Seen(splits, [], [], [], FrameTable(), [])
    for number, split in enumerate(splits):
        for video in split.videos:
            for t in range(len(video)):
                try:
                    seen.frames.add(read_frame_image(video, t))
                    seen.places.append(_Place(number, len(seen.videos), t))
                except DataError as error:
                    seen.unreadable.append(Fault("frame can't be decoded", str(error), video.frames[t].path))
                advance(1)
            seen.videos.append(video)
            seen.split_of.append(number)
    return seen


def _shared_patients(splits: Sequence[Split], names_nobody: Callable[[str], bool]) -> Table:
    """Patients of several splits; two spellings that differ in case or blanks only are one patient.

    Where a patient of a DICOM file is called like the file, files of two datasets have equal names by chance:
    `_shared_dicom_patients` compares their ids.
    """
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    spelled: dict[str, str] = {}
    for split in splits:
        named_after = {video.video_id for video in split.videos}
        for video in split.videos:
            by_its_id = video.patient in named_after and _dicom_patient(video, names_nobody) is not None
            if video.patient_known and not by_its_id:
                name = spelled.setdefault(patient_key(video.patient), video.patient)
                found[name][split.name].append(video.video_id)
    rows = [
        (patient, *(f"{name}: {', '.join(ids[:3])}{' ...' if len(ids) > 3 else ''}" for name, ids in by_split.items()))
        for patient, by_split in sorted(found.items())
        if len(by_split) > 1
    ]
    width = max((len(r) for r in rows), default=1)
    padded = [(*r, *[""] * (width - len(r))) for r in rows]
    return Table("Patients in two splits", ("patient", *["videos"] * (width - 1)), padded, leak=True)


def _spellings(splits: Sequence[Split]) -> Table:
    """Patients whose names differ between splits in case or blanks only; within a split the reader has taken one of them."""
    found: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for split in splits:
        for video in split.videos:
            if video.patient_known:
                found[patient_key(video.patient)][video.patient].add(split.name)
    rows = [
        (repr(name), ", ".join(sorted(in_splits)))
        for _, names in sorted(found.items())
        if len(names) > 1
        for name, in_splits in sorted(names.items())
    ]
    return Table("Patients written in several ways, taken as one patient", ("patient", "splits"), rows)


def _dicom_patient(video: Video, names_nobody: Callable[[str], bool]) -> str | None:
    """`patient_token` of a video's DICOM file; None if it is another file, or names nobody."""
    path = Path(video.frames[0].path)
    if video.frames[0].index_in_file is None or not is_dicom(path):
        return None
    from ultravid.datasets.readers.dicom import patient_token  # half a second, for those who have DICOM files

    return patient_token(path, names_nobody)


def _shared_dicom_patients(seen: _Seen, names_nobody: Callable[[str], bool]) -> Table:
    """Videos of two splits whose DICOM files have the same patient's id, whatever their names; the id is not shown."""
    by_token: dict[str, dict[int, str]] = defaultdict(dict)
    for video, split in zip(seen.videos, seen.split_of, strict=True):
        token = _dicom_patient(video, names_nobody)
        if token is not None:
            by_token[token].setdefault(split, video.video_id)
    rows = [
        (f"{seen.splits[a].name}: {by_split[a]}", f"{seen.splits[b].name}: {by_split[b]}")
        for by_split in by_token.values()
        for a, b in itertools.combinations(sorted(by_split), 2)
    ]
    return Table("DICOM files of one patient in two splits", ("video", "video"), sorted(rows), leak=True)


def _identical(seen: _Seen) -> tuple[Table, Table]:
    """Frames whose pixels are equal: in two splits, and in two videos of one split.

    Blank frames are all equal, and don't count as copies.
    """
    by_content: dict[bytes, list[int]] = defaultdict(list)
    for n in np.flatnonzero(~seen.blank):
        by_content[seen.frames.exact[n]].append(int(n))
    pairs: dict[tuple[int, int], tuple[int, int, int]] = {}
    for frames in by_content.values():
        first_of_video = {seen.places[n].video: n for n in reversed(frames)}
        for a, b in itertools.combinations(sorted(first_of_video), 2):
            number, *example = pairs.get((a, b), (0, first_of_video[a], first_of_video[b]))
            pairs[a, b] = (number + 1, example[0], example[1])
    columns = ("video", "video", "equal frames", "example")
    return _split_pairs(
        seen,
        [(a, b, (str(number), f"{seen.name(i)} = {seen.name(j)}"), (i, j)) for (a, b), (number, i, j) in pairs.items()],
        ("Identical frames in two splits", "Identical frames in two videos of a split"),
        columns,
    )


def _near(seen: _Seen) -> tuple[Table, Table]:
    """Frames that are nearly equal: in two splits, and of two patients in one split."""
    identities = patient_identities(seen.videos)
    numbers = {p: k for k, p in enumerate(dict.fromkeys(identities))}
    found: list[NearDuplicate] = []
    if seen.places:
        found = find_near_duplicates(
            seen.frames,
            [p.video for p in seen.places],
            [p.split for p in seen.places],
            [numbers[identities[p.video]] for p in seen.places],
        )
    rows = []
    for d in found:
        i, j = d.frames
        if seen.frames.exact[i] == seen.frames.exact[j]:
            continue  # reported as identical
        what = (str(d.num_pairs), f"{d.correlation:.3f}", f"{seen.name(i)} ~ {seen.name(j)}")
        rows.append((d.groups[0], d.groups[1], what, (i, j)))
    columns = ("video", "video", "pairs", "correlation", "most similar")
    titles = ("Near-duplicate frames in two splits", "Near-duplicate frames of two patients in a split")
    return _split_pairs(seen, rows, titles, columns)


def _split_pairs(
    seen: _Seen,
    pairs: Sequence[tuple[int, int, tuple[str, ...], tuple[int, int]]],
    titles: tuple[str, str],
    columns: tuple[str, ...],
) -> tuple[Table, Table]:
    """(pairs across splits, pairs inside one split), with images of the first pairs."""
    tables = []
    for across in (True, False):
        chosen = [p for p in pairs if (seen.split_of[p[0]] != seen.split_of[p[1]]) == across]
        rows = [(_title(seen, a), _title(seen, b), *what) for a, b, what, _ in chosen]
        examples = [
            Example(f"{seen.name(i)} | {seen.name(j)}", (seen.image(i), seen.image(j)))
            for _, _, _, (i, j) in chosen[:_EXAMPLES]
        ]
        tables.append(Table(titles[0 if across else 1], columns, rows, examples, leak=across))
    return tables[0], tables[1]


def _title(seen: _Seen, video: int) -> str:
    return f"{seen.splits[seen.split_of[video]].name}: {seen.videos[video].video_id}"


def _describe_rejected(faults: Sequence[Fault]) -> str:
    """How often each kind of fault was found, in a sentence; "" without faults."""
    numbers: Counter[str] = Counter()
    for fault in faults:
        numbers[fault.kind] += fault.number
    if not numbers:
        return ""
    kinds = ", ".join(f"{kind} ({number})" for kind, number in numbers.most_common())
    return f"Not all of the data could be used: {kinds}."


def _fault_table(faults: Sequence[Fault], title: str) -> Table:
    """A row for each kind of fault in each file, with the first few; the page lists all."""
    order: Counter[str] = Counter()
    groups: dict[tuple[str, str], list[Fault]] = defaultdict(list)
    for fault in faults:
        order[fault.kind] += fault.number
        groups[fault.kind, fault.file].append(fault)
    kinds = sorted(groups, key=lambda key: (-order[key[0]], key))
    rows = []
    for kind, file in kinds:
        same = groups[kind, file]
        text = "; ".join(f.message for f in same[:_FIRST_FAULTS]) + ("; ..." if len(same) > _FIRST_FAULTS else "")
        rows.append((kind, text, str(sum(f.number for f in same)), file))
    every = [(f.kind, f.message, f.file) for key in kinds for f in groups[key]]
    several = [kind for kind, number in Counter(kind for kind, _ in kinds).items() if number > 1]
    note = "; ".join(f"{kind}: {order[kind]} in all files" for kind in several)
    columns = ("kind", "what and where (the first few)", "number", "file")
    return Table(title, columns, rows, note=note, every=every if len(every) > len(rows) else ())


def _frozen_pictures(seen: _Seen) -> Table:
    """Frames equal to the one before."""
    repeats: dict[int, list[int]] = defaultdict(list)
    for n in range(1, len(seen.places)):
        a, b = seen.places[n - 1], seen.places[n]
        if a.video == b.video and b.frame == a.frame + 1 and seen.frames.exact[n] == seen.frames.exact[n - 1]:
            repeats[b.video].append(b.frame)
    rows = []
    for video, frames in repeats.items():
        longest = max(_stretches(frames), key=lambda s: s[1] - s[0])
        rows.append((_title(seen, video), str(len(frames)), f"{longest[0] - 1} to {longest[1]}"))
    return Table("Frames equal to the one before", ("video", "such frames", "longest stretch, frames"), rows)


def _stretches(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, last) of each run of rising numbers."""
    first = last = numbers[0]
    for n in numbers[1:]:
        if n != last + 1:
            yield first, last
            first = n
        last = n
    yield first, last


def _frozen_boxes(splits: Sequence[Split], frozen_frames: int) -> Table:
    rows: list[tuple[str, ...]] = []
    examples: list[Example] = []
    for split in splits:
        for video in split.videos:
            for track, first, last in _still_boxes(video, frozen_frames):
                rows.append(
                    (f"{split.name}: {video.video_id}", str(track), f"{first} to {last}", str(last - first + 1))
                )
                if len(examples) < _EXAMPLES and (example := _drawn(video, (first, last))) is not None:
                    examples.append(example)
    columns = ("video", "track", "frames", "number")
    return Table(f"Boxes that stay the same over {frozen_frames} frames or more", columns, rows, examples)


def _still_boxes(video: Video, frozen_frames: int) -> Iterator[tuple[int, int, int]]:
    """(track, first, last) of stretches in which a track's box does not change."""
    running: dict[int, tuple[int, tuple[float, ...]]] = {}
    for t in range(len(video) + 1):
        now = _boxes_of(video.frames[t]) if t < len(video) else {}
        for track, (first, box) in list(running.items()):
            if now.get(track) != box:
                del running[track]
                if t - first >= frozen_frames:
                    yield track, first, t - 1
        for track, box in now.items():
            running.setdefault(track, (t, box))


def _boxes_of(frame: Frame) -> dict[int, tuple[float, ...]]:
    return {int(t): tuple(b) for t, b in zip(frame.track_ids, frame.boxes.tolist(), strict=True)}


def _blank(seen: _Seen) -> Table:
    numbers = Counter(seen.places[n].video for n in np.flatnonzero(seen.blank))
    rows = [(_title(seen, video), str(number)) for video, number in numbers.items()]
    return Table("Frames that show nothing (one grey level)", ("video", "such frames"), rows)


def _picture(video: Video, t: int) -> ImageArray:
    """A frame for the page; black if a patient's name may be burnt into it."""
    image = read_frame_image(video, t)
    return np.zeros_like(image) if video.may_show_text else image


def _hidden(seen: _Seen) -> Table:
    rows = [(v.video_id, v.frames[0].path) for v in seen.videos if v.may_show_text]
    note = (
        "Black on this page. To see them, black out the text: of files that state a region, --option blank_outside_region=true; of any "
        "file, by device and image size, --option masks=TABLE. See docs/dicom.md."
    )
    return Table(
        "Names and dates may be burnt into the frames of these DICOM files", ("video", "file"), rows, note=note
    )


def _drawn(video: Video, frames: Sequence[int]) -> Example | None:
    """Frames with their boxes."""
    images = []
    for t in frames:
        try:
            image = _picture(video, t).copy()
        except DataError:
            return None  # reported among the faults
        draw_boxes(image, video.frames[t].boxes.tolist(), TRUTH)
        images.append(image)
    return Example(f"{video.video_id} frames {', '.join(map(str, frames))}", images)


def _samples(splits: Sequence[Split]) -> Table:
    """Some frames of each split, those with boxes first."""
    examples: list[Example] = []
    for split in splits:
        step = max(1, len(split.videos) // 4)
        for video in split.videos[::step][:4]:
            boxed = [t for t, f in enumerate(video.frames) if len(f.boxes)]
            example = _drawn(video, [boxed[len(boxed) // 2] if boxed else len(video) // 2])
            examples += [Example(f"{split.name}: {example.caption}", example.images)] if example else []
    return Table("Some frames", (), [], examples)
