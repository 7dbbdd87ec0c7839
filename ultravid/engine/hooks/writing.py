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

    A checkpoint holds the values recorded since the last row, so a resumed run writes the same rows as a run that was not
    interrupted.

    Args:
        writers: by name or as a list; only the main process calls them.
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
        self._restored: dict[str, Any] = {}
        self._writers = list(writers.values()) if isinstance(writers, Mapping) else list(writers)
        for writer in self._writers:
            if not isinstance(writer, EventWriter):
                raise TypeError(f"PeriodicWriter takes EventWriters, not {type(writer).__name__}.")
        self._every = Every(period, last=True)

    def before_train(self) -> None:
        """Drop what an earlier attempt wrote after the last row before the iteration that this one starts with."""
        start, state, self._restored = self.trainer.start_iter, self._restored, {}
        if not comm.is_main_process():
            return
        next_row = min(start, state.get("next_row", start))
        for writer in self._writers:
            if start > 0:
                writer.resume(next_row)
            else:
                writer.rewind(0)
        if state:
            self.trainer.storage.load_state_dict({**state, "next_row": next_row})

    def after_step(self) -> None:
        """Call the writers if they are due, or if something asks to be written now."""
        storage = self.trainer.storage
        # The metrics of an evaluation don't wait: a run that stops before the next write would lose them.
        if self._every.is_due(self.trainer) or storage.write_now:
            if comm.is_main_process():
                self._write()
            storage.write_now = False

    def _write(self) -> None:
        for writer in self._writers:
            try:
                writer.write()
            except OSError as error:
                message = f"{type(writer).__name__} can't write: {error}."
                if self._on_error == "stop":
                    raise UserError(message) from error
                logger.error("%s The run continues.", message)
                self.trainer.storage.mark_written(writer)
        self.trainer.storage.mark_written(self)

    def state_dict(self) -> dict[str, Any]:
        """The values recorded since the last row (`EventStorage.state_dict`); empty in processes that write no checkpoint."""
        return self.trainer.storage.state_dict() if comm.is_main_process() else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore from ``state``, what `state_dict` returned, the values that the interrupted run had not written yet.

        A checkpoint of version 0.1 has only the latest value of each scalar; if that changes the next row, a warning is logged.
        """
        if "unwritten" in state:
            latest = state["unwritten"]
            scalars = {name: [[value], [iteration], hint] for name, (value, iteration, hint) in latest.items()}
            first = min((iteration for _, iteration, _ in latest.values()), default=None)
            state = {"scalars": scalars, **({} if first is None else {"next_row": first})}
            if any(hint for _, _, hint in latest.values()):
                logger.warning(
                    "The checkpoint is of an earlier version, which stored only the last value of each scalar: the next row of "
                    "metrics.json has medians over fewer iterations than a run that was not interrupted."
                )
        self._restored = state

    def after_train(self) -> None:
        """Write the rest, unless the run was stopped: an uninterrupted run would not have written it here."""
        if comm.is_main_process():
            if not self.trainer.stopped:
                self._write()
            for writer in self._writers:
                writer.close()
