"""DICOM files, pictures and TIFF files of several pages as streams; they are read frame by frame, by number."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from ultravid.datasets.frame_times import ASSUMED_FPS
from ultravid.datasets.image_headers import read_image_header
from ultravid.datasets.readers.images import SKIPPED_NUMBERS, ImageFolderSource, skipped_numbers
from ultravid.datasets.readers.sidecar import (
    OTHER_CLOCK,
    OTHER_RATE,
    Sidecar,
    read_sidecar,
    sidecar_path,
    states_other_rate,
    trusted_times,
)
from ultravid.datasets.readers.source import FrameSource, ImageArray
from ultravid.datasets.safe_files import open_regular
from ultravid.datasets.video import DataError
from ultravid.serving.records import TimedFrame
from ultravid.serving.sources.ahead import ReadAhead
from ultravid.serving.sources.showing import Show

__all__ = ["FrameStream", "open_dicom", "open_pictures", "open_stack"]

_ASSUMED = "recordings do not state at which rate they were taken"
_MICROSECOND = Fraction(1, 1_000_000)
_LARGEST_DENOMINATOR = 1_000_000
_ULTRASOUND = ("US", "IVUS")
_ANY_MODALITY = ("", "OT", "SC")  # of frames that were exported by another program


class FrameStream:
    """The frames of a `FrameSource` as a `RecordingStream`. Frames that can't be read are left out, counted, and keep their number.

    Args:
        source: the source of whole images.
        name: see `RecordingStream`.
        show: chooses what is shown of the images.
        vid_stride: give every n-th frame only.
        damage: what of the source is known to be damaged.

    Raises:
        DataError: the sidecar can't be used, or no frame can be read.
    """

    is_live = False
    states_num_frames = True

    def __init__(
        self, source: FrameSource, name: str, show: Show, *, vid_stride: int = 1, damage: Sequence[DataError] = ()
    ) -> None:
        self.path: Path = source.path
        self.name = name
        self._source = source
        self._numbers = range(0, len(source), vid_stride)
        self._known_damage = [str(error) for error in damage]
        self._unread: list[str] = []  # the first message
        self._num_unread = 0
        self._ahead: ReadAhead[TimedFrame] | None = None
        self._is_used = False
        sidecar = read_sidecar(source.path)
        self.size = source.size
        self.regions = source.regions
        self.metadata: Mapping[str, str | float] = {**source.metadata, **sidecar.metadata}
        self.shown = show(self, str(self.metadata.get("device", "")))
        fps = sidecar.fps or source.fps
        self.fps = fps / vid_stride if fps else None
        self.num_frames = len(self._numbers)
        self._interval_s, is_exact = _interval_s(fps or ASSUMED_FPS)
        self._times_s = trusted_times(source, sidecar)
        self.time_base: Fraction | None = self._interval_s if is_exact else None
        if self._times_s is not None:
            are_ticks = all(abs(t * 1e6 - round(t * 1e6)) < 1e-3 for t in self._times_s)
            self.time_base = _MICROSECOND if are_ticks else None
        self.repairs: Sequence[tuple[str, str]] = _repairs(source, sidecar, fps)
        self._first = next(self._readable(), None)
        if self._first is None:
            raise DataError(self._unread[0])

    @property
    def damage(self) -> Sequence[str]:
        """As `RecordingStream.damage`."""
        of = f"({self._num_unread} of {len(self._source)} frames can't be read)"
        return [*self._known_damage, *(f"{text.rstrip('.')} {of}." for text in self._unread)]

    def __iter__(self) -> Iterator[TimedFrame]:
        """As `RecordingStream.__iter__`."""
        if self._is_used:
            raise RuntimeError(f"{self.path}: its frames were given already; open it again.")
        self._is_used = True
        self._ahead = ReadAhead(self._frames())
        return self._ahead

    def close(self) -> None:
        """As `RecordingStream.close`."""
        self._is_used = True
        if self._ahead is not None:
            self._ahead.close()
        self._source.close()

    def _frames(self) -> Generator[TimedFrame]:
        assert self._first is not None
        first, self._first = self._first, None
        yield self._timed(*first)
        for number, image in self._readable(first[0] + 1):
            yield self._timed(number, image)

    def _timed(self, number: int, image: ImageArray) -> TimedFrame:
        pts_s = float(number * self._interval_s) if self._times_s is None else float(self._times_s[number])
        return TimedFrame(number, pts_s, image)

    def _readable(self, start: int = 0) -> Iterator[tuple[int, ImageArray]]:
        for number in self._numbers:
            if number < start:
                continue
            try:
                image = self._source.read(number)
            except DataError as error:
                self._num_unread += 1
                if not self._unread:
                    self._unread.append(str(error))
                continue
            yield number, image


def _interval_s(fps: float) -> tuple[Fraction, bool]:
    """The interval between frames in seconds, and whether it is the fraction that the rate was made of."""
    interval = Fraction(1 / fps).limit_denominator(_LARGEST_DENOMINATOR)
    is_exact = interval > 0 and abs(float(interval) * fps - 1) < 1e-9
    return (interval, True) if is_exact else (1 / Fraction(fps), False)


def _repairs(source: FrameSource, sidecar: Sidecar, fps: float | None) -> list[tuple[str, str]]:
    found = list(source.repairs)
    if states_other_rate(source, sidecar):
        kind = OTHER_RATE if source.times_s is None else OTHER_CLOCK
        name = sidecar_path(source.path).name
        found.append((kind, f"states {source.fps:g} frames/s, {name} {sidecar.fps:g}"))
    if isinstance(source, ImageFolderSource):
        if (skipped := skipped_numbers(source.files)) is not None:
            found.append((SKIPPED_NUMBERS, skipped))
        if source.significant_bits is not None and source.significant_bits.guess is not None:
            found.append(source.significant_bits.guess)
    if fps is None and len(source) > 1:
        found.append(
            (_ASSUMED, f"taken as {ASSUMED_FPS:g} frames a second; {sidecar_path(source.path).name} can state the fps")
        )
    return found


def open_pictures(path: Path, name: str, show: Show, *, vid_stride: int = 1) -> FrameStream:
    """A folder of pictures in natural order as one recording, or one picture.

    Raises:
        DataError: pictures have different sizes, or none can be read.
    """
    source = ImageFolderSource(path)
    _refuse_mixed_sizes(source)
    return FrameStream(source, name, show, vid_stride=vid_stride)


def _refuse_mixed_sizes(source: ImageFolderSource) -> None:
    height, width = source.size
    first = source.files[0]
    for file in source.files[1:]:
        try:
            with open_regular(file) as opened:
                header = read_image_header(opened)
        except OSError:
            continue  # reading it says so
        if header is not None and header.fault is None and header.size not in (None, source.size):
            assert header.size is not None
            raise DataError(
                f"{source.path}: holds pictures of different sizes: {first.name} is {width}x{height} px, {file.name} is "
                f"{header.size[1]}x{header.size[0]} px. A recording has one size: put pictures of another size into another folder."
            )


def open_stack(path: Path, name: str, show: Show, *, vid_stride: int = 1) -> FrameStream:
    """A TIFF of several pages as a recording.

    Raises:
        DataError: no page can be read.
    """
    from ultravid.datasets.readers.stacks import StackSource

    return FrameStream(StackSource(path), name, show, vid_stride=vid_stride)


def open_dicom(path: Path, name: str, show: Show, *, vid_stride: int = 1) -> FrameStream:
    """A DICOM file of one or many frames; of a damaged one the frames that are whole.

    Raises:
        DataError: it is not an ultrasound image, or no frame can be read.
    """
    from ultravid.datasets.readers.dicom import DicomSource

    _refuse_other_modality(path)
    source = DicomSource(path, keep_whole=True)
    return FrameStream(source, name, show, vid_stride=vid_stride, damage=source.damage)


def _refuse_other_modality(path: Path) -> None:
    from ultravid.datasets.readers.dicom_file import read_tags  # pydicom takes half a second to import

    header = read_tags(path, ["Modality"])
    try:
        modality = str(header.get("Modality") or "").strip().upper()
    except Exception:  # a value that can't be converted says nothing
        return
    if modality in (*_ULTRASOUND, *_ANY_MODALITY):
        return
    stated = modality if modality.isalnum() and len(modality) <= 16 else "another one"
    raise DataError(f"{path}: is not an ultrasound image: its modality is {stated}, not US or IVUS.")
