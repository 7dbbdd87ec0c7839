"""Readers by the name that a tool's command line gives them. A config names the reader's function itself."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultravid.datasets.faults import FaultSink
from ultravid.datasets.formats.coco_video import load_coco_stills, load_coco_video, load_cva_bus
from ultravid.datasets.formats.cvat_video import load_cvat_video
from ultravid.datasets.formats.hospital_csv import load_hospital_csv
from ultravid.datasets.formats.labelme import load_labelme
from ultravid.datasets.formats.recordings import load_recordings
from ultravid.datasets.video import DataError, Video
from ultravid.utils.text import nearest

__all__ = ["FORMATS", "DatasetFormat", "find_format", "parse_options"]


@dataclass(frozen=True)
class DatasetFormat:
    """A reader and its name on the command line.

    Attributes:
        name: the name of the format.
        load: the reader.
        path_argument: the reader's argument that takes the path.
    """

    name: str
    load: Callable[..., list[Video]]
    path_argument: str

    def read(self, path: str | Path, options: Mapping[str, Any], faults: FaultSink | None = None) -> list[Video]:
        """The videos at a path.

        Args:
            path: for the reader.
            options: the reader's other arguments.
            faults: collects all faults; None: the reader raises.

        Raises:
            DataError: raised by the reader.
        """
        return self.load(**{self.path_argument: path}, **options, faults=faults)


FORMATS: Mapping[str, DatasetFormat] = {
    f.name: f
    for f in (
        DatasetFormat("cva-bus", load_cva_bus, "root"),
        DatasetFormat("coco-video", load_coco_video, "json_file"),
        DatasetFormat("coco-stills", load_coco_stills, "json_file"),
        DatasetFormat("cvat-video", load_cvat_video, "xml"),
        DatasetFormat("labelme", load_labelme, "root"),
        DatasetFormat("hospital-csv", load_hospital_csv, "root"),
        DatasetFormat("recordings", load_recordings, "path"),
    )
}


def find_format(name: str) -> DatasetFormat:
    """The format with a name.

    Raises:
        DataError: there is none; the message names the nearest.
    """
    if name not in FORMATS:
        near = nearest(name, FORMATS)
        hint = f"Did you mean {near!r}?" if near else f"Formats are {', '.join(FORMATS)}."
        raise DataError(f"Unknown format {name!r}. {hint}")
    return FORMATS[name]


def parse_options(of: DatasetFormat, texts: Sequence[str]) -> dict[str, Any]:
    """A reader's arguments from ``key=value``; a value is JSON or text, and a list may be text with commas.

    Raises:
        DataError: a text isn't ``key=value``, the reader has no such argument, or the value has another type.
    """
    signature = inspect.signature(of.load)
    known = {k: str(p.annotation) for k, p in signature.parameters.items() if k not in (of.path_argument, "faults")}
    options = {}
    for text in texts:
        key, equals, written = text.partition("=")
        if not equals:
            raise DataError(f"Option {text!r} is not key=value.")
        if key not in known:
            raise DataError(f"Format {of.name!r} has no option {key!r}. {_hint(of, key, known)}")
        options[key] = _value(key, written, known[key])
    missing = [k for k in known if signature.parameters[k].default is inspect.Parameter.empty and k not in options]
    if missing:
        raise DataError(f"Format {of.name!r} needs the option {missing[0]!r}: add --option {missing[0]}=...")
    return options


def _hint(of: DatasetFormat, key: str, known: Iterable[str]) -> str:
    """What would be right in place of an option that a reader has not."""
    where = f"the path itself: --path PATH, or --data {of.name}:PATH"
    if key == of.path_argument:
        return f"It is {where}."
    if key in ("image_root", "root") and of.path_argument in ("root", "path"):
        return f"Its images are looked for in {where}."
    near = nearest(key, known)
    return f"Did you mean {near!r}?" if near else f"Its options are {', '.join(known)}."


def _value(key: str, written: str, annotation: str) -> Any:
    try:
        value = json.loads(written)
    except (ValueError, RecursionError):  # not JSON, or a number of more than 4,300 digits: text
        value = written
    if annotation.startswith("Sequence"):
        value = written.split(",") if not isinstance(value, list) else value
    wanted = {"bool": bool, "int": int, "Mapping": dict, "str": str, "Sequence": list}
    kind = next((k for k in wanted if annotation.startswith(k)), None)
    if kind == "str":
        return written
    fits = kind is None or (isinstance(value, wanted[kind]) and (kind == "bool" or not isinstance(value, bool)))
    if not fits and not (value is None and "None" in annotation):
        raise DataError(f"Option {key}={written}: the reader needs {annotation}.")
    return value
