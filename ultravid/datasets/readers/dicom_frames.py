"""Finds the frames of a DICOM file: counts them from the bytes, and compares with the number that the file states.

A number in a header is a claim. Uncompressed frames have one size, so their number follows from the number of bytes; a
compressed frame begins with its codec's marker.

Sources: DICOM PS3.5 A.4 (fragments and offset tables), G (RLE), PS3.3 C.7.6.3 (pixel data).
"""

from __future__ import annotations

import itertools
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.uid import JPEG2000TransferSyntaxes, RLELossless

from ultravid.datasets.bounds import MAX_FRAMES
from ultravid.datasets.readers.dicom_file import UNDEFINED_LENGTH, DicomHeader
from ultravid.datasets.safe_files import open_regular
from ultravid.datasets.video import DataError

__all__ = ["Span", "check_size", "codestream_size", "find_frames", "fragments_as_sequence", "joined"]

_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_HEAD = 1024  # bytes of a frame that are looked at; a JPEG's size stands within the first 700 unless it has notes
_END_OF_IMAGE = b"\xff\xd9"  # of JPEG, JPEG-LS and JPEG 2000
_JPEG_SIZES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # markers of a segment that holds the size; F7 is JPEG-LS

Span = tuple[int, int]
"""(first byte in the file, number of bytes) of a frame; of a compressed one with the tags of its fragments."""


@dataclass(frozen=True)
class _Fragment:
    at: int  # of its tag, in the file
    length: int  # without its tag
    begins_frame: bool
    size: tuple[int, int] | None  # that a compressed image states about itself
    tail: bytes

    @property
    def ends_frame(self) -> bool:
        """Whether a JPEG, JPEG-LS or JPEG 2000 ends with it; RLE has no mark at its end."""
        return self.tail.rstrip(b"\0").endswith(_END_OF_IMAGE)


def find_frames(
    header: DicomHeader,
    size: tuple[int, int],
    frame_bits: int,
    is_subsampled: bool,
    damage: list[DataError] | None = None,
) -> tuple[list[Span], list[tuple[str, str]]]:
    """The frames of a file and what is to be said about their number.

    A damaged frame is an error, unless ``damage`` is given: then it is added to it. Frames are counted up to one that is not whole in the
    file; one whose own size or end is wrong is among them, and its decoder refuses it.

    Args:
        header: the header of the file.
        size: (height, width) that it states.
        frame_bits: bits of an uncompressed frame.
        is_subsampled: whether its colours are stated to be subsampled.
        damage: takes what is wrong with frames behind the first.

    Raises:
        DataError: the file is truncated, a frame is incomplete or of another size, or the beginnings of the frames are not known.
    """
    if header.transfer_syntax.is_encapsulated:
        spans, repairs = _compressed(header, size, damage)
    else:
        spans, repairs = _uncompressed(header, frame_bits, is_subsampled, damage)
    return spans, [*([] if damage else _compare(header, len(spans))), *repairs]


def _announced(header: DicomHeader) -> int | None:
    return header.whole("NumberOfFrames")


def _compare(header: DicomHeader, held: int) -> list[tuple[str, str]]:
    announced = _announced(header)
    if announced == held or (held == 1 and not header.has("NumberOfFrames")):
        return []
    if announced is not None:
        said = f"announces {_frames(announced)}"
    elif header.has_content("NumberOfFrames"):
        said = "announces frames by what is not a number"
    else:
        said = "announces no number of frames"
    kind = "DICOM files hold another number of frames than they announce; those that are there are read"
    return [(kind, f"{said}, holds {_frames(held)}")]


def _frames(number: int) -> str:
    return "1 frame" if number == 1 else f"{number if abs(number) < 10**15 else float(number):.15g} frames"


def _uncompressed(
    header: DicomHeader, frame_bits: int, is_subsampled: bool, damage: list[DataError] | None
) -> tuple[list[Span], list[tuple[str, str]]]:
    if header.length == UNDEFINED_LENGTH:
        raise header.fault("states uncompressed pixels, but holds them in fragments, as only compressed ones are")
    frame_bytes = frame_bits // 8
    held, rest = divmod(header.length, frame_bytes)
    if header.length > header.available:
        there = header.available // frame_bytes
        fault = header.fault(
            f"is truncated: {header.available} of {header.length} bytes of its pixels are there; frame {there} is incomplete"
        )
        if damage is None or not 0 < there <= MAX_FRAMES:
            raise fault
        damage.append(fault)
        return [(header.offset + k * frame_bytes, frame_bytes) for k in range(there)], []
    announced = _announced(header) or 1
    if is_subsampled and header.length - announced * (frame_bytes // 2 * 3) in (0, 1):
        raise header.fault("states subsampled colours (YBR_FULL_422), but has three bytes for each pixel")
    if held == 0:
        raise header.fault(
            f"holds {header.length} bytes of pixels; a frame of the size that it states has {frame_bytes}"
        )
    if held > MAX_FRAMES:
        raise header.fault(f"holds {held} frames, more than {MAX_FRAMES}")
    spans = [(header.offset + k * frame_bytes, frame_bytes) for k in range(held)]
    padding = held * frame_bytes % 2  # values have an even length
    if rest <= padding:
        return spans, []
    if announced == held and _is_padding(header, rest):
        return spans, [
            ("DICOM files have padding after their frames", f"has {rest} bytes of padding after frame {held - 1}")
        ]
    fault = header.fault(
        f"holds {header.length} bytes of pixels: {_frames(held)} of the size that it states and {rest} of {frame_bytes} bytes of "
        f"frame {held}, which is incomplete, or the stated size is wrong"
    )
    if damage is None or held >= announced:
        raise fault
    damage.append(fault)
    return spans, []


def _is_padding(header: DicomHeader, number: int) -> bool:
    with open_regular(header.path) as file:
        return len(set(os.pread(file.fileno(), number, header.offset + header.length - number))) == 1


def _compressed(
    header: DicomHeader, size: tuple[int, int], damage: list[DataError] | None
) -> tuple[list[Span], list[tuple[str, str]]]:
    if header.length != UNDEFINED_LENGTH:
        raise header.fault(
            f"states compressed pixels ({header.transfer_syntax.name}), but does not hold them in fragments"
        )
    repairs = []
    fragments, has_end = _fragments(header, damage)
    if not fragments or not any(f.length for f in fragments[1:]):
        raise header.fault("is a DICOM file without pixel data: it holds no image")
    table, *rest = fragments
    rest = [f for f in rest if f.length]
    announced = _announced(header)
    starts = _starts(header, rest, announced, damage)
    ends = [*starts[1:], len(rest)]
    frames = [rest[first:end] for first, end in zip(starts, ends, strict=True)]
    if damage and header.transfer_syntax != RLELossless and not _has_end(header, frames[-1]):
        frames.pop()
    if not frames:
        raise damage[0] if damage else header.fault("holds no frame")
    listed = table.length // 4 or len(header.data("ExtendedOffsetTable")) // 8
    if listed and listed != len(frames) and not damage:
        kind = "DICOM files have a table of another number of frames than they hold; those that are there are read"
        repairs.append((kind, f"its offset table lists {_frames(listed)}, it holds {_frames(len(frames))}"))
    if not has_end and not damage:
        fault = header.fault(f"is truncated: its pixels have no end; {_frames(len(frames))} are there")
        if announced == len(frames):
            kind = "DICOM files have no mark at the end of their pixels"
            repairs.append((kind, f"has no mark after frame {announced - 1}"))
        elif damage is None:
            raise fault
        else:
            damage.append(fault)
    if damage is None:
        for n, parts in enumerate(frames):
            _check_frame(header, n, parts, size)
    return [(parts[0].at, parts[-1].at + 8 + parts[-1].length - parts[0].at) for parts in frames], repairs


def _starts(
    header: DicomHeader, fragments: Sequence[_Fragment], announced: int | None, damage: list[DataError] | None
) -> list[int]:
    """Which fragments begin a frame: those that begin as one, and those behind the end of an image."""
    if header.transfer_syntax == RLELossless and announced == len(fragments):
        return list(range(len(fragments)))  # as DICOM demands of RLE; the decoder finds a damaged one
    starts = [k for k, f in enumerate(fragments) if f.begins_frame or k == 0 or fragments[k - 1].ends_frame]
    for number, k in enumerate(starts):
        if not fragments[k].begins_frame:
            name = header.transfer_syntax.name
            fault = header.fault(f"frame {number} is damaged: fragment {k} of the pixels does not begin as {name} does")
            if damage is None or number == 0:
                raise fault
            damage.append(fault)  # its decoder refuses it
            break
    return starts


def _fragments(header: DicomHeader, damage: list[DataError] | None) -> tuple[list[_Fragment], bool]:
    """All fragments, the first of which is the offset table; and whether the mark after them is there."""
    found: list[_Fragment] = []
    at, end = header.offset, header.offset + header.available
    with open_regular(header.path) as file:
        number = file.fileno()
        while at + 8 <= end:
            head = os.pread(number, 8 + _HEAD, at)
            tag, length = head[:4], struct.unpack("<L", head[4:8])[0]
            if tag == _END:
                return found, True
            if tag != _ITEM or length == UNDEFINED_LENGTH:
                fault = header.fault(f"is damaged: fragment {len(found)} of its pixels does not begin as a fragment")
                if damage is None:
                    raise fault
                damage.append(fault)
                return found, False
            if at + 8 + length > end:
                last = sum(f.begins_frame for f in found) - (not _begins_frame(header, head[8:]))
                fault = header.fault(
                    f"is truncated: {end - at - 8} of {length} bytes of fragment {len(found)} of its pixels are there; "
                    f"frame {max(last, 0)} is incomplete"
                )
                if damage is None or not any(f.begins_frame for f in found):
                    raise fault
                damage.append(fault)
                return found, False
            if len(found) > MAX_FRAMES:
                raise header.fault(f"holds more than {MAX_FRAMES} fragments of pixels")
            kept = head[8 : 8 + min(length, _HEAD)]
            tail = kept[-32:] if length <= len(kept) else os.pread(number, 32, at + 8 + length - 32)
            begins = bool(found) and _begins_frame(header, kept)
            found.append(_Fragment(at, length, begins, codestream_size(kept) if begins else None, tail))
            at += 8 + length
    return found, False


def _begins_frame(header: DicomHeader, head: bytes) -> bool:
    if header.transfer_syntax == RLELossless:
        if len(head) < 64:
            return False
        number, *offsets = struct.unpack("<16L", head[:64])
        used = offsets[:number]
        return 1 <= number <= 15 and used[0] == 64 and all(a < b for a, b in itertools.pairwise(used))
    if _is_jpeg_2000(header):
        return head.startswith((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "))
    return head.lstrip(b"\xff").startswith(b"\xd8") and head.startswith(b"\xff")


def _is_jpeg_2000(header: DicomHeader) -> bool:
    return header.transfer_syntax in JPEG2000TransferSyntaxes or "JPEG 2000" in header.transfer_syntax.name


def _check_frame(header: DicomHeader, number: int, parts: Sequence[_Fragment], size: tuple[int, int]) -> None:
    if header.transfer_syntax == RLELossless:
        return  # it has neither a size nor an end
    if not _has_end(header, parts):
        raise header.fault(f"frame {number} is truncated: its compressed image has no end")
    _check_size(header, number, parts[0].size, size)


def _has_end(header: DicomHeader, parts: Sequence[_Fragment]) -> bool:
    """Whether the end of a frame's image is there; RLE has no mark at its end."""
    return _END_OF_IMAGE in b"".join(part.tail for part in parts[-2:]) or _ends_in_padding(header, parts[-1])


def _ends_in_padding(header: DicomHeader, part: _Fragment) -> bool:
    """Whether nothing but zeros is between an image's end and the end of its last fragment, as in blocks of a fixed size."""
    if part.tail.strip(b"\0"):
        return False
    with open_regular(header.path) as file:
        return os.pread(file.fileno(), part.length, part.at + 8).rstrip(b"\0").endswith(_END_OF_IMAGE)


def check_size(header: DicomHeader, number: int, codestream: bytes, size: tuple[int, int]) -> None:
    """Refuse a compressed frame whose own size is not the one that the file states.

    Raises:
        DataError: it has another size.
    """
    _check_size(header, number, codestream_size(codestream), size)


def _check_size(header: DicomHeader, number: int, found: tuple[int, int] | None, size: tuple[int, int]) -> None:
    if found is not None and found != size:
        raise header.fault(
            f"frame {number} is {found[1]}x{found[0]} px, the file states {size[1]}x{size[0]}; all frames must have the same size"
        )


def codestream_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) that a JPEG, JPEG-LS or raw JPEG 2000 states about itself; None if it isn't found in the given bytes."""
    if data.startswith(b"\xff\x4f\xff\x51"):
        if len(data) < 24:
            return None
        width, height, left, top = struct.unpack(">4L", data[8:24])
        return height - top, width - left
    at = len(data) - len(data.lstrip(b"\xff")) + 1
    if not data.startswith(b"\xff") or data[at - 1 : at] != b"\xd8":
        return None
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _JPEG_SIZES:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return (height, width) if height and width else None
        at += 2 + struct.unpack(">H", data[at + 2 : at + 4])[0]
    return None


def fragments_as_sequence(data: bytes) -> bytes:
    """The fragments of one frame, as they are in the file, behind an empty offset table: what pydicom's decoders take."""
    return _ITEM + bytes(4) + data


def joined(data: bytes, most: int) -> bytes:
    """The first bytes of a frame without the tags of its fragments, at most ``most`` of each fragment's."""
    parts: list[bytes] = []
    at = 0
    while at + 8 <= len(data) and sum(map(len, parts)) < most:
        length = struct.unpack("<L", data[at + 4 : at + 8])[0]
        parts.append(data[at + 8 : at + 8 + min(length, most)])
        at += 8 + length
    return b"".join(parts)
