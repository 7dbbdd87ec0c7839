"""Masks of the user: one per scanner, one for all sources, or a picture of what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ultravid.datasets.bounds import MAX_SIDECAR_BYTES
from ultravid.datasets.faults import FaultSink, FileFaults
from ultravid.datasets.image_io import read_image
from ultravid.datasets.json_files import find_file, read_json
from ultravid.datasets.masks import Masks, read_masks
from ultravid.datasets.readers.kinds import kind_of
from ultravid.datasets.readers.source import Region
from ultravid.datasets.safe_files import read_bytes
from ultravid.datasets.video import DataError

__all__ = ["ScannerMasks", "read_scanner_masks"]


class ScannerMasks:
    """Parts of images that are black in what is written, as a file of the user's says.

    Args:
        address: the address of the file, for messages.
        table: parts by device and image size; None: the file is for all sources.
        parts: for all sources; None: the file is of another kind.
        kept: ``(H, W)`` what is kept of the images of all sources; None: the file is of another kind.
    """

    def __init__(
        self,
        address: str | Path,
        *,
        table: Masks | None = None,
        parts: tuple[Region, ...] | None = None,
        kept: NDArray[np.bool_] | None = None,
    ) -> None:
        self.address = address
        self._table = table
        self._parts = parts
        self._kept = kept

    @property
    def kind(self) -> str:
        """What the file is, in words."""
        if self._table is not None:
            return "a table of parts by device and image size"
        return "parts for all sources" if self._parts is not None else "a picture of what is kept of all sources"

    def kept(self, device: str, size: tuple[int, int], *, is_needed: bool = True) -> NDArray[np.bool_] | None:
        """What is kept of images of a device and a size (height, width), ``(H, W)``; None if the file does not say.

        Args:
            device: the device of the recording, as DICOM's ManufacturerModelName or a sidecar names it.
            size: the size of its images.
            is_needed: False if something else says it, so that it is no fault of the table if it does not.

        Raises:
            DataError: the file is for all sources, and does not fit images of this size.
        """
        height, width = size
        if self._kept is not None:
            if self._kept.shape != size:
                mask = f"{self._kept.shape[1]}x{self._kept.shape[0]}"
                raise DataError(
                    f"{self.address}: is a picture of {mask} px for images of {width}x{height} px. For sources of several sizes "
                    f'write a table: {{"{device}": {{"{width}x{height}": [[x1, y1, x2, y2]]}}}}.'
                )
            return self._kept
        parts = self._parts if self._table is None else self._table.parts(device, size, is_needed=is_needed)
        if parts is None:
            return None
        kept = np.ones(size, np.bool_)
        for x1, y1, x2, y2 in parts:
            if x2 > width or y2 > height:
                raise DataError(
                    f"{self.address}: the part {[x1, y1, x2, y2]} is not inside images of {width}x{height} px."
                )
            kept[y1:y2, x1:x2] = False
        return kept

    def unfit(self) -> list[str]:
        """Where the file and the sources did not fit, once all sources were opened: messages for the report."""
        if self._table is None:
            return []
        sink = FaultSink()
        faults = FileFaults(self.address, sink)
        try:
            self._table.check_used(self.address, faults)
        except DataError as error:
            return [str(error)]
        faults.close()
        return [f"{fault.kind}: {fault.message}" for fault in sink.faults]


def read_scanner_masks(address: str | Path | None) -> ScannerMasks | None:
    """The masks of a file; None for None.

    The file is a table by device and image size (`ultravid.datasets.masks`), a JSON or YAML list of parts ``[x1, y1, x2, y2]`` that are black in
    images of all sources, or a picture of the images' size, in which what is kept is white and the rest black.

    Args:
        address: path or address of the file.

    Raises:
        DataError: the file can't be read, or is none of these.
    """
    if address is None:
        return None
    if kind_of(address) == "image":
        return ScannerMasks(address, kept=_read_picture(address))
    content = _read(address)
    if isinstance(content, list):
        return ScannerMasks(address, parts=_parts(address, content))
    return ScannerMasks(address, table=read_masks(address))


def _read(address: str | Path) -> Any:
    """The content of a JSON or YAML file; None if `read_masks` is to say what is wrong with it."""
    if str(address).lower().endswith(".json"):
        return read_json(address, MAX_SIDECAR_BYTES)
    import yaml

    try:
        return yaml.safe_load(read_bytes(find_file(address), MAX_SIDECAR_BYTES))
    except (OSError, yaml.YAMLError, ValueError, TypeError, RecursionError):
        return None


def _parts(address: str | Path, content: list[Any]) -> tuple[Region, ...]:
    for box in content:
        whole = isinstance(box, list) and len(box) == 4 and all(type(v) is int for v in box)
        if not whole or not (0 <= box[0] < box[2] and 0 <= box[1] < box[3]):
            raise DataError(f"{address}: {str(box)[:60]} is not a box [x1, y1, x2, y2] of whole pixels.")
    return tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in content)


def _read_picture(address: str | Path) -> NDArray[np.bool_]:
    image = read_image(address)
    levels = np.unique(image)
    between = np.count_nonzero((image > 64) & (image < 192)) / image.size
    if len(levels) > 2 and between > 0.01:
        raise DataError(
            f"{address}: is a picture with {len(levels)} grey levels. A mask has two: white for what is kept, black for what is blacked out."
        )
    kept = np.asarray(image.max(axis=-1) > 127)
    if not kept.any():
        raise DataError(f"{address}: is black everywhere, so that nothing would be kept. White is kept.")
    return kept
