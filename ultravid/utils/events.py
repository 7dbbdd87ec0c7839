"""What is measured in a run, and where it is written.

Anything that runs inside a step may say ``get_event_storage().put_scalar("name", value)``; writers look at the storage
once a while.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import logging
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from fvcore.common.history_buffer import HistoryBuffer

from ultravid.utils.file_io import archive_file, dump_json, next_free_path, replace_file

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

_MOST_PENDING = 256
_LEDGER = "time/"
"""Where the time goes is for the eye: files that are compared with those of another run hold what the run computes."""
_storages: list[EventStorage] = []


def get_event_storage() -> EventStorage:
    """The storage of the step that is running.

    Raises:
        RuntimeError: nothing is running: outside ``with EventStorage(...)``.
    """
    if not _storages:
        raise RuntimeError("get_event_storage() was called outside of 'with EventStorage(...)', so nothing records it.")
    return _storages[-1]


def has_event_storage() -> bool:
    """Whether `get_event_storage` would find one."""
    return bool(_storages)


class EventStorage:
    """Scalars with their history, images and histograms of a run.

    Args:
        start_iter: the iteration it starts with.

    Attributes:
        write_now: something was recorded that should be written at the end of this iteration, whatever the period.
    """

    def __init__(self, start_iter: int = 0) -> None:
        self._history: dict[str, HistoryBuffer] = defaultdict(HistoryBuffer)
        self._smoothing_hints: dict[str, bool] = {}
        self._latest_scalars: dict[str, tuple[float, int]] = {}
        self._iter = start_iter
        self._current_prefix = ""
        self._vis_data: list[tuple[str, Any, int]] = []
        self._pending: list[tuple[tuple[str, ...], torch.Tensor, int]] = []
        self._histograms: list[dict[str, Any]] = []
        self._taken: dict[int, tuple[int, int]] = {}  # by reader: how many pictures and histograms it has
        self.write_now = False

    def put_scalar(self, name: str, value: Any, smoothing_hint: bool = True, cur_iter: int | None = None) -> None:
        """Record a number.

        Args:
            name: a "/" groups names in TensorBoard.
            value: anything that ``float`` takes.
            smoothing_hint: whether the number is noisy, so that showing it smoothed helps.
            cur_iter: the iteration it belongs to; None is the current one.

        Raises:
            ValueError: the same name came earlier with another hint.
        """
        name = self._current_prefix + name
        iteration = self._iter if cur_iter is None else cur_iter
        number = float(value)
        if self._smoothing_hints.setdefault(name, smoothing_hint) != smoothing_hint:
            raise ValueError(f"Scalar {name!r} was recorded with smoothing_hint={not smoothing_hint} before.")
        self._history[name].update(number, iteration)
        self._latest_scalars[name] = (number, iteration)

    def put_scalars_later(self, names: Sequence[str], values: torch.Tensor) -> None:
        """Record numbers that are on a device without waiting for it: they are read together when somebody looks.

        Args:
            names: of the numbers.
            values: ``(len(names),)``; not to be changed afterwards.
        """
        self._pending.append((tuple(self._current_prefix + n for n in names), values, self._iter))
        if len(self._pending) >= _MOST_PENDING:
            self._read_pending()

    def _read_pending(self) -> None:
        if not self._pending:
            return
        pending, self._pending = self._pending, []
        numbers = iter(torch.cat([values for _, values, _ in pending]).tolist())
        for names, _, iteration in pending:
            for name in names:
                number = next(numbers)
                self._smoothing_hints.setdefault(name, True)
                self._history[name].update(number, iteration)
                if iteration >= self._latest_scalars.get(name, (0.0, -1))[1]:
                    self._latest_scalars[name] = (number, iteration)

    def put_scalars(self, *, smoothing_hint: bool = True, cur_iter: int | None = None, **kwargs: Any) -> None:
        """`put_scalar` for each keyword."""
        for name, value in kwargs.items():
            self.put_scalar(name, value, smoothing_hint=smoothing_hint, cur_iter=cur_iter)

    def put_image(self, img_name: str, img_tensor: Any) -> None:
        """Record a picture, ``(C, H, W)``, uint8 or float in 0..1; it is kept until writers have it."""
        self._vis_data.append((self._current_prefix + img_name, img_tensor, self._iter))

    def put_histogram(self, hist_name: str, hist_tensor: torch.Tensor, bins: int = 1000) -> None:
        """Record the distribution of a tensor's values; it is kept until writers have it."""
        values = hist_tensor.detach().float().cpu().flatten()
        values = values[torch.isfinite(values)]  # those that are not have no place on an axis
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
            KeyError: nothing of that name was recorded.
        """
        self._read_pending()
        if name not in self._history:
            raise KeyError(f"No scalar {name!r} was recorded; there are {sorted(self._history)}.")
        return self._history[name]

    def histories(self) -> dict[str, HistoryBuffer]:
        """All scalars with their values."""
        self._read_pending()
        return self._history

    def latest(self, *, wait: bool = True) -> dict[str, tuple[float, int]]:
        """The last (value, iteration) of each scalar.

        Args:
            wait: read what is still on a device. False takes what was read before, and costs nothing.
        """
        if wait:
            self._read_pending()
        return self._latest_scalars

    def count_samples(self, name: str, window_size: int = 20) -> int:
        """How many values of a scalar were recorded in the last so many iterations, up to the one of its last value.

        Raises:
            KeyError: nothing of that name was recorded.
        """
        values = self.history(name).values()
        first = values[-1][1] - window_size + 1
        return next((n for n, (_, iteration) in enumerate(reversed(values)) if iteration < first), len(values))

    def latest_with_smoothing_hint(self, window_size: int = 20) -> dict[str, tuple[float, int]]:
        """As `latest`, noisy scalars as their median over the last so many iterations."""
        self._read_pending()
        result = {}
        for name, (value, iteration) in self._latest_scalars.items():
            if self._smoothing_hints[name] and window_size > 1:
                value = self._history[name].median(self.count_samples(name, window_size))
            result[name] = (value, iteration)
        return result

    def smoothing_hints(self) -> dict[str, bool]:
        """Name to hint."""
        self._read_pending()
        return self._smoothing_hints

    def step(self) -> None:
        """Go to the next iteration; the trainer does it."""
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

    @contextmanager
    def name_scope(self, name: str) -> Iterator[None]:
        """Put ``name/`` before all names recorded inside."""
        old, self._current_prefix = self._current_prefix, name.rstrip("/") + "/"
        try:
            yield
        finally:
            self._current_prefix = old

    def images(self) -> list[tuple[str, Any, int]]:
        """(name, picture, iteration) of what was recorded since the last `clear_images`."""
        return self._vis_data

    def histograms(self) -> list[dict[str, Any]]:
        """Arguments of TensorBoard's ``add_histogram_raw``, of what was recorded since the last `clear_histograms`."""
        return self._histograms

    def clear_images(self) -> None:
        """Forget the pictures, whoever has not seen them yet."""
        self._vis_data = []
        self._taken = {reader: (0, n) for reader, (_, n) in self._taken.items()}

    def clear_histograms(self) -> None:
        """Forget the histograms, whoever has not seen them yet."""
        self._histograms = []
        self._taken = {reader: (n, 0) for reader, (n, _) in self._taken.items()}

    def take_new(self, reader: object) -> tuple[list[tuple[str, Any, int]], list[dict[str, Any]]]:
        """The pictures and the histograms that a reader was not given yet; see `images` and `histograms`.

        What one reader took stays for the others until the iteration is over.
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
    """Reads the storage of the running step and writes it somewhere.

    A writer of pictures takes them by `EventStorage.take_new`, so that others see them too.
    """

    def write(self) -> None:
        """Write what is new."""
        raise NotImplementedError

    def rewind(self, iteration: int) -> None:
        """A run begins at ``iteration``: drop what an earlier attempt wrote at or past it. Called before the first step."""

    def close(self) -> None:
        """Finish files."""


def new_rows(
    storage: EventStorage, window_size: int, last_write: int, *, left_out: str | None = None
) -> dict[int, dict[str, float]]:
    """By iteration, the latest scalars that are newer than the last write; names that begin with ``left_out`` are not in it."""
    rows: dict[int, dict[str, float]] = defaultdict(dict)
    for name, (value, iteration) in storage.latest_with_smoothing_hint(window_size).items():
        if iteration > last_write and not (left_out and name.startswith(left_out)):
            rows[iteration][name] = value
    return rows


class _FileWriter(EventWriter):
    """Rows of one file, by iteration: what a writer of JSON lines and one of a table have in common."""

    def __init__(self, file: str | Path, window_size: int) -> None:
        self._path = Path(file)
        self._window_size = window_size
        self._last_write = -1

    def rewind(self, iteration: int) -> None:
        """See `EventWriter.rewind`; a line that was cut off by a crash goes too."""
        self._last_write = iteration - 1
        if not self._path.is_file():
            return
        if iteration == 0:
            archive_file(self._path)
        else:
            self._keep_before(iteration)

    def _keep_before(self, iteration: int) -> None:
        """Make the file anew with the rows before an iteration."""
        raise NotImplementedError


class JSONWriter(_FileWriter):
    """One JSON object a line and iteration: ``{"iteration": 19, "total_loss": 1.2, "lr": 0.001, ...}``.

    Args:
        json_file: lines are appended. A run that begins at iteration 0 puts an older file aside as ``<name>.1``, ``<name>.2``, ....
        window_size: noisy scalars are written as their median over so many iterations. 1 writes the iteration's own value,
            which alone stays the same when a run is interrupted.
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
        """One line for each iteration that has a scalar that was not written yet."""
        storage = get_event_storage()
        rows = new_rows(storage, self._window_size, self._last_write, left_out=_LEDGER)
        if not rows:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            for iteration in sorted(rows):
                file.write(dump_json({"iteration": iteration, **dict(sorted(rows[iteration].items()))}) + "\n")
        self._last_write = max(rows)


class CSVWriter(_FileWriter):
    """A table of all scalars by iteration; a column that comes later makes the file anew with it.

    Args:
        csv_file: as `JSONWriter`'s file it is put aside by a run that begins at iteration 0.
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
        """A row for each iteration that has a scalar that was not written yet."""
        rows = new_rows(get_event_storage(), self._window_size, self._last_write, left_out=_LEDGER)
        if not rows:
            return
        new = sorted({name for row in rows.values() for name in row} - set(self._columns))
        if new:
            older = self._read() if self._path.is_file() else []
            self._columns += new
            self._write_all(older)
        with self._path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["iteration", *self._columns])
            writer.writerows({"iteration": iteration, **rows[iteration]} for iteration in sorted(rows))
        self._last_write = max(rows)

    def _read(self) -> list[dict[str, str]]:
        text = self._path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]  # a line that was cut off by a crash is none
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
    """TensorBoard's event files.

    Args:
        log_dir: the folder of the files.
        window_size: see `JSONWriter`.
        kwargs: passed to ``torch.utils.tensorboard.SummaryWriter``.
    """

    def __init__(self, log_dir: str | Path, window_size: int = 1, **kwargs: Any) -> None:
        self._log_dir = str(log_dir)
        self._window_size = window_size
        self._kwargs = kwargs
        self._last_write = -1
        self._writer: Any = None

    def rewind(self, iteration: int) -> None:
        """See `EventWriter.rewind`: TensorBoard hides older points past ``purge_step``."""
        self._kwargs.setdefault("purge_step", iteration)
        older = list(Path(self._log_dir).glob("events.out.tfevents.*")) if iteration == 0 else []
        if older:  # in one folder with these it would be drawn as one run
            folder = next_free_path(Path(self._log_dir), "earlier_events_")
            folder.mkdir()
            for path in older:
                path.rename(folder / path.name)
        self._last_write = iteration - 1

    def write(self) -> None:
        """All new scalars, pictures and histograms."""
        if self._writer is None:  # a second and a half of import, and a file: only when there is something to write
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self._log_dir, **self._kwargs)
        from tensorboard.compat.proto.summary_pb2 import Summary

        storage = get_event_storage()
        rows = new_rows(storage, self._window_size, self._last_write)
        for iteration, row in rows.items():
            # One event for all of an iteration's numbers; add_scalar would make one each, at 70 us.
            values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items()]
            self._writer.file_writer.add_summary(Summary(value=values), iteration)
        self._last_write = max(rows, default=self._last_write)
        images, histograms = storage.take_new(self)
        for name, image, iteration in images:
            self._writer.add_image(name, image, iteration)
        for histogram in histograms:
            self._writer.add_histogram_raw(**histogram)

    def close(self) -> None:
        """Flush to disk."""
        if self._writer is not None:
            self._writer.close()


class CommonMetricPrinter(EventWriter):
    """A line in the log: ETA, losses, clips a second, times, learning rate, memory.

    ``max_mem`` is the most memory that tensors took on the CUDA device; without one, ``max_rss`` is the most that the process
    took. Clips a second are there where ``time/clips_per_second`` is recorded.

    Args:
        max_iter: of the run, for the ETA.
        window_size: losses are shown as their median, times and rates as their mean, over so many iterations.
    """

    def __init__(self, max_iter: int | None = None, window_size: int = 20) -> None:
        self.logger = logging.getLogger("ultravid.utils.events")
        self._max_iter = max_iter
        self._window_size = window_size
        self._last: tuple[int, float] | None = None

    def _eta(self, storage: EventStorage) -> str | None:
        if self._max_iter is None:
            return None
        histories = storage.histories()
        left = self._max_iter - storage.iter - 1
        if "time" in histories and len(histories["time"].values()) > 0:
            seconds = histories["time"].median(storage.count_samples("time", 1000)) * left
            return str(datetime.timedelta(seconds=int(seconds)))
        previous, self._last = self._last, (storage.iter, time.perf_counter())
        if previous is None or previous[0] == storage.iter:
            return None
        seconds = (self._last[1] - previous[1]) / (storage.iter - previous[0]) * left
        return str(datetime.timedelta(seconds=int(seconds)))

    def write(self) -> None:
        """One line; nothing after the last iteration, when only an evaluation was added."""
        storage = get_event_storage()
        if self._max_iter is not None and storage.iter >= self._max_iter:
            return
        histories = storage.histories()
        window = {name: storage.count_samples(name, self._window_size) for name in histories}
        parts = [f"iter: {storage.iter}"]
        if (eta := self._eta(storage)) is not None:
            parts.insert(0, f"eta: {eta}")
        parts += [f"{n}: {h.median(window[n]):.4g}" for n, h in histories.items() if "loss" in n]
        for name, label, digits in (
            ("time/clips_per_second", "clips/s", 1),
            ("time", "time", 4),
            ("data_time", "data_time", 4),
        ):
            if name in histories:
                parts.append(f"{label}: {histories[name].avg(window[name]):.{digits}f}")
        if "lr" in histories:
            parts.append(f"lr: {histories['lr'].latest():.5g}")
        self.logger.info("  ".join([*parts, *_peak_memory()]))


def _peak_memory() -> list[str]:
    if torch.cuda.is_available():
        return [f"max_mem: {torch.cuda.max_memory_allocated() / 2**20:.0f}M"]
    try:
        import resource
    except ImportError:  # not a POSIX system
        return []
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return [f"max_rss: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20:.0f}M"]
