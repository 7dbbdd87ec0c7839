"""Facts about a run, from the files beside its predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ultravid.config import ConfigError, LazyConfig, config_hash
from ultravid.evaluation.prediction_store import find_manifest
from ultravid.utils.run_folder import RunFolder

__all__ = ["run_facts"]


def run_facts(predictions: Path) -> dict[str, str]:
    """What is known about the run that made predictions: label -> text; an unknown fact has a text that says so.

    Args:
        predictions: a run's folder, its manifest of predictions, or COCO results.
    """
    run = RunFolder.containing(predictions)
    facts = {"predictions": str(predictions), "model": _fingerprint(predictions)}
    if run is None:
        return {**facts, "run": "unknown: there is no attempts/ and no config.yaml beside the predictions"}
    facts |= {"folder": str(run), "config": _config(run)}
    record = run.newest_record()
    if record is None:
        return {**facts, "attempt": "unknown: there is no attempts/*/record.json"}
    end = record.get("end") or {}
    facts["attempt"] = f"{record.get('attempt')}, began {record.get('started')}, {_end(end)}"
    facts["command"] = str(record.get("command"))
    facts["git commit"] = _commit(record.get("git"))
    facts["seed"] = str(record.get("seed"))
    facts["device"] = f"{record.get('device')}, processes: {record.get('processes')}"
    for name, data in (record.get("datasets") or {}).items():
        facts[f"data, {name}"] = _data(data)
    facts["versions"] = ", ".join(f"{k} {v}" for k, v in (record.get("versions") or {}).items())
    return facts


def _fingerprint(predictions: Path) -> str:
    if predictions.is_file() and predictions.name != RunFolder("").prediction_manifest.name:
        return "unknown: COCO results do not record it"
    content = json.loads(find_manifest(predictions).read_text(encoding="utf-8"))
    return f"SHA-256 of weights and config: {content.get('fingerprint') or 'not recorded'}"


def _config(run: RunFolder) -> str:
    path = run.saved_config
    if path is None:
        return f"unknown: there is no {run.config.name}"
    try:
        return f"{path.name}, SHA-256 {config_hash(LazyConfig.load(path))}"
    except ConfigError as error:
        return f"{path.name} can't be read: {error}"


def _end(end: Mapping[str, Any]) -> str:
    if not end:
        return "no end recorded: it was killed or is still running"
    why = f" ({end['why']})" if end.get("why") else ""
    return f"{end.get('how')}{why} after {end.get('seconds')} s at iteration {end.get('iter')}"


def _commit(git: Mapping[str, Any] | None) -> str:
    if not git:
        return "unknown: not a git checkout"
    changed = ", with uncommitted changes (attempts/*/git.diff)" if git.get("changed") else ""
    untracked = f", {len(git['untracked'])} untracked files" if git.get("untracked") else ""
    return f"{git.get('commit')}{changed}{untracked}"


def _data(data: Mapping[str, Any] | None) -> str:
    if not data:
        return "unknown: the data loader does not report it"
    counts = ", ".join(f"{data.get(name)} {name}" for name in ("videos", "frames", "boxes"))
    return f"{counts}, SHA-256 {data.get('sha256')}"
