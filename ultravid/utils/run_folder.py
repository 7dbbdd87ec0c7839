"""The folder of a run: the names of its files, the state of the run, and earlier attempts.

This module is the only one that spells the names of a run's files. A folder is described, not opened: making a `RunFolder`
reads and writes nothing, and the folder need not exist.
"""

from __future__ import annotations

import enum
import json
import os
import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultravid.utils.errors import UserError
from ultravid.utils.file_io import archive_file, dump_json, next_free_path, replace_file
from ultravid.utils.folder_lock import LOCK_NAME, LockHolder, read_lock
from ultravid.utils.processes import is_running, process_start_time

__all__ = ["Attempt", "InferenceFolder", "RunFolder", "RunState", "process_start_time"]


class RunState(enum.StrEnum):
    """The state of a run: whether it is running, or how its last attempt ended.

    Files that are replaced as a whole (checkpoints, configs, records, manifests, metrics of an evaluation) are complete in
    every state, also if the process was killed while it wrote: they hold the old content or the new one. ``metrics.json`` and
    ``log.txt`` are appended to; the last line of either may be cut off.
    """

    NEW = "new"
    """No attempt has begun. The folder may be missing, or hold a config or an evaluation but no training."""

    RUNNING = "running"
    """A process is training. Files may be added and replaced at any time; do not start a second process."""

    STOPPED = "stopped"
    """The last attempt ended early and in order, after a checkpoint of its last iteration. ``--resume`` continues there."""

    FAILED = "failed"
    """The last attempt raised an error or was killed. ``--resume`` continues from the newest good checkpoint, if there is one."""

    FINISHED = "finished"
    """All iterations are done, and the last evaluation too: the final checkpoint and its metrics are there."""


@dataclass(frozen=True)
class Attempt:
    """The folder of one attempt, ``attempts/<number>``: one process (or group of processes) that trained in a run's folder.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def number(self) -> int:
        """The attempt's number, from 1."""
        return int(self.path.name)

    @property
    def record(self) -> Path:
        """The record of the attempt: command, host, versions, and how it ended (`ultravid.engine.hooks.RunRecord`)."""
        return self.path / "record.json"

    @property
    def config(self) -> Path:
        """The config of this attempt."""
        return self.path / "config.yaml"

    @property
    def changes(self) -> Path:
        """The uncommitted changes of the checkout, as a diff."""
        return self.path / "git.diff"

    def read_record(self) -> dict[str, Any] | None:
        """The content of `record`; None if it is missing or unreadable, as an attempt may leave it that was killed early."""
        try:
            content = json.loads(self.record.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return None
        return content if isinstance(content, dict) else None

    def write_record(self, content: dict[str, Any]) -> None:
        """Replace the file `record` by ``content`` as JSON; the file is complete at any time."""
        with replace_file(self.record) as file:
            file.write(dump_json(content, indent=1).encode())


@dataclass(frozen=True)
class InferenceFolder:
    """The files of an evaluation: the folder ``inference`` of a run, or any folder that an evaluator was given.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def record(self) -> Path:
        """The record of the evaluation: weights, data, command and time (`ultravid.evaluation.records`)."""
        return self.path / "record.json"

    @property
    def config(self) -> Path:
        """The whole config of an evaluation that was not part of a training."""
        return self.path / "evaluated_config.yaml"

    @property
    def metrics(self) -> Path:
        """The metrics of the last evaluation, all digits: one flat JSON object."""
        return self.path / "metrics.json"

    @property
    def coco_results(self) -> Path:
        """The detections in COCO's results format, with video and frame beside them."""
        return self.path / "predictions.json"

    @property
    def predictions(self) -> Path:
        """The folder of the detections and their ground truth, one file a video."""
        return self.path / "predictions"

    @property
    def manifest(self) -> Path:
        """The list of the files in `predictions`; it is written last, so it is missing while an evaluation is unfinished."""
        return self.predictions / "manifest.json"

    @property
    def picture(self) -> Path:
        """Frames with lesions and detections."""
        return self.path / "frames.png"


class RunFolder:
    """The files and the state of one run.

    Args:
        path: the run's output folder, ``train.output_dir`` of its config.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        return self.path == other.path if isinstance(other, RunFolder) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.path)

    @classmethod
    def containing(cls, path: str | os.PathLike[str]) -> RunFolder | None:
        """The run that a file belongs to, as its predictions or a checkpoint: the path itself or a folder up to four above.

        Returns:
            None if none of them holds a run's config or attempts.
        """
        for folder in (Path(path), *Path(path).resolve().parents[:4]):
            run = cls(folder)
            if run.attempts.exists() or run.config.exists() or run.eval_config.exists():
                return run
        return None

    # Training

    @property
    def config(self) -> Path:
        """The whole config of the newest training, as data."""
        return self.path / "config.yaml"

    @property
    def eval_config(self) -> Path:
        """The whole config of the newest ``--eval-only``."""
        return self.path / "config_eval.yaml"

    @property
    def saved_config(self) -> Path | None:
        """`config`, or `eval_config` if the folder holds no training; None if there is neither."""
        return next((path for path in (self.config, self.eval_config) if path.is_file()), None)

    @property
    def log(self) -> Path:
        """The log of the main process."""
        return self.log_of(0)

    def log_of(self, rank: int) -> Path:
        """The log of one process.

        Args:
            rank: the process, from 0.
        """
        return self.path / ("log.txt" if rank == 0 else f"log.txt.rank{rank}")

    def eval_log_of(self, rank: int) -> Path:
        """The log of one process of an evaluation that was started while another process is training in the folder.

        Args:
            rank: the process, from 0.
        """
        return self.path / ("log_eval.txt" if rank == 0 else f"log_eval.txt.rank{rank}")

    @property
    def terminal(self) -> Path:
        """The terminal output of the run, if it was started as a job."""
        return self.path / "terminal.txt"

    @property
    def metrics(self) -> Path:
        """The values recorded during training: one JSON object per line and iteration."""
        return self.path / "metrics.json"

    @property
    def job_record(self) -> Path:
        """How often and where the run was started as a job of an experiment, and how it ended (`ultravid.experiments.status`)."""
        return self.path / "job.json"

    def events(self) -> list[Path]:
        """TensorBoard's files, oldest first."""
        return sorted(self.path.glob("events.out.tfevents.*"))

    @property
    def step_dumps(self) -> Path:
        """The folder of steps that were not finite, for ``tools/replay.py``."""
        return self.path / "step_dumps"

    @property
    def quick(self) -> Path:
        """The folder of the trial run (``--quick``), with files of the same names; it does not count as a run."""
        return self.path / "quick"

    @property
    def quick_report(self) -> Path:
        """The report of a trial run. It exists from the beginning of the trial run, and never in the folder of a run."""
        return self.path / "quick.txt"

    # Checkpoints

    def checkpoint(self, name: str, suffix: str = ".pth") -> Path:
        """A checkpoint by name, as ``model_0000099`` or ``model_final``.

        Args:
            name: the file's name without its suffix.
            suffix: the suffix.
        """
        return self.path / f"{name}{suffix}"

    def checkpoints(self) -> list[Path]:
        """All checkpoints, of files (``.pth``) or in shards (``.dcp``), by name."""
        return sorted(path for suffix in (".pth", ".dcp") for path in self.path.glob(f"model_*{suffix}"))

    @property
    def last_checkpoint(self) -> Path:
        """A file that holds the name of the checkpoint to resume from."""
        return self.path / "last_checkpoint"

    @property
    def best_checkpoint(self) -> Path:
        """A file that holds the name of the best checkpoint."""
        return self.path / "best_checkpoint"

    @property
    def manifest(self) -> Path:
        """The hashes of the checkpoints."""
        return self.path / "manifest.json"

    def can_resume(self) -> bool:
        """Whether there is a checkpoint to resume from; the best one is not, if it is the only one."""
        named = self.newest_checkpoint() is not None
        return named or any(re.fullmatch(r"model_\d{7,}", path.stem) for path in self.checkpoints())

    def final_checkpoint(self) -> Path | None:
        """The checkpoint of the end of training; None if there is none."""
        return next((path for path in self.checkpoints() if path.stem == "model_final"), None)

    def newest_checkpoint(self) -> Path | None:
        """The checkpoint that `last_checkpoint` names; None if it names none. Whether it is there is not checked."""
        try:
            name = self.last_checkpoint.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):  # a power failure may leave anything in a file
            return None
        return self.path / name if name else None

    # Attempts

    @property
    def attempts(self) -> Path:
        """The folder of the attempts' folders."""
        return self.path / "attempts"

    def list_attempts(self) -> list[Attempt]:
        """The attempts so far, oldest first."""
        folders = self.attempts.iterdir() if self.attempts.is_dir() else ()
        found = [Attempt(path) for path in folders if path.name.isdecimal()]
        return sorted(found, key=lambda attempt: attempt.number)

    def new_attempt(self) -> Attempt:
        """Make the folder of the attempt that begins now."""
        number = max((attempt.number for attempt in self.list_attempts()), default=0) + 1
        attempt = Attempt(self.attempts / str(number))
        try:
            attempt.path.mkdir(parents=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f"{self.attempts} is a file; a run keeps its records in a folder of that name.") from error
        return attempt

    def newest_record(self) -> dict[str, Any] | None:
        """The newest record that an attempt left; None if there is none."""
        for attempt in reversed(self.list_attempts()):
            record = attempt.read_record()
            if record is not None:
                return record
        return None

    def trained_config(self) -> Path | None:
        """The config of the last attempt that got as far as training; without attempts, `config`. None if there is neither."""
        recorded = [attempt.config for attempt in self.list_attempts() if attempt.config.is_file()]
        return recorded[-1] if recorded else self.config if self.config.is_file() else None

    def state(self) -> RunState:
        """The state of the run, from the record of its newest attempt; see `RunState`.

        A record without an end is that of a process at work, or of one that was killed. The folder's lock distinguishes the two, and
        on the host that wrote the record its process does; without either, as on another host in a folder of version 0.1, the
        run counts as running. Between the start of a process and its first record (reading data, building the model) the lock
        says that it runs.

        A run without the hook ``record`` (``tools/plain_train_net.py``) leaves no record: it is finished if it has a final
        checkpoint, stopped if it has another one, and new otherwise.
        """
        return self.state_and_record()[0]

    def state_and_record(self) -> tuple[RunState, dict[str, Any] | None]:
        """`state` and `newest_record`, which is read once for both."""
        record = self.newest_record()
        return self._state_by(record), record

    def _state_by(self, record: dict[str, Any] | None) -> RunState:
        lock = self._read_lock()
        if lock is not None and lock.is_alive() and not lock.is_own and not _has_ended(lock, record):
            return RunState.RUNNING
        if record is None:
            if self.final_checkpoint():
                return RunState.FINISHED
            return RunState.STOPPED if self.checkpoints() else RunState.NEW
        end = record.get("end")
        if isinstance(end, dict):
            how = end.get("how")
            return RunState(how) if how in ("finished", "stopped") else RunState.FAILED
        is_dead = lock is not None and not lock.is_alive()
        return RunState.RUNNING if _may_be_running(record) and not is_dead else RunState.FAILED

    # The process that works in the folder

    @property
    def lock(self) -> Path:
        """The lock file: which process is training in the folder (`ultravid.utils.folder_lock`). It is missing if there is none."""
        return self.path / LOCK_NAME

    def holder(self, *, exact: bool = False) -> LockHolder | None:
        """The other process that is training in the folder now; None if there is none, or if it is this process.

        Args:
            exact: as `ultravid.utils.folder_lock.read_lock` has it.
        """
        lock = self._read_lock(exact=exact)
        return lock if lock is not None and lock.is_alive() and not lock.is_own else None

    def _read_lock(self, *, exact: bool = False) -> LockHolder | None:
        try:
            return read_lock(self.path, exact=exact)
        except OSError:
            return None

    # Evaluation

    @property
    def inference(self) -> Path:
        """The folder of the newest evaluation of the run's own weights."""
        return self.path / "inference"

    def inference_of(self, weights: str, sha256: str) -> Path:
        """The folder of an evaluation of other weights than the run's newest, or beside a training that goes on.

        Args:
            weights: the name of their file.
            sha256: the SHA-256 of their file.
        """
        stem = re.sub(r"[^\w.-]+", "_", Path(weights).stem) or "weights"
        return self.path / f"{self.inference.name}_{stem}_{sha256[:8]}"

    def evaluations(self) -> list[InferenceFolder]:
        """The folders of evaluations that are there, by name; of several data sets, one for each."""
        name = self.inference.name
        found = [path for pattern in (f"{name}*", f"{name}*/*") for path in self.path.glob(pattern)]
        folders = [InferenceFolder(path) for path in sorted(found)]
        return [folder for folder in folders if folder.record.is_file() or folder.manifest.is_file()]

    @property
    def evaluation(self) -> InferenceFolder:
        """The files in `inference`."""
        return InferenceFolder(self.inference)

    @property
    def evaluation_metrics(self) -> Path:
        """The metrics of the last evaluation."""
        return self.evaluation.metrics

    @property
    def predictions(self) -> Path:
        """The folder of the last evaluation's detections, with ground truth."""
        return self.evaluation.predictions

    @property
    def prediction_manifest(self) -> Path:
        """The list of the files in `predictions`."""
        return self.evaluation.manifest

    # An earlier run's files

    def archive_config(self) -> None:
        """Rename `config` to ``config.yaml.1`` (or 2, ...); nothing if there is none."""
        if self.config.is_file():
            archive_file(self.config)

    def archive_checkpoints(self, names: Iterable[str] = ()) -> Path | None:
        """Move the checkpoints, and the files that name them, to ``earlier_run_1`` (or 2, ...), so that the next run can't take them for its own.

        Args:
            names: further files to move, as checkpoints of another prefix; those that are missing are passed over.

        Returns:
            the new folder; None if there was nothing to move.
        """
        pointers = {self.last_checkpoint, self.best_checkpoint, self.manifest}
        old = {path for path in (*pointers, *(self.path / name for name in names)) if path.exists()}
        return self._move_to("earlier_run_", old.union(self.checkpoints()))

    def archive_events(self) -> Path | None:
        """Move TensorBoard's files to ``earlier_events_1`` (or 2, ...): in one folder two runs would be drawn as one."""
        return self._move_to("earlier_events_", self.events())

    def _move_to(self, prefix: str, paths: Iterable[Path]) -> Path | None:
        ordered = sorted(paths)
        if not ordered:
            return None
        folder = next_free_path(self.path, prefix)
        folder.mkdir()
        for path in ordered:
            path.rename(folder / path.name)
        return folder


def _has_ended(lock: LockHolder, record: dict[str, Any] | None) -> bool:
    """Whether the process that holds the lock has written how its training ended; it may be a notebook's, which lives on."""
    if record is None or not isinstance(record.get("end"), dict):
        return False
    return all(record.get(name) == lock.facts.get(name) for name in ("host", "pid", "process_started"))


def _may_be_running(record: dict[str, Any]) -> bool:
    """Whether the process that wrote a record may still be at work; on another host nothing else can be said."""
    if record.get("host") != socket.gethostname() or not isinstance(record.get("pid"), int):
        return True
    return is_running(record["pid"], record.get("process_started"))  # older records don't say when it started
