"""Opens movie files with FFmpeg: formats, choice of the stream, and the numbers that a file states."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

import av
from av.stream import Disposition

from ultravid.datasets.bounds import frame_size_fault
from ultravid.datasets.image_headers import read_image_header
from ultravid.datasets.safe_files import open_regular
from ultravid.datasets.video import DataError

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

__all__ = ["Announced", "end_fault", "ffmpeg_reason", "find_announced", "open_movie"]

# Films in one file. Play lists (HLS, concat, SDP), patterns of images, devices and subtitles are not among them: they lead FFmpeg to
# other files or into the net. As the file is opened here and FFmpeg gets its bytes, it has no need of any protocol.
_OPTIONS: Final = {
    "format_whitelist": "asf,avi,dv,flv,gif,h264,hevc,ivf,m4v,matroska,mov,mpeg,mpegts,mpegvideo,mxf,nut,ogg,rm,vc1,yuv4mpegpipe",
    "protocol_whitelist": "none",
}
_EINVAL = 22


class _Bytes:
    """A file's bytes, as FFmpeg asks for them. The file is closed with the last reference, as FFmpeg's own would be."""

    def __init__(self, path: Path) -> None:
        with open_regular(path) as file:
            self._number = os.dup(file.fileno())
        self.name = path.name

    def read(self, size: int) -> bytes:
        return os.read(self._number, size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self._number, offset, whence)

    def tell(self) -> int:
        return os.lseek(self._number, 0, os.SEEK_CUR)

    def close(self) -> None:
        if self._number >= 0:
            os.close(self._number)
            self._number = -1

    def __del__(self) -> None:
        if hasattr(self, "_number"):
            self.close()


def open_movie(path: Path, stream_index: int | None = None) -> tuple[InputContainer, VideoStream]:
    """Open a movie and choose its film.

    Args:
        path: the file.
        stream_index: of the container's streams, if it was chosen before.

    Returns:
        the container and the stream.

    Raises:
        DataError: it can't be opened, or holds no film.
    """
    try:
        file = _Bytes(path)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}).") from error
    try:
        container = av.open(file, "r", options=dict(_OPTIONS))
    except (av.FFmpegError, OSError, ValueError) as error:
        cut = "; it is truncated" if _is_cut_before_its_index(path) else ""
        raise DataError(f"{path}: can't be opened as a movie: {ffmpeg_reason(error)}{cut}.") from error
    try:
        stream = _choose(path, container) if stream_index is None else container.streams.video[stream_index]
        height, width = stream.codec_context.height, stream.codec_context.width
        fault = frame_size_fault(height, width) if height or width else "it does not state how large its frames are"
        if fault is not None:
            raise DataError(f"{path}: can't be read: {fault}.")
    except BaseException:
        container.close()
        raise
    # Loaders parallelise by processes, and FFmpeg's own threads would not survive a fork.
    stream.codec_context.thread_count = 1
    return container, stream


def _choose(path: Path, container: InputContainer) -> VideoStream:
    """The film of largest frames, the first of several; a cover picture is none, nor is one that a container has as a film of one frame."""
    if not container.streams.video:
        raise DataError(f"{path}: has no video stream.")
    films = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not films:
        raise DataError(f"{path}: has no video stream but a cover picture.")
    films = [s for s in films if s.codec_context is not None]
    if not films:
        raise DataError(f"{path}: can't be read: FFmpeg does not know the codec of its film.")
    return max(films, key=lambda s: (not _is_still(s), s.codec_context.height * s.codec_context.width))


def _is_still(stream: VideoStream) -> bool:
    """Whether a stream is stated to have one frame, as a cover picture that FFmpeg wrote to a Matroska file has."""
    lasts_s = _clock_seconds(str(stream.metadata.get("DURATION", "")))
    return stream.frames == 1 or (lasts_s is not None and lasts_s * float(stream.average_rate or 0) < 1.5)


def ffmpeg_reason(error: Exception) -> str:
    """What an error of FFmpeg says, without the file's name."""
    if getattr(error, "errno", None) == _EINVAL:
        return "it is of a kind that is not read, such as a play list, or is damaged"
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")


@dataclass(frozen=True)
class Announced:
    """What a container states about its film before it is decoded.

    Attributes:
        frames: how many there are; None if it is not stated.
        end_s: when the last one ends, in seconds of the container's clock; None if it is not stated.
        is_whole: whether the file is as long as it says; None if it does not say how long it is.
        of_all_streams: whether ``end_s`` may be that of the sound.
        rate: frames per second as the container states or FFmpeg estimates them; 0 if neither.
        untimed_frames: how many frames state no duration, so that FFmpeg gives them one.
    """

    frames: int | None
    end_s: float | None
    is_whole: bool | None
    of_all_streams: bool = False
    rate: float = 0.0
    untimed_frames: int = 0

    @property
    def frames_text(self) -> str | None:
        """How many frames are announced, or follow from the end; None if nothing is announced."""
        if self.frames is not None:
            return f"{self.frames} frames"
        return f"about {round(self.end_s * self.rate)} frames" if self.end_s and self.rate else None


def find_announced(path: Path, container: InputContainer, stream: VideoStream) -> Announced:
    """What a movie announces."""
    name = container.format.name
    start_s = float((stream.start_time or 0) * (stream.time_base or 0))
    frames = stream.frames or None
    rate = float(stream.average_rate or 0)
    if name == "avi":  # FFmpeg corrects the duration of a truncated file, and not the number of frames
        return Announced(frames, frames / rate if frames and rate else None, _is_whole(path, _end_of_riff), rate=rate)
    if name.startswith("mov"):
        end = start_s + float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
        return Announced(frames, end, _is_whole(path, _end_of_boxes), rate=rate)
    if name.startswith("matroska"):
        tagged = _clock_seconds(str(stream.metadata.get("DURATION", "")))
        whole = container.duration / av.time_base if container.duration else None
        return Announced(
            None, tagged or whole, _is_whole(path, _end_of_segment), of_all_streams=tagged is None, rate=rate
        )
    if name in ("flv", "asf"):
        end = container.duration / av.time_base if container.duration else None
        end_of = _end_of_asf if name == "asf" else _end_if_inside_a_tag
        return Announced(None, end, _is_whole(path, end_of), of_all_streams=True, rate=rate)
    if name == "gif":
        with open_regular(path) as file:
            header = read_image_header(file)
        if header is None:
            return Announced(None, None, None, rate=rate)
        return Announced(header.num_frames, None, header.is_whole, rate=rate, untimed_frames=header.untimed_frames)
    return Announced(None, None, _is_whole(path, _end_if_inside_a_triplet) if name == "mxf" else None)


def end_fault(path: Path, format_name: str, announced: Announced) -> str | None:
    """Why the end of a file shows that a part is missing, where no length of the film is announced; None if it does not.

    Args:
        path: the file.
        format_name: FFmpeg's.
        announced: what the file announces.
    """
    if format_name == "gif":
        return None if announced.is_whole else "has no end mark"
    if announced.is_whole is False and (
        announced.frames is None if format_name.startswith("mov") else announced.end_s is None
    ):
        return "ends before its last part does"  # an MP4 in fragments; a Matroska file that was being written
    with open_regular(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        head = file.read(5)
        file.seek(max(0, size - (1 << 17)))
        tail = file.read()
    if format_name == "mpegts" and size % (188 if head[:1] == b"G" else 192):
        return "ends in the middle of a packet"
    if format_name == "mpeg" and _ends_inside_a_packet(tail):
        return "ends in the middle of a packet"
    if format_name == "ogg":
        last = tail.rfind(b"OggS")
        if last < 0 or not tail[last + 5 : last + 6] or not tail[last + 5] & 4:
            return "has no end mark"
    return None


def _ends_inside_a_packet(tail: bytes) -> bool:
    """Whether the last packet of an MPEG program stream is cut off."""
    at = tail.rfind(b"\0\0\x01\xba")  # the header of the last pack; no packet's content looks like it
    if at < 0:
        return False
    is_mpeg_2 = tail[at + 4 : at + 5] >= b"\x40"
    at += 14 + (tail[at + 13] & 7) if is_mpeg_2 and len(tail) > at + 13 else 12
    while tail[at : at + 3] == b"\0\0\x01" and tail[at + 3 : at + 4] >= b"\xbb":
        at += 6 + int.from_bytes(tail[at + 4 : at + 6], "big")
    return at > len(tail)


def _clock_seconds(text: str) -> float | None:
    try:
        hours, minutes, seconds = (float(part) for part in text.split(":"))
    except ValueError:
        return None
    return 3600 * hours + 60 * minutes + seconds


def _is_whole(path: Path, end_of: Callable[[BinaryIO, int], int | None]) -> bool | None:
    """Whether a file has all of the bytes that it states; None if it states no number."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            end = end_of(file, size)
        except (struct.error, IndexError):
            return False
    return None if end is None else size >= end


def _is_cut_before_its_index(path: Path) -> bool:
    """Whether an MP4, whose index mostly is at its end, ends before its last part does."""
    with open_regular(path) as file:
        head = file.read(8)
    return head[4:8] in (b"ftyp", b"mdat", b"wide") and _is_whole(path, _end_of_boxes) is False


def _end_of_riff(file: BinaryIO, _size: int) -> int | None:
    (length,) = struct.unpack("<4xI", file.read(8))
    return 8 + length if 0 < length < 0xFFFFFFF0 else None


def _end_of_boxes(file: BinaryIO, size: int) -> int | None:
    """Where the last of an MP4's boxes ends."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        (length,) = struct.unpack(">I4x", file.read(8))
        if length == 1:
            (length,) = struct.unpack(">Q", file.read(8))
        if length == 0:  # up to the end of the file
            return None
        if length < 8:  # no box: bytes after the last one
            return at
        at += length
    return at


def _end_of_segment(file: BinaryIO, size: int) -> int | None:
    """Where a Matroska file's segment ends; if its length was not known when it was written, where an element ends that is cut off."""
    head = file.read(4096)
    at = 4
    length, at = _ebml_number(head, at)
    at += length or 0
    if head[at : at + 4] != b"\x18\x53\x80\x67":
        return None
    length, at = _ebml_number(head, at + 4)
    if length is not None:
        return at + length
    while at < size:  # elements; one of unknown length is a cluster, and those in it follow
        file.seek(at)
        head = file.read(16)
        width = 9 - head[0].bit_length()  # of its id
        if width > 4:  # no element: bytes after the last one
            return None
        length, start = _ebml_number(head.ljust(16, b"\0"), width)
        at += start + (length or 0)
    return at if at > size else None


def _ebml_number(data: bytes, at: int) -> tuple[int | None, int]:
    width = 9 - data[at].bit_length()
    value = int.from_bytes(data[at : at + width], "big") & ((1 << 7 * width) - 1)
    return (None if value == (1 << 7 * width) - 1 else value), at + width


def _end_of_asf(file: BinaryIO, _size: int) -> int | None:
    head = file.read(1 << 16)
    at = head.find(b"\xa1\xdc\xab\x8c\x47\xa9\xcf\x11\x8e\xe4\x00\xc0\x0c\x20\x53\x65")  # the file's properties
    if at < 0:
        return None
    size, flags = struct.unpack("<Q40xI", head[at + 40 : at + 92])
    return None if flags & 1 else size  # 1: it was broadcast


def _end_if_inside_a_tag(file: BinaryIO, size: int) -> int | None:
    """Where the last tag of an FLV file ends, if that is beyond the file."""
    head = file.read(9)
    at = int.from_bytes(head[5:9], "big") + 4
    while at < size:
        file.seek(at)
        head = file.read(11)
        if head[:1] not in (b"\x08", b"\x09", b"\x12"):  # of sound, film and notes
            return None
        at += 11 + int.from_bytes(head[1:4], "big") + 4
    return at if at - 4 > size else None  # 4: some writers leave out the length after the last one


def _end_if_inside_a_triplet(file: BinaryIO, size: int) -> int | None:
    """Where the last triplet of key, length and value of an MXF file ends, if that is beyond the file."""
    at = 0
    while at < size:
        file.seek(at)
        head = file.read(25).ljust(25, b"\0")
        if not head.startswith(b"\x06\x0e\x2b\x34"):
            return None
        width = head[16] & 0x7F if head[16] & 0x80 else 0  # bytes of the length, if it does not fit in one
        at += 17 + width + (int.from_bytes(head[17 : 17 + width], "big") if width else head[16])
    return at if at > size else None
