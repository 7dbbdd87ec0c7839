"""The sources that a user names: files, folders, patterns, lists, cameras and addresses; and a name for each."""

from __future__ import annotations

import glob
import hashlib
import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from ultravid.datasets.folders import natural_order
from ultravid.datasets.readers.kinds import bare_stream_fault, kind_of
from ultravid.datasets.readers.search import FoundRecordings
from ultravid.datasets.readers.source import DICOM_SUFFIXES, IMAGE_SUFFIXES, MOVIE_SUFFIXES
from ultravid.datasets.safe_files import open_regular, read_bytes
from ultravid.datasets.video import DataError
from ultravid.utils.text import counted, nearest, spelling_key, visible

__all__ = ["SCHEMES", "Source", "SourceList", "file_source", "list_sources", "source_of"]

logger = logging.getLogger(__name__)

SCHEMES = ("rtsp", "rtsps", "rtmp", "tcp", "udp", "http", "https")
"""Of the addresses of network streams."""

_LIST_SUFFIXES = (".txt", ".list", ".streams")
_MOST_LIST_BYTES = 1 << 26
_SUFFIXES = MOVIE_SUFFIXES | DICOM_SUFFIXES | IMAGE_SUFFIXES
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/{2}")
_CAMERA = re.compile(r"/dev/video[0-9]{1,4}|[0-9]{1,4}")
_LONGEST_NAME = 100  # characters; systems allow 255 bytes with what is appended
_SHOWN_FAULTS = 10


@dataclass(frozen=True)
class Source:
    """A source of frames that can be opened.

    Attributes:
        name: a short name for files, different from those of the other sources of a list.
        path: the file or folder; None for a camera or an address.
        address: the address of a network stream; it may hold a password, and is never shown.
        camera: the device of a camera, as ``/dev/video0``.
    """

    name: str
    path: Path | None = None
    address: str | None = field(default=None, repr=False)
    camera: str | None = None

    def __str__(self) -> str:
        """The source for messages: its path, its device, or its address without user, password and what comes after the port."""
        if self.address is not None:
            return shown_address(self.address)
        return str(self.path if self.camera is None else self.camera)


class SourceList(list[Source]):
    """Sources in the order in which they were named, those of a folder in natural order.

    Args:
        sources: the sources.
        left_out: what was found and is not a recording.

    Attributes:
        left_out: files and folders that were found in a folder, or by a pattern, and are no recordings: their path, and why.
    """

    def __init__(self, sources: Iterable[Source] = (), left_out: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(sources)
        self.left_out: list[tuple[str, str]] = list(left_out)


Named = str | os.PathLike[str] | int


def list_sources(sources: Named | Sequence[Named]) -> SourceList:
    """All sources that some texts mean.

    A text is, in this order: the number of a camera (``0``); the address of a network stream (``rtsp://...``); the path of a recording,
    of a folder of pictures, which are one recording, or of a folder of recordings; the path of a text file with one source a line, in
    which a name is looked for beside the file, then in the working folder; a pattern such as ``scans/*.mp4``. A file that is reached
    twice is one source. Each picture that a pattern finds is a recording of one frame.

    Sources that would have one name, as ``a/scan.mp4`` and ``b/scan.mp4``, get names that tell them apart: with their suffix if that does,
    else with a hash of their path.

    Args:
        sources: one or several; a number is that of a camera.

    Raises:
        DataError: one of them can't be used, or there is none. All that can't are named.
    """
    texts = [sources] if isinstance(sources, str | os.PathLike | int) else list(sources)
    found, faults = SourceList(), []
    for text in texts:
        try:
            found += _expanded(text, found.left_out)
        except DataError as error:
            faults.append(visible(str(error)))  # it may name a file
    if len(faults) == 1:
        raise DataError(faults[0])
    if faults:
        more = [f"and {len(faults) - _SHOWN_FAULTS} more"] if len(faults) > _SHOWN_FAULTS else []
        listed = "\n  ".join([*faults[:_SHOWN_FAULTS], *more])
        raise DataError(f"{len(faults)} of {counted(len(texts), 'source')} can't be used:\n  {listed}")
    if not found:
        raise DataError("There is no source: name a movie, a DICOM file, a folder, a camera (0) or an address.")
    return SourceList(_with_own_names(_each_once(found)), _each_entry_once(found.left_out))


def source_of(text: Named) -> Source:
    """The one source that a text means: a camera, an address, or a file or folder whether or not it can be read. A path object is a path."""
    if isinstance(text, os.PathLike):
        return file_source(Path(text))
    return _device_or_address(str(text)) or file_source(Path(str(text)))


def file_source(path: Path) -> Source:
    """A file or folder as a source."""
    return Source(_safe_name(_stem(path)), path=path)


def shown_address(address: str) -> str:
    """An address without user and password, and without path and query, in which cameras take passwords too."""
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return f"{address.partition(':')[0]}://..."
    rest = "/..." if parts.path.strip("/") or parts.query else ""
    host = f"[{host}]" if ":" in host else host
    return visible(f"{parts.scheme}://{host}{f':{port}' if port is not None else ''}{rest}")


def _device_or_address(text: str) -> Source | None:
    """A camera or an address; None for any other text.

    Raises:
        DataError: the address is of a kind that is not read.
    """
    if _CAMERA.fullmatch(text):
        device = text if text.startswith("/") else f"/dev/video{int(text)}"
        return Source(f"camera{device.removeprefix('/dev/video')}", camera=device)
    found = _ADDRESS.match(text)
    if found is None:
        return None
    scheme = found[1].lower()
    if scheme not in SCHEMES:
        near = nearest(scheme, SCHEMES)
        hint = "give the file's path" if scheme == "file" else f"did you mean {near}://?" if near else "these are read"
        raise DataError(f"{scheme}://...: is an address of a kind that is not read; {hint} ({', '.join(SCHEMES)}).")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or (scheme in ("tcp", "udp") and port is None):
        raise DataError(f"{scheme}://...: the address has no host{' and port' if scheme in ('tcp', 'udp') else ''}.")
    return Source(_safe_name(f"{scheme}_{host}{f'_{port}' if port is not None else ''}"), address=text)


def _expanded(text: Named, left_out: list[tuple[str, str]], base: Path | None = None) -> Iterator[Source]:
    """The sources that one text means; a text of a list, whose folder is ``base``, is no list itself."""
    if str(text) == "":  # of a shell's variable that is not set, say; as a path it would be the working folder
        raise DataError("A source is an empty text. The working folder is '.'.")
    if not isinstance(text, os.PathLike):
        found = _device_or_address(str(text))
        if found is not None:
            yield found
            return
    path = Path(os.fspath(text) if not isinstance(text, int) else str(text))
    if base is not None and os.path.lexists(base / path):
        path = base / path
    try:
        exists = os.path.lexists(path)
    except ValueError:  # a NUL in the name
        raise DataError(f"{visible(str(path))!r} can't be the name of a file.") from None
    if path.is_dir():
        yield from _in_folder(path, left_out)
    elif exists:
        if path.suffix.lower() in _LIST_SUFFIXES and base is None and kind_of(path) is None:
            yield from _listed_in(path, left_out)
        else:
            yield _checked_file(path)
    elif glob.has_magic(str(path)):
        yield from _matching(path, left_out, base)
    else:
        raise DataError(f"{path} does not exist.")


def _checked_file(path: Path) -> Source:
    try:
        with open_regular(path) as file:
            is_empty = not file.read(1)
    except OSError as error:
        reason = "it is a link that leads nowhere" if path.is_symlink() and not path.exists() else error.strerror
        raise DataError(f"{path}: can't be read ({reason}).") from None
    if is_empty:
        raise DataError(f"{path}: is empty (0 bytes).")
    if kind_of(path) is None:
        if (fault := bare_stream_fault(path)) is not None:
            raise DataError(f"{path}: {fault}.")
        raise DataError(f"{path}: is not a movie, a DICOM file or a picture.")
    return file_source(path)


def _in_folder(path: Path, left_out: list[tuple[str, str]]) -> Iterator[Source]:
    try:
        found = FoundRecordings(path)
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}).") from None
    left_out += [(str(path / name), reason) for name, reason in found.left_out]
    if not found.recordings:
        others = ""
        if found.left_out:
            name, reason = found.left_out[0]
            which = (
                f"the other file in it, {name},"
                if len(found.left_out) == 1
                else f"the first of {len(found.left_out)} other files in it, {name},"
            )
            others = f"; {which} {reason}"
        raise DataError(f"{path}: holds no movie, DICOM file or picture{others}.")
    for recording in found.recordings:
        yield file_source(recording)


def _matching(pattern: Path, left_out: list[tuple[str, str]], base: Path | None) -> Iterator[Source]:
    where = pattern if base is None or pattern.is_absolute() else Path(glob.escape(str(base))) / pattern
    matches = glob.glob(str(where), recursive=True) or (glob.glob(str(pattern), recursive=True) if base else [])
    if not matches:
        raise DataError(f"{pattern}: no file has a name of this pattern.")
    number, pictures = 0, 0
    folders: set[str] = set()
    for match in sorted((Path(m) for m in matches), key=lambda p: [natural_order(part) for part in p.parts]):
        if match.is_dir():
            if (real := os.path.realpath(match)) in folders:  # ** follows a link to a folder above it 40 times
                continue
            folders.add(real)
        try:
            found = list(_in_folder(match, left_out)) if match.is_dir() else [_checked_file(match)]
        except DataError as error:
            if not match.name.endswith(".video.json"):
                left_out.append((str(match), str(error).removeprefix(f"{match}").lstrip(": ").rstrip(".")))
            continue
        number += len(found)
        pictures += match.is_file() and kind_of(match) == "image"
        yield from found
    if not number:
        raise DataError(f"{pattern}: none of the {counted(len(matches), 'file')} of this pattern is a recording.")
    if pictures > 1:
        logger.warning(
            "%s: %d pictures are read as recordings of one frame each; name their folder to read them as one recording.",
            pattern,
            pictures,
        )


def _listed_in(path: Path, left_out: list[tuple[str, str]]) -> Iterator[Source]:
    try:
        lines = read_bytes(path, _MOST_LIST_BYTES).decode("utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not a list of sources, one a line (it is not UTF-8 text).") from None
    number = 0
    for place, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            found = list(_expanded(text, left_out, path.parent))
        except DataError as error:
            raise DataError(f"{path}, line {place}: {error}") from None
        number += len(found)
        yield from found
    if not number:
        raise DataError(f"{path}: lists no source: write one on each line.")


def _each_once(sources: Iterable[Source]) -> Iterator[Source]:
    seen = set()
    for source in sources:
        key = (source.address, source.camera, source.path and os.path.realpath(source.path))
        if key in seen:
            logger.info("%s is named twice and read once.", source)
            continue
        seen.add(key)
        yield source


def _each_entry_once(left_out: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Each entry of a folder with the first reason why it is left out: several patterns, and links to the folder, find it again."""
    found: dict[tuple[str, str], tuple[str, str]] = {}
    for path, reason in left_out:
        folder, name = os.path.split(path)
        found.setdefault((os.path.realpath(folder), name), (path, reason))
    return list(found.values())


def _with_own_names(sources: Iterable[Source]) -> list[Source]:
    """The sources with names of which no two are alike, whatever the case of letters; a name depends on no order."""
    found = list(sources)
    for make in (_name_with_suffix, _name_with_hash):
        counts = Counter(spelling_key(source.name) for source in found)
        found = [
            source if counts[spelling_key(source.name)] == 1 else replace(source, name=make(source)) for source in found
        ]
    counts = Counter(spelling_key(source.name) for source in found)
    place: Callable[[int], str] = lambda k: f"{found[k].name}-{k + 1}"  # noqa: E731  # hashes that are alike
    return [s if counts[spelling_key(s.name)] == 1 else replace(s, name=place(k)) for k, s in enumerate(found)]


def _name_with_suffix(source: Source) -> str:
    suffix = "" if source.path is None else source.path.name.removeprefix(_stem(source.path)).replace(".", "_")
    return _safe_name(f"{_plain_name(source)}{suffix}")


def _name_with_hash(source: Source) -> str:
    what = source.address or source.camera or os.path.realpath(source.path or "")
    digest = hashlib.sha256(what.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"{_plain_name(source)[: _LONGEST_NAME - 9]}-{digest}"


def _plain_name(source: Source) -> str:
    return source.name if source.path is None else _safe_name(_stem(source.path))


def _stem(path: Path) -> str:
    """The name without the suffix; a UID's last number is no suffix."""
    name = path.name or path.resolve().name
    stem, suffix = os.path.splitext(name)
    is_suffix = suffix.lower() in _SUFFIXES or not suffix[1:].isdigit()
    return stem if is_suffix and not os.path.isdir(path) else name


def _safe_name(name: str) -> str:
    """A name that any system takes for a file, and no program for an option: letters, digits, ``.``, ``_`` and ``-``."""
    text = unicodedata.normalize("NFC", name)
    text = "".join(c if c.isalnum() or c in "._-+@=,()" else "_" for c in text).lstrip("-.").rstrip(".")
    if len(text.encode("utf-8", "replace")) > _LONGEST_NAME:
        digest = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        kept = text.encode("utf-8", "replace")[: _LONGEST_NAME - 9].decode("utf-8", "ignore")
        text = f"{kept}-{digest}"
    return text or "recording"
