"""Faults of a dataset: what a reader rejects or repairs.

By default a reader raises at the end of a file: the first fault is reported and the others are counted. A caller who wants all
of them passes a `FaultSink`; the reader then skips what it rejects and goes on.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from ultravid.datasets.video import DataError

__all__ = ["Fault", "FaultSink", "FileFaults"]


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        kind: a few words that faults of one sort share, such as "box is empty".
        message: what is wrong, with video and frame.
        file: the annotation file, or the folder of the dataset.
        repaired: True if the data are used after a repair, False if they are rejected.
        number: how many things of the kind the message stands for.
    """

    kind: str
    message: str
    file: str
    repaired: bool = False
    number: int = 1


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
    """

    path: str | Path
    sink: FaultSink | None = None
    rejected: list[Fault] = field(default_factory=list)
    repaired: list[Fault] = field(default_factory=list)

    def reject(self, kind: str, message: str, number: int = 1) -> None:
        """Note what can't be used. ``message`` has no full stop; it may stand for a ``number`` of things, as those of a folder."""
        self.rejected.append(Fault(kind, message, str(self.path), number=number))

    def repair(self, kind: str, message: str) -> None:
        """Note what was repaired. ``kind`` continues a number, such as "boxes were clipped to the frame"."""
        self.repaired.append(Fault(kind, message, str(self.path), repaired=True))

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
        by_kind: dict[str, list[str]] = defaultdict(list)
        for fault in self.repaired:
            by_kind[fault.kind].append(fault.message)
        return [f"{self.path}: {len(where)} {kind}; the first: {where[0]}." for kind, where in by_kind.items()]
