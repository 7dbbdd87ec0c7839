"""Changes of sound files: of their bytes, of the structure of JSON, XML, CSV and pickles, and of what lies in a file's place."""

from __future__ import annotations

import copy
import csv
import enum
import fnmatch
import io
import json
import math
import os
import pickle
import random
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

__all__ = [
    "OUTSIDE",
    "Special",
    "change_bytes",
    "change_csv",
    "change_json",
    "change_pickle",
    "change_structure",
    "change_xml",
    "changed_files",
    "write_file",
]

Change = Callable[[random.Random, bytes], bytes]


class Special(enum.Enum):
    """What may lie in a file's place."""

    PIPE = "a pipe that nobody writes to"
    LOOP = "a link to itself"
    ZEROS = "a link to an endless file"
    FOLDER = "a folder"
    OUTSIDE = "a link to a file outside of the data set"


OUTSIDE: Mapping[str, bytes] = {
    "outside/secret.png": cv2.imencode(".png", np.full((12, 16), 200, np.uint8))[1].tobytes(),
    "outside/secret.json": b'{"secret": 1}',
    "outside/folder/secret.txt": b"secret",
}
"""Files beside the data set's folder, which no reader may touch."""

_MANY_DIGITS, _DEEP = "\ue000digits", "\ue000deep"  # values that json.dumps can't write
_TEXTS = (
    *("", " ", "0", "1", "-1", "nan", "1e999", "True", "null", "a\0b", "\ud800", "x" * 1000, "é" * 300, "%s%n", "a\nb"),
    *(
        "../outside/secret.png",
        "../outside/secret.json",
        "../outside/folder",
        "/etc/hostname",
        "/dev/zero",
        ".",
        "..",
        "/",
    ),
    *("C:\\x\\y.png", "a:b", "2020-01-01", "9" * 30, "1" * 5000, "0x10", "٣", "²", "1_000", "+1", "1.5", "-0"),
)
_NUMBERS = (
    *(0, 1, -1, 2, 3, 255, 65536, 10**9, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1),
    *(0.5, 1.5, -0.0, 1e-320, 1e30, 1e39, 1e300, -1e300, math.nan, math.inf, -math.inf),
)
_OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None, None], {"a": {}}, [0] * 300, _MANY_DIGITS, _DEEP)


def changed_files(
    rng: random.Random, files: Mapping[str, Any], targets: Sequence[str], change: Change | None
) -> dict[str, Any]:
    """The files of a data set, one or two of them changed."""
    changed = dict(files)
    chosen = [name for name in files if any(fnmatch.fnmatch(name, target) for target in targets)]
    for _ in range(rng.choice((1, 1, 1, 2))):
        name = rng.choice(chosen)
        if not isinstance(changed.get(name), bytes):
            continue
        if rng.random() < 0.03:
            changed[name] = rng.choice(list(Special))
        elif rng.random() < 0.02:
            del changed[name]
        elif rng.random() < 0.02:
            folder, _, last = name.rpartition("/")
            odd = rng.choice(("\udcff", "\n", "ü", " ")) + last
            changed[f"{folder}/{odd}" if folder else odd] = changed.pop(name)
        else:
            try:
                changed[name] = (change or _change_for(name))(rng, changed[name])
            except Exception:  # the first change has damaged it, or what holds it can't be written
                changed[name] = change_bytes(rng, changed[name])
    return changed


def write_file(path: Path, content: bytes | Special) -> None:
    """Write a file, or what lies in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is Special.PIPE:
        os.mkfifo(path)
    elif content is Special.FOLDER:
        path.mkdir()
    elif content is Special.ZEROS:
        path.symlink_to("/dev/zero")
    elif content is Special.LOOP:
        path.symlink_to(path.name)
    else:
        depth = len(path.parts) - 1 - max(i for i, part in enumerate(path.parts) if part == "data")
        suffix = ".json" if path.suffix == ".json" else ".png"
        path.symlink_to("../" * depth + f"outside/secret{suffix}")


def _change_for(name: str) -> Change:
    structured: dict[str, Change] = {
        ".json": change_json,
        ".xml": change_xml,
        ".csv": change_csv,
        ".pkl": change_pickle,
    }
    change = structured.get(Path(name).suffix, change_bytes)
    return lambda rng, data: change(rng, data) if rng.random() < 0.75 else change_bytes(rng, data)


def change_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flip, cut, insert, repeat or overwrite bytes."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_BYTE_CHANGES)(rng, bytearray(data))
    return data


def _flip_bits(rng: random.Random, data: bytearray) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 8, 32))):
        if data:
            data[_place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(data)


def _set_bytes(rng: random.Random, data: bytearray) -> bytes:
    start = _place(rng, data)
    run = rng.choice((1, 2, 4, 8))
    data[start : start + run] = rng.choice((b"\0", b"\xff", b"\x80", b"\x7f", rng.randbytes(1))) * run
    return bytes(data)


def _cut_end(rng: random.Random, data: bytearray) -> bytes:
    return bytes(data[: rng.randrange(len(data) + 1)])


def _cut_span(rng: random.Random, data: bytearray) -> bytes:
    start = _place(rng, data)
    del data[start : start + rng.choice((1, 2, 16, 200))]
    return bytes(data)


def _insert(rng: random.Random, data: bytearray) -> bytes:
    start = _place(rng, data)
    data[start:start] = rng.choice(
        (b"\0" * 8, b"\xff" * 3, b"\xef\xbb\xbf", b"\xff\xd9", rng.randbytes(rng.choice((1, 4, 64))))
    )
    return bytes(data)


def _repeat_span(rng: random.Random, data: bytearray) -> bytes:
    start, where = _place(rng, data), _place(rng, data)
    span = data[start : start + rng.choice((1, 4, 32, 300))]
    data[where:where] = span * rng.choice((1, 1, 20))
    return bytes(data)


def _append(rng: random.Random, data: bytearray) -> bytes:
    return bytes(data) + rng.choice((b"\0", b"\n", b"\0" * 4096, b"<html>", bytes(data), rng.randbytes(33)))


def _place(rng: random.Random, data: bytearray) -> int:
    """A place in the data; headers, which come first, are chosen more often than their length makes likely."""
    return rng.randrange(min(len(data), rng.choice((64, 512, 1 << 30))) or 1)


_BYTE_CHANGES = (_flip_bits, _flip_bits, _set_bytes, _cut_end, _cut_span, _insert, _repeat_span, _append)


def change_json(rng: random.Random, data: bytes) -> bytes:
    """Change keys and values of JSON; now and then its text."""
    text = json.dumps(change_structure(rng, json.loads(data)))
    text = text.replace(json.dumps(_MANY_DIGITS), "9" * 5000).replace(json.dumps(_DEEP), "[" * 60000 + "]" * 60000)
    written = text.encode()
    if rng.random() < 0.05:
        return rng.choice(
            (b"\xef\xbb\xbf" + written, text.encode("utf-16"), text.encode("latin-1", "replace") + b"\xe9")
        )
    return written


def change_structure(rng: random.Random, content: Any, texts: Sequence[str] = _TEXTS) -> Any:
    """A copy of nested dicts and lists in which one to three things are changed."""
    root = [copy.deepcopy(content)]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(root))
        holder, key = rng.choice(places)
        value = holder[key]
        kind = rng.random()
        if kind < 0.15 and holder is not root:
            del holder[key]
        elif kind < 0.25 and isinstance(holder, list) and holder is not root:
            holder.insert(rng.randrange(len(holder) + 1), copy.deepcopy(value))
        elif kind < 0.32 and isinstance(holder, dict):
            holder[rng.choice((f"{key}x", str(key).upper(), "", "\ud800"))] = holder.pop(key)
        elif kind < 0.42:
            other, place = rng.choice(places)
            holder[key] = copy.deepcopy(other[place])
        elif kind < 0.52:
            holder[key] = rng.choice((str(value), [value], {"a": value}, not value))
        elif kind < 0.66 and isinstance(value, int | float):
            holder[key] = rng.choice((value + 1, value - 1, -value, value * 1000, value / 3, value + 0.25))
        else:
            holder[key] = copy.deepcopy(rng.choice(rng.choice((_NUMBERS, texts, _OTHERS))))
    return root[0]


def _places(root: list[Any]) -> list[tuple[Any, Any]]:
    """(container, key) of every value, the whole content included."""
    found: list[tuple[Any, Any]] = []
    waiting: list[Any] = [root]
    while waiting:
        holder = waiting.pop()
        for key, value in holder.items() if isinstance(holder, dict) else enumerate(holder):
            found.append((holder, key))
            if isinstance(value, dict | list):
                waiting.append(value)
    return found


def change_xml(rng: random.Random, data: bytes) -> bytes:
    """Change elements, attributes and texts of XML."""
    root = ET.fromstring(data)
    texts = [t for t in (*_TEXTS, *map(str, _NUMBERS)) if not set(t) & {"\0", "\ud800"}]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        parents = [(parent, child) for parent in root.iter() for child in parent]
        if not parents:
            break
        parent, element = rng.choice(parents)
        kind = rng.random()
        if kind < 0.1:
            parent.remove(element)
        elif kind < 0.2:
            parent.insert(rng.randrange(len(parent) + 1), copy.deepcopy(element))
        elif kind < 0.25:
            element.tag = rng.choice(("box", "polygon", "points", "track", "image", "x"))
        elif kind < 0.3:
            rng.choice(parents)[0].append(copy.deepcopy(element))
        elif element.attrib and kind < 0.9:
            name = rng.choice(sorted(element.attrib))
            if rng.random() < 0.15:
                del element.attrib[name]
            else:
                element.set(name, rng.choice(texts) if rng.random() < 0.6 else str(rng.randrange(-2, 12)))
        else:
            element.text = rng.choice(texts)
    return ET.tostring(root)


def change_csv(rng: random.Random, data: bytes) -> bytes:
    """Change cells, rows and columns of a CSV."""
    rows = list(csv.reader(io.StringIO(data.decode())))
    for _ in range(rng.choice((1, 1, 2))):
        row = rng.choice(rows)
        cell = rng.randrange(len(row)) if row else 0
        kind = rng.random()
        if kind < 0.15:
            rows.insert(rng.randrange(len(rows) + 1), list(row))
        elif kind < 0.25 and len(rows) > 1:
            rows.remove(row)
        elif kind < 0.35 and row:
            del row[cell]
        elif kind < 0.45:
            row.insert(cell, rng.choice(_TEXTS))
        elif row:
            row[cell] = rng.choice(_TEXTS)
    text = io.StringIO()
    csv.writer(text, lineterminator=rng.choice(("\n", "\r\n", "\r"))).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


def change_pickle(rng: random.Random, data: bytes) -> bytes:
    """Change keys and values of a pickle of plain data, or pickle something that is no plain data."""
    if rng.random() < 0.1:
        content: Any = rng.choice((_self_holding, _explosive, _deep, _callable))()
        return pickle.dumps(
            rng.choice((content, {"frames": content}, {"frames": {0: content}}, {"frames": {0: [content]}}))
        )
    return pickle.dumps(
        change_structure(rng, pickle.loads(data)), protocol=rng.randrange(6)
    )  # made by the tests themselves


def _self_holding() -> Any:
    own: list[Any] = []
    own.append(own)
    return own


def _explosive() -> Any:
    """A small pickle whose text would fill any memory."""
    content: list[Any] = []
    for _ in range(60):
        content = [content, content]
    return content


def _deep() -> Any:
    content: list[Any] = []
    for _ in range(200):
        content = [content]
    return content


def _callable() -> Any:
    return os.system
