"""The values that a run records, and the writers that write them.

Code that runs inside a step records by ``get_event_storage().put_scalar("name", value)``. Writers read the storage every few
iterations. A row that they write holds for each scalar the median of its values since the row before; see
`EventStorage.new_rows`.
"""

from __future__ import annotations

import csv
import datetime
import functools
import io
import json
import logging
import math
import sys
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self
from weakref import WeakKeyDictionary

import numpy as np
import torch
from fvcore.common.history_buffer import HistoryBuffer

from ultravid.utils.errors import UserError
from ultravid.utils.file_io import archive_file, dump_json, replace_file, require_local
from ultravid.utils.limits import Positive
from ultravid.utils.run_folder import RunFolder

__all__ = [
    "CSVWriter",
    "CommonMetricPrinter",
    "EventStorage",
    "EventWriter",
    "JSONWriter",
    "TensorboardXWriter",
    "get_event_storage",
    "has_event_storage",
    "new_rows",
]

_MAX_PENDING = 256
_TIMES = "time/"
"""Scalars of this prefix say what the time was spent on. They are left out of files that are compared between runs."""
_SECONDS = ("time", "data_time")
"""Scalars that are smoothed by their mean: times the number of iterations it is the time that passed."""
_NONFINITE = "nonfinite/"
"""``nonfinite/x`` counts the values of ``x`` since the row before that were nan or infinite."""
_storages: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """The storage of the run that this code is called from.

    Raises:
        RuntimeError: the call is outside of ``with EventStorage(...)``.
    """
    if not _storages:
        raise RuntimeError("get_event_storage() was called outside of 'with EventStorage(...)': there is no storage.")
    return _storages[-1]


def has_event_storage() -> bool:
    """Whether there is a storage, so that `get_event_storage` does not raise."""
    return bool(_storages)


class _History(HistoryBuffer):
    """fvcore's buffer, which also finds the values of the last iterations without a walk over them."""

    def __init__(self) -> None:
        super().__init__()
        self._ordered = True

    def update(self, value: float, iteration: float | None = None) -> None:
        """Append a value; if the buffer is full, the oldest tenth goes."""
        if iteration is None:
            iteration = self._count
        data = self._data
        if data:
            if iteration < data[-1][1]:
                self._ordered = False
            if len(data) >= self._max_length:
                del data[: self._max_length // 10 or 1]
        data.append((value, iteration))
        self._count += 1
        self._global_avg += (value - self._global_avg) / self._count

    def count_since(self, iteration: float) -> int:
        """How many of the last values belong to an iteration or a later one."""
        data = self._data
        if self._ordered:
            return len(data) - bisect_left(data, iteration, key=itemgetter(1))
        return next((n for n, (_, i) in enumerate(reversed(data)) if i < iteration), len(data))

    def after(self, count: int) -> list[tuple[float, float]]:
        """The (value, iteration) of all values but the first ``count`` that were ever appended."""
        new = self._count - count
        return self._data[-new:] if new > 0 else []

    @property
    def count(self) -> int:
        """How many values were ever appended."""
        return self._count


class EventStorage:
    """The scalars of a run with their history, its images and its histograms.

    Args:
        start_iter: the iteration to start with.

    Attributes:
        write_now: something was recorded that should be written at the end of this iteration, whatever the period.
        source: who records now: the hook that the trainer is calling, as "hooks/lr"; "" in a step.
        next_row: the iteration after the last one that was written.
    """

    def __init__(self, start_iter: int = 0) -> None:
        self._history: dict[str, _History] = defaultdict(_History)
        self._smoothing_hints: dict[str, bool] = {}
        self._latest_scalars: dict[str, tuple[float, int]] = {}
        self._iter = start_iter
        self._current_prefix = ""
        self._vis_data: list[tuple[str, Any, int]] = []
        self._pending: list[tuple[tuple[str, ...], torch.Tensor, int]] = []
        self._histograms: list[dict[str, Any]] = []
        self._taken: dict[int, tuple[int, int]] = {}  # by reader: how many images and histograms it has taken
        self._written: WeakKeyDictionary[object, dict[str, int]] = (
            WeakKeyDictionary()
        )  # by reader: number of values read
        self._last_written: dict[str, int] = {}  # that of the reader that was last
        self._owners: dict[str, set[str]] = {}  # by reserved name: the sources that may record it
        self._reserved_for: dict[str, str] = {}  # by reserved name: what it is reserved for, in words
        self._allowed: set[tuple[str, bool, str]] = set()  # (name, smoothing hint, source) that passed the checks
        self._first_recorded: dict[str, tuple[str, str]] = {}  # by name: the source, and where it is in words
        self._last_hook: dict[str, str] = {}  # by name: the hook that recorded it last
        self.write_now = False
        self.source = ""
        self.next_row = start_iter

    def put_scalar(self, name: str, value: Any, smoothing_hint: bool = True, cur_iter: int | None = None) -> None:
        """Record a number.

        Args:
            name: a "/" groups names in TensorBoard.
            value: anything that ``float`` takes.
            smoothing_hint: whether the number is noisy, so that writers may smooth it.
            cur_iter: the iteration it belongs to; None: the current one.

        Raises:
            UserError: the name is reserved for a scalar that something else records (`reserve`), it was recorded with another
                hint before, or another hook records another value under it in this iteration.
        """
        if self._current_prefix:
            name = self._current_prefix + name
        iteration = self._iter if cur_iter is None else cur_iter
        number = float(value)
        if (name, smoothing_hint, self.source) not in self._allowed:
            self._check_name(name, smoothing_hint)
            self._allowed.add((name, smoothing_hint, self.source))
        if self.source:
            self._check_other_hooks(name, number, iteration)
        self._history[name].update(number, iteration)
        self._latest_scalars[name] = (number, iteration)

    def reserve(self, names: Iterable[str], what: str) -> None:
        """Let nothing but the caller record scalars of these names from now on, so that no row holds another value there.

        The caller is `source`. Several sources may reserve a name for the same thing.

        Args:
            names: a name that ends with "/" means all names that begin with it.
            what: what records them, in words, for the error.

        Raises:
            UserError: another source has recorded one of the names, or reserved it for something else.
        """
        self._allowed.clear()
        for name in names:
            if self._reserved_for.setdefault(name, what) != what:
                raise _name_is_taken(name, self._reserved_for[name], self._where())
            self._owners.setdefault(name, set()).add(self.source)
            for recorded, (source, where) in self._first_recorded.items():
                same = recorded == name or (name.endswith("/") and recorded.startswith(name))
                if same and source not in self._owners[name]:
                    raise _name_is_taken(recorded, what, where)

    def _check_name(self, name: str, smoothing_hint: bool) -> None:
        """The checks of `put_scalar` that a name needs when a source records it first."""
        prefix = next((n for n in self._owners if n.endswith("/") and name.startswith(n)), "")
        for reserved in (name, prefix):
            if self.source not in self._owners.get(reserved, (self.source,)):
                raise _name_is_taken(name, self._reserved_for[reserved], self._where())
        if name == "iteration" or name.startswith(_NONFINITE):
            raise _name_is_taken(name, "each row of metrics.json", self._where())
        known = self._smoothing_hints.setdefault(name, smoothing_hint)
        if known != smoothing_hint:
            raise UserError(
                f"Scalar {name!r} is recorded with smoothing_hint={smoothing_hint} by {self._where()}. It was recorded with "
                f"smoothing_hint={known} before{self._first_where(name)}. Give the two different names, or the same hint."
            )
        if name not in self._first_recorded:
            self._first_recorded[name] = (self.source, self._where())

    def _check_other_hooks(self, name: str, number: float, iteration: int) -> None:
        """Two hooks whose values differ would overwrite each other in a row."""
        other = self._last_hook.get(name)
        self._last_hook[name] = self.source
        if other is None or other == self.source:
            return
        before, then = self._latest_scalars[name]
        if then != iteration or before == number or (math.isnan(before) and math.isnan(number)):
            return
        if isinstance(_caller()[0], torch.nn.Module):  # a model that two hooks run, and that records what it sees
            return
        raise UserError(
            f"Scalar {name!r} is recorded by two hooks in iteration {iteration}: {before:.4g} by {_in_words(other)}, "
            f"{number:.4g} by {self._where()}. Give the two different names."
        )

    def _where(self) -> str:
        """The code that is recording."""
        _, place = _caller()
        return f"{_in_words(self.source)}, {place}" if self.source else place

    def _first_where(self, name: str) -> str:
        return f" by {self._first_recorded[name][1]}" if name in self._first_recorded else ""

    def put_scalars_later(self, names: Sequence[str], values: torch.Tensor) -> None:
        """Record numbers that are on a device, without waiting for it: they are read together when a reader asks.

        Args:
            names: one for each number.
            values: ``(len(names),)``; must not be changed afterwards.
        """
        prefix = self._current_prefix
        self._pending.append((tuple([prefix + n for n in names]) if prefix else tuple(names), values, self._iter))
        if len(self._pending) >= _MAX_PENDING:
            self._read_pending()

    def _read_pending(self) -> None:
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        numbers = iter(torch.cat([values for _, values, _ in pending]).tolist())
        histories, latest, hints = self._history, self._latest_scalars, self._smoothing_hints
        for names, _, iteration in pending:
            for name, number in zip(names, numbers, strict=False):  # one number for each of these names
                histories[name].update(number, iteration)
                hints.setdefault(name, True)
                if name not in latest or iteration >= latest[name][1]:
                    latest[name] = (number, iteration)

    def put_scalars(self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: Any) -> None:
        """`put_scalar` for each keyword.

        Args:
            smoothing_hint: as of `put_scalar`, for all of them.
            cur_iter: as of `put_scalar`, for all of them.
            kwargs: the values by name.
        """
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name: str, img_tensor: Any) -> None:
        """Record an image ``(C, H, W)``, uint8 or float in 0..1; it is kept until the writers have read it.

        Args:
            img_name: the name of the image.
            img_tensor: the image.
        """
        self._vis_data.append((self._current_prefix + img_name, img_tensor, self._iter))

    def put_histogram(self, hist_name: str, hist_tensor: torch.Tensor, bins: int = 1000) -> None:
        """Record the distribution of a tensor's finite values; it is kept until the writers have read it.

        Args:
            hist_name: the name of the histogram.
            hist_tensor: the values, of any shape; without a finite one nothing is recorded.
            bins: the number of bins, all of one width, from the smallest to the largest value.
        """
        values = hist_tensor.detach().float().cpu().flatten()
        values = values[torch.isfinite(values)]  # a histogram has no bin for the others
        if len(values) == 0:
            return
        low, high = float(values.min()), float(values.max())
        counts = torch.histc(values, bins=bins)
        edges = torch.linspace(low, high, steps=bins + 1)
        self._histograms.append(
            {
                "tag": self._current_prefix + hist_name,
                "min": low,
                "max": high,
                "num": values.numel(),
                "sum": float(values.sum()),
                "sum_squares": float((values**2).sum()),
                "bucket_limits": edges[1:].tolist(),
                "bucket_counts": counts.tolist(),
                "global_step": self._iter,
            }
        )

    def history(self, name: str) -> HistoryBuffer:
        """All values of a scalar.

        Args:
            name: the name of the scalar.

        Raises:
            KeyError: no scalar of that name was recorded.
        """
        return self._history_of(name)

    def _history_of(self, name: str) -> _History:
        self._read_pending()
        if name not in self._history:
            raise KeyError(f"No scalar {name!r} was recorded; there are {sorted(self._history)}.")
        return self._history[name]

    def histories(self) -> Mapping[str, HistoryBuffer]:
        """All scalars with their values."""
        self._read_pending()
        return self._history

    def latest(self, *, wait: bool = True) -> dict[str, tuple[float, int]]:
        """The last (value, iteration) of each scalar.

        Args:
            wait: read what is still on a device. False gives what was read before, at no cost.
        """
        if wait:
            self._read_pending()
        return self._latest_scalars

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """How many values of a scalar were recorded in its last ``window_size`` iterations, which end with its last value.

        Args:
            name: the name of the scalar.
            window_size: how many iterations are counted.

        Raises:
            KeyError: no scalar of that name was recorded.
        """
        history = self._history_of(name)
        return history.count_since(history.values()[-1][1] - window_size + 1)

    def window(self, name: str, window_size: int = 20) -> list[float]:
        """The values that `count_samples` counts.

        Args:
            name: the name of the scalar.
            window_size: how many iterations are counted.

        Raises:
            KeyError: no scalar of that name was recorded.
        """
        count = self.count_samples(name, window_size)
        return [value for value, _ in self._history[name].values()[-count:]]

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """As `latest`, but noisy scalars as their median over the last ``window_size`` iterations."""
        self._read_pending()
        if window_size <= 1:
            return dict(self._latest_scalars)
        return {
            name: (_median(self.window(name, window_size)) if self._smoothing_hints[name] else value, iteration)
            for name, (value, iteration) in self._latest_scalars.items()
        }

    def new_values(self, name: str, reader: object) -> list[float]:
        """The values of a scalar since ``reader`` called `mark_written`, oldest first.

        Args:
            name: the name of the scalar.
            reader: the writer that asks.

        Raises:
            KeyError: no scalar of that name was recorded.
        """
        return [value for value, _ in self._history_of(name).after(self._written.get(reader, {}).get(name, 0))]

    def new_rows(
        self, reader: object, window_size: int | None = None, *, without: str | None = None
    ) -> dict[int, dict[str, float]]:
        """The rows that a writer has not written yet, by iteration: each scalar is in the row of the last iteration that recorded it.

        A scalar that may be smoothed is the median of its values since ``reader`` called `mark_written`: the middle one, or
        the mean of the two in the middle. If one of them is nan or infinite, it is nan, and ``nonfinite/<name>`` counts
        them. ``time`` and ``data_time`` are means. Any other scalar is its latest value.

        Args:
            reader: the writer.
            window_size: take the median of the last so many iterations instead, however long ago the row before is.
            without: leave out names that begin with it.
        """
        self._read_pending()
        marks, hints = self._written.get(reader, {}), self._smoothing_hints
        rows: dict[int, dict[str, float]] = defaultdict(dict)
        for name, history in self._history.items():
            start = marks.get(name, 0)
            if history.count <= start or (without and name.startswith(without)):
                continue
            latest, iteration = self._latest_scalars[name]
            row = rows[iteration]
            if not hints[name]:
                row[name] = latest
                continue
            values = [value for value, _ in history.after(start)]
            row[name] = smoothed(name, values if window_size is None else self.window(name, window_size))
            if (wrong := count_nonfinite(values)) and name not in _SECONDS:
                row[_NONFINITE + name] = float(wrong)
        return rows

    def mark_written(self, reader: object) -> None:
        """``reader`` has written what `new_rows` gave it; `new_values` begins here."""
        self._read_pending()
        self._last_written = self._written[reader] = {name: history.count for name, history in self._history.items()}
        self.next_row = self._iter + 1

    def state_dict(self) -> dict[str, Any]:
        """The values recorded since the last row was written, except times: a resumed run writes them with its next row."""
        self._read_pending()
        scalars = {}
        for name, history in self._history.items():
            values = history.after(self._last_written.get(name, 0))
            if not values or name in _SECONDS or name.startswith(_TIMES):
                continue
            hint = self._smoothing_hints[name]
            kept = values if hint else [self._latest_scalars[name]]
            scalars[name] = [[value for value, _ in kept], [iteration for _, iteration in kept], hint]
        return {"next_row": self.next_row, "scalars": scalars}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Record again what `state_dict` returned.

        Args:
            state: what `state_dict` returned.
        """
        self.next_row = state["next_row"]
        for name, (values, iterations, hint) in state["scalars"].items():
            self._smoothing_hints[name] = hint
            for value, iteration in zip(values, iterations, strict=True):
                self._history[name].update(value, iteration)
                self._latest_scalars[name] = (value, iteration)

    def smoothing_hints(self) -> dict[str, bool]:
        """The ``smoothing_hint`` of each scalar."""
        self._read_pending()
        return self._smoothing_hints

    def step(self) -> None:
        """Go to the next iteration. The trainer calls it."""
        self.iter += 1

    @property
    def iter(self) -> int:
        """The current iteration."""
        return self._iter

    @iter.setter
    def iter(self, value: int) -> None:
        self._iter = int(value)
        if self._taken:
            self._forget_taken()

    @property
    def iteration(self) -> int:
        """`iter`, by the name of older versions of detectron2."""
        return self._iter

    @contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Put ``name/`` before all names that are recorded in the block."""
        old, self._current_prefix = self._current_prefix, name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._current_prefix = old

    def images(self) -> list[tuple[str, Any, int]]:
        """(name, image, iteration) of each image that is kept."""
        return self._vis_data

    def histograms(self) -> list[dict[str, Any]]:
        """The arguments of TensorBoard's ``add_histogram_raw`` for each histogram that is kept."""
        return self._histograms

    def clear_images(self) -> None:
        """Drop the images, also for writers that have not read them yet."""
        self._vis_data = []
        self._taken = {reader: (0, n) for reader, (_, n) in self._taken.items()}

    def clear_histograms(self) -> None:
        """Drop the histograms, also for writers that have not read them yet."""
        self._histograms = []
        self._taken = {reader: (n, 0) for reader, (n, _) in self._taken.items()}

    def take_new(self, reader: object) -> tuple[list[tuple[str, Any, int]], list[dict[str, Any]]]:
        """The images and histograms that a reader has not taken yet; see `images` and `histograms`.

        They stay for other readers until the iteration is over.
        """
        images, histograms = self._taken.get(id(reader), (0, 0))
        if self._vis_data or self._histograms:
            self._taken[id(reader)] = (len(self._vis_data), len(self._histograms))
        return self._vis_data[images:], self._histograms[histograms:]

    def _forget_taken(self) -> None:
        images, histograms = (max(counts) for counts in zip(*self._taken.values(), strict=True))
        del self._vis_data[:images], self._histograms[:histograms]
        self._taken = {}

    def __enter__(self) -> Self:
        _storages.append(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        popped = _storages.pop()
        assert popped is self


class EventWriter:
    """Reads the storage of the run and writes it somewhere.

    A writer gets scalars from `EventStorage.new_rows`, and calls `EventStorage.mark_written` when it has written them. It gets
    images and histograms from `EventStorage.take_new`. So other writers get them too::

        class PrintingWriter(EventWriter):
            def write(self):
                storage = get_event_storage()
                for iteration, scalars in storage.new_rows(self).items():
                    print(iteration, scalars)  # {"total_loss": 1.2, "lr": 0.001, ...}
                storage.mark_written(self)

    Only the main process calls it: every few iterations, after an evaluation, and at the end.
    """

    def write(self) -> None:
        """Write what is new."""
        raise NotImplementedError

    def rewind(self, iteration: int) -> None:
        """Drop what an earlier attempt wrote at or past an iteration. Called with 0 before the first step of a new run.

        Args:
            iteration: the iteration of the next row; 0 drops everything.
        """

    def resume(self, next_row: int) -> None:
        """Called before the first step of a resumed run; by default it calls `rewind`, but not with 0.

        Args:
            next_row: the iteration of the next row, before which everything was written; 0 if the run was interrupted before its first row.
        """
        self.rewind(max(next_row, 1))

    def close(self) -> None:
        """Finish the files. Called at the end of the training, after an error too."""


def new_rows(
    storage: EventStorage, window_size: int, last_write: int, *, without: str | None = None
) -> dict[int, dict[str, float]]:
    """The latest scalars that are newer than the last write, by iteration; without names that begin with ``without``.

    For writers that were written for version 0.1. `EventStorage.new_rows` gives the median since the row before.

    Args:
        storage: the values of the run.
        window_size: the number of latest values whose median is given for scalars that are smoothed.
        last_write: the iteration of the last write.
        without: the beginning of names to leave out.
    """
    rows: dict[int, dict[str, float]] = defaultdict(dict)
    for name, (value, iteration) in storage.latest_with_smoothing_hint(window_size).items():
        if iteration > last_write and not (without and name.startswith(without)):
            rows[iteration][name] = value
    return rows


class _FileWriter(EventWriter):
    """Rows of one local file, by iteration; the base of writers of JSON lines and of a table."""

    def __init__(self, file: str | Path, window_size: int | None) -> None:
        self._path = require_local(file, f"The file of {type(self).__name__}")
        self._window_size = window_size

    def rewind(self, iteration: int) -> None:
        """See `EventWriter.rewind`; also drops a last line that a crash cut off."""
        if iteration > 0:
            self.resume(iteration)
        elif self._path.is_file():
            archive_file(self._path)

    def resume(self, next_row: int) -> None:
        """See `EventWriter.resume`."""
        if self._path.is_file():
            self._keep_before(next_row)

    def _keep_before(self, iteration: int) -> None:
        """Rewrite the file with the rows before an iteration."""
        raise NotImplementedError

    def _append(self, text: str) -> None:
        data = text.encode()
        try:
            file = open(self._path, "ab")  # noqa: SIM115  # as JSONWriter writes once in a few iterations, Path.open counts
        except FileNotFoundError:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = open(self._path, "ab")  # noqa: SIM115
        with file:
            file.write(data)


class JSONWriter(_FileWriter):
    """Writes one line of JSON for each iteration: ``{"iteration": 19, "total_loss": 1.2, "lr": 0.001, ...}``.

    Args:
        json_file: a local file, to which lines are appended. A run that starts at iteration 0 renames an older file to
            ``<name>.1`` (or 2, ...).
        window_size: None writes the median since the row before (`EventStorage.new_rows`). A number of iterations writes the
            median of the last so many; 1 writes the value of the iteration itself.
    """

    def __init__(self, json_file: str | Path, window_size: Positive | None = None) -> None:
        super().__init__(json_file, window_size)

    def _keep_before(self, iteration: int) -> None:
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line)["iteration"] < iteration:
                    kept.append(line + "\n")
            except (json.JSONDecodeError, KeyError, TypeError):
                continue
        with replace_file(self._path) as file:
            file.write("".join(kept).encode())

    def write(self) -> None:
        """Append a line for each iteration with scalars that were not written yet."""
        storage = get_event_storage()
        rows = storage.new_rows(self, self._window_size, without=_TIMES)
        if rows:
            lines = [dump_json({"iteration": i, **dict(sorted(rows[i].items()))}) + "\n" for i in sorted(rows)]
            self._append("".join(lines))
        storage.mark_written(self)


class CSVWriter(_FileWriter):
    """Writes a table of all scalars by iteration; when a new scalar appears, the file is rewritten with its column.

    Args:
        csv_file: a local file; archived as `JSONWriter`'s if a run starts at iteration 0.
        window_size: see `JSONWriter`.
    """

    def __init__(self, csv_file: str | Path, window_size: Positive | None = None) -> None:
        super().__init__(csv_file, window_size)
        self._columns: list[str] = []

    def _keep_before(self, iteration: int) -> None:
        rows = [row for row in self._read() if row["iteration"].isdecimal() and int(row["iteration"]) < iteration]
        self._columns = [name for name in (rows[0] if rows else {}) if name != "iteration"]
        self._write_all(rows)

    def write(self) -> None:
        """Append a row for each iteration with scalars that were not written yet."""
        storage = get_event_storage()
        rows = storage.new_rows(self, self._window_size, without=_TIMES)
        if rows:
            self._write_rows(rows)
        storage.mark_written(self)

    def _write_rows(self, rows: dict[int, dict[str, float]]) -> None:
        new = sorted({name for row in rows.values() for name in row} - set(self._columns))
        if new:
            older = self._read() if self._path.is_file() else []
            self._columns += new
            self._write_all(older)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, ["iteration", *self._columns])
        writer.writerows({"iteration": iteration, **rows[iteration]} for iteration in sorted(rows))
        self._append(text.getvalue())

    def _read(self) -> list[dict[str, str]]:
        text = self._path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]  # without a line that a crash cut off
        return list(csv.DictReader(io.StringIO(whole, newline="")))

    def _write_all(self, rows: list[dict[str, str]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, ["iteration", *self._columns])
        writer.writeheader()
        writer.writerows(rows)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(self._path) as file:
            file.write(text.getvalue().encode())


class TensorboardXWriter(EventWriter):
    """Writes TensorBoard's event files.

    Args:
        log_dir: a local folder for the files.
        window_size: see `JSONWriter`.
        kwargs: passed to ``torch.utils.tensorboard.SummaryWriter``.
    """

    def __init__(self, log_dir: str | Path, window_size: Positive | None = None, **kwargs: Any) -> None:
        self._log_dir = require_local(log_dir, "The folder of TensorBoard's files")
        self._window_size = window_size
        self._kwargs = kwargs

    @functools.cached_property
    def _writer(self) -> Any:
        """The writer, made on first use: importing it takes a second and a half, and making it creates a file."""
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self._log_dir), **self._kwargs)

    def rewind(self, iteration: int) -> None:
        """As `EventWriter.rewind`: TensorBoard hides older points at or past ``iteration``; a new run archives older files."""
        if iteration == 0:
            RunFolder(self._log_dir).archive_events()
        self.resume(iteration)

    def resume(self, next_row: int) -> None:
        """As `EventWriter.resume`: TensorBoard hides older points at or past ``next_row``."""
        self._kwargs.setdefault("purge_step", next_row)

    def write(self) -> None:
        """Write all new scalars, images and histograms."""
        writer = self._writer
        from tensorboard.compat.proto.summary_pb2 import Summary

        storage = get_event_storage()
        for iteration, row in storage.new_rows(self, self._window_size).items():
            # One event for all scalars of an iteration; add_scalar would make one for each, at 70 us.
            values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items()]
            writer.file_writer.add_summary(Summary(value=values), iteration)
        storage.mark_written(self)
        images, histograms = storage.take_new(self)
        for name, image, iteration in images:
            writer.add_image(name, image, iteration)
        for histogram in histograms:
            writer.add_histogram_raw(**histogram)

    def close(self) -> None:
        """Flush to disk."""
        if "_writer" in vars(self):
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """Logs a line: ETA, losses, metrics, clips per second, times, learning rate, memory.

    Losses are the scalars with ``loss`` in their name, metrics those with ``[metric]``. ``max_mem`` is the most memory that
    tensors took on the CUDA device; without one, ``max_rss`` is the most that the process took. Clips per second are shown if
    ``time/clips_per_second`` is recorded.

    Args:
        max_iter: the last iteration of the run plus one, for the ETA; None shows no ETA.
        window_size: None shows losses and metrics as their median since the line before, times as their mean, as ``metrics.json``
            has them; a number of iterations does so over the last so many.
    """

    def __init__(self, max_iter: int | None = None, window_size: Positive | None = None) -> None:
        self.logger = logging.getLogger(__name__)
        self._max_iter = max_iter
        self._window_size = window_size
        self._last: tuple[int, float] | None = None

    def _eta(self, storage: EventStorage) -> str | None:
        if self._max_iter is None:
            return None
        left = self._max_iter - storage.iter - 1
        histories = storage.histories()
        if "time" in histories:
            count = storage.count_samples("time", 1000)
            step = 1 + count // 50  # 50 of them give the same median to the eye, at a twentieth of the cost
            seconds = _median([value for value, _ in histories["time"].values()[-count::step]]) * left
            return str(datetime.timedelta(seconds=int(seconds)))
        previous, self._last = self._last, (storage.iter, time.perf_counter())
        if previous is None or previous[0] == storage.iter:
            return None
        seconds = (self._last[1] - previous[1]) / (storage.iter - previous[0]) * left
        return str(datetime.timedelta(seconds=int(seconds)))

    def write(self) -> None:
        """Log the line; nothing after the last iteration, when only an evaluation was added."""
        storage = get_event_storage()
        if self._max_iter is not None and storage.iter >= self._max_iter:
            return
        histories = storage.histories()
        parts = [f"iter: {storage.iter}"]
        if (eta := self._eta(storage)) is not None:
            parts.insert(0, f"eta: {eta}")
        shown = [name for name in histories if "loss" in name] + [
            name for name in histories if "[metric]" in name and "loss" not in name
        ]
        parts += [f"{name}: {_shown(name, self._window(storage, name))}" for name in shown]
        for name, label, digits in (
            ("time/clips_per_second", "clips/s", 1),
            ("time", "time", 4),
            ("data_time", "data_time", 4),
        ):
            if name in histories:
                values = self._window(storage, name)
                parts.append(f"{label}: {sum(values) / len(values):.{digits}f}")
        if "lr" in histories:
            parts.append(f"lr: {histories['lr'].latest():.5g}")
        self.logger.info("  ".join([*parts, *_peak_memory()]))
        storage.mark_written(self)

    def _window(self, storage: EventStorage, name: str) -> list[float]:
        """The values of a scalar that a line shows: the latest, if there is none since the line before."""
        if self._window_size is not None:
            return storage.window(name, self._window_size)
        return storage.new_values(name, self) or [storage.history(name).latest()]


def count_nonfinite(values: Sequence[float]) -> int:
    """How many of the values are nan or infinite."""
    if math.isfinite(sum(values)):  # a sum is finite only if all of them are
        return 0
    return sum(not math.isfinite(value) for value in values)


def smoothed(name: str, values: list[float]) -> float:
    """The value of a row for those of a window: the median, of seconds the mean; nan if one of several is not finite."""
    if len(values) == 1:
        return values[0]
    if name in _SECONDS:
        return sum(values) / len(values)
    return math.nan if count_nonfinite(values) else _median(values)


def _shown(name: str, values: list[float]) -> str:
    """The value of a window in the log."""
    wrong = count_nonfinite(values)
    return f"{smoothed(name, values):.4g}" + (f" ({wrong} of {len(values)} not finite)" if wrong else "")


def _name_is_taken(name: str, what: str, where: str) -> UserError:
    last = name.rpartition("/")[2]
    return UserError(
        f"Scalar {name!r} is reserved for {what}, but {where} records another one under this name. "
        f"Give it another name, for example 'my_{last}'."
    )


def _in_words(source: str) -> str:
    kind, _, name = source.partition("/")
    return f"the hook {name!r}" if kind == "hooks" and name else source or "the step"


def _caller() -> tuple[Any, str]:
    """The first object outside of this module whose method is being called, None if it is a function; and where it stands."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename == __file__:
        frame = frame.f_back
    if frame is None:
        return None, "code without a file"
    code = frame.f_code
    return frame.f_locals.get("self"), f"{code.co_qualname} ({code.co_filename}:{frame.f_lineno})"


def _median(values: list[float]) -> float:
    """`numpy.median`, which for a window of 20 takes a hundred times as long as sorting."""
    if len(values) > 256 or math.isnan(sum(values)):
        return float(np.median(np.array(values)))
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def _peak_memory() -> list[str]:
    if torch.cuda.is_available():
        return [f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M"]
    try:
        import resource
    except ImportError:  # Windows
        return []
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return [f"max_rss: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20:.0f}M"]
