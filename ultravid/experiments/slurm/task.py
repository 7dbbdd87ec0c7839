"""A task of an array on its node: runs the job's command, passes signals on, records how it ended, and requeues it if it stopped.

    python -m ultravid.experiments.slurm.task SUBMISSION_FOLDER INDEX

A job script calls this (`ultravid.experiments.slurm.script`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from ultravid.experiments.slurm.queue import SlurmQueue, SlurmUnreachableError
from ultravid.experiments.slurm.submissions import Submission
from ultravid.experiments.status import note_end, note_start
from ultravid.utils.errors import UserError
from ultravid.utils.run_folder import RunFolder, RunState
from ultravid.utils.tool import EXIT_STOPPED

__all__ = ["main", "run_task"]

_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
_LOCK_PATIENCE_S = 100.0  # a lock is dead after 60 seconds
_CONTROLLER_PATIENCE_S = 600.0
_MOST_STOPS_AT_ONE_PLACE = 3


def run_task(submission: Submission, index: int, environment: Mapping[str, str]) -> int:
    """Run the job of a task, in its folder.

    Args:
        submission: the array.
        index: the index of the task.
        environment: the environment of the job script, which names the task.

    Returns:
        the exit code of the task: the command's, or 1 where one that stopped must not be requeued.

    Raises:
        UserError: another process is at work in the job's folder.
    """
    run = RunFolder(submission.folder.parent.parent / submission.folders[index])
    line = submission.commands.read_text(encoding="utf-8", errors="surrogateescape").split("\n")[index]
    task_id = f"{environment['SLURM_ARRAY_JOB_ID']}_{environment['SLURM_ARRAY_TASK_ID']}"
    if run.state() is RunState.FINISHED:
        _say(f"{run.path} holds a finished run: nothing to do.")
        return 0
    _wait_for_lock(run)
    note_start(run, host=_host(), slurm_id=task_id, checkpoint=_checkpoint(run))
    begin = time.time()
    code = _run_command(line, run.terminal, srun=submission.nodes > 1)
    if code != 0 and _has_stopped(run, begin):  # torchrun and srun leave with codes of their own
        code = EXIT_STOPPED
    if code == EXIT_STOPPED and _goes_nowhere(run):
        _append(
            run.terminal,
            f"error: the job was stopped {_MOST_STOPS_AT_ONE_PLACE} times without a new checkpoint: it needs more --time, or "
            "train.checkpointer.period must be shorter.\n",
        )
        code = 1
    note_end(run, code)
    if code == EXIT_STOPPED:
        _requeue(submission, index, task_id, environment.get("SLURM_JOB_ID", task_id))
    return code if code >= 0 else 128 - code


def main(argv: list[str]) -> int:
    """Run the task that the arguments name."""
    folder, index = Path(argv[0]), int(argv[1])
    submission = Submission.read(folder)
    if submission is None:
        raise UserError(f"{folder} holds no submission.json.")
    return run_task(submission, index, os.environ)


def _run_command(line: str, log: Path, srun: bool) -> int:
    """Run a line of bash with its output in a log; signals that arrive meanwhile are passed on.

    Args:
        line: the command.
        log: is appended to.
        srun: whether it is srun, which kills its tasks on SIGTERM, and passes SIGUSR1 on.
    """
    with _forwarding(lambda number: signal.SIGUSR1 if srun else number) as forward_to, log.open("ab") as file:
        file.write(f"$ {line}\n".encode("utf-8", "surrogateescape"))
        file.flush()
        process = subprocess.Popen(["bash", "-c", f"exec {line}"], stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        forward_to(process)
        return process.wait()


@contextlib.contextmanager
def _forwarding(choose: Callable[[int], int]) -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """Pass signals on to the process that the block names, those too that came before it started."""
    received: list[int] = []
    processes: list[subprocess.Popen[bytes]] = []

    def send(number: int) -> None:
        for process in processes:
            with contextlib.suppress(OSError):
                process.send_signal(choose(number))

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        received.append(number)
        send(number)

    def forward_to(process: subprocess.Popen[bytes]) -> None:
        earlier = list(received)
        processes.append(process)
        for number in earlier:
            send(number)

    old = {number: signal.signal(number, handle) for number in _FORWARDED}
    try:
        yield forward_to
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _has_stopped(run: RunFolder, begin: float) -> bool:
    """Whether the attempt that began in this task recorded that it saved a checkpoint and stopped."""
    attempts = run.list_attempts()
    if not attempts or run.state() is not RunState.STOPPED:
        return False
    with contextlib.suppress(OSError):
        return attempts[-1].record.stat().st_mtime >= begin - 60  # clocks of file servers differ
    return False


def _goes_nowhere(run: RunFolder) -> bool:
    """Whether the last starts of a job, all of which were stopped, added no checkpoint: it would be requeued for ever."""
    try:
        starts: list[dict[str, Any]] = json.loads(run.job_record.read_text(encoding="utf-8"))["starts"]
    except (OSError, ValueError, KeyError):
        return False
    last = starts[-_MOST_STOPS_AT_ONE_PLACE:]
    now = _checkpoint(run)
    return len(last) == _MOST_STOPS_AT_ONE_PLACE and all(start.get("checkpoint", "-") == now for start in last)


def _requeue(submission: Submission, index: int, task_id: str, job_id: str) -> None:
    """Requeue this task, unless Slurm does it by its exit code or someone has cancelled it."""
    failure = submission.requeue_failure(index)
    failure.unlink(missing_ok=True)
    deadline = time.monotonic() + _CONTROLLER_PATIENCE_S
    while True:
        try:
            queue = SlurmQueue()
            state = queue.state_of(job_id)
            if state not in ("RUNNING", ""):
                _say(f"stopped; it is {state} in Slurm's queue, so it is not requeued.")
                return
            if queue.requeues_exit_code(EXIT_STOPPED):
                _say(f"stopped; Slurm requeues exit code {EXIT_STOPPED}.")
                return
            _say(f"stopped; requeued as {task_id}.")
            queue.requeue(task_id)  # which ends this process
            return
        except SlurmUnreachableError as error:
            reason = str(error)
            if time.monotonic() < deadline:
                time.sleep(5.0)
                continue
        except UserError as error:  # a refusal; or Slurm's commands are not on the PATH of this node
            reason = str(error)
        _say(f"can't be requeued: {reason}")
        failure.write_text(f"{reason}\n", encoding="utf-8")
        return


def _wait_for_lock(run: RunFolder) -> None:
    """Wait until the lock is dead that a node left which went down; a process that is at work keeps it alive.

    Raises:
        LockedError: it is.
    """
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    while (holder := run.holder(exact=True)) is not None:
        if time.monotonic() >= deadline:
            raise holder.refusal(run.path, "cancel this task")
        time.sleep(2.0)


def _checkpoint(run: RunFolder) -> str | None:
    newest = run.newest_checkpoint()
    return None if newest is None else newest.name


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def _host() -> str:
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)  # noqa: T201
        sys.exit(2)
