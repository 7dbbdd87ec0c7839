"""What a run records, and where it is written.

Code that runs inside a step records by ``get_event_storage().put_scalar("name", value)``. Writers read the storage every few
iterations.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from fvcore.common.history_buffer import HistoryBuffer

from ultravid.utils.file_io import archive_file, dump_json, replace_file, require_local
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


class EventStorage:
    """The scalars of a run with their history, its images and its histograms.

    Args:
        start_iter: the iteration to start with.

    Attributes:
        write_now: something was recorded that should be written at the end of this iteration, whatever the period.
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
        self.write_now = False

    def put_scalar(self, name: str, value: Any, smoothing_hint: bool = True, cur_iter: int | None = None) -> None:
        """Record a number.

        Args:
            name: a "/" groups names in TensorBoard.
            value: anything that ``float`` takes.
            smoothing_hint: whether the number is noisy, so that writers may smooth it.
            cur_iter: the iteration it belongs to; None: the current one.

        Raises:
            ValueError: the name was recorded with another hint before.
        """
        if self._current_prefix:
            name = self._current_prefix + name
        iteration = self._iter if cur_iter is None else cur_iter
        number = float(value)
        if self._smoothing_hints.setdefault(name, smoothing_hint) != smoothing_hint:
            raise ValueError(f"Scalar {name!r} was recorded with smoothing_hint={not smoothing_hint} before.")
        self._history[name].update(number, iteration)
        self._latest_scalars[name] = (number, iteration)

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
        """`put_scalar` for each keyword."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name: str, img_tensor: Any) -> None:
        """Record an image ``(C, H, W)``, uint8 or float in 0..1; it is kept until the writers have read it."""
        self._vis_data.append((self._current_prefix + img_name, img_tensor, self._iter))

    def put_histogram(self, hist_name: str, hist_tensor: torch.Tensor, bins: int = 1000) -> None:
        """Record the distribution of a tensor's finite values; it is kept until the writers have read it."""
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

        Raises:
            KeyError: no scalar of that name was recorded.
        """
        history = self._history_of(name)
        return history.count_since(history.values()[-1][1] - window_size + 1)

    def window(self, name: str, window_size: int = 20) -> list[float]:
        """The values that `count_samples` counts."""
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

    A writer gets images and histograms from `EventStorage.take_new`, so that other writers get them too.
    """

    def write(self) -> None:
        """Write what is new."""
        raise NotImplementedError

    def rewind(self, iteration: int) -> None:
        """Drop what an earlier attempt wrote at or past ``iteration``, with which the run starts. Called before the first step."""

    def close(self) -> None:
        """Finish files."""


def new_rows(
    storage: EventStorage, window_size: int, last_write: int, *, without: str | None = None
) -> dict[int, dict[str, float]]:
    """The latest scalars that are newer than the last write, by iteration; without names that begin with ``without``."""
    rows: dict[int, dict[str, float]] = defaultdict(dict)
    for name, (value, iteration) in storage.latest_with_smoothing_hint(window_size).items():
        if iteration > last_write and not (without and name.startswith(without)):
            rows[iteration][name] = value
    return rows


class _FileWriter(EventWriter):
    """Rows of one local file, by iteration; the base of writers of JSON lines and of a table."""

    def __init__(self, file: str | Path, window_size: int) -> None:
        self._path = require_local(file, f"The file of {type(self).__name__}")
        self._window_size = window_size
        self._last_write = -1

    def rewind(self, iteration: int) -> None:
        """See `EventWriter.rewind`; also drops a last line that a crash cut off."""
        self._last_write = iteration - 1
        if not self._path.is_file():
            return
        if iteration == 0:
            archive_file(self._path)
        else:
            self._keep_before(iteration)

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
        window_size: the number of iterations over which noisy scalars are smoothed, by the median. 1 writes the value of the
            iteration itself: only these values stay the same if the run is interrupted and resumed.
    """

    def __init__(self, json_file: str | Path, window_size: int = 1) -> None:
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
        rows = new_rows(storage, self._window_size, self._last_write, without=_TIMES)
        if not rows:
            return
        lines = [dump_json({"iteration": i, **dict(sorted(rows[i].items()))}) + "\n" for i in sorted(rows)]
        self._append("".join(lines))
        self._last_write = max(rows)


class CSVWriter(_FileWriter):
    """Writes a table of all scalars by iteration; when a new scalar appears, the file is rewritten with its column.

    Args:
        csv_file: a local file; archived as `JSONWriter`'s if a run starts at iteration 0.
        window_size: see `JSONWriter`.
    """

    def __init__(self, csv_file: str | Path, window_size: int = 1) -> None:
        super().__init__(csv_file, window_size)
        self._columns: list[str] = []

    def _keep_before(self, iteration: int) -> None:
        rows = [row for row in self._read() if row["iteration"].isdecimal() and int(row["iteration"]) < iteration]
        self._columns = [name for name in (rows[0] if rows else {}) if name != "iteration"]
        self._write_all(rows)

    def write(self) -> None:
        """Append a row for each iteration with scalars that were not written yet."""
        rows = new_rows(get_event_storage(), self._window_size, self._last_write, without=_TIMES)
        if not rows:
            return
        new = sorted({name for row in rows.values() for name in row} - set(self._columns))
        if new:
            older = self._read() if self._path.is_file() else []
            self._columns += new
            self._write_all(older)
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, ["iteration", *self._columns])
        writer.writerows({"iteration": iteration, **rows[iteration]} for iteration in sorted(rows))
        self._append(text.getvalue())
        self._last_write = max(rows)

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

    def __init__(self, log_dir: str | Path, window_size: int = 1, **kwargs: Any) -> None:
        self._log_dir = require_local(log_dir, "The folder of TensorBoard's files")
        self._window_size = window_size
        self._kwargs = kwargs
        self._last_write = -1

    @functools.cached_property
    def _writer(self) -> Any:
        """The writer, made on first use: importing it takes a second and a half, and making it creates a file."""
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self._log_dir), **self._kwargs)

    def rewind(self, iteration: int) -> None:
        """See `EventWriter.rewind`. TensorBoard is asked to hide older points past ``purge_step``; a new run archives older files."""
        self._kwargs.setdefault("purge_step", iteration)
        if iteration == 0:
            RunFolder(self._log_dir).archive_events()
        self._last_write = iteration - 1

    def write(self) -> None:
        """Write all new scalars, images and histograms."""
        writer = self._writer
        from tensorboard.compat.proto.summary_pb2 import Summary

        storage = get_event_storage()
        rows = new_rows(storage, self._window_size, self._last_write)
        for iteration, row in rows.items():
            # One event for all scalars of an iteration; add_scalar would make one for each, at 70 us.
            values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items()]
            writer.file_writer.add_summary(Summary(value=values), iteration)
        self._last_write = max(rows, default=self._last_write)
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
        window_size: the number of iterations over which losses and metrics are shown as their median, times and rates as
            their mean.
    """

    def __init__(self, max_iter: int | None = None, window_size: int = 20) -> None:
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
        parts += [f"{name}: {_median(storage.window(name, self._window_size)):.4g}" for name in shown]
        for name, label, digits in (
            ("time/clips_per_second", "clips/s", 1),
            ("time", "time", 4),
            ("data_time", "data_time", 4),
        ):
            if name in histories:
                values = storage.window(name, self._window_size)
                parts.append(f"{label}: {sum(values) / len(values):.{digits}f}")
        if "lr" in histories:
            parts.append(f"lr: {histories['lr'].latest():.5g}")
        self.logger.info("  ".join([*parts, *_peak_memory()]))


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
