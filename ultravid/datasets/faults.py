"""Faults of a data set, collected: the first is told and the others are counted, or all of them are listed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from ultravid.datasets.video import DataError

__all__ = ["Fault", "Faults", "are_gathered", "gather_faults"]


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        kind: a few words that faults of one sort share, as "box is empty".
        message: what, with video and frame.
        file: the annotation file, or the folder of the data set.
        mended: the data are used all the same, put right.
    """

    kind: str
    message: str
    file: str
    mended: bool = False


_GATHERED: ContextVar[list[Fault] | None] = ContextVar("gathered_faults", default=None)


@contextmanager
def gather_faults() -> Iterator[list[Fault]]:
    """Readers called inside note their faults in the list that is given and go on with the rest, instead of refusing it.

    A file that can't be read at all is refused nevertheless.
    """
    found: list[Fault] = []
    token = _GATHERED.set(found)
    try:
        yield found
    finally:
        _GATHERED.reset(token)


def are_gathered() -> bool:
    """Whether `gather_faults` is at work."""
    return _GATHERED.get() is not None


@dataclass
class Faults:
    """Faults of one file in the order in which they are found.

    Attributes:
        path: the file; messages begin with it.
    """

    path: Path
    found: list[Fault] = field(default_factory=list)
    mended: list[Fault] = field(default_factory=list)

    def add(self, kind: str, message: str) -> None:
        """Note what can't be used."""
        self.found.append(Fault(kind, message, str(self.path)))

    def mend(self, kind: str, message: str) -> None:
        """Note what was put right. ``kind`` reads on from a number, as "boxes were clipped to the frame"."""
        self.mended.append(Fault(kind, message, str(self.path), mended=True))

    def raise_if_any(self) -> None:
        """Refuse the data, unless faults are gathered.

        Raises:
            DataError: there is a fault; the first is told, the others are counted.
        """
        gathered = _GATHERED.get()
        if gathered is not None:
            gathered += self.found
            self.found.clear()
        if self.found:
            more = len(self.found) - 1
            others = f" ({more} more {'fault' if more == 1 else 'faults'} in this file)" if more else ""
            raise DataError(f"{self.path}: {self.found[0].message}{others}")

    def close(self) -> list[str]:
        """Refuse the data where there is a fault; else give what is to be said about what was mended.

        Raises:
            DataError: as `raise_if_any`.
        """
        self.raise_if_any()
        gathered = _GATHERED.get()
        if gathered is not None:
            gathered += self.mended
            return []
        by_kind: dict[str, list[str]] = defaultdict(list)
        for fault in self.mended:
            by_kind[fault.kind].append(fault.message)
        return [f"{self.path}: {len(where)} {kind}; the first: {where[0]}." for kind, where in by_kind.items()]
