"""DICOM files with many frames, written without holding the frames in memory.

Source: DICOM PS3.5 A.4 (encapsulated pixel data), PS3.10 7 (file format).
"""

from __future__ import annotations

import os
import struct
import tempfile
from pathlib import Path
from typing import IO

import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID

from ultravid.utils.file_io import replace_file

__all__ = ["IMPLEMENTATION_UID", "FrameSpool", "file_meta"]

IMPLEMENTATION_UID = UID("2.25.272363131741963829176044146423246371217")
"""Names this program as what wrote a file."""

_MAX_VALUE = 0xFFFFFFFE  # bytes; a length of 32 bits, whose last value means that it is not known
_PIXEL_DATA = b"\xe0\x7f\x10\x00"
_ITEM, _END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_CHUNK = 1 << 20


def file_meta(dataset: pydicom.Dataset, transfer_syntax: UID) -> FileMetaDataset:
    """The header of a file of a dataset."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = transfer_syntax
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    meta.ImplementationVersionName = "ULTRAVID"
    return meta


class FrameSpool:
    """Frames on their way to a file; they wait in a temporary file of the output's folder, which has no name.

    Args:
        folder: the folder of the output.
        is_compressed: whether frames are, each by itself.

    Raises:
        OSError: the folder can't be written.
    """

    def __init__(self, folder: Path, *, is_compressed: bool) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed by `close`
        self._is_compressed = is_compressed
        self._lengths: list[int] = []

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, frame: bytes) -> None:
        """Add the next frame's bytes.

        Raises:
            OSError: the disk is full.
        """
        if self._is_compressed and len(frame) % 2:
            frame += b"\0"
        self._file.write(frame)
        self._lengths.append(len(frame))

    def write(self, path: Path, dataset: pydicom.Dataset, transfer_syntax: UID, vr: str) -> None:
        """Write a file of a dataset and the frames.

        Args:
            path: the path of the file, which is complete or absent.
            dataset: everything but the pixels; nothing in it comes after them.
            transfer_syntax: the transfer syntax of little endian and explicit value representations.
            vr: the value representation of the pixels, ``OB`` or ``OW``.

        Raises:
            OSError: the disk is full, or the file can't be written.
            ValueError: uncompressed frames take more than the 4 GiB that a file can hold.
        """
        total = sum(self._lengths)
        if not self._is_compressed and total > _MAX_VALUE:
            raise ValueError("more than 4 GiB of uncompressed frames")
        dataset.file_meta = file_meta(dataset, transfer_syntax)
        self._file.flush()
        self._file.seek(0)
        with replace_file(path) as file:
            pydicom.dcmwrite(file, dataset, enforce_file_format=True, implicit_vr=False, little_endian=True)
            file.seek(0, os.SEEK_END)
            head = _PIXEL_DATA + vr.encode() + b"\0\0"
            if self._is_compressed:
                file.write(head + struct.pack("<L", 0xFFFFFFFF))
                self._write_offsets(file)
                for length in self._lengths:
                    file.write(_ITEM + struct.pack("<L", length))
                    self._copy(file, length)
                file.write(_END + bytes(4))
            else:
                file.write(head + struct.pack("<L", total + total % 2))
                self._copy(file, total)
                file.write(bytes(total % 2))

    def close(self) -> None:
        """Remove the temporary file."""
        self._file.close()

    def _write_offsets(self, file: IO[bytes]) -> None:
        offsets, at = [], 0
        for length in self._lengths:
            offsets.append(at)
            at += 8 + length
        if at > _MAX_VALUE:
            offsets = []  # a table of offsets is optional
        file.write(_ITEM + struct.pack(f"<L{len(offsets)}L", 4 * len(offsets), *offsets))

    def _copy(self, file: IO[bytes], length: int) -> None:
        while length:
            data = self._file.read(min(length, _CHUNK))
            assert data, "as many bytes as were added"
            file.write(data)
            length -= len(data)
