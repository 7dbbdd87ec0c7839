"""The record of an evaluation, ``record.json`` in its folder: read, written, and compared with the files beside it.

A record says which weights were evaluated (file, SHA-256, iteration, averaged or not), under which config, on which data, with
which settings, by which command, when and where, and it lists the SHA-256 of each file that the evaluation wrote. The tools show
predictions and metrics with the record that explains them, and refuse those that differ from it.

A record is written when the evaluation begins, without an end, and again when it has ended. Predictions of version 0.1 have none.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultravid.datasets.bounds import MAX_ANNOTATION_BYTES
from ultravid.datasets.json_files import parse_json
from ultravid.datasets.safe_files import NamedFiles, read_bytes
from ultravid.datasets.video import DataError
from ultravid.utils.errors import UserError
from ultravid.utils.file_io import dump_json, replace_file
from ultravid.utils.hashing import sha256_of
from ultravid.utils.processes import is_running, machine_id
from ultravid.utils.run_folder import InferenceFolder, RunFolder, RunState

__all__ = [
    "RECORD_FORMAT",
    "EvaluationRecord",
    "check_record",
    "command_to_evaluate",
    "evaluation_of",
    "folder_of_weights",
    "is_under_way",
    "read_record",
    "record_about",
    "write_record",
]

RECORD_FORMAT = "ultravid evaluation 1"

_PARTS = ("weights", "files", "config", "run", "predictions", "data", "seen", "versions", "judged")


@dataclass(frozen=True, eq=False)
class EvaluationRecord:
    """What is recorded of an evaluation.

    Attributes:
        folder: the folder that it is in now; its content says where it was written.
        content: the record; `ultravid.evaluation.recording` and ``tools/evaluate.py`` write it.
    """

    folder: InferenceFolder
    content: Mapping[str, Any]

    @property
    def weights(self) -> Mapping[str, Any]:
        """``path``, ``sha256``, ``iteration``, ``averaged`` and more; empty if only predictions were evaluated."""
        return self.content.get("weights") or {}

    @property
    def files(self) -> Mapping[str, str]:
        """SHA-256 of each file that the evaluation wrote, by name."""
        return self.content.get("files") or {}

    @property
    def config(self) -> Path | None:
        """The file with the config that the model was evaluated under; None if there is none in the run's folder.

        Never a Python file: reading one runs it, and a record may come from anywhere.
        """
        file = (self.content.get("config") or {}).get("file")
        if not isinstance(file, str) or Path(file).suffix not in (".yaml", ".yml"):
            return None
        try:
            path = NamedFiles(self.folder.path.parent).path(file, self.folder.path)
        except DataError:
            return None
        return path if path.is_file() else None

    @property
    def is_of_training(self) -> bool:
        """Whether the training itself evaluated its weights."""
        return self.content.get("by") == "training"

    @property
    def is_of_predictions(self) -> bool:
        """Whether no model was run: ``tools/evaluate.py`` computed metrics of predictions that were there."""
        return self.content.get("by") == "predictions"

    @property
    def has_ended(self) -> bool:
        """Whether the evaluation got to its end without an error."""
        return self.content.get("how") == "finished"


def read_record(folder: InferenceFolder) -> EvaluationRecord | None:
    """The record in a folder; None if there is none.

    Raises:
        UserError: the file is not a record, or was edited.
    """
    try:
        content = parse_json(read_bytes(folder.record, MAX_ANNOTATION_BYTES), folder.record)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, DataError) as error:
        reason = str(error).removeprefix(f"{folder.record}: ")
        raise UserError(f"{folder.record}: is not the record of an evaluation: {reason}") from error
    if not isinstance(content, dict) or content.get("format") != RECORD_FORMAT:
        raise UserError(f"{folder.record}: is not the record of an evaluation, which has the format {RECORD_FORMAT!r}.")
    if content.pop("checksum", None) != _checksum(content):
        raise UserError(
            f"{folder.record}: was edited after the evaluation wrote it, so it can't be trusted. Evaluate again, or remove this file: the "
            "predictions are then shown with unknown weights."
        )
    wrong = next((key for key in _PARTS if not isinstance(content.get(key) or {}, dict)), None)
    evaluators = content.get("evaluators") or []
    if wrong is not None or not isinstance(evaluators, list) or not all(map(_is_evaluator, evaluators)):
        what = "'evaluators' are not a list of objects" if wrong is None else f"{wrong!r} is not an object"
        raise UserError(f"{folder.record}: is not the record of an evaluation: its {what}.")
    weights = content.get("weights") or {}
    if not isinstance(weights.get("path"), str | None):
        raise UserError(f"{folder.record}: is not the record of an evaluation: the path of its weights is not text.")
    if not isinstance(weights.get("iteration"), int | None):
        raise UserError(
            f"{folder.record}: is not the record of an evaluation: the iteration of its weights is not a number."
        )
    return EvaluationRecord(folder, content)


def _is_evaluator(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("settings") or {}, dict)


def write_record(folder: InferenceFolder, content: Mapping[str, Any]) -> None:
    """Replace the record of a folder as a whole."""
    written = json.loads(dump_json({"format": RECORD_FORMAT, **content}))  # with null for nan
    folder.path.mkdir(parents=True, exist_ok=True)
    with replace_file(folder.record) as file:
        file.write(dump_json({**written, "checksum": _checksum(written)}, indent=1).encode())


def _checksum(content: Mapping[str, Any]) -> str:
    """A hash by which a record that was edited is noticed; it is no signature."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def evaluation_of(predictions: Path) -> InferenceFolder:
    """The folder of the evaluation that wrote a manifest of predictions, or COCO results."""
    parent = predictions.parent
    is_manifest = InferenceFolder(parent.parent).manifest == predictions
    return InferenceFolder(parent.parent if is_manifest else parent)


def is_under_way(record: EvaluationRecord) -> bool:
    """Whether the process that writes an evaluation is alive, on this machine."""
    content, pid = record.content, record.content.get("pid")
    if content.get("how") is not None or any(content.get(name) != value for name, value in machine_id().items()):
        return False
    return isinstance(pid, int) and is_running(pid, content.get("process_started"))


def folder_of_weights(run: RunFolder, weights: Path | None, name: str, sha256: Callable[[], str]) -> InferenceFolder:
    """The folder for an evaluation that is not part of a training: ``inference``, or one of its own beside it.

    Its own if the weights are not those of the run's newest checkpoint, or if the run is training at the moment.

    Args:
        run: in whose folder the evaluation is; without a training in it there is nothing to mix up.
        weights: the file, or folder of shards; None if it is not known.
        name: what to call it in the folder's name.
        sha256: gives the hash for the folder's name; called only if it is needed.
    """
    checkpoints = run.checkpoints()
    if not (checkpoints or run.list_attempts()):
        return run.evaluation
    newest = run.newest_checkpoint() or (checkpoints[-1] if checkpoints else None)
    found = weights is not None and newest is not None and weights.exists() and newest.exists()
    if found and os.path.samefile(str(weights), str(newest)) and run.state() is not RunState.RUNNING:
        return run.evaluation
    return InferenceFolder(run.inference_of(name, sha256()))


def record_about(used: Path) -> EvaluationRecord | None:
    """The record beside a manifest, COCO results or metrics, if it is about them; None if there is none that is.

    Raises:
        UserError: as `read_record`.
    """
    folder = evaluation_of(used)
    record = read_record(folder)
    if record is None or used == folder.metrics:
        return record
    if record.is_of_predictions:  # of these, or of others that lie elsewhere
        judged = (record.content.get("predictions") or {}).get("sha256")
        return record if used.is_file() and judged == sha256_of(used) else None
    is_the_users_own = used not in (folder.manifest, folder.coco_results) and used.name not in record.files
    return None if is_the_users_own else record


def check_record(used: Path) -> EvaluationRecord | None:
    """The record about a file that is about to be used; None if there is none.

    Args:
        used: a manifest of predictions, COCO results, or the metrics of an evaluation.

    Raises:
        UserError: the evaluation has not ended, or the file is not the one that it wrote.
    """
    folder, record = evaluation_of(used), record_about(used)
    if record is None or (record.is_of_predictions and used != folder.metrics):
        return record
    content = record.content
    began = f"the evaluation that began {content.get('begin')} (host {content.get('host')}, pid {content.get('pid')})"
    if is_under_way(record):
        raise UserError(f"{folder.path}: {began} has not ended yet. Try again when it has.")
    if not record.has_ended:
        raise UserError(
            f"{folder.path}: {began} did not end, so what is there is not the result of one evaluation. "
            f"Evaluate again: {command_to_evaluate(folder)}"
        )
    name = used.relative_to(folder.path).as_posix()
    if used.is_file() and record.files.get(name) != sha256_of(used):
        raise UserError(f"{used}: {_why_unexplained(record, name)} {_remedy(folder, used)}")
    return record


def _why_unexplained(record: EvaluationRecord, name: str) -> str:
    when = f"the evaluation of {record.content.get('begin')}, which {record.folder.record.name} describes,"
    if name not in record.files:
        return f"{when} did not write this file, so it is not known what it belongs to."
    return f"was changed or replaced after {when} wrote it: its SHA-256 is not the recorded one."


def _remedy(folder: InferenceFolder, path: Path) -> str:
    if path == folder.metrics and folder.manifest.is_file():
        again = ["python", "tools/evaluate.py", "--predictions", str(folder.path), "--output-dir", str(folder.path)]
        return f"Compute it again from the predictions: {shlex.join(again)}"
    return f"Evaluate again: {command_to_evaluate(folder)}"


def command_to_evaluate(folder: InferenceFolder) -> str:
    """The command that evaluates again what is in a folder: the recorded one, else that of the run around it."""
    try:
        record = read_record(folder)
    except UserError:
        record = None
    if record is not None and record.content.get("by") == "command":
        return str(record.content.get("command"))
    run = RunFolder.containing(folder.path)
    if run is None or run.saved_config is None:
        return "python tools/lazyconfig_train.py --config-file FILE --eval-only train.init_checkpoint=WEIGHTS"
    options = ["--eval-only", *(["--resume"] if run.checkpoints() else []), f"train.output_dir={run}"]
    return shlex.join(["python", "tools/lazyconfig_train.py", "--config-file", str(run.saved_config), *options])
