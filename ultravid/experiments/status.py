"""The status of a job of an experiment, from its folder: its state, progress, metrics and error."""

from __future__ import annotations

import enum
import json
import math
import os
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultravid.experiments.local import describe_exit
from ultravid.utils.file_io import dump_json, replace_file
from ultravid.utils.process_facts import iso_time
from ultravid.utils.processes import is_running, machine_id, process_start_time
from ultravid.utils.run_folder import RunFolder, RunState
from ultravid.utils.tool import EXIT_STOPPED

__all__ = [
    "JobState",
    "JobStatus",
    "StartedProcess",
    "note_end",
    "note_process",
    "note_pruned",
    "note_start",
    "started_process",
    "status_of",
]

_TAIL = 8_192  # bytes


class JobState(enum.StrEnum):
    """What a job is doing; what the next command does with it."""

    WAITING = "waiting"
    """It was not started yet. It will be."""

    QUEUED = "queued"
    """A scheduler has it and has not started it."""

    RUNNING = "running"
    """A process is at work in its folder."""

    STOPPED = "stopped"
    """It saved a checkpoint and stopped, by a signal or a time limit. It is resumed."""

    DIED = "died"
    """It was killed, or its machine went down. It is resumed from its newest good checkpoint."""

    FAILED = "failed"
    """It ended with an error of its own. It is retried with ``--retry-failed`` alone."""

    PRUNED = "pruned"
    """A search stopped it early, as others did better. It is not continued."""

    FINISHED = "finished"
    """Training and the last evaluation are done. It is not run again."""


@dataclass(frozen=True)
class JobStatus:
    """The status of a job.

    Attributes:
        state: what it is doing.
        iteration: the last iteration that was recorded; None before the first.
        max_iter: the number of iterations; None if it is not known.
        rate: iterations a second, of the last record; nan if it is not known.
        metrics: the metrics of its last evaluation, by name; nan for one that is undefined.
        loss: the total loss of the last record; nan if it is not known.
        error: the last line of its error; "" if there is none.
    """

    state: JobState
    iteration: int | None = None
    max_iter: int | None = None
    rate: float = math.nan
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    loss: float = math.nan

    @property
    def seconds_left(self) -> float:
        """How long the iterations that are left take at this rate; nan if it is not known."""
        if self.iteration is None or self.max_iter is None or not self.rate > 0:
            return math.nan
        return max(0, self.max_iter - self.iteration - 1) / self.rate


def status_of(run: RunFolder, is_queued: bool = False) -> JobStatus:
    """Read the status of a job from its run's folder.

    Args:
        run: the folder, which may be missing.
        is_queued: whether a scheduler says that it has the job and has not started it.
    """
    record = _read_json(run.job_record)
    if not record and not run.path.is_dir():
        return JobStatus(JobState.QUEUED if is_queued else JobState.WAITING)
    run_state, found = run.state_and_record()
    attempt = found or {}
    state = _state(run_state, attempt, record, is_queued)
    if state in (JobState.WAITING, JobState.QUEUED) and not run.metrics.is_file():
        return JobStatus(state)
    iteration, seconds, loss = _progress(run)
    return JobStatus(
        state,
        iteration=iteration,
        max_iter=max_iter if isinstance(max_iter := attempt.get("max_iter"), int) else None,
        rate=1 / seconds if seconds > 0 else math.nan,
        metrics=_metrics(run),
        error=_error(run, attempt, record) if state in (JobState.FAILED, JobState.DIED) else "",
        loss=loss,
    )


@dataclass(frozen=True)
class StartedProcess:
    """A process of this machine that was started for a job.

    Attributes:
        pid: its number.
        started: its start time, as of `ultravid.utils.processes.process_start_time`.
        slot: the environment variables of the slot that it occupies.
    """

    pid: int
    started: int | None
    slot: Mapping[str, str]


def started_process(run: RunFolder) -> StartedProcess | None:
    """The process of a job that was started on this machine last and is still running; None if there is none.

    It is known from the moment of its start; the lock of the run's folder is there some seconds later.
    """
    return _started_process(_read_json(run.job_record))


def _started_process(record: Mapping[str, Any]) -> StartedProcess | None:
    starts = record.get("starts")
    newest = starts[-1] if isinstance(starts, list) and starts else None
    if not isinstance(newest, dict) or record.get("exit_code") is not None:
        return None
    pid, started, slot = newest.get("pid"), newest.get("process_started"), newest.get("slot")
    is_here = all(newest.get(name) == value for name, value in machine_id().items())
    if not (is_here and isinstance(pid, int) and isinstance(started, int) and is_running(pid, started)):
        return None
    return StartedProcess(pid, started, slot if isinstance(slot, dict) else {})


def note_start(run: RunFolder, **facts: Any) -> None:
    """Note in a job's folder that it is about to start.

    Args:
        run: its folder; it is created if necessary.
        facts: where, as ``host`` or ``slurm_id``; written as they are.
    """
    record = _read_json(run.job_record)
    starts = [*record.get("starts", ()), {"time": iso_time(time.time()), **facts}]
    run.path.mkdir(parents=True, exist_ok=True)
    _write(run.job_record, {"starts": starts, "exit_code": None})


def note_process(run: RunFolder, pid: int) -> None:
    """Note the process of the start that was noted last.

    Args:
        run: the job's folder.
        pid: a process of this machine.
    """
    record = _read_json(run.job_record)
    starts = list(record.get("starts", ()))
    newest = {
        **(starts.pop() if starts else {}),
        **machine_id(),
        "pid": pid,
        "process_started": process_start_time(pid),
    }
    _write(run.job_record, {**record, "starts": [*starts, newest]})


def note_end(run: RunFolder, exit_code: int) -> None:
    """Note in a job's folder, if it is there, how its process ended.

    Args:
        run: its folder.
        exit_code: negative: killed by that signal, as `subprocess` has it.
    """
    if not run.path.is_dir():  # somebody has removed it meanwhile; other jobs go on
        return
    record = _read_json(run.job_record)
    _write(run.job_record, {"starts": [], **record, "exit_code": exit_code, "ended": iso_time(time.time())})


def note_pruned(run: RunFolder) -> None:
    """Note in a job's folder that a search stopped it early, or does not start it; a further start takes the note back."""
    run.path.mkdir(parents=True, exist_ok=True)
    _write(run.job_record, {**_read_json(run.job_record), "pruned": True})


def _state(state: RunState, attempt: Mapping[str, Any], record: Mapping[str, Any], is_queued: bool) -> JobState:
    if _started_process(record) is not None:
        return JobState.RUNNING
    code = record.get("exit_code")
    if state in (RunState.RUNNING, RunState.FINISHED):
        return JobState(state.value)
    if record.get("pruned"):
        return JobState.PRUNED
    if is_queued:
        return JobState.QUEUED
    if isinstance(code, int) and code not in (0, EXIT_STOPPED):  # also of a process that ended before it trained
        return JobState.STOPPED if _is_stop(code) else JobState.DIED if _is_kill(code) else JobState.FAILED
    if _is_of_another_start(attempt, record):
        return JobState.DIED
    if state == RunState.STOPPED or code == EXIT_STOPPED:
        return JobState.STOPPED
    if state == RunState.FAILED:
        return JobState.FAILED if isinstance(attempt.get("end"), dict) else JobState.DIED
    if code == 0:  # a config without the hook that records attempts, and without a checkpoint
        return JobState.FINISHED
    return JobState.DIED if record.get("starts") else JobState.WAITING


def _is_of_another_start(attempt: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Whether an attempt is that of an earlier start: the process of the last one was killed before it wrote its own."""
    starts = record.get("starts")
    newest = starts[-1] if isinstance(starts, list) and starts else None
    pid = newest.get("pid") if isinstance(newest, dict) else None
    return record.get("exit_code") is None and pid is not None and attempt.get("pid") not in (None, pid)


def _is_kill(code: int) -> bool:
    """Whether an exit code is that of a process that was killed: of a shell too, which adds 128 to the signal."""
    return code < 0 or code - 128 == signal.SIGKILL


def _is_stop(code: int) -> bool:
    """Whether an exit code is that of a process that was asked to stop before it could save a checkpoint."""
    return (-code if code < 0 else code - 128) in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


def _progress(run: RunFolder) -> tuple[int | None, float, float]:
    """The last iteration that training recorded, the seconds of one, and the loss; None and nan if there is none."""
    iteration: int | None = None
    loss = math.nan
    for line in reversed(_tail(run.metrics)):
        try:
            content = json.loads(line)
        except ValueError:  # the first of the tail, or one that was cut off
            continue
        if not (isinstance(content, dict) and isinstance(content.get("iteration"), int)):
            continue
        iteration = content["iteration"] if iteration is None else iteration
        if math.isnan(loss) and _is_number(content.get("total_loss")):
            loss = math.nan if content.get("total_loss") is None else float(content["total_loss"])
        if _is_number(content.get("time")) and content.get("time"):
            return iteration, float(content["time"]), loss
    return iteration, math.nan, loss


def _metrics(run: RunFolder) -> dict[str, float]:
    """The metrics of the last evaluation."""
    content = _read_json(run.evaluation_metrics)
    return {key: math.nan if value is None else value for key, value in content.items() if _is_number(value)}


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _error(run: RunFolder, attempt: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    """What a failed job last said, in a line; of one that was killed, by what."""
    code = record.get("exit_code")
    if isinstance(code, int) and code < 0:
        return describe_exit(code)
    lines: list[str] = []
    for line in _tail(run.terminal):
        lines = [] if line.startswith("$ ") else [*lines, line.strip()] if line.strip() else lines  # of the last start
    for line in reversed(lines):
        if re.match(r"error: |[\w.]*(Error|Exception|Interrupt)\b", line):
            return line.removeprefix("error: ")
    end = attempt.get("end")
    if isinstance(end, dict) and end.get("why"):
        return str(end["why"]).splitlines()[0]
    return lines[-1] if lines else ""


def _tail(path: Path) -> list[str]:
    """The last lines of a file, at most 8 KiB of them; none if it can't be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            return file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    with replace_file(path) as file:
        file.write(dump_json(dict(content), indent=1).encode())
