"""Videos, their frames and annotations, as readers return them before any image is opened.

Legend: ``N`` lesions in a frame, ``M`` in all frames of a video; ``R`` regions to ignore in a frame.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
from numpy.typing import NDArray

from ultravid.datasets.frame_times import FrameTimes, frame_times, order_fault
from ultravid.utils.errors import UserError

__all__ = ["DataError", "Frame", "FrameView", "PackedFrames", "Video"]


class DataError(UserError):
    """Data on disk can't be used; the message names file, video and frame."""


_NO_NUMBER = np.iinfo(np.int64).min


def _no_boxes() -> NDArray[np.float32]:
    return np.zeros((0, 4), np.float32)


def _no_ids() -> NDArray[np.int64]:
    return np.zeros(0, np.int64)


def _no_flags() -> NDArray[np.bool_]:
    return np.zeros(0, np.bool_)


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame of a video.

    Attributes:
        path: the image's file, or the movie or DICOM file that holds the frame.
        image_id: its id in the annotation file.
        height: pixels, of the part inside ``crop`` if there is one.
        width: pixels, of the same part.
        boxes: ``(N, 4)`` float32, XYXY in pixels, inside the frame, not empty.
        classes: ``(N,)`` int64, from 0.
        track_ids: ``(N,)`` int64, one id per lesion along the video.
        index_in_file: which of the file's frames, from 0; None if the file is one image.
        crop: (x1, y1, x2, y2), the part of the file's image that is the frame; None: all of it.
        blanked: (x1, y1, x2, y2) of parts of the file's image that are blacked out when it is read, before it is cropped.
        number: the number of the frame along the film, of `Video.fps` numbers a second; numbers rise and may have gaps. None: its place in
            the video.
        time_s: its own time stamp, seconds from the film's start; None: its number over the frame rate.
        bits: how many bits of a 16-bit image's channels are used, of which the upper 8 are kept; one number for all images of a
            recording, and for all stills of a data set. None: the file's channels have 8 bits, or it is to be found in the file.
        ignored: ``(R, 4)`` float32, as ``boxes``: regions that are no lesion, and in which a detection is neither right nor wrong.
            Evaluation leaves such detections out; training treats the regions as background.
        ignored_crowds: ``(R,)`` bool, whether a region holds many objects: a detection inside it then overlaps it, however small.
    """

    path: str
    image_id: int
    height: int
    width: int
    boxes: NDArray[np.float32] = field(default_factory=_no_boxes)
    classes: NDArray[np.int64] = field(default_factory=_no_ids)
    track_ids: NDArray[np.int64] = field(default_factory=_no_ids)
    index_in_file: int | None = None
    crop: tuple[int, int, int, int] | None = None
    blanked: tuple[tuple[int, int, int, int], ...] = ()
    number: int | None = None
    time_s: float | None = None
    bits: int | None = None
    ignored: NDArray[np.float32] = field(default_factory=_no_boxes)
    ignored_crowds: NDArray[np.bool_] = field(default_factory=_no_flags)


@dataclass(frozen=True)
class FrameView:
    """What of a file's images a frame shows, so that its picture can be read again from another place (`read_frame_view`).

    Attributes:
        height, width, index_in_file, crop, blanked, bits: as those of `Frame`.
        may_show_text: as that of `Video`.
    """

    height: int
    width: int
    index_in_file: int | None = None
    crop: tuple[int, int, int, int] | None = None
    blanked: tuple[tuple[int, int, int, int], ...] = ()
    bits: int | None = None
    may_show_text: bool = False


class _PackedPaths:
    """Paths by number; folders, and names that are repeated, are stored once."""

    def __init__(self, paths: Sequence[str]) -> None:
        distinct = {path: n for n, path in enumerate(dict.fromkeys(paths))}
        heads = {path: path[: len(path) - len(os.path.basename(path))] for path in distinct}
        folders = {head: n for n, head in enumerate(dict.fromkeys(heads.values()))}
        names = [path[len(heads[path]) :].encode("utf-8", "surrogateescape") for path in distinct]
        self._folders = list(folders)
        self._folder = np.array([folders[heads[path]] for path in distinct], np.int32)
        self._names = b"".join(names)
        self._ends = np.cumsum([0, *(len(name) for name in names)])
        self._path = np.array([distinct[path] for path in paths], np.int32)

    def __getitem__(self, number: int) -> str:
        path = self._path[number]
        name = self._names[self._ends[path] : self._ends[path + 1]]
        return self._folders[self._folder[path]] + name.decode("utf-8", "surrogateescape")


class PackedFrames(Sequence[Frame]):
    """Frames of a video as a few arrays; a `Frame` is made when it is read.

    A hundred thousand `Frame` objects take 70 MB and more, and each process that only reads them ends up with a copy, because
    reading changes reference counts. Packed they take 9 MB, which processes share.

    Args:
        frames: in order; they are read once and not stored.
    """

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._paths = _PackedPaths([frame.path for frame in frames])
        ids = [frame.image_id for frame in frames]
        whole = all(type(i) is int and -(2**63) <= i < 2**63 for i in ids)
        self._image_id = np.array(ids, np.int64) if whole else ids
        self._size = np.array([(frame.height, frame.width) for frame in frames], np.int32).reshape(-1, 2)
        self._box_ends = np.cumsum([0, *(len(frame.boxes) for frame in frames)])
        self._boxes = np.concatenate([_no_boxes(), *(frame.boxes for frame in frames)])
        self._classes = np.concatenate([_no_ids(), *(frame.classes for frame in frames)])
        self._track_ids = np.concatenate([_no_ids(), *(frame.track_ids for frame in frames)])
        self._index_in_file = np.array([-1 if f.index_in_file is None else f.index_in_file for f in frames], np.int64)
        crops = {crop: n for n, crop in enumerate(dict.fromkeys(frame.crop for frame in frames))}
        self._crops = list(crops)
        self._crop = np.array([crops[frame.crop] for frame in frames], np.int32)
        blanked = {parts: n for n, parts in enumerate(dict.fromkeys(frame.blanked for frame in frames))}
        self._blanked_parts = list(blanked)
        self._blanked = np.array([blanked[frame.blanked] for frame in frames], np.int32)
        self._number = np.array([_NO_NUMBER if f.number is None else f.number for f in frames], np.int64)
        self._time_s = np.array([np.nan if f.time_s is None else f.time_s for f in frames], np.float64)
        self._bits = np.array([f.bits or 0 for f in frames], np.int8)
        with_regions = [(n, frame) for n, frame in enumerate(frames) if len(frame.ignored)]
        self._frame_of_region = np.array([n for n, frame in with_regions for _ in frame.ignored], np.int32)
        self._ignored = np.concatenate([_no_boxes(), *(frame.ignored for _, frame in with_regions)])
        self._ignored_crowds = np.concatenate([_no_flags(), *(frame.ignored_crowds for _, frame in with_regions)])

    def __len__(self) -> int:
        return len(self._size)

    @property
    def boxes_per_frame(self) -> NDArray[np.int64]:
        """How many boxes each frame holds."""
        return np.diff(self._box_ends)

    @property
    def num_classes(self) -> int:
        """One more than the largest class of a box; 0 without boxes."""
        return int(self._classes.max(initial=-1)) + 1

    @property
    def bits(self) -> NDArray[np.int8]:
        """``(F,)`` `Frame.bits`, 0 for None."""
        return self._bits

    @property
    def numbers(self) -> NDArray[np.int64]:
        """``(F,)`` number of each frame along the film; the place in the video where none is given."""
        return np.where(self._number == _NO_NUMBER, np.arange(len(self)), self._number)

    @property
    def time_stamps_s(self) -> NDArray[np.float64]:
        """``(F,)`` time stamp of each frame, seconds from the film's start; nan where none is given."""
        return self._time_s

    @overload
    def __getitem__(self, index: int) -> Frame: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Frame, ...]: ...

    def __getitem__(self, index: int | slice) -> Frame | tuple[Frame, ...]:
        """A frame, whose arrays are views of this object's; for a slice, a tuple of frames.

        Raises:
            IndexError: there is no such frame.
        """
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"There is no frame {index}; there are {len(self)}.")
        boxes = slice(self._box_ends[place], self._box_ends[place + 1])
        image_id = self._image_id[place]
        inside = int(self._index_in_file[place])
        regions = slice(0)
        if len(self._frame_of_region):
            regions = slice(*np.searchsorted(self._frame_of_region, (place, place + 1)))
        return Frame(
            path=self._paths[place],
            image_id=int(image_id) if isinstance(image_id, np.integer) else image_id,
            height=int(self._size[place, 0]),
            width=int(self._size[place, 1]),
            boxes=self._boxes[boxes],
            classes=self._classes[boxes],
            track_ids=self._track_ids[boxes],
            index_in_file=None if inside < 0 else inside,
            crop=self._crops[self._crop[place]],
            blanked=self._blanked_parts[self._blanked[place]],
            number=None if self._number[place] == _NO_NUMBER else int(self._number[place]),
            time_s=None if np.isnan(self._time_s[place]) else float(self._time_s[place]),
            bits=int(self._bits[place]) or None,
            ignored=self._ignored[regions],
            ignored_crowds=self._ignored_crowds[regions],
        )

    def __iter__(self) -> Iterator[Frame]:
        return map(self.__getitem__, range(len(self)))


@dataclass(frozen=True, eq=False)
class Video:
    """Frames in temporal order.

    Attributes:
        video_id: unique in its dataset.
        frames: at least one; any sequence is packed (`PackedFrames`).
        patient: the id of the patient; folds keep a patient's videos together. The id of the video if the patient is not known.
        fps: frames per second; None if it is not known.
        metadata: what else is known about the video, under the names ``device``, ``organ``, ``hospital``, ``spacing_mm``
            (millimetres per pixel along a row) and ``spacing_y_mm`` (along a column, if it differs), and any other.
        class_names: the names of the classes that ``Frame.classes`` counts; empty if they are not known.
        static_frames: (first, last) of stretches in which the probe is held still, as far as they are annotated; places among
            ``frames``, from 0.
        patient_known: False if nothing states the patient; ``patient`` is then unique to the video, see
            `ultravid.datasets.patients`.
        may_show_text: True if the frames are of a DICOM file and show more of it than its ultrasound region: the patient's name
            and the date may be burnt in there. Nothing is known about files of other kinds.
        category_ids: the annotation file's id of each of ``class_names``; empty: 1, 2, ... in their order.
        merged_classes: number of boxes by the class that they were annotated with, if the reader read all classes as one.

    Raises:
        DataError: the video has no frame, a frame has not one class and one track id for each box, or the frames' numbers or time
            stamps do not rise, or only some frames have time stamps.
    """

    video_id: str
    frames: Sequence[Frame]
    patient: str
    fps: float | None = None
    metadata: Mapping[str, str | float] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    static_frames: tuple[tuple[int, int], ...] = ()
    patient_known: bool = True
    may_show_text: bool = False
    category_ids: tuple[int | str, ...] = ()
    merged_classes: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.frames, PackedFrames):
            frames = list(self.frames)
            _check_rows(self.video_id, frames)
            object.__setattr__(self, "frames", PackedFrames(frames))
        assert isinstance(self.frames, PackedFrames), "packed above"
        if len(self.frames) > 1:
            fault = order_fault(self.frames.numbers, self.frames.time_stamps_s)
            if fault is not None:
                raise DataError(f"Video {self.video_id!r} frame {fault[0]}: {fault[1]}.")

    @property
    def has_own_times(self) -> bool:
        """Whether frames have time stamps, or numbers other than their places."""
        assert isinstance(self.frames, PackedFrames), "__post_init__ packs them"
        numbers = self.frames.numbers
        return not (np.isnan(self.frames.time_stamps_s).all() and np.array_equal(numbers, np.arange(len(numbers))))

    @property
    def is_even(self) -> bool:
        """Whether neighbouring frames are one frame of the film apart (`FrameTimes.is_even`)."""
        return not self.has_own_times or self.times.is_even

    @property
    def times(self) -> FrameTimes:
        """The time of each frame, computed from time stamps, numbers and rate."""
        assert isinstance(self.frames, PackedFrames), "__post_init__ packs them"
        stamps = self.frames.time_stamps_s
        return frame_times(self.frames.numbers, self.fps or None, None if np.isnan(stamps).any() else stamps)

    @property
    def boxes_per_frame(self) -> NDArray[np.int64]:
        """How many lesion boxes each frame holds."""
        assert isinstance(self.frames, PackedFrames), "__post_init__ packs them"
        return self.frames.boxes_per_frame

    @property
    def num_classes(self) -> int:
        """One more than the largest class of a box; 0 without boxes."""
        assert isinstance(self.frames, PackedFrames), "__post_init__ packs them"
        return self.frames.num_classes

    def view(self, index: int) -> FrameView:
        """What frame ``index`` shows of its file."""
        f = self.frames[index]
        return FrameView(f.height, f.width, f.index_in_file, f.crop, f.blanked, f.bits, self.may_show_text)

    def __len__(self) -> int:
        return len(self.frames)


def _check_rows(video_id: str, frames: Sequence[Frame]) -> None:
    """Refuse what a reader of the user's may have forgotten.

    Raises:
        DataError: there is no frame, or a frame has not one class and one track id for each box.
    """
    if not frames:
        raise DataError(f"Video {video_id!r} has no frame; a video has at least one.")
    for place, frame in enumerate(frames):
        rows = len(frame.boxes), len(frame.classes), len(frame.track_ids)
        if not rows[0] == rows[1] == rows[2]:
            raise DataError(
                f"Video {video_id!r} frame {place}: has {rows[0]} boxes, {rows[1]} classes and {rows[2]} track_ids. Each box has one "
                "class and one track id."
            )
