"""Slurm's commands: submit a job script, and ask what the queue holds. ``sacct`` is not needed; many clusters have none."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ultravid.utils.errors import UserError
from ultravid.utils.text import nearest

__all__ = [
    "QueuedTask",
    "SlurmFullError",
    "SlurmNoClusterError",
    "SlurmQueue",
    "SlurmRefusalError",
    "SlurmUnreachableError",
]

_TIMEOUT_S = 180.0
_NO_ANSWER = re.compile(
    r"unable to contact|connection (refused|reset|timed out)|timed? ?out|zero bytes|temporarily unavailable|not responding"
    r"|communication|in standby|protocol authentication",
    re.IGNORECASE,
)
_NO_CLUSTER = re.compile(
    r"configuration source|fetch_?config|DNS SRV|process configuration file|slurm\.conf\b.*(no such file|cannot|unable)|ClusterName needs",
    re.IGNORECASE,
)
# The reason, which stands above a sentence that sbatch prints for every limit: "(job submit limit, user's size and/or time limits)".
_FULL = re.compile(r"\b(?:QOS|Assoc)\w*Submit\w*Limit\b", re.IGNORECASE)
_FINAL = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "REVOKED", "TIMEOUT"),
}
_ORDINARY = {"", "None", "Resources", "Priority", "Dependency", "BeginTime", "JobArrayTaskLimit", "Cleaning", "Prolog"}
_MEANINGS = (
    ("PartitionDown", "the partition starts no jobs until an administrator sets it up again"),
    ("PartitionInactive", "the partition takes no jobs until an administrator sets it up again"),
    (
        "PartitionConfig",
        "no node of the partition has what it asks for, as by --cpus-per-job; cancel it and ask for less",
    ),
    ("PartitionTimeLimit", "--time is longer than the partition allows"),
    ("PartitionNodeLimit", "--nodes is outside what the partition allows"),
    ("ReqNodeNotAvail", "nodes that it needs are down, drained or reserved"),
    ("Nodes required", "nodes that it needs are down, drained or reserved"),
    (
        "BadConstraints",
        "no node has what it asks for, as by --constraint, --mem or --gpus-per-job; cancel it and ask for less",
    ),
    ("JobHeld", "it is held until 'scontrol release ID' releases it"),
    ("JobHold", "it is held until 'scontrol release ID' releases it"),
    ("launch failed requeued held", "it is held until 'scontrol release ID' releases it"),
    ("DependencyNeverSatisfied", "a job that it waits for failed; cancel it"),
    ("InvalidAccount", "--account is not valid"),
    ("InvalidQOS", "--qos is not valid"),
    ("Assoc", "a limit of the account"),
    ("QOS", "a limit of the quality of service"),
)
"""What Slurm's reasons mean, by how they begin."""
_AT_WORK = {"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING"}
_MOST_NAMES = 200  # in a command line


class SlurmUnreachableError(Exception):
    """Slurm's controller does not answer, as while it is restarted; the text is what the command said."""


class SlurmNoClusterError(SlurmUnreachableError):
    """The commands find no configuration: the machine belongs to no cluster, or its configuration server is away for a while."""


class SlurmRefusalError(UserError):
    """Slurm refuses what it is asked; the text is what the command said."""


class SlurmFullError(SlurmRefusalError):
    """Slurm takes no more jobs of this user, account or quality of service for now; the text is what sbatch said."""


@dataclass(frozen=True)
class QueuedTask:
    """A task of an array in Slurm's queue, where one stays for some minutes after its end.

    Attributes:
        job_id: the id of the array.
        index: in the array.
        state: Slurm's word for it.
        reason: why it waits.
    """

    job_id: str
    index: int
    state: str
    reason: str = ""

    @property
    def id(self) -> str:
        """How Slurm's commands name it."""
        return f"{self.job_id}_{self.index}"

    @property
    def has_ended(self) -> bool:
        """Whether it will not run again by itself."""
        return self.state in _FINAL

    @property
    def is_at_work(self) -> bool:
        """Whether it has nodes; otherwise it waits, unless it has ended."""
        return self.state in _AT_WORK

    @property
    def obstacle(self) -> str:
        """Why it can't start, in Slurm's word; "" if it only waits for its turn, or does not wait."""
        reason = self.reason.partition(",")[0].strip()  # the nodes that are named next change all the time
        return "" if self.has_ended or self.is_at_work or reason in _ORDINARY else reason

    @property
    def obstacle_text(self) -> str:
        """`obstacle` with what it means."""
        meaning = next((text for begin, text in _MEANINGS if self.obstacle.startswith(begin)), "")
        return f"{self.obstacle}{f' ({meaning})' if meaning else ''}".replace(" ID'", f" {self.id}'")


class SlurmQueue:
    """What Slurm's commands (``sbatch``, ``squeue``, ``scontrol``, ``sinfo``) say and do.

    Raises:
        UserError: the commands are not installed on this machine.
    """

    def __init__(self) -> None:
        for command in ("sbatch", "squeue", "scontrol", "sinfo"):
            if shutil.which(command) is None:
                raise UserError(
                    f"--launcher slurm: the command {command} is not on the PATH. Start this on a login node of the cluster, after what "
                    "makes Slurm's commands available there (often 'module load slurm'); or leave --launcher out to run here."
                )

    def check_partition(self, partition: str = "") -> None:
        """Refuse a machine without a cluster, and a partition that is not there.

        Args:
            partition: one, or several with commas; "" for Slurm's default.

        Raises:
            UserError: there is no cluster, or no partition of that name.
            SlurmUnreachableError: the controller does not answer.
        """
        try:
            names = sorted(set(self._run("sinfo", "--noheader", "--all", "--format=%R").split()))
        except SlurmNoClusterError as error:
            raise UserError(
                f"--launcher slurm: Slurm's commands are installed on this machine, but find no cluster. Start this on a login node "
                "of the cluster, set SLURM_CONF to the path of its slurm.conf, or leave --launcher out to run here. "
                f"(sinfo: {error})"
            ) from error
        for name in partition.split(",") if partition else ():
            if name not in names:
                near = nearest(name, names)
                hint = (
                    f"did you mean {near}?"
                    if near
                    else f"there {'is' if len(names) == 1 else 'are'} {', '.join(names) or 'none'}."
                )
                raise UserError(f"--partition {partition}: Slurm has no partition {name!r}; {hint}")

    def max_array_size(self) -> int:
        """The most tasks of an array.

        Raises:
            SlurmUnreachableError: the controller does not answer.
        """
        match = re.search(r"^MaxArraySize\s*=\s*(\d+)", self._run("scontrol", "show", "config"), re.MULTILINE)
        return max(1, int(match[1])) if match else 1001

    def requeues_exit_code(self, code: int) -> bool:
        """Whether the administrator has set that Slurm requeues jobs that leave with this code (``RequeueExit``).

        Raises:
            SlurmUnreachableError: the controller does not answer.
        """
        match = re.search(r"^RequeueExit\s*=\s*([\d,-]+)\s*$", self._run("scontrol", "show", "config"), re.MULTILINE)
        ranges = [part.partition("-") for part in match[1].split(",")] if match else []
        return any(low and int(low) <= code <= int(high or low) for low, _, high in ranges)

    def requeue(self, task_id: str) -> None:
        """Requeue the task ``task_id``, ``<job>_<index>``: Slurm stops it if it runs and starts it again later.

        Raises:
            SlurmRefusalError: Slurm refuses.
            SlurmUnreachableError: the controller does not answer.
        """
        self._run("scontrol", "requeue", task_id)

    def state_of(self, job_id: str) -> str:
        """Slurm's word for the state of the job or task ``job_id``, as "PENDING"; "" if the queue does not hold it.

        Raises:
            SlurmUnreachableError: the controller does not answer.
        """
        try:
            return self._run("squeue", "--noheader", "--states=all", f"--jobs={job_id}", "--format=%T").strip()
        except SlurmRefusalError:  # it is unknown
            return ""

    def tasks(self, names: Iterable[str]) -> list[QueuedTask]:
        """The tasks of the arrays of these names, with those that have ended a short while ago.

        Raises:
            SlurmUnreachableError: the controller does not answer.
        """
        wanted = sorted(set(names))
        found = []
        for begin in range(0, len(wanted), _MOST_NAMES):
            chunk = wanted[begin : begin + _MOST_NAMES]
            try:
                text = self._run(
                    *(
                        "squeue",
                        "--noheader",
                        "--array",
                        "--states=all",
                        f"--name={','.join(chunk)}",
                        "--format=%F|%K|%T|%r",
                    )
                )
            except SlurmRefusalError as error:  # the question is a right one
                raise SlurmUnreachableError(str(error)) from error
            for line in text.splitlines():
                job_id, index, state, reason = [*line.split("|", 3), "", "", ""][:4]
                if index.isdecimal():
                    found.append(QueuedTask(job_id, int(index), state, reason))
        return found

    def find(self, name: str) -> str | None:
        """The id of the array of this name; None if the queue does not hold it.

        Raises:
            SlurmUnreachableError: the controller does not answer.
        """
        try:
            ids = self._run("squeue", "--noheader", "--states=all", f"--name={name}", "--format=%F").split()
        except SlurmRefusalError as error:
            raise SlurmUnreachableError(str(error)) from error
        return ids[0] if ids else None

    def submit(
        self,
        script: Path,
        options: Sequence[str] = (),
        open_files: Sequence[int] = (),
        without: Iterable[str] = (),
    ) -> str:
        """Submit a job script.

        Args:
            script: its file.
            options: the options of sbatch, besides those of the script.
            open_files: descriptors that sbatch inherits, as of a lock that lasts as long as it works.
            without: variables of the environment that sbatch must not see.

        Returns:
            the id of the job.

        Raises:
            SlurmFullError: there are as many jobs as may be submitted at a time.
            SlurmRefusalError: Slurm refuses the job.
            SlurmUnreachableError: the controller does not answer; whether it has the job is not known.
        """
        output = self._run("sbatch", "--parsable", *options, str(script), open_files=open_files, without=without)
        lines = [line.strip() for line in output.splitlines() if line.strip()]
        job_id = lines[-1].partition(";")[0] if lines else ""
        if not job_id.isdecimal():
            raise SlurmUnreachableError(f"sbatch answered {output.strip()!r} instead of a job id")
        return job_id

    def _run(self, *command: str, open_files: Sequence[int] = (), without: Iterable[str] = ()) -> str:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                env=_environment(set(without)),
                timeout=_TIMEOUT_S,
                pass_fds=tuple(open_files),
            )
        except subprocess.TimeoutExpired as error:
            raise SlurmUnreachableError(f"{command[0]} gave no answer for {_TIMEOUT_S:.0f} seconds") from error
        if done.returncode == 0:
            return done.stdout
        text = " ".join((done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").split("\n"))
        if _NO_CLUSTER.search(text):
            raise SlurmNoClusterError(text)
        if _NO_ANSWER.search(text):
            raise SlurmUnreachableError(text)
        raise (SlurmFullError if command[0] == "sbatch" and _FULL.search(text) else SlurmRefusalError)(text)


def _environment(without: set[str]) -> dict[str, str]:
    """The environment without what says that this process is itself in a job of Slurm's: it would be taken for the new job's."""
    kept = ("SLURM_CONF", "SLURM_CLUSTERS")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in without and not (name.startswith(("SLURM_", "SLURMD_")) and name not in kept)
    }
