"""Reads the header of an image file: kind, size, depth, number of frames.

Only PNG, JPEG, BMP, GIF, TIFF and WebP are known. A file is recognised by its first bytes, whatever its name.

Sources: PNG 3rd edition (W3C), ITU-T T.81 (JPEG), TIFF 6.0, GIF89a, RFC 9649 (WebP), Exif 3.0.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import BinaryIO, Final

__all__ = [
    "IMAGE_MAGIC_BYTES",
    "JPEG_NO_LENGTH",
    "JPEG_SCAN",
    "JPEG_SIZES",
    "ImageHeader",
    "image_kind",
    "read_image_header",
]

IMAGE_MAGIC_BYTES: Final = 16
"""How many of a file's first bytes `image_kind` needs."""

JPEG_SIZES: Final = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""Markers of a segment of a JPEG that holds its size and its channels."""

JPEG_NO_LENGTH: Final = frozenset({0x01, *range(0xD0, 0xD8)})
"""Markers that no segment follows."""

JPEG_SCAN: Final = 0xDA
"""The marker that comes before the pixels."""

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF_ORDERS = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}
_TIFF_COMPRESSIONS = frozenset({*range(1, 9), 32771, 32773, 32946})  # of OpenCV: CCITT, LZW, JPEG, Deflate, PackBits
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # bytes of the header that follows the file's own 14
_JPEG_EXIF = 0xE1
_COMPRESSION, _ORIENTATION = 259, 274  # tags of TIFF and Exif
_TURNED = frozenset({5, 6, 7, 8})  # Exif orientations that swap height and width
_MAX_PAGES = 100_000  # of a TIFF


@dataclass(frozen=True)
class ImageHeader:
    """What a file's header states.

    Attributes:
        kind: ``PNG``, ``JPEG``, ``BMP``, ``GIF``, ``TIFF`` or ``WebP``.
        size: (height, width) in pixels as the image is shown, after its Exif orientation; None if the header states none.
        orientation: the orientation of Exif, 1 to 8.
        bits: the number of bits of each channel: 8 at most, or 16.
        significant_bits: how many of them the file says that count; None if it doesn't.
        has_alpha: whether pixels may be transparent.
        is_grey: whether a JPEG has one channel; False for other kinds.
        is_compressed: whether a page of a TIFF is; False for other kinds.
        num_frames: pages of a TIFF, frames of an animation.
        untimed_frames: how many frames of an animated GIF state no duration.
        is_whole: whether a GIF has the mark at its end; bytes may follow it.
        fault: why no single frame can be read from it, to follow the file's name; None if one can.
    """

    kind: str
    size: tuple[int, int] | None
    orientation: int = 1
    bits: int = 8
    significant_bits: int | None = None
    has_alpha: bool = False
    is_grey: bool = False
    is_compressed: bool = False
    num_frames: int = 1
    untimed_frames: int = 0
    is_whole: bool = True
    fault: str | None = None

    @property
    def turned(self) -> bool:
        """Whether the orientation swaps height and width."""
        return self.orientation in _TURNED


def image_kind(head: bytes) -> str | None:
    """The kind of an image file by its first `IMAGE_MAGIC_BYTES`; None if it is none that is known."""
    if head.startswith(_PNG):
        return "PNG"
    if head.startswith(b"\xff\xd8"):
        return "JPEG"
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    if head[:4] in _TIFF_ORDERS:
        return "TIFF"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[:2] == b"BM" and len(head) >= 16 and int.from_bytes(head[14:16], "little") in _BMP_HEADERS:
        return "BMP"
    return None


def read_image_header(file: BinaryIO | bytes) -> ImageHeader | None:
    """The header of an image file; None if it is no image that is known. Damage beyond the header is not seen.

    Args:
        file: its content, or the file opened to read bytes; only parts of it are read.
    """
    if isinstance(file, bytes):
        file = io.BytesIO(file)
    file.seek(0)
    head = file.read(4096)
    kind = image_kind(head)
    if kind is None:
        return None
    try:
        return _READERS[kind](head, file)
    except (struct.error, IndexError, ValueError, OverflowError):
        return ImageHeader(kind, None, fault=f"is a damaged or truncated {kind}: its header can't be read")


def _png(head: bytes, file: BinaryIO) -> ImageHeader:
    width, height, depth, colour = struct.unpack(">IIBB", head[16:26])
    chunks, after = _png_chunks_before_pixels(head, file)
    if b"eXIf" in chunks:
        orientation = _exif_orientation(chunks[b"eXIf"])
    else:  # some programs add it at the end
        orientation = _exif_orientation(_png_end(head, file, after).partition(b"eXIf")[2])
    significant = None
    if depth == 16 and b"sBIT" in chunks:
        declared = chunks[b"sBIT"][: {0: 1, 2: 3, 4: 1, 6: 3}.get(colour, 0)]
        significant = max(declared) if declared and 0 < max(declared) <= 16 else None
    fault = None
    if b"acTL" in chunks:
        fault = "is an animated PNG, of which only one frame would be read: convert it to a movie"
    return ImageHeader(
        "PNG",
        _shown((height, width), orientation),
        orientation,
        bits=16 if depth == 16 else 8,
        significant_bits=significant,
        has_alpha=colour in (4, 6) or b"tRNS" in chunks,
        fault=fault,
    )


def _png_chunks_before_pixels(head: bytes, file: BinaryIO) -> tuple[dict[bytes, bytes], int]:
    """(the chunks before the pixels by name, of each up to 64 kB; where the pixels begin in the file)."""
    chunks: dict[bytes, bytes] = {}
    at = len(_PNG)
    while True:
        start = head[at : at + 8]
        if len(start) < 8:
            file.seek(at)
            start = file.read(8)
        if len(start) < 8 or start[4:] in (b"IDAT", b"IEND"):
            return chunks, at
        length = int.from_bytes(start[:4], "big")
        content = head[at + 8 : at + 8 + length]
        if len(content) < length:
            file.seek(at + 8)
            content = file.read(min(length, 1 << 16))
        chunks[start[4:]] = content
        at += 12 + length


def _png_end(head: bytes, file: BinaryIO, at: int) -> bytes:
    """The end of a PNG, where a chunk may stand behind the pixels.

    Args:
        head: the file's first bytes.
        file: the file.
        at: where the pixels begin.
    """
    if len(head) < 4096:
        return head[at:]
    file.seek(-4096, 2)
    tail = file.read()
    if b"IEND" in tail:
        return tail
    file.seek(at)  # many bytes follow the end
    while len(start := file.read(8)) == 8 and start[4:] not in (b"eXIf", b"IEND"):
        file.seek(int.from_bytes(start[:4], "big") + 4, 1)
    return start[4:] + file.read(4096)


def _jpeg(_head: bytes, file: BinaryIO) -> ImageHeader:
    orientation = 1
    frame: bytes | None = None
    file.seek(2)
    while len(marker := file.read(2)) == 2:
        while marker == b"\xff\xff":  # any number of 0xFF may come before a marker
            marker = b"\xff" + file.read(1)
        if marker[0] != 0xFF or len(marker) < 2 or marker[1] == JPEG_SCAN:
            break
        if marker[1] in JPEG_NO_LENGTH:
            continue
        (length,) = struct.unpack(">H", file.read(2))
        start = file.tell()
        if marker[1] in JPEG_SIZES and frame is None:
            frame = file.read(6)
        if marker[1] == _JPEG_EXIF and orientation == 1:
            content = file.read(max(length - 2, 0))
            if content.startswith(b"Exif\0\0"):
                orientation = _exif_orientation(content[6:])
        file.seek(start + max(length - 2, 0))
    if frame is None:
        return ImageHeader("JPEG", None)
    depth, height, width, channels = struct.unpack(">BHHB", frame)
    fault = None
    if channels == 4:
        fault = "is a JPEG in CMYK, the colours of print: save it in RGB or grey"
    elif depth != 8:
        fault = f"is a JPEG of {depth} bits per channel, not 8"
    size = _shown((height, width), orientation) if height and width else None
    return ImageHeader("JPEG", size, orientation, is_grey=channels == 1, fault=fault)


def _bmp(head: bytes, _file: BinaryIO) -> ImageHeader:
    if int.from_bytes(head[14:18], "little") < 40:
        width, height = struct.unpack("<HH", head[18:22])
    else:
        width, height = struct.unpack("<ii", head[18:26])
    return ImageHeader("BMP", (abs(height), abs(width)))


def _gif(head: bytes, file: BinaryIO) -> ImageHeader:
    width, height = struct.unpack("<HH", head[6:10])
    frames, untimed, is_whole = _gif_frames(file, 3 << (head[10] & 7) + 1 if head[10] & 0x80 else 0)
    fault = None
    if frames > 1:
        fault = f"is an animated GIF of {frames} frames, of which only one would be read"
    return ImageHeader(
        "GIF",
        (height, width),
        has_alpha=True,
        num_frames=max(frames, 1),
        untimed_frames=untimed if frames > 1 else 0,
        is_whole=is_whole,
        fault=fault,
    )


def _gif_frames(file: BinaryIO, palette: int) -> tuple[int, int, bool]:
    """(number of frames, how many of them state no duration, whether there is a mark after the last)."""
    file.seek(13 + palette)
    frames = untimed = 0
    is_timed = False
    while (block := file.read(1)) in (b"!", b","):
        if block == b"!":
            if file.read(1) == b"\xf9":  # what controls the next frame: length, flags, hundredths of a second
                is_timed = file.read(4)[2:] != b"\0\0"
                file.seek(-4, 1)
        else:
            frames += 1
            untimed += not is_timed
            is_timed = False
            flags = file.read(9)[8]
            file.seek((3 << (flags & 7) + 1 if flags & 0x80 else 0) + 1, 1)
        while (length := file.read(1)) not in (b"", b"\0"):
            file.seek(length[0], 1)
    return frames, untimed, block == b";"


def _webp(head: bytes, file: BinaryIO) -> ImageHeader:
    form = head[12:16]
    animated = alpha = False
    if form == b"VP8X":
        animated, alpha = bool(head[20] & 0x02), bool(head[20] & 0x10)
        width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
    elif form == b"VP8L":
        packed = int.from_bytes(head[21:25], "little")
        width, height, alpha = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1, bool(packed >> 28 & 1)
    else:
        width, height = (v & 0x3FFF for v in struct.unpack("<HH", head[26:30]))
    fault = None
    if animated:
        fault = "is an animated WebP, of which only one frame would be read: convert it to a movie"
    elif 8 + int.from_bytes(head[4:8], "little") > file.seek(0, 2):
        fault = "is a truncated WebP"
    return ImageHeader("WebP", (height, width), has_alpha=alpha, fault=fault)


def _tiff(head: bytes, file: BinaryIO) -> ImageHeader:
    order = _TIFF_ORDERS[head[:4]]
    if b"+" in head[:4]:
        return ImageHeader("TIFF", None, fault="is a BigTIFF, whose 64-bit tables are not read: save it as TIFF")
    (first,) = struct.unpack(order + "I", head[4:8])
    tags, counts, following = _tiff_page(file, order, first)
    damage = _tiff_damage(tags, counts)
    tables, compressions = {first}, {tags.get(_COMPRESSION, 1)}
    while following and damage is None and following not in tables and len(tables) < _MAX_PAGES:
        tables.add(following)
        others, counts, following = _tiff_page(file, order, following)
        damage = _tiff_damage(others, counts)
        compressions.add(others.get(_COMPRESSION, 1))
    pages = len(tables)
    if following and damage is None:
        damage = f"its pages run in a circle or are more than {_MAX_PAGES:,}"
    if damage is not None:
        return ImageHeader("TIFF", None, fault=f"is a damaged TIFF: {damage}")
    height, width = tags.get(257, 0), tags.get(256, 0)
    sample_format, bits = tags.get(339, 1), tags.get(258, 1)
    fault = None
    colours = tags.get(262, 1)  # 0 grey with white first, 1 grey, 2 RGB, 3 palette, 5 CMYK, 6 YCbCr
    if colours == 5:
        fault = "is a TIFF in CMYK, the colours of print: save it in RGB or grey"
    elif colours not in (0, 1, 2, 3, 6) or (colours == 0 and bits > 8):
        fault = f"is a TIFF of a kind of colours that is not read (PhotometricInterpretation {colours}): save it in RGB or grey"
    elif sample_format != 1 or bits > 16:
        kind = {2: "signed", 3: "floating-point"}.get(sample_format, f"{bits}-bit")
        fault = f"is a TIFF of {kind} numbers, whose black and white are not known: save it with 8 or 16 bits"
    elif unknown := compressions - _TIFF_COMPRESSIONS:
        fault = f"is a TIFF with a compression that is not read (Compression {min(unknown)}): save it with LZW, Deflate or none"
    elif pages > 1:
        fault = f"is a TIFF of {pages} pages, of which only one would be read"
    elif (stated := _imagej_images(file, order, first)) > 1:
        fault = f"is a TIFF of ImageJ that states {stated} images in a row, of which a TIFF reader finds only one: save it as a movie"
    largest = tags.get(281)
    significant = largest.bit_length() if largest and bits > 8 and largest < (1 << bits) - 1 else None
    if 8 < bits < 16:
        significant = bits
    orientation = tags.get(_ORIENTATION, 1)
    return ImageHeader(
        "TIFF",
        _shown((height, width), orientation) if height and width else None,
        orientation,
        bits=16 if bits > 8 else 8,
        significant_bits=significant,
        has_alpha=tags.get(277, 1) in (2, 4),
        is_compressed=compressions != {1},
        num_frames=pages,
        fault=fault,
    )


def _tiff_damage(tags: Mapping[int, int], counts: Mapping[int, int]) -> str | None:
    """What shows that a page lacks pixels, which libtiff then takes from the file's start; None if nothing does."""
    height, width = tags.get(257, 0), tags.get(256, 0)
    planes = tags.get(277, 1) if tags.get(284, 1) == 2 else 1
    if 324 in counts:
        what, found, across, down = "tiles", counts[324], tags.get(322, 0) or width, tags.get(323, 0) or height
    else:
        what, found, across, down = "strips", counts.get(273, 0), width, tags.get(278, 0) or height
    needed = -(-width // max(across, 1)) * -(-height // max(down, 1)) * planes
    return f"it has {found} of the {needed} {what} of its pixels" if found < needed else None


def _tiff_page(file: BinaryIO, order: str, offset: int) -> tuple[dict[int, int], dict[int, int], int]:
    """(the first number of each tag of whole numbers, how many numbers it has, offset of the next page or 0)."""
    file.seek(offset)
    (entries,) = struct.unpack(order + "H", file.read(2))
    table = file.read(12 * entries)
    (following,) = struct.unpack(order + "I", file.read(4))
    tags: dict[int, int] = {}
    counts: dict[int, int] = {}
    for at in range(0, len(table), 12):
        tag, kind, count, value = struct.unpack(order + "HHI4s", table[at : at + 12])
        if kind in (3, 4) and count:
            if count * (2 if kind == 3 else 4) > 4:
                file.seek(struct.unpack(order + "I", value)[0])
                value = file.read(4).ljust(4, b"\0")
            tags[tag] = struct.unpack(order + ("H2x" if kind == 3 else "I"), value)[0]
            counts[tag] = count
    return tags, counts, following


def _imagej_images(file: BinaryIO, order: str, offset: int) -> int:
    """How many images ImageJ says that a TIFF of one page holds; 1 if it was not ImageJ that wrote it."""
    file.seek(offset)
    (entries,) = struct.unpack(order + "H", file.read(2))
    table = file.read(12 * entries)
    for at in range(0, len(table), 12):
        tag, _, count, place = struct.unpack(order + "HHII", table[at : at + 12])
        if tag == 270 and count > 4:
            file.seek(place)
            found = re.match(rb"ImageJ=.*?^images=(\d{1,9})\s*$", file.read(min(count, 4096)), re.DOTALL | re.MULTILINE)
            return int(found[1]) if found else 1
    return 1


def _exif_orientation(exif: bytes) -> int:
    """The orientation that Exif states, 1 to 8; 1 if it states none."""
    order = _TIFF_ORDERS.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, start)
    except struct.error:
        return 1
    for at in range(start + 2, min(start + 2 + 12 * entries, len(exif) - 11), 12):  # the table may be cut off
        tag, kind, count = struct.unpack_from(order + "HHI", exif, at)
        if tag == _ORIENTATION and kind in (3, 4) and count == 1:
            (found,) = struct.unpack_from(order + ("H" if kind == 3 else "I"), exif, at + 8)
            return found if 1 <= found <= 8 else 1
    return 1


def _shown(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    return size[::-1] if orientation in _TURNED else size


_READERS: dict[str, Callable[[bytes, BinaryIO], ImageHeader]] = {
    "PNG": _png,
    "JPEG": _jpeg,
    "BMP": _bmp,
    "GIF": _gif,
    "WebP": _webp,
    "TIFF": _tiff,
}
