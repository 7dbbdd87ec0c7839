"""The terminal output while jobs run: a live table, or plain lines if there is no terminal; and the table of ``--status``.

Times are of a monotonic clock: a clock that is set while jobs run changes none of them.
"""

from __future__ import annotations

import contextlib
import math
import os
import stat
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TextIO

from ultravid.evaluation.tables import format_columns, format_value
from ultravid.experiments.job_processes import JobProcess
from ultravid.experiments.local import GPU_VARIABLE, Job, JobListener, describe_exit
from ultravid.experiments.plan import PlannedJob
from ultravid.experiments.status import JobState, JobStatus, status_of
from ultravid.utils.text import counted, rounded, visible
from ultravid.utils.tool import EXIT_STOPPED, silence_stdout

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

__all__ = ["JobTable", "Narrator", "describe_states", "duration", "job_table", "main_metric", "print_jobs"]

_REFRESH_S = 1.0
_FIRST_LINE_S, _MOST_BETWEEN_LINES_S = 30.0, 600.0
_REMINDER_S = 30.0
_MAIN_METRICS = ("AP50", "mAP", "AP")
_ORDER = (JobState.RUNNING, JobState.FAILED, JobState.DIED, JobState.STOPPED, JobState.QUEUED, JobState.WAITING)
_COLORS = {JobState.RUNNING: "cyan", JobState.FAILED: "red", JobState.DIED: "red", JobState.FINISHED: "green"}
_MOST_OF_A_SETTING, _LEAST_OF_A_SETTING = 32, 8  # characters
_LEAST = {"rate": 8, "metric": 10}  # characters; other columns are shown whole or not at all
_GAP = 3  # characters between columns


def duration(seconds: float) -> str:
    """A time for people: ``45 s``, ``12 min``, ``3 h 20 min``, ``2 d 4 h``; "" for nan."""
    if math.isnan(seconds):
        return ""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def main_metric(status: JobStatus, objective: str = "") -> str:
    """The metric of a job's last evaluation that judges it, with its name; before the first one the loss; else "".

    Args:
        status: of the job.
        objective: the metric to show if the job has it.
    """
    names = [name for name in (objective, *_MAIN_METRICS, *status.metrics) if name in status.metrics]
    if names:
        return f"{names[0]} {format_value(status.metrics[names[0]])}"
    return "" if math.isnan(status.loss) else f"loss {status.loss:.4g}"


def describe_states(states: Iterable[JobState]) -> str:
    """How many jobs are in which state: ``2 running, 1 finished``."""
    number = Counter(states)
    return ", ".join(f"{number[state]} {state.value}" for state in JobState if number[state])


@dataclass(frozen=True)
class JobTable:
    """A table of jobs as text: number, the settings that differ, state, iteration, rate, last metric and time left.

    Columns that are empty in every row are left out.

    Attributes:
        headers: the headers of the columns.
        rows: a row a job.
        state: the column of the states.
    """

    headers: list[str]
    rows: list[list[str]]
    state: int

    def fitted(self, width: int, gap: int) -> tuple[JobTable, list[int], list[str]]:
        """The columns that fit a width, which never leaves out numbers and states.

        Args:
            width: of the terminal, in characters.
            gap: between two columns.

        Returns:
            the table without the others, the width of each column, and the headers of those that were left out.
        """
        from rich.cells import cell_len

        widest = [max(map(cell_len, column)) for column in zip(self.headers, *self.rows, strict=True)]
        least = [min(w, self._least(c)) for c, w in enumerate(widest)]
        kept, optional = list(range(len(widest))), self._least_important_first()
        while optional and sum(least[c] for c in kept) + gap * (len(kept) - 1) > width:
            kept.remove(optional.pop(0))
        spare = width - sum(least[c] for c in kept) - gap * (len(kept) - 1)
        widths = []
        for column in kept:
            more = min(widest[column] - least[column], max(0, spare))
            widths.append(least[column] + more)
            spare -= more
        rows = [[row[c] for c in kept] for row in self.rows]
        left_out = [header for c, header in enumerate(self.headers) if c not in kept]
        return JobTable([self.headers[c] for c in kept], rows, kept.index(self.state)), widths, left_out

    def _least(self, column: int) -> int:
        """How many characters of a column have to be seen if there are more."""
        return _LEAST_OF_A_SETTING if 0 < column < self.state else _LEAST.get(self.headers[column], sys.maxsize)

    def _least_important_first(self) -> list[int]:
        """The columns that may be left out: the last settings before the first one."""
        after = {self.headers[column]: column for column in range(self.state + 1, len(self.headers))}
        settings = list(range(self.state - 1, 0, -1))
        order = [after.get("left"), after.get("rate"), *settings[:-1], after.get("iteration"), *settings[-1:]]
        return [column for column in [*order, after.get("metric")] if column is not None]


def job_table(
    jobs: Sequence[PlannedJob],
    statuses: Mapping[int, JobStatus],
    among: Sequence[PlannedJob] = (),
    objective: str = "",
) -> JobTable:
    """The table of jobs.

    Args:
        jobs: the rows.
        statuses: by number.
        among: the jobs whose settings are compared, if the rows are a part of them.
        objective: as of `main_metric`.
    """
    keys = _differing(among or jobs)
    settings = _short_names(keys)
    if "name" not in keys and any(set(job.name.split()) - {job.values.get(key) for key in keys} for job in jobs):
        keys, settings = ["name", *keys], ["name", *settings]
    headers = ["job", *settings, "state", "iteration", "rate", "metric", "left"]
    texts = _column_texts(keys, among or jobs)
    rows = []
    for job in jobs:
        status, values = statuses[job.number], {"name": job.name, **job.values}
        shown = (texts[key].get(text, text) for key in keys for text in [values.get(key, "")])
        rows.append(
            [
                *(str(job.number), *(_shortened(visible(text)) for text in shown), status.state.value),
                *(_iteration(status), _rate(status), main_metric(status, objective)),
                duration(status.seconds_left) if status.state is JobState.RUNNING else "",
            ]
        )
    state = len(keys) + 1
    used = [c for c in range(len(headers)) if c in (0, state) or any(row[c] for row in rows)]
    return JobTable(
        [headers[c] for c in used],
        [[row[c] for c in used] for row in rows],
        used.index(state),
    )


def print_jobs(jobs: Sequence[PlannedJob], statuses: Mapping[int, JobStatus], objective: str = "") -> None:
    """Print the table of all jobs (`job_table`); on a terminal it fits the width."""
    table = job_table(jobs, statuses, objective=objective)
    if _is_terminal(sys.stdout):
        console = _console(sys.stdout)
        rich_table, left_out = _rich_table(table, console.width)
        console.print(rich_table)
        if left_out:
            console.print(f"not shown: {left_out}; the terminal is too narrow", style="dim", highlight=False)
    else:
        print(format_columns(table.headers, table.rows, left=table.state + 1), flush=True)  # noqa: T201


class Narrator(JobListener):
    """Shows what jobs do: a live table on a terminal; else a line when one starts and ends, and a line of progress now and then.

    What can't be printed, as the terminal was closed or nobody reads the pipe, is not: jobs go on.

    Args:
        jobs: the jobs of the command.
        statuses: the states of all jobs when the command began.
        num_slots: jobs at a time.
        stream: to print to; None: standard output.
        clock: seconds; a monotonic clock.
    """

    def __init__(
        self,
        jobs: Sequence[PlannedJob],
        statuses: Mapping[int, JobStatus],
        num_slots: int = 1,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._jobs, self._statuses, self._num_slots, self._clock = list(jobs), dict(statuses), num_slots, clock
        self._by_label = {job.label: job for job in jobs}
        self._stream = sys.stdout if stream is None else stream
        self._begin = clock()
        self._began: dict[str, float] = {}
        self._took: list[float] = []
        self._whole: set[str] = set()  # began at their first iteration in this command
        self._next, self._between = self._begin + _FIRST_LINE_S, _FIRST_LINE_S
        self._reminder = math.inf
        self._live: Live | None = None

    def __enter__(self) -> Narrator:
        if _is_terminal(self._stream):
            from rich.live import Live

            self._live = Live(console=_console(self._stream), auto_refresh=False, transient=True, redirect_stdout=False)
            with self._printing():
                self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            with self._printing():
                self._live.stop()
            self._live = None

    # What happens to jobs

    def started(self, job: Job, slot: Mapping[str, str]) -> None:
        """See `JobListener`."""
        where = f" on GPU {slot[GPU_VARIABLE]}" if GPU_VARIABLE in slot else ""
        planned = self._begin_of(job)
        self._event(f"{self._title(planned)}: started{where}{_settings_text(planned, self._jobs)}, log {job.log}")

    def adopted(self, job: Job, process: JobProcess) -> None:
        """See `JobListener`."""
        planned = self._begin_of(job)
        who = f"process {process.pid}, which an earlier command started" if process.is_ours else _holder(planned)
        self._event(f"{self._title(planned)}: is already running ({who}); waiting for it", always=True)

    def ended(self, job: Job, exit_code: int) -> None:
        """See `JobListener`."""
        planned = self._by_label[job.name]
        status = self._statuses[planned.number] = status_of(planned.run)
        took = self._clock() - self._began.pop(job.name, self._clock())
        title = self._title(planned)
        if status.state is JobState.FINISHED:
            if job.name in self._whole:
                self._took.append(took)
            done = sum(s.state is JobState.FINISHED for s in self._statuses.values())
            metric = main_metric(status)
            self._event(
                f"{title}: finished after {duration(took)}{', ' + metric if metric else ''}; {done} of {len(self._jobs)} finished"
            )
        elif status.state is JobState.STOPPED:
            self._event(f"{title}: stopped{_at(status)}; the same command resumes it", always=exit_code != EXIT_STOPPED)
        else:
            error = visible(status.error) or describe_exit(exit_code)
            how = "died" if status.state is JobState.DIED else "failed"
            self._event(f"{title}: {how}{_at(status)}: {error}\n  log {job.log}", always=True)

    def restarting(self, job: Job, number: int, of: int) -> None:
        """See `JobListener`."""
        self._event(f"{self._title(self._by_label[job.name])}: resumed, {number} of at most {of} times", always=True)

    def paused(self, job: Job) -> None:
        """See `JobListener`."""
        planned = self._by_label[job.name]
        self._began.pop(job.name, None)
        self._statuses[planned.number] = status_of(planned.run)

    def note(self, text: str) -> None:
        """Show a line that is not of a job alone."""
        self._event(text, always=True)

    def stopping(self, running: int) -> None:
        """See `JobListener`."""
        jobs = "the running job saves and stops" if running == 1 else f"the {running} running jobs save and stop"
        self._reminder = self._clock() + _REMINDER_S
        self._event(f"Stopping: {jobs}; a second Ctrl-C kills.", always=True)

    def killing(self, running: int) -> None:
        """See `JobListener`."""
        self._event(f"Killing {counted(running, 'job')}.", always=True)

    def left(self, job: Job) -> None:
        """See `JobListener`."""
        planned = self._by_label[job.name]
        self._event(f"{self._title(planned)}: continues ({_holder(planned)})", always=True)

    def halting(self, error: Exception, running: int) -> None:
        """See `JobListener`."""
        going_on = (
            f"; {counted(running, 'running job')} go{'es' if running == 1 else ''} on to the end" if running else ""
        )
        self._event(f"No further job starts: {type(error).__name__}: {error}{going_on}.", always=True)

    def waiting(self) -> None:
        """Refresh the table, or print a line of progress, if it is time."""
        now = self._clock()
        if now >= self._reminder:
            self._reminder = now + _REMINDER_S
            labels = ", ".join(str(self._by_label[name].number) for name in self._began)
            self._event(f"Still waiting for job {labels} to save and stop; a second Ctrl-C kills.", always=True)
        if self._live is not None:
            if now >= self._next or self._next > now + _REFRESH_S:
                self._next = now + _REFRESH_S
                self._refresh()
        elif now >= self._next:
            self._between = min(2 * self._between, _MOST_BETWEEN_LINES_S)
            self._next = now + self._between
            self._read_running()
            running = [self._brief(self._by_label[name]) for name in self._began]
            self._event(f"{self._counts()}{': ' if running else ''}{'; '.join(running)}")

    # Printing

    def _begin_of(self, job: Job) -> PlannedJob:
        planned = self._by_label[job.name]
        self._began[job.name] = self._clock()
        old = self._statuses[planned.number]
        if old.iteration is None and old.state is JobState.WAITING:
            self._whole.add(job.name)
        else:
            self._whole.discard(job.name)
        self._statuses[planned.number] = JobStatus(
            JobState.RUNNING, old.iteration, old.max_iter, old.rate, old.metrics, loss=old.loss
        )
        return planned

    def _title(self, planned: PlannedJob) -> str:
        return f"job {planned.number}{f' ({visible(planned.name)})' if planned.name else ''}"

    def _event(self, text: str, always: bool = False) -> None:
        """Print a line; above a table only what the table does not show."""
        with self._printing():
            if self._live is None:
                print(text, file=self._stream, flush=True)
                return
            if always:
                self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
            self._refresh(read=False)

    def _refresh(self, read: bool = True) -> None:
        if self._live is None:
            return
        if read:
            self._read_running()
        with self._printing():
            size = self._live.console.size
            self._live.update(self._picture(size.width, size.height), refresh=True)

    @contextlib.contextmanager
    def _printing(self) -> Iterator[None]:
        """A block that prints, if it can be printed."""
        try:
            yield
        except (OSError, ValueError):  # a closed terminal, pipe or file
            self._live = None
            if self._stream is sys.stdout:
                _leave_what_is_closed()

    def _read_running(self) -> None:
        for name in self._began:
            planned = self._by_label[name]
            read = status_of(planned.run)
            if read.iteration is not None or self._statuses[planned.number].iteration is None:
                self._statuses[planned.number] = replace(read, state=JobState.RUNNING, error="")

    def _brief(self, planned: PlannedJob) -> str:
        status = self._statuses[planned.number]
        parts = [_iteration(status), main_metric(status)]
        return " ".join([f"job {planned.number}", *filter(None, parts)])

    def _counts(self) -> str:
        left = self._seconds_left()
        so_far = f"{duration(self._clock() - self._begin)} so far"
        states = describe_states(status.state for status in self._statuses.values())
        return f"{states}, {so_far}{f', about {duration(left)} left' if left > 0 else ''}"

    def _seconds_left(self) -> float:
        """How long the jobs of this command take that are not done; nan if that is not known.

        A job that has not begun takes as long as those that this command has run from their beginning to their end, else as long as
        the iterations of those that run take.
        """
        running = [self._statuses[self._by_label[name].number] for name in self._began]
        rated = [s.max_iter / s.rate for s in running if s.max_iter is not None and s.rate > 0]
        typical = statistics.median(self._took or rated or [math.nan])
        ahead = [s for s in self._statuses.values() if s.state in (JobState.WAITING, JobState.DIED, JobState.STOPPED)]
        parts = [typical if math.isnan(s.seconds_left) else s.seconds_left for s in (*running, *ahead)]
        return max(sum(parts) / self._num_slots, *parts) if parts else 0.0

    def _picture(self, width: int, height: int) -> RenderableType:
        """The table of what fits the terminal, and what is left below it."""
        from rich.console import Group
        from rich.text import Text

        chosen = _most_important(self._jobs, self._statuses, max(1, height - 5))
        table = job_table(chosen, self._statuses, self._jobs)
        numbers = {job.number for job in chosen}
        rich_table, columns = _rich_table(table, width)
        hidden = describe_states(s.state for number, s in self._statuses.items() if number not in numbers)
        left_out = "; ".join(filter(None, [hidden, columns]))
        lines = [Text(f"not shown: {left_out}", style="dim", no_wrap=True, overflow="ellipsis")] if left_out else []
        return Group(rich_table, *lines, Text(f"{counted(len(self._jobs), 'job')}: {self._counts()}"))


def _most_important(jobs: Sequence[PlannedJob], statuses: Mapping[int, JobStatus], most: int) -> list[PlannedJob]:
    """The jobs that a table of limited height shows, by number: what runs, then what failed, what is next, what has finished."""
    if len(jobs) <= most:
        return list(jobs)
    by_state = [job for state in _ORDER for job in jobs if statuses[job.number].state is state]
    finished = [job for job in reversed(jobs) if statuses[job.number].state is JobState.FINISHED]
    return sorted([*by_state, *finished][:most], key=lambda job: job.number)


def _rich_table(content: JobTable, width: int) -> tuple[RenderableType, str]:
    """The table that fits a width, and which columns do not: "columns rate, left"; "" if all do."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    fitted, widths, left_out = content.fitted(width, _GAP)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column, header in enumerate(fitted.headers):
        table.add_column(
            Text(header),
            no_wrap=True,
            overflow="ellipsis",
            justify="left" if 0 < column <= fitted.state else "right",
            width=widths[column],
        )
    for row in fitted.rows:
        styles = {fitted.state: _COLORS.get(JobState(row[fitted.state]), "")}
        table.add_row(*(Text(cell, style=styles.get(column, "")) for column, cell in enumerate(row)))
    return table, f"column{'s' if len(left_out) > 1 else ''} {', '.join(left_out)}" if left_out else ""


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    return Console(file=stream)


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")
    except ValueError:  # it is closed
        return False


def _leave_what_is_closed() -> None:
    """Discard further output to a standard stream whose pipe has no reader or whose terminal was closed."""
    silence_stdout()
    with contextlib.suppress(OSError):
        if stat.S_ISCHR(os.fstat(2).st_mode) and not os.isatty(2):  # what a closed terminal is
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 2)
            os.close(nowhere)


def _differing(jobs: Sequence[PlannedJob]) -> list[str]:
    """The settings that are not the same in all jobs; those of a single job."""
    keys = dict.fromkeys(key for job in jobs for key in job.values)
    return [key for key in keys if len(jobs) == 1 or len({job.values.get(key) for job in jobs}) > 1]


def _short_names(keys: Sequence[str]) -> list[str]:
    """The ends of keys, as long as it takes to distinguish them."""
    names = []
    for key in keys:
        steps = key.split(".")
        ends = [".".join(steps[-n:]) for n in range(1, len(steps) + 1)]
        others = [other for other in keys if other != key]
        names.append(next((end for end in ends if not any(f".{o}".endswith(f".{end}") for o in others)), key))
    return names


def _column_texts(keys: Sequence[str], jobs: Sequence[PlannedJob]) -> dict[str, dict[str, str]]:
    """How the values of each key are shown."""
    return {key: rounded(job.values[key] for job in jobs if key in job.values) for key in keys}


def _settings_text(planned: PlannedJob, jobs: Sequence[PlannedJob]) -> str:
    keys = _differing(jobs)
    texts = _column_texts(keys, jobs)
    text = " ".join(f"{key}={texts[key][planned.values[key]]}" for key in keys if key in planned.values)
    return f", {visible(text)}" if text else ""


def _shortened(text: str) -> str:
    """A long value, as a path, by its end."""
    return text if len(text) <= _MOST_OF_A_SETTING else f"...{text[3 - _MOST_OF_A_SETTING :]}"


def _iteration(status: JobStatus) -> str:
    if status.iteration is None:
        return ""
    done = status.iteration + 1 if status.max_iter is None else min(status.iteration + 1, status.max_iter)
    return f"{done}/{status.max_iter}" if status.max_iter is not None else str(done)


def _rate(status: JobStatus) -> str:
    if not status.rate > 0:
        return ""
    return f"{status.rate:.1f} it/s" if status.rate >= 1 else f"{1 / status.rate:.1f} s/it"


def _at(status: JobStatus) -> str:
    iteration = _iteration(status)
    return f" at iteration {iteration}" if iteration else ""


def _holder(planned: PlannedJob) -> str:
    holder = planned.run.holder()
    return "another process" if holder is None else str(holder)
