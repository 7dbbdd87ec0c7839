"""Stored values of a DICOM file's frames as RGB of 8 bits.

A file's frames are all converted alike: what depends on content is found once, from all frames.

- Of more than 8 bits the upper 8 are kept. If no pixel of the file uses the two upper bits that the header states, or a pixel
  uses bits beyond them, the header's number of bits is not believed: the least number from 8 to 16 that holds every pixel, and
  the display window if there is one, is taken, and this is reported. Fewer than 8 bits are spread over 0 to 255.
- A display window changes nothing else, and neither do look-up tables for display and rescaling: a model sees the whole range.
- MONOCHROME1 is inverted, to a black background; YBR and palettes become RGB.

Sources: DICOM PS3.3 C.7.6.3 (image pixels, palettes), C.7.9.2 (segmented palettes), C.11.2 (windows), PS3.5 8 (bits).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGBaseline8Bit, RLELossless
from rle.utils import decode_segment  # type: ignore[attr-defined]  # of its Rust part, which has no stubs

from ultravid.datasets.bounds import frame_size_fault
from ultravid.datasets.image_decoding import UndecodableImageError, check_jpeg
from ultravid.datasets.readers.dicom_file import DicomHeader, is_big_endian, quiet_pydicom
from ultravid.datasets.readers.dicom_frames import Span, check_size, fragments_as_sequence, joined
from ultravid.datasets.readers.source import ImageArray
from ultravid.datasets.safe_files import open_regular
from ultravid.datasets.video import DataError

__all__ = ["PixelDecoder", "PixelForm", "pixel_form"]

_GREY, _PALETTE = ("MONOCHROME1", "MONOCHROME2"), "PALETTE COLOR"
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422")
_COLOURS_OF_JPEG_2000 = ("YBR_RCT", "YBR_ICT")

Stored = NDArray[Any]
"""Stored values ``(H, W)`` or ``(H, W, 3)``."""


@dataclass(frozen=True)
class PixelForm:
    """How a file's pixels are stored.

    Attributes:
        size: (height, width).
        samples: values for each pixel, 1 or 3.
        allocated: bits in which a value is stored, 8 or 16.
        stored: bits of a value that are said to be used.
        low: the lowest of these bits.
        colours: the photometric interpretation.
        planar: 1 if an uncompressed frame holds all red values first, then all green, then all blue; 0 if they alternate.
        is_compressed: whether frames are.
    """

    size: tuple[int, int]
    samples: int
    allocated: int
    stored: int
    low: int
    colours: str
    planar: int
    is_compressed: bool

    @property
    def is_subsampled(self) -> bool:
        """Whether two pixels of an uncompressed frame share their colour: they take 4 values, not 6."""
        return self.colours == "YBR_FULL_422" and not self.is_compressed

    @property
    def frame_bits(self) -> int:
        """Bits of an uncompressed frame."""
        values = 2 if self.is_subsampled else self.samples
        return self.size[0] * self.size[1] * values * self.allocated


def pixel_form(header: DicomHeader) -> PixelForm:
    """How a file says that its pixels are stored.

    Raises:
        DataError: it does not say, contradicts itself, or stores them in a way that no ultrasound scanner does.
    """
    needed = {name: header.whole(name) for name in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel")}
    missing = [name for name, value in needed.items() if value is None]
    colours = header.text("PhotometricInterpretation")
    if missing or not colours:
        raise header.fault(
            f"does not state its {missing[0] if missing else 'PhotometricInterpretation'}, so its pixels can't be read"
        )
    rows, columns, allocated, samples = (value or 0 for value in needed.values())
    if fault := frame_size_fault(rows, columns):
        raise header.fault(f"states frames of a size that can't be read: {fault}")
    if header.whole("PixelRepresentation") or allocated not in (8, 16):
        signed = "signed pixels or " if header.whole("PixelRepresentation") else ""
        raise header.fault(f"has {signed}{allocated} bits per pixel, not 8 or 16 unsigned")
    stored = header.whole("BitsStored") or allocated
    high = header.whole("HighBit")
    low = (stored - 1 if high is None else high) - stored + 1
    if not 1 <= stored <= allocated or low < 0 or low + stored > allocated:
        raise header.fault(f"states {stored} bits that end with bit {high}, of {allocated}: these can't be its pixels")
    is_compressed = header.transfer_syntax.is_encapsulated
    form = PixelForm(
        (rows, columns),
        samples,
        allocated,
        stored,
        low,
        colours,
        header.whole("PlanarConfiguration") or 0,
        is_compressed,
    )
    _check_colours(header, form)
    return form


def _check_colours(header: DicomHeader, form: PixelForm) -> None:
    is_jpeg_2000 = header.transfer_syntax in JPEG2000TransferSyntaxes or "JPEG 2000" in header.transfer_syntax.name
    known = (*_GREY, _PALETTE, *_COLOURS, *(_COLOURS_OF_JPEG_2000 if is_jpeg_2000 else ()))
    if form.colours not in known:
        short = form.colours if form.colours.replace("_", "").replace(" ", "").isalnum() else "of another kind"
        raise header.fault(f"has colours that can't be read here ({short[:16]}); can be read: {', '.join(known)}")
    samples = 1 if form.colours in (*_GREY, _PALETTE) else 3
    if form.samples != samples:
        raise header.fault(f"states {form.samples} values for each pixel, but {form.colours} has {samples}")
    if samples == 3 and not form.is_compressed and header.whole("PlanarConfiguration") not in (0, 1):
        raise header.fault("does not state in which order its colours are (PlanarConfiguration)")
    if form.colours.startswith("YBR") and ((form.allocated != 8 and not form.is_compressed) or form.stored > 8):
        raise header.fault(f"has {form.colours} colours of {form.stored} bits; they are read with 8")
    if form.is_subsampled and (form.planar or form.size[1] % 2):
        raise header.fault(
            "has subsampled colours (YBR_FULL_422) in planes or in rows of odd length, which do not exist"
        )
    if form.colours in _GREY and header.text("PixelPresentation") in ("COLOR", "MIXED"):
        raise header.fault(
            "is grey with a palette for some of its values (PixelPresentation), which can't be read here"
        )


class PixelDecoder:
    """Decodes the frames of a file.

    Args:
        header: the header of the file.
        form: the form of its pixels.
        spans: the spans of its frames.
        bits: an earlier decoder's attribute; None: not known.
        skip_damaged: frames that can't be decoded do not count when it is looked for how many bits are used.

    Attributes:
        bits: how many bits of a pixel, from the lowest, are used, of which the upper 8 are taken; None: of 8 bits, or of others.
        repairs: what was guessed about the values.

    Raises:
        DataError: the file's palette can't be read, or a frame that must be looked at can't be decoded.
    """

    def __init__(
        self,
        header: DicomHeader,
        form: PixelForm,
        spans: list[Span],
        bits: int | None = None,
        *,
        skip_damaged: bool = False,
    ) -> None:
        self._skip_damaged = skip_damaged
        self._header = header
        self._form = form
        self._spans = spans
        self._decoder = get_decoder(header.transfer_syntax)
        self._options: dict[str, Any] = {
            "rows": form.size[0],
            "columns": form.size[1],
            "samples_per_pixel": form.samples,
            "photometric_interpretation": form.colours,
            "bits_allocated": form.allocated,
            "bits_stored": form.stored,
            "pixel_representation": 0,
            "planar_configuration": form.planar,
            "number_of_frames": 1,
            "pixel_keyword": "PixelData",
            "pixel_vr": "OB" if form.allocated == 8 else "OW",
            "correct_unused_bits": False,
        }
        self.repairs: list[tuple[str, str]] = []
        self._palette: ImageArray | None = None
        self._first_entry = 0
        self._low, self._depth = form.low, form.stored
        self.bits: int | None = None
        self._is_given = False
        if form.colours == _PALETTE:
            self._palette, self._first_entry = self._read_palette()
        elif form.allocated > 8 or form.stored < 8:
            can_be_given = form.allocated > 8 and form.low == 0 and not header.has_overlay_in_pixels
            self._is_given = can_be_given and bits is not None
            if can_be_given and bits is not None:
                self._low, self._depth = 0, bits
            else:
                self._low, self._depth = self._bits_that_are_used()
            if can_be_given and self._depth >= 8:
                self.bits = self._depth

    def rgb(self, file: int, index: int) -> ImageArray:
        """A frame as ``(H, W, 3)``.

        Args:
            file: descriptor of the open file.
            index: the index of the frame.

        Raises:
            DataError: it can't be decoded.
        """
        return self._to_rgb(self.stored(file, index))

    def stored(self, file: int, index: int) -> Stored:
        """The stored values of a frame; YBR is RGB already.

        Raises:
            DataError: see `rgb`.
        """
        header, size = self._header, self._form.size
        data = self._bytes(file, index)
        try:
            with quiet_pydicom():
                array, _ = self._decoder.as_array(data, index=0, validate=False, **self._options)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except (
            BaseException
        ) as error:  # decoders raise any exception, its text may quote the file, and Rust's is no Exception
            what = f"{header.transfer_syntax.name}, {type(error).__name__}"
            raise header.fault(f"frame {index} can't be decoded ({what})") from None
        if array.shape[:2] != size:
            raise header.fault(f"frame {index} can't be decoded: it gives other than {size[1]}x{size[0]} px")
        return array

    def _bytes(self, file: int, index: int) -> bytes:
        at, length = self._spans[index]
        if self._form.is_compressed:
            data = os.pread(file, length, at)
            if self._header.transfer_syntax != RLELossless:
                check_size(self._header, index, joined(data, 1 << 16), self._form.size)
            if self._header.transfer_syntax == JPEGBaseline8Bit:
                self._check_jpeg(index, joined(data, len(data)))
            if self._header.transfer_syntax == RLELossless and self._form.allocated > 8:
                self._check_rle(index, joined(data, len(data)))
            return fragments_as_sequence(data)
        if not (is_big_endian(self._header) and self._form.allocated == 8 and self._header.vr == "OW"):
            return os.pread(file, length, at)
        # Bytes are swapped in pairs that are counted from the first byte of the first frame.
        odd = (at - self._header.offset) % 2
        pairs = np.frombuffer(os.pread(file, odd + length + (odd + length) % 2, at - odd), np.uint8).reshape(-1, 2)
        return pairs[:, ::-1].tobytes()[odd : odd + length]

    def _check_jpeg(self, index: int, data: bytes) -> None:
        """Refuse a damaged JPEG, of which pydicom's decoders give an image without a word."""
        try:
            check_jpeg(data)
        except UndecodableImageError as error:
            raise self._header.fault(f"frame {index} {error}") from None

    def _check_rle(self, index: int, data: bytes) -> None:
        """Refuse a frame of 16 bits with a segment of another length than its pixels.

        The decoder panics at one that is too long: it prints a backtrace, and raises what is no `Exception`.
        """
        bounds = [offset for offset in struct.unpack("<15L", data[4:64].ljust(60, b"\0")) if offset] + [len(data)]
        height, width = self._form.size
        for segment in (data[start:end] for start, end in itertools.pairwise(bounds)):
            try:
                fits = bool(segment) and len(decode_segment(segment)) == height * width
            except ValueError:
                fits = False
            if not fits:
                raise self._header.fault(f"frame {index} can't be decoded: its RLE has another length than its pixels")

    def _to_rgb(self, array: Stored) -> ImageArray:
        form = self._form
        if self._palette is not None:
            if form.low or form.stored < form.allocated:
                array = (array >> form.low) & ((1 << form.stored) - 1)
            entries = np.clip(array.astype(np.int32) - self._first_entry, 0, len(self._palette) - 1)
            return np.ascontiguousarray(self._palette[entries])
        image = self._to_8_bits(array)
        if form.colours == "MONOCHROME1":
            image = np.uint8(255) - image
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        return np.ascontiguousarray(image)

    def _to_8_bits(self, array: Stored) -> ImageArray:
        low, depth = self._low, self._depth
        if self._is_given and int(array.max()) >> depth:
            raise self._header.fault(f"holds a value of more than the {depth} bits that it had: was it changed?")
        if depth >= 8:
            shift = low + depth - 8
            return (array >> shift if shift else array).astype(np.uint8)
        mask = (1 << depth) - 1
        return (((array >> low) & mask).astype(np.uint16) * 255 // mask).astype(np.uint8)

    def _bits_that_are_used(self) -> tuple[int, int]:
        """The lowest bit and the number of bits to take values from."""
        form, header = self._form, self._header
        mark = "\0whole frames" if self._skip_damaged else ""
        used = _used_bits((f"{header.path}{mark}", *header.state), self._all_stored)
        stated = ((1 << form.stored) - 1) << form.low
        if header.has_overlay_in_pixels:
            used &= stated
        inside = (used & stated) >> form.low
        is_within = not used & ~stated
        window = self._bits_of_window()
        if is_within and (form.stored <= 8 or not used or inside.bit_length() >= form.stored - 1):
            self._note_narrow_window(window, form.stored)
            return form.low, form.stored
        depth = max(8, used.bit_length(), window)
        self._note_narrow_window(window, depth)
        if (form.low, form.stored) != (0, depth):
            kind = "DICOM files use other bits of their pixels than they state; the upper 8 of those that they use are taken"
            last = form.low + form.stored - 1
            message = f"states {form.stored} bits up to bit {last}, no pixel is above {(1 << used.bit_length()) - 1}: taken as {depth} bits"
            self.repairs.append((kind, message))
        return 0, depth

    def _note_narrow_window(self, window: int, depth: int) -> None:
        if 0 < window < depth - 1 and depth > 8:
            kind = "DICOM files have a display window that shows less than half of their values; all of them are kept"
            self.repairs.append((kind, f"its window ends below {1 << window}, its values below {1 << depth}"))

    def _bits_of_window(self) -> int:
        """Bits of the largest value that the stated display window shows; 0 without a window that makes sense."""
        centres, widths = self._header.numbers("WindowCenter"), self._header.numbers("WindowWidth")
        tops = [c + w / 2 for c, w in zip(centres, widths, strict=False) if c is not None and w is not None and w >= 1]
        tops = [t for t in tops if 1 <= t <= 1 << self._form.allocated]
        return int(max(tops) - 1).bit_length() if tops else 0

    def _all_stored(self) -> Iterable[Stored]:
        with open_regular(self._header.path) as file:
            for index in range(len(self._spans)):
                with contextlib.suppress(*([DataError] if self._skip_damaged else [])):
                    yield self.stored(file.fileno(), index)

    def _read_palette(self) -> tuple[ImageArray, int]:
        """A table ``(entries, 3)`` and the stored value of its first entry; lesser values have it too, larger ones the last."""
        header = self._header
        descriptors = [header.numbers(f"{c}PaletteColorLookupTableDescriptor") for c in ("Red", "Green", "Blue")]
        if any(len(d) != 3 or None in d or d[0] != descriptors[0][0] or d[1] != descriptors[0][1] for d in descriptors):
            raise header.fault(
                "has palette colours, but no palette that can be read: its descriptors are missing or differ"
            )
        number, first, bits = (int(value or 0) for value in descriptors[0])
        number = number or 1 << 16
        if header.data("RedPaletteColorLookupTableData"):
            names = [f"{c}PaletteColorLookupTableData" for c in ("Red", "Green", "Blue")]
            tables = [_table(header, name, number) for name in names]
        else:
            tables = self._segmented_tables(number, first, bits)
        if bits not in (8, 16):
            raise header.fault(f"has a palette with entries of {bits} bits, not 8 or 16")
        table = np.stack(tables, axis=-1)
        if table.dtype == np.uint8 or (bits == 8 and table.max() < 256):
            return table.astype(np.uint8), first
        if table.max() < 256:
            kind = "DICOM files have palettes of other than the stated number of bits"
            self.repairs.append((kind, "states a palette of 16 bits, its largest entry is below 256: taken as 8 bits"))
            return table.astype(np.uint8), first
        return (table >> 8).astype(np.uint8), first

    def _segmented_tables(self, number: int, first: int, bits: int) -> list[NDArray[Any]]:
        header = self._header
        names = [f"Segmented{c}PaletteColorLookupTableData" for c in ("Red", "Green", "Blue")]
        if not all(header.data(name) for name in names) or (bits == 8 and number > 256):
            raise header.fault("has palette colours, but no palette that can be read")
        entries = np.arange(number, dtype=np.int64) + first
        try:
            with quiet_pydicom():
                table = apply_color_lut(entries, header.dataset)
        except Exception as error:
            raise header.fault(f"has a segmented palette that can't be read ({type(error).__name__})") from None
        return list(np.moveaxis(table[..., :3], -1, 0))


def _table(header: DicomHeader, name: str, number: int) -> NDArray[Any]:
    data = header.data(name)
    big = is_big_endian(header)
    if len(data) == 2 * number:
        return np.frombuffer(data, ">u2" if big else "<u2").astype(np.uint16)
    if len(data) == number + number % 2:
        table = np.frombuffer(data, np.uint8)
        swapped = table.reshape(-1, 2)[:, ::-1].ravel() if big else table
        return swapped[:number]
    raise header.fault(f"has a palette of {len(data)} bytes for {number} entries")


_known_bits: dict[tuple[str, int, int, int], int] = {}


def _used_bits(key: tuple[str, int, int, int], frames: Callable[[], Iterable[Stored]]) -> int:
    """Bits that any pixel of a file uses, looked up once for each process; ``key`` is the file and its state."""
    if key not in _known_bits:
        if len(_known_bits) > 10_000:
            _known_bits.clear()
        parts = (int(np.bitwise_or.reduce(array, axis=None)) for array in frames())
        _known_bits[key] = functools.reduce(int.__or__, parts, 0)
    return _known_bits[key]
