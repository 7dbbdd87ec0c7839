"""Faults of a dataset: what a reader rejects or repairs.

By default a reader raises at the end of a file: the first fault is reported and the others are counted. A caller who wants all
of them passes a `FaultSink`; the reader then skips what it rejects and goes on.
"""

from __future__ import annotations

import logging
import traceback
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from ultravid.datasets.video import DataError
from ultravid.utils.text import visible

__all__ = ["Fault", "FaultSink", "FileFaults", "as_data_error"]

logger = logging.getLogger(__name__)

_LISTED = 10  # messages of a kind in a warning that lists them


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        kind: a few words that faults of one sort share, such as "box is empty".
        message: what is wrong, with video and frame.
        file: the annotation file, or the folder of the dataset.
        repaired: True if the data are used after a repair, False if they are rejected.
        number: how many things of this kind the message reports.
        videos: ids of the videos that it is about; none if it may be about any.
        whole_video: True if a whole video is rejected, False if it is read without the rejected part.
    """

    kind: str
    message: str
    file: str
    repaired: bool = False
    number: int = 1
    videos: tuple[str, ...] = ()
    whole_video: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", visible(self.message))  # it names files, and names may hold anything


@dataclass
class FaultSink:
    """Collects the faults of every reader that it is passed to.

    Attributes:
        faults: in the order in which they are found, file by file.
    """

    faults: list[Fault] = field(default_factory=list)


@dataclass
class FileFaults:
    """Faults of one file, in the order in which they are found.

    Attributes:
        path: the file or folder; messages begin with it.
        sink: takes the faults; None: a rejection is raised by `raise_if_any`.
        rejected: what can't be used.
        repaired: what was repaired.
        video: id of the video that what is noted is about, unless said otherwise; None: of no video, or of any.
        listed: kinds of repairs of which a warning names several.
    """

    path: str | Path
    sink: FaultSink | None = None
    rejected: list[Fault] = field(default_factory=list)
    repaired: list[Fault] = field(default_factory=list)
    video: str | None = None
    listed: set[str] = field(default_factory=set)

    def of_video(self, video: str) -> FileFaults:
        """The same faults, to which what is noted of one video is added."""
        return replace(self, video=video)

    def reject(
        self, kind: str, message: str, number: int = 1, *, videos: Iterable[str] = (), whole_video: bool = False
    ) -> None:
        """Note what can't be used.

        Args:
            kind: see `Fault`.
            message: what is wrong, with video and frame, without a full stop.
            number: the number of things that the message reports, such as the files of a folder.
            videos: ids of the videos that lack something; none: ``self.video``.
            whole_video: whether a video is left out.
        """
        about = tuple(dict.fromkeys(videos)) or (() if self.video is None else (self.video,))
        self.rejected.append(Fault(kind, message, str(self.path), False, number, about, whole_video))

    @contextmanager
    def rejecting(self, kind: str, path: str | Path) -> Iterator[None]:
        """Turn any exception in the reading of one file or folder, of which a video would be made, into a rejection."""
        try:
            with as_data_error(path):
                yield
        except DataError as error:
            self.reject(kind, str(error).rstrip("."), whole_video=True)

    def repair(self, kind: str, message: str, number: int = 1, *, listed: bool = False) -> None:
        """Note what was repaired.

        Args:
            kind: continues a number, such as "boxes were clipped to the frame".
            message: where, without a full stop.
            number: the number of things that the message reports.
            listed: whether a warning names the first ten of this kind instead of the first.
        """
        if listed:
            self.listed.add(kind)
        about = () if self.video is None else (self.video,)
        self.repaired.append(Fault(kind, message, str(self.path), True, number, about))

    def raise_if_any(self) -> None:
        """Raise the rejections, or hand them to the sink.

        Raises:
            DataError: something was rejected and there is no sink; the first fault is reported, the others are counted.
        """
        if self.sink is not None:
            self.sink.faults += self.rejected
            self.rejected.clear()
        if self.rejected:
            more = sum(fault.number for fault in self.rejected[1:])
            others = f" ({more} more {'fault' if more == 1 else 'faults'} in this file)" if more else ""
            raise DataError(f"{self.path}: {self.rejected[0].message}{others}.")

    def close(self) -> list[str]:
        """The warnings to issue about repairs; none if there is a sink, which takes the repairs too.

        Raises:
            DataError: see `raise_if_any`.
        """
        self.raise_if_any()
        if self.sink is not None:
            self.sink.faults += self.repaired
            return []
        by_kind: dict[str, list[Fault]] = defaultdict(list)
        for fault in self.repaired:
            by_kind[fault.kind].append(fault)
        most = {kind: _LISTED if kind in self.listed else 1 for kind in by_kind}
        return [f"{self.path}: {_counted(kind, found, most[kind])}." for kind, found in by_kind.items()]


def _counted(kind: str, repaired: Sequence[Fault], most: int) -> str:
    """How many repairs of a kind there are, and the first ones. The kind is in the plural, so that it does not continue a 1."""
    number, named = sum(fault.number for fault in repaired), "; ".join(fault.message for fault in repaired[:most])
    if number == 1:
        return f"{kind} (1): {named}"
    more = "; tools/audit_dataset.py lists all" if 1 < most < len(repaired) else ""
    return f"{number} {kind}; the first: {named}{more}"


@contextmanager
def as_data_error(path: str | Path, what: str = "can't be read") -> Iterator[None]:
    """Turn any exception in the reading of one file into a `DataError` that names it, so that the other files are still read.

    The message says where in the code it was raised, as it may be a bug in the reader. Its text is left out, also of the log:
    decoders quote the file, and so a patient's name.

    Args:
        path: the file.
        what: is said of it, but of errors of the system.

    Raises:
        DataError: in place of any other exception.
    """
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error.strerror or type(error).__name__}).") from None
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        logger.debug("%s: %s\n%s", path, type(error).__name__, "".join(traceback.format_list(frames)))
        raise DataError(f"{path}: {what} ({type(error).__name__} in {place}).") from None
