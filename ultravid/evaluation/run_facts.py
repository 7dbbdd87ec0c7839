"""What a run is, from the files beside its predictions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ultravid.config import ConfigError, LazyConfig, config_hash
from ultravid.evaluation.prediction_files import find_manifest
from ultravid.utils.attempts import newest_record

__all__ = ["folder_of_run", "run_facts"]


def folder_of_run(predictions: Path) -> Path | None:
    """The output folder of the run that made predictions: that of a folder or manifest, or one above; None: there is none."""
    for folder in (predictions, *predictions.resolve().parents[:3]):
        if any((folder / name).exists() for name in ("attempts", "config.yaml", "config_eval.yaml")):
            return folder
    return None


def run_facts(predictions: Path) -> dict[str, str]:
    """What is known of a run, by what it is called; what is not known is said so."""
    folder = folder_of_run(predictions)
    facts = {"predictions": str(predictions), "made by": _fingerprint(predictions)}
    if folder is None:
        return {**facts, "run": "not known: no attempts/ and no config.yaml beside the predictions"}
    facts |= {"folder": str(folder), "config": _config(folder)}
    newest = newest_record(folder)
    if newest is None:
        return {**facts, "attempt": "not known: no attempts/*/record.json"}
    record = newest[1]
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
    if predictions.is_file() and predictions.name != "manifest.json":
        return "not known: COCO results don't say"
    content = json.loads(find_manifest(predictions).read_text(encoding="utf-8"))
    return str(content.get("fingerprint") or "not said") + " (SHA-256 of weights and model)"


def _config(folder: Path) -> str:
    for name in ("config.yaml", "config_eval.yaml"):
        if (folder / name).is_file():
            try:
                return f"{name}, SHA-256 {config_hash(LazyConfig.load(folder / name))}"
            except ConfigError as error:
                return f"{name} can't be read: {error}"
    return "not known: no config.yaml"


def _end(end: Mapping[str, Any]) -> str:
    if not end:
        return "has no end: it was killed, or is at work"
    why = f" ({end['why']})" if end.get("why") else ""
    return f"{end.get('how')}{why} after {end.get('seconds')} s at iteration {end.get('iter')}"


def _commit(git: Mapping[str, Any] | None) -> str:
    if not git:
        return "not known: no checkout"
    changed = ", with changes that attempts/*/git.diff holds" if git.get("changed") else ""
    untracked = f", {len(git['untracked'])} files that git does not know" if git.get("untracked") else ""
    return f"{git.get('commit')}{changed}{untracked}"


def _data(data: Mapping[str, Any] | None) -> str:
    if not data:
        return "not known: the loader does not say"
    counts = ", ".join(f"{data.get(name)} {name}" for name in ("videos", "frames", "boxes"))
    return f"{counts}, SHA-256 {data.get('sha256')}"
