"""Reads changed files, in forked processes, and compares what is read with an independent decoder.

A `Family` says how sound files are made, how they are read and what a reference says about them. Input ``n`` of a family depends
on the family's name, the seed and ``n`` alone. For every input it must hold that

- the reader returns, or raises a `UserError` that names a file of the input, in a bounded time and with bounded memory;
- nothing but the output folder changes, and nothing outside the input's folder is read into a result;
- what the reference complains of is refused, or reported in a fault or a warning;
- what is accepted equals what the reference reads.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import random
import re
import resource
import shutil
import signal
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz import mutations
from ultravid.datasets import Video, index
from ultravid.datasets.faults import FaultSink
from ultravid.utils.errors import UserError

__all__ = [
    "Complaint",
    "Failure",
    "Family",
    "Files",
    "Reading",
    "Summary",
    "content_of",
    "input_folder",
    "run_family",
    "run_one",
]

CPU_SECONDS, WALL_SECONDS = 4, 15  # of one input; the second counts what blocks, such as a pipe that nobody writes to
MEMORY_BYTES = 1 << 30  # beyond what the process has when it starts
LONGEST_MESSAGE = 6000

Files = Mapping[str, "bytes | mutations.Special"]
"""The content of a small data set, by path below its folder."""


class Complaint(Exception):  # noqa: N818  # what the reference says; it is no error of ours
    """The reference can't read an input, or warns about it."""


@dataclass(frozen=True)
class Reading:
    """What a reader returned.

    Attributes:
        value: what it returned.
        said: messages of warnings, and of faults if they were collected; else the reader raises what it rejects.
    """

    value: Any
    said: list[str]


@dataclass(frozen=True)
class Family:
    """One kind of files.

    Attributes:
        name: of the family, a test's id.
        seeds: makes sound data sets, which are read without a word.
        targets: the files of a data set that are changed: glob patterns.
        read: reads a folder; it is given a sink for faults, or None.
        check: raises a `Complaint` if the reference can't read the folder, which is right if something was said; and an
            AssertionError if what was read is wrong.
        change: changes a file's content; None: chosen by its suffix.
        output: the folder in the data set's that the reader may write to.
        said_of_sound: a pattern of what is reported of sound data sets: guesses.
    """

    name: str
    seeds: Callable[[], Sequence[Files]]
    targets: Sequence[str]
    read: Callable[[Path, FaultSink | None], Any]
    check: Callable[[Path, Reading], None]
    change: Callable[[random.Random, bytes], bytes] | None = None
    output: str | None = None
    said_of_sound: str = ""


@dataclass(frozen=True)
class Failure:
    """An input for which a property does not hold.

    Attributes:
        number: of the input.
        kind: what failures of one cause share.
        detail: the message, the difference or the traceback.
    """

    number: int
    kind: str
    detail: str


@dataclass
class Summary:
    """What became of a family's inputs."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)


_SEEDS: dict[str, Sequence[Files]] = {}


def _seeds_of(family: Family) -> Sequence[Files]:
    if family.name not in _SEEDS:
        _SEEDS[family.name] = family.seeds()
    return _SEEDS[family.name]


def content_of(path: Path) -> bytes:
    """The bytes of a file, for a reference.

    Raises:
        Complaint: a pipe, a folder, or a link to an endless file lies in its place, or nothing.
    """
    if not path.is_file():
        raise Complaint(f"{path.name} is no file")
    return path.read_bytes()


def input_folder(family: Family, seed: int, number: int, folder: Path) -> Path:
    """Write an input; the first ones are the sound data sets themselves. Returns the data set's folder, beside which others lie."""
    seeds = _seeds_of(family)
    rng = random.Random(f"{family.name} {seed} {number}")
    files = dict(seeds[number % len(seeds)])
    if number >= len(seeds):
        files = mutations.changed_files(rng, files, family.targets, family.change)
    data = folder / "data"
    shutil.rmtree(folder, ignore_errors=True)
    data.mkdir(parents=True)
    for name, content in files.items():
        mutations.write_file(data / os.fsdecode(name.encode("utf-8", "surrogateescape")), content)
    for name, content in mutations.OUTSIDE.items():
        mutations.write_file(folder / name, content)
    return data


def run_one(family: Family, seed: int, number: int, folder: Path) -> str:
    """Read one input: "refused" or "accepted".

    Raises:
        AssertionError: a property does not hold.
        Exception: the reader's, if it is no `UserError`.
    """
    data = input_folder(family, seed, number, folder)
    is_sound = number < len(_seeds_of(family))
    before = _snapshot(folder, data / family.output if family.output else None)
    reading: Reading | None = None
    message = ""
    try:
        reading = _read(family, data, collect=number % 2 == 0)
    except UserError as error:
        message = str(error)
        assert not is_sound, f"a sound input is refused: {message}"
    assert before == _snapshot(folder, data / family.output if family.output else None), "a file was changed"
    if reading is None:
        names = {part for name in (*_names(folder), "data") for part in Path(name).parts}
        assert any(name in message for name in names), f"the message names no file: {message[:300]}"
        assert len(message) <= LONGEST_MESSAGE, f"the message has {len(message)} characters: {message[:300]}"
        return "refused"
    unexpected = [text for text in reading.said if not re.search(family.said_of_sound or "$.", text)]
    assert not is_sound or not unexpected, f"a sound input is reported: {unexpected[:3]}"
    for text in reading.said:
        assert len(text) <= LONGEST_MESSAGE, f"a message has {len(text)} characters: {text[:300]}"
    _check_paths(reading.value, data)
    try:
        family.check(data, reading)
    except Complaint as complaint:
        if not reading.said:
            raise AssertionError(f"accepted without a word; the reference says: {complaint}") from complaint
    return "accepted with a word" if reading.said else "accepted"


def _read(family: Family, data: Path, collect: bool) -> Reading:
    sink = FaultSink() if collect else None
    index._warned.clear()  # a process says the same once, and each input is read as if by its own
    log = logging.getLogger("ultravid")
    handler = _Listener()
    log.addHandler(handler)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            value = family.read(data, sink)
    finally:
        log.removeHandler(handler)
    faults = [] if sink is None else [fault.message for fault in sink.faults]
    return Reading(value, [*handler.messages, *faults])


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _names(folder: Path) -> list[str]:
    return [os.path.relpath(os.path.join(here, name), folder) for here, _, names in os.walk(folder) for name in names]


def _snapshot(folder: Path, output: Path | None) -> dict[str, tuple[int, ...]]:
    """Sizes and times of all files outside of the output folder, links and pipes themselves included."""
    found = {}
    for here, folders, names in os.walk(folder):
        if output is not None and Path(here) == output.parent and output.name in folders:
            folders.remove(output.name)
        for name in (*names, *folders):
            path = os.path.join(here, name)
            status = os.lstat(path)
            is_file = name in names
            found[path] = (status.st_mode, status.st_size if is_file else 0, status.st_mtime_ns if is_file else 0)
    return found


def _check_paths(value: Any, data: Path) -> None:
    """No name in a file leads out of the data set; links that a user laid into a folder may."""
    for video in value if isinstance(value, list) else []:
        if isinstance(video, Video):
            for path in {frame.path for frame in video.frames}:
                inside = os.path.normpath(path).startswith(str(data) + os.sep)
                assert inside, f"a file outside of the data set is read: {path}"


def run_family(family: Family, seed: int, numbers: Sequence[int], folder: Path) -> Summary:
    """Read many inputs in forked processes; one that hangs or crashes is a failure, and the next are read by another process."""
    _seeds_of(family)  # the processes inherit them
    summary = Summary()
    pending = list(numbers)
    while pending:
        last, ending = -1, "ended without a word"
        for row in _forked(lambda left=pending: _work(family, seed, left, folder), folder):
            if row["what"] == "begins":
                last = row["number"]
            elif row["what"] == "ended":
                ending = row["how"]
            elif row["what"] == "failed":
                summary.failures.append(Failure(last, row["kind"], row["detail"]))
            else:
                summary.outcomes[row["what"]] += 1
            if row["what"] not in ("begins", "ended"):
                pending = pending[pending.index(last) + 1 :]
        if pending:
            if last not in pending:
                raise RuntimeError(f"the process that reads {family.name} {ending}")
            summary.failures.append(Failure(last, ending.partition("\n")[0], ending))
            pending = pending[pending.index(last) + 1 :]
    summary.outcomes["failed"] = len(summary.failures)
    return summary


def _work(family: Family, seed: int, numbers: Sequence[int], folder: Path) -> Iterator[dict[str, Any]]:
    for number in numbers:
        yield {"what": "begins", "number": number}
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)
        try:
            yield {"what": run_one(family, seed, number, folder / "input")}
        except AssertionError as error:
            text = str(error) or traceback.format_exc()
            yield {"what": "failed", "kind": _kind(text), "detail": text}
        except Exception as error:  # what the user would see as a traceback
            where = traceback.extract_tb(error.__traceback__)[-1]
            ours = [row for row in traceback.extract_tb(error.__traceback__) if "/ultravid/" in row.filename]
            place = f"{Path((ours or [where])[-1].filename).name}:{(ours or [where])[-1].lineno}"
            detail = "".join(traceback.format_exception(error, limit=-8))[-3000:]
            yield {"what": "failed", "kind": f"{type(error).__name__} in {place}", "detail": detail}
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)


def _kind(text: str) -> str:
    """What messages of one cause share: the text up to what differs from input to input."""
    return text.partition(": ")[0][:100]


def _forked(work: Callable[[], Iterator[dict[str, Any]]], folder: Path) -> Iterator[dict[str, Any]]:
    """What ``work`` yields in a forked process, then how the process ended."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "stderr"
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads; the child uses none
        process = os.fork()
    if process == 0:
        _child(work, writing, log)
    os.close(writing)
    with open(reading, encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    said = log.read_text(encoding="utf-8", errors="replace")[:1500]
    how = {-signal.SIGPROF: "hangs", -signal.SIGALRM: "blocks"}.get(code, f"ended with code {code}")
    yield {"what": "ended", "how": f"{how}\n{said}"}


def _child(work: Callable[[], Iterator[dict[str, Any]]], writing: int, log: Path) -> None:
    code = 1
    try:
        errors = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(errors, 2)  # decoders write there
        for number in (signal.SIGPROF, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
            faulthandler.register(number, file=errors, all_threads=False, chain=True)
        faulthandler.enable(file=errors, all_threads=False)
        used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_DATA, (used + MEMORY_BYTES, resource.RLIM_INFINITY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for row in work():
            os.write(writing, json.dumps(row).encode() + b"\n")
        code = 0
    except BaseException:
        with contextlib.suppress(BaseException):
            os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))
    finally:
        os._exit(code)
