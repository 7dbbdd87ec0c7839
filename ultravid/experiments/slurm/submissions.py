"""Records of what was submitted to Slurm, in the folder ``slurm`` of an experiment: one folder per array, written before it is submitted.

An array's name is its own, so that one which was submitted by a command that was killed before it knew the job's id is found
in the queue, and nothing is submitted twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ultravid.experiments.plan import PlannedJob
from ultravid.utils.file_io import dump_json, replace_file
from ultravid.utils.process_facts import iso_time

__all__ = ["Submission", "Submissions", "new_name"]

_FORMAT = 1


@dataclass(frozen=True)
class Submission:
    """An array that was or is about to be submitted.

    Attributes:
        folder: the folder of its files.
        name: the name of the array in Slurm's queue.
        job_id: Slurm's number for it; None if that is not known yet, "" if the queue did not hold it when it was looked for.
        numbers: the numbers of its jobs, by index.
        folders: the folders of its jobs, by index, relative to the experiment's.
        nodes: the number of nodes of a job.
        cancelled: numbers of jobs that someone has taken out of the queue.
    """

    folder: Path
    name: str
    job_id: str | None
    numbers: tuple[int, ...]
    folders: tuple[str, ...]
    nodes: int = 1
    cancelled: frozenset[int] = frozenset()

    @property
    def script(self) -> Path:
        """The job script."""
        return self.folder / "job.sh"

    @property
    def commands(self) -> Path:
        """The commands, a line a task."""
        return self.folder / "commands.txt"

    def output(self, index: int) -> Path:
        """What a task printed but for its command: of the environment's setup, and of Slurm."""
        return self.folder / f"task-{index}.txt"

    @property
    def record(self) -> Path:
        """This description."""
        return self.folder / "submission.json"

    def requeue_failure(self, index: int) -> Path:
        """Why a task that stopped could not be requeued."""
        return self.folder / f"not-requeued-{index}.txt"

    def write(self) -> None:
        """Write the record as a whole."""
        content = {
            "format": _FORMAT,
            "name": self.name,
            "job_id": self.job_id,
            "written": iso_time(time.time()),
            "nodes": self.nodes,
            "cancelled": sorted(self.cancelled),
            "tasks": [{"job": n, "folder": f} for n, f in zip(self.numbers, self.folders, strict=True)],
        }
        with replace_file(self.record) as file:
            file.write(dump_json(content, indent=1).encode())

    @classmethod
    def read(cls, folder: Path) -> Submission | None:
        """The submission of a folder; None if it holds none, as a command leaves it that was killed before it submitted it."""
        try:
            content: dict[str, Any] = json.loads((folder / "submission.json").read_text(encoding="utf-8"))
            tasks = content["tasks"]
            numbers, folders = tuple(task["job"] for task in tasks), tuple(task["folder"] for task in tasks)
            cancelled = frozenset(content.get("cancelled", ()))
            return cls(folder, content["name"], content["job_id"], numbers, folders, content.get("nodes", 1), cancelled)
        except (OSError, ValueError, KeyError, TypeError):
            return None


class Submissions:
    """The arrays of an experiment.

    Args:
        path: the folder ``slurm`` of the experiment; it may be missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Submission]:
        """The arrays, oldest first."""
        found = [Submission.read(folder) for folder in self._folders()]
        return [submission for submission in found if submission is not None]

    def newest_of_jobs(self) -> dict[int, Submission]:
        """The array in which each job was submitted last, by the job's number."""
        return {number: submission for submission in self.read() for number in submission.numbers}

    def next_folder(self) -> Path:
        """The folder of the next array; it is not created."""
        return self.path / f"{max((int(folder.name) for folder in self._folders()), default=0) + 1:03d}"

    def add(
        self, name: str, jobs: Sequence[PlannedJob], nodes: int, script: str, commands: Iterable[str]
    ) -> Submission:
        """Write the files of an array that is about to be submitted.

        Args:
            name: as of `new_name`.
            jobs: by index.
            nodes: the number of nodes of a job.
            script: the text of the job script.
            commands: a line a job.
        """
        folder = self.next_folder()
        folder.mkdir(parents=True)
        folders = tuple(os.path.relpath(job.run.path, self.path.parent) for job in jobs)
        submission = Submission(folder, name, None, tuple(job.number for job in jobs), folders, nodes)
        submission.commands.write_text(
            "".join(f"{line}\n" for line in commands), encoding="utf-8", errors="surrogateescape"
        )
        submission.script.write_text(script, encoding="utf-8", errors="surrogateescape")
        submission.write()
        return submission

    def set_job_id(self, submission: Submission, job_id: str) -> Submission:
        """Note the job's id; "" if Slurm does not have it."""
        new = replace(submission, job_id=job_id)
        new.write()
        return new

    def set_cancelled(self, submission: Submission, number: int) -> None:
        """Note that someone has cancelled a job in the queue."""
        current = Submission.read(submission.folder) or submission
        replace(current, cancelled=current.cancelled | {number}).write()

    def remove(self, submission: Submission) -> None:
        """Remove the files of an array that Slurm has refused."""
        shutil.rmtree(submission.folder)

    @contextlib.contextmanager
    def submitting(self) -> Iterator[int]:
        """A block that submits: it yields the descriptor of a lock, which sbatch inherits and so holds as long as it works.

        A command that comes after one which was killed waits here until that one's sbatch has ended.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "sbatch.lock").open("w") as file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield file.fileno()

    def _folders(self) -> list[Path]:
        folders = self.path.iterdir() if self.path.is_dir() else ()
        return sorted((folder for folder in folders if folder.name.isdecimal()), key=lambda folder: int(folder.name))


def new_name(experiment: Path, number: str) -> str:
    """A name that no other array has: the experiment's, the array's number, and eight random digits."""
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", experiment.name)[:40] or "experiment"
    return f"{stem}-{number}-{os.urandom(4).hex()}"
