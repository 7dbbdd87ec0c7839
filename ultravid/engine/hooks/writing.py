"""Writing what a run records."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from ultravid.engine.train_loop import HookBase
from ultravid.engine.when import Every, HookOrder
from ultravid.utils import comm
from ultravid.utils.errors import UserError
from ultravid.utils.events import EventWriter
from ultravid.utils.limits import Positive

__all__ = ["PeriodicWriter"]

logger = logging.getLogger(__name__)


class PeriodicWriter(HookBase):
    """Calls writers every ``period`` iterations, after an evaluation, and at the end.

    Args:
        writers: by name or as a list; the main process alone calls them.
        period: iterations between writes.
        on_error: what happens if a file can't be written, as on a full disk: "stop" ends the run, "continue" logs an error and
            loses the rows.
    """

    order: ClassVar[int] = HookOrder.WRITER

    def __init__(
        self,
        writers: Mapping[str, EventWriter] | Sequence[EventWriter],
        period: Positive = 20,
        *,
        on_error: Literal["stop", "continue"] = "stop",
    ) -> None:
        if period < 1:
            raise ValueError(f"period={period} must be at least 1.")
        if on_error not in ("stop", "continue"):
            raise ValueError(f"on_error={on_error!r} is neither 'stop' nor 'continue'.")
        self._on_error = on_error
        self._last_write = -1
        self._unwritten: dict[str, list[Any]] = {}
        self._writers = list(writers.values()) if isinstance(writers, Mapping) else list(writers)
        for writer in self._writers:
            if not isinstance(writer, EventWriter):
                raise TypeError(f"PeriodicWriter takes EventWriters, not {type(writer).__name__}.")
        self._every = Every(period, last=True)

    def before_train(self) -> None:
        """Drop what an earlier attempt wrote at or past the iteration that this one starts with."""
        first = min([self.trainer.start_iter, *(iteration for _, iteration, _ in self._unwritten.values())])
        if comm.is_main_process():
            for writer in self._writers:
                writer.rewind(first)
        self._last_write = first - 1
        for name, (value, iteration, hint) in self._unwritten.items():
            self.trainer.storage.put_scalar(name, value, smoothing_hint=hint, cur_iter=iteration)
        self._unwritten = {}

    def after_step(self) -> None:
        """Call the writers if they are due, or if something asks to be written now."""
        storage = self.trainer.storage
        # The metrics of an evaluation don't wait: a run that stops before the next write would lose them.
        if self._every.is_due(self.trainer) or storage.write_now:
            if comm.is_main_process():
                self._write()
            self._last_write = self.trainer.iter
            storage.write_now = False

    def _write(self) -> None:
        for writer in self._writers:
            try:
                writer.write()
            except OSError as error:
                message = f"{type(writer).__name__} can't write: {error}."
                if self._on_error == "stop":
                    raise UserError(message) from error
                logger.error("%s The run goes on.", message)

    def state_dict(self) -> dict[str, Any]:
        """What was recorded since the last write, except times: a resumed run writes it with its next rows."""
        hints = self.trainer.storage.smoothing_hints()
        latest = self.trainer.storage.latest().items()
        return {
            "unwritten": {
                name: [value, iteration, hints[name]]
                for name, (value, iteration) in latest
                if iteration > self._last_write and not name.startswith("time") and name != "data_time"
            }
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the rows that the interrupted run had not written."""
        self._unwritten = state["unwritten"]

    def after_train(self) -> None:
        """Write the rest, unless the run was stopped: an uninterrupted run would not have written it here."""
        if comm.is_main_process():
            if not self.trainer.stopped:
                self._write()
                self._last_write = self.trainer.iter
            for writer in self._writers:
                writer.close()
