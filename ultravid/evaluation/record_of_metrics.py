"""The record of metrics that were computed from predictions, without a model (``tools/evaluate.py``)."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ultravid
from ultravid.evaluation.prediction_store import find_manifest
from ultravid.evaluation.records import evaluation_of, record_about, write_record
from ultravid.utils.file_io import is_local, local_path
from ultravid.utils.hashing import sha256_of
from ultravid.utils.process_facts import git_state, iso_time, package_versions, process_facts
from ultravid.utils.run_folder import InferenceFolder

__all__ = ["describe_file", "is_evaluation_of", "record_metrics"]


def describe_file(address: str | None) -> dict[str, Any] | None:
    """Address and SHA-256 of a file that was read; None for none."""
    if address is None:
        return None
    path = local_path(address)
    return {"path": os.path.abspath(path) if is_local(address) else address, "sha256": sha256_of(path)}


def is_evaluation_of(folder: InferenceFolder, predictions: str) -> bool:
    """Whether predictions are those of the evaluation in a folder."""
    used = _used_file(predictions)
    return used is not None and evaluation_of(used).path.resolve() == folder.path.resolve()


def record_metrics(folder: InferenceFolder, predictions: str, begin: float, settings: Mapping[str, Any]) -> None:
    """Record that the ``metrics.json`` of a folder was computed from predictions.

    In the folder of the evaluation that made the predictions the record stays the evaluation's, and says in addition who computed
    the metrics again. Elsewhere it is a record of its own, with that of the evaluation in it.

    Args:
        folder: the folder.
        predictions: COCO results, or a run's folder or manifest.
        begin: when the work began, seconds since the epoch.
        settings: what the metrics depend on besides the predictions.
    """
    used = _used_file(predictions)
    source = None if used is None else record_about(used)
    facts = {
        **process_facts(),
        "versions": {"ultravid": ultravid.__version__, **package_versions()},
        "git": git_state(Path(ultravid.__file__).parents[1])[0],
        "begin": iso_time(begin),
        "end": iso_time(time.time()),
        "settings": dict(settings),
    }
    hashes = {folder.metrics.name: sha256_of(folder.metrics)}
    if source is not None and not source.is_of_predictions and is_evaluation_of(folder, predictions):
        write_record(folder, {**source.content, "files": {**source.files, **hashes}, "judged": facts})
        return
    content = {
        "by": "predictions",
        **facts,
        "predictions": describe_file(predictions if used is None else str(used)),
        "evaluation": None if source is None else dict(source.content),
        "how": "finished",
        "folder": os.path.abspath(folder.path),
        "files": hashes,
    }
    write_record(folder, content)


def _used_file(predictions: str) -> Path | None:
    """The manifest or the COCO results; None if they are at an address."""
    if not is_local(predictions):
        return None
    path = Path(predictions)
    return path if path.is_file() else find_manifest(path)
