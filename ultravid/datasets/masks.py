"""Tables of the parts to black out by device and image size: the bands in which scanners burn in names and dates.

A table is a JSON or YAML file::

    LOGIQ E10:                                        # the device, as DICOM's ManufacturerModelName or a sidecar names it
      960x720: [[0, 0, 960, 64], [0, 690, 300, 720]]  # width x height of the image; x1, y1, x2, y2 of what is blacked out
      640x480: []                                     # looked at: nothing is burnt in

Coordinates are pixels of the file's whole image; x2 and y2 are the first outside. Devices are compared without regard to case and
to blanks around them; the device of files that name none is ``""``.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ultravid.datasets.bounds import MAX_SIDECAR_BYTES, frame_size_fault
from ultravid.datasets.faults import FileFaults
from ultravid.datasets.json_files import find_file, read_json
from ultravid.datasets.safe_files import read_bytes
from ultravid.datasets.video import DataError
from ultravid.utils.text import nearest, spelling_key

__all__ = ["Masks", "read_masks"]

_SIZE = re.compile(r"([1-9][0-9]{0,4})\s*x\s*([1-9][0-9]{0,4})")

_Parts = tuple[tuple[int, int, int, int], ...]


class Masks:
    """Parts of images that are blacked out, by device and image size.

    Args:
        parts: by device and (height, width); devices as they are written.

    Attributes:
        used: which keys were asked for and found.
        other_sizes: which were asked for, of devices of the table, and not found.
        other_devices: which were asked for, of devices that the table does not list.
    """

    def __init__(self, parts: Mapping[tuple[str, tuple[int, int]], _Parts]) -> None:
        self._parts = {(spelling_key(device), size): boxes for (device, size), boxes in parts.items()}
        self._written = {spelling_key(device): device for device, _ in parts}
        self._asked: Counter[tuple[str, tuple[int, int]]] = Counter()
        self.used: set[tuple[str, tuple[int, int]]] = set()
        self.other_sizes: set[tuple[str, tuple[int, int]]] = set()
        self.other_devices: set[tuple[str, tuple[int, int]]] = set()

    def __len__(self) -> int:
        return len(self._parts)

    def parts(self, device: str, size: tuple[int, int], *, is_needed: bool = True) -> _Parts | None:
        """What is blacked out in images of a device and a size (height, width); None if the table does not say.

        ``is_needed=False``: the images show their ultrasound region alone, so it is no fault of the table if it does not say.
        """
        key = (spelling_key(device), size)
        self._written[key[0]] = device
        self._asked[key] += 1
        if key not in self._parts:
            known = any(device == key[0] for device, _ in self._parts)
            if is_needed:
                (self.other_sizes if known else self.other_devices).add(key)
            return None
        self.used.add(key)
        return self._parts[key]

    def check_used(self, address: str | Path | None, faults: FileFaults) -> None:
        """Refuse a table that fits none of a dataset's recordings, and report where the two do not fit.

        Args:
            address: the address of the table.
            faults: the faults of the dataset; takes entries that fit no recording, and recordings of other devices or image sizes.

        Raises:
            DataError: no key was found.
        """
        if self._parts and not self.used:
            first = next(iter(self._parts))
            raise DataError(
                f"{address}: none of the recordings in {faults.path} has a device and image size of this table, "
                f"such as {self._shown(first)}{self._nearest(first)}.{self._inventory()}"
            )
        for key in sorted(self._parts.keys() - self.used):
            kind = "entries of the table of masks fit no recording"
            faults.repair(kind, f"{address}: {self._shown(key)}{self._nearest(key)}")
        for key in sorted(self.other_sizes):
            kind = (
                "devices of the table of masks have images of a size that it does not list; there it blacks out nothing"
            )
            faults.repair(kind, f"{address}: {self._shown(key)}")
        for key in sorted(self.other_devices if address is not None else ()):
            kind = "devices of recordings are not in the table of masks; nothing of them is blacked out"
            faults.repair(kind, f"{address}: {self._shown(key)}")

    def _shown(self, key: tuple[str, tuple[int, int]]) -> str:
        device, (height, width) = key
        return f"{self._written[device]!r}, {width}x{height}"

    def _nearest(self, key: tuple[str, tuple[int, int]]) -> str:
        """The recordings' device that an entry may mean, in brackets; "" if they have its device, or none is like it."""
        devices = {device for device, _ in self._asked}
        found = None if key[0] in devices else nearest(key[0], sorted(devices))
        return "" if found is None else f" (the recordings have {self._written[found]!r})"

    def _inventory(self) -> str:
        """The recordings' devices and sizes with counts, the most frequent first, and a table for them to start from."""
        if not self._asked:
            return ""
        common = self._asked.most_common(10)
        more = f" and {len(self._asked) - 10} more" if len(self._asked) > 10 else ""
        table: dict[str, dict[str, list[list[int]]]] = {}
        for (device, (height, width)), _ in common:
            table.setdefault(self._written[device], {})[f"{width}x{height}"] = [[0, 0, width, min(64, height)]]
        listed = "; ".join(f"{self._shown(key)} ({number})" for key, number in common)
        return f" They have {listed}{more}. A table to start from: {json.dumps(table, ensure_ascii=False)}"


def read_masks(address: str | Path | None) -> Masks:
    """The table of a JSON or YAML file at any address; an empty one for None.

    Raises:
        DataError: the file can't be read or holds no such table; the message names device and size.
    """
    if address is None:
        return Masks({})
    content = read_json(address, MAX_SIDECAR_BYTES) if str(address).lower().endswith(".json") else _read_yaml(address)
    if not isinstance(content, dict) or not all(isinstance(sizes, dict) for sizes in content.values()):
        raise DataError(
            f"{address}: the table of masks must be an object from device to image size to boxes, as "
            '{"LOGIQ E10": {"960x720": [[0, 0, 960, 64]]}}.'
        )
    parts: dict[tuple[str, tuple[int, int]], _Parts] = {}
    seen: set[tuple[str, tuple[int, int]]] = set()
    for device, sizes in content.items():
        for text, boxes in sizes.items():
            size = _size(address, device, text)
            if (spelling_key(str(device)), size) in seen:
                raise DataError(f"{address}: device {device!r}, size {text} is written twice.")
            seen.add((spelling_key(str(device)), size))
            parts[str(device), size] = _boxes(f"{address}: device {device!r}, size {text}", boxes, size)
    return Masks(parts)


class _Loader(yaml.SafeLoader):
    """Refuses a key that is written twice: the first would be dropped."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is written twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _read_yaml(address: str | Path) -> Any:
    try:
        return yaml.load(read_bytes(find_file(address), MAX_SIDECAR_BYTES).decode("utf-8-sig"), _Loader)
    except FileNotFoundError:
        raise DataError(f"{address} does not exist.") from None
    except OSError as error:
        raise DataError(f"{address}: can't be read ({error.strerror}).") from error
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        reason = getattr(error, "problem", None) or type(error).__name__
        raise DataError(f"{address}: can't be read as YAML ({reason}).") from error


def _size(address: str | Path, device: Any, text: Any) -> tuple[int, int]:
    found = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if found is None or frame_size_fault(int(found[2]), int(found[1])) is not None:
        raise DataError(f"{address}: device {device!r}: {str(text)[:40]!r} is not a size as 960x720.")
    return int(found[2]), int(found[1])


def _boxes(where: str, boxes: Any, size: tuple[int, int]) -> _Parts:
    if not isinstance(boxes, list):
        raise DataError(f"{where}: must be a list of boxes [x1, y1, x2, y2].")
    for box in boxes:
        whole = isinstance(box, list) and len(box) == 4 and all(type(v) is int for v in box)
        if not whole or not (0 <= box[0] < box[2] <= size[1] and 0 <= box[1] < box[3] <= size[0]):
            raise DataError(f"{where}: {str(box)[:60]} is not a box [x1, y1, x2, y2] of whole pixels inside the image.")
    return tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in boxes)
