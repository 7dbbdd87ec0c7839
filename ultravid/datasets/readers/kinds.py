"""What kind of recording a file is, by its first bytes; by its name only if these say nothing."""

from __future__ import annotations

import os
import struct
import warnings
from pathlib import Path
from typing import Final, Literal

from ultravid.datasets.image_headers import image_kind, read_image_header
from ultravid.datasets.readers.source import DICOM_SUFFIXES, IMAGE_SUFFIXES, MOVIE_SUFFIXES
from ultravid.datasets.safe_files import open_regular
from ultravid.utils.text import shell_argument

__all__ = ["Kind", "bare_stream_fault", "is_dicom", "kind_of"]

Kind = Literal["image", "stack", "movie", "dicom"]
"""A picture; a TIFF of several pages; a movie, or an animated GIF; a DICOM file."""

_HEAD: Final = 1024
_STILL_BRANDS = (b"heic", b"heix", b"heim", b"mif1", b"msf1", b"avif", b"avis")  # of ISO files that hold pictures
_ISO_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_MOVIE_MAGIC = (
    b"\x1aE\xdf\xa3",  # Matroska, WebM
    b"\0\0\x01\xba",  # MPEG program stream, VOB
    b"\0\0\x01\xb3",  # MPEG-1 and MPEG-2 video
    b"FLV\x01",
    b"OggS",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # ASF, WMV
    b"\x06\x0e\x2b\x34\x02\x05\x01\x01",  # MXF
    b"YUV4MPEG2",
    b".RMF",
    b"nut/multimedia container\0",
)
_BARE_STREAMS = {
    **dict.fromkeys((".h264", ".264", ".avc"), "H.264"),
    **dict.fromkeys((".h265", ".265", ".hevc"), "H.265"),
}
"""What the files of an encoder's output are, by their suffix; FFmpeg would take them as 25 frames a second, whatever they are."""


def kind_of(path: str | os.PathLike[str]) -> Kind | None:
    """What a file is; None for what is not read as a recording, such as a text, a folder or a named pipe.

    A file whose first bytes are of no known kind has the kind of its suffix, and a reader then says what is wrong with it.
    """
    try:
        with open_regular(path) as file:
            head = file.read(_HEAD)
            if head[128:132] == b"DICM":
                return None if os.path.basename(path).upper() == "DICOMDIR" else "dicom"
            image = image_kind(head)
            if image in ("GIF", "TIFF"):
                header = read_image_header(file)
                several = header is not None and header.num_frames > 1
                return ("movie" if image == "GIF" else "stack") if several else "image"
    except OSError:
        head, image = b"", None
    if image is not None:
        return "image"
    if _is_movie(head):
        return "movie"
    suffix = os.path.splitext(path)[1].lower()
    named: Kind | None = None
    if suffix in IMAGE_SUFFIXES:
        named = "image"
    elif suffix in MOVIE_SUFFIXES:
        named = "movie"
    elif suffix in DICOM_SUFFIXES:
        named = "dicom"
    if named is None and _is_bare_dicom(path, head):
        return "dicom"
    return named if os.path.isfile(path) else None


def is_dicom(path: str | os.PathLike[str]) -> bool:
    """Whether a file is read as DICOM."""
    return kind_of(path) == "dicom"


def bare_stream_fault(path: str | os.PathLike[str]) -> str | None:
    """Why a bare H.264 or H.265 stream is not read, and what makes a movie of it, to follow its name; None for other files, by their name."""
    stem, suffix = os.path.splitext(path)
    codec = _BARE_STREAMS.get(suffix.lower())
    if codec is None:
        return None
    wrap = f"ffmpeg -framerate 30 -i {shell_argument(os.fspath(path))} -c copy {shell_argument(f'{stem}.mp4')}"
    return (
        f"is a bare {codec} stream, which has no time stamps; make a movie of it at its frame rate, as for 30: {wrap}"
    )


def _is_movie(head: bytes) -> bool:
    if head.startswith(_MOVIE_MAGIC):
        return True
    if head[4:8] in _ISO_BOXES:
        return not (head[4:8] == b"ftyp" and head[8:12] in _STILL_BRANDS)
    if head[:4] == b"RIFF":
        return head[8:12] in (b"AVI ", b"AVIX", b"CDXA")
    # An MPEG transport stream has a 0x47 every 188 bytes; in .m2ts and .mts each packet has a time stamp of 4 bytes before it.
    return any(all(head[at : at + 1] == b"G" for at in range(o, o + 5 * n, n)) for o, n in ((0, 188), (4, 192)))


def _is_bare_dicom(path: str | os.PathLike[str], head: bytes) -> bool:
    """Whether a file is a DICOM image without the 128 bytes and ``DICM`` that come first in a file."""
    if len(head) < 132:
        return False
    group, element, length = struct.unpack("<HHI", head[:8])
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    if group not in (2, 8) or element > 0x0100 or not (explicit or length <= 64):
        return False
    import pydicom  # half a second, and hardly any file comes this far

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom's warnings quote values
            tags = ["Rows", "Columns", "SOPClassUID"]
            header = pydicom.dcmread(Path(path), force=True, specific_tags=tags, stop_before_pixels=True)
            return bool(header.get("Rows")) and bool(header.get("Columns")) and bool(header.get("SOPClassUID"))
    except Exception:  # a file that is no DICOM raises any exception
        return False
