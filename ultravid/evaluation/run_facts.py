"""Facts about the run and the evaluation behind predictions: what the records say, and where they don't fit the folder.

Nothing is said of a training that did not make the weights: its facts are shown only if the record of the evaluation, its
process or the hash of the weights' file says that they are its own.
"""

from __future__ import annotations

import datetime
import os
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ultravid
from ultravid.config import ConfigError, LazyConfig, config_hash
from ultravid.config.resume import significant_changes
from ultravid.datasets.json_files import read_json
from ultravid.datasets.video import DataError
from ultravid.evaluation.prediction_store import find_manifest
from ultravid.evaluation.records import EvaluationRecord, command_to_evaluate, evaluation_of, read_record, record_about
from ultravid.utils.hashing import sha256_of
from ultravid.utils.run_folder import Attempt, InferenceFolder, RunFolder, RunState

__all__ = ["differing_settings", "evaluated_text", "run_facts", "run_warnings", "training_behind"]

_SHORT = 12
_LIMIT = re.compile("score|thresh|nms|top_?k|detections|per_image|max_")
_MOST_KEYS = 5


def run_facts(predictions: Path) -> dict[str, str]:
    """What is known of an evaluation and its run: label -> text; an unknown fact has a text that says so.

    Args:
        predictions: a run's folder, its manifest of predictions, or COCO results.
    """
    run, folder, record = _found(predictions)
    facts = {"predictions": str(predictions), **_evaluation_facts(folder, record), "model": _fingerprint(predictions)}
    warnings = list(_warnings(run, record))
    facts["warnings"] = " ".join(warnings) or "none"
    if run is None:
        return {**facts, "run": _run_elsewhere(record)}
    facts["folder"] = str(run)
    trained = _training_of(record, run)
    if record is None or trained is not None:
        facts["config"] = _config(run)
    if record is not None and trained is None:
        weights = record.weights.get("path") or "weights that were in memory"
        return {
            **facts,
            "attempt": f"not one of this folder: according to the records, {weights} did not come from its training",
        }
    source, attempt = trained or (run, None)
    content = attempt.read_record() if attempt is not None else source.newest_record()
    if content is None:
        return {**facts, "attempt": "unknown: there is no attempts/*/record.json"}
    unsure = " (the newest; whether it made the weights is not recorded)" if record is None else ""
    elsewhere = "" if source == run else f" of {source}"
    end = content.get("end") or {}
    facts["attempt"] = f"{content.get('attempt')}{elsewhere}{unsure}, began {content.get('started')}, {_end(end)}"
    if record is not None:
        facts["checkpoints"] = _checkpoints_at(source, record.weights.get("iteration"))
    facts["command"] = str(content.get("command"))
    facts["git commit"] = _commit(content.get("git"))
    facts["seed"] = str(content.get("seed"))
    facts["device"] = f"{content.get('device')}, processes: {content.get('processes')}"
    for name, data in (content.get("datasets") or {}).items():
        if record is None or name == "train":  # the evaluation's record has its own, of all processes
            facts[f"data, {name}"] = _data(data)
    facts["versions"] = ", ".join(f"{k} {v}" for k, v in (content.get("versions") or {}).items())
    return facts


def run_warnings(predictions: Path) -> list[str]:
    """What a reader must know before he or she takes the metrics for those of the run: one sentence each."""
    run, _, record = _found(predictions)
    return list(_warnings(run, record))


def evaluated_text(predictions: Path) -> str:
    """One line: which weights were evaluated, when, and by which command."""
    record = _found(predictions)[2]
    if record is None:
        return "no record: which weights made these predictions is not known"
    content = record.content
    if record.is_of_predictions:
        return f"predictions of {_predictions(content)}, {content.get('begin')}, by {content.get('command')}"
    return f"{_weights(record)}, {content.get('begin')}, by {content.get('command')}"


def training_behind(folder: InferenceFolder) -> dict[str, Any] | None:
    """The record of the attempt that made the weights of an evaluation; None if that is not recorded."""
    record, run = read_record(folder), RunFolder.containing(folder.path)
    trained = None if run is None else _training_of(record, run)
    return None if trained is None or trained[1] is None else trained[1].read_record()


def _found(predictions: Path) -> tuple[RunFolder | None, InferenceFolder, EvaluationRecord | None]:
    used = predictions if predictions.is_file() else find_manifest(predictions)
    folder = evaluation_of(used)
    return RunFolder.containing(folder.path), folder, record_about(used)


def _run_elsewhere(record: EvaluationRecord | None) -> str:
    recorded = None if record is None else (record.content.get("run") or {}).get("folder")
    if recorded is None:
        return "unknown: there is no attempts/ and no config.yaml beside the predictions"
    return f"{recorded}, as recorded; its attempts/ and config.yaml are not beside the predictions"


# The evaluation


def _evaluation_facts(folder: InferenceFolder, record: EvaluationRecord | None) -> dict[str, str]:
    if record is None:
        return {"evaluated": f"no record: the weights are unknown. To evaluate again: {command_to_evaluate(folder)}"}
    content = record.content
    if record.is_of_predictions:
        return {
            "evaluated": f"predictions of {_predictions(content)}; the weights are unknown",
            "evaluated by": str(content.get("command")),
        }
    seen, config = content.get("seen") or {}, content.get("config") or {}
    reused = f", {seen['reused']} of them from an interrupted evaluation" if seen.get("reused") else ""
    facts = {
        "evaluated": f"{_weights(record)}; {content.get('begin')} to {content.get('end')}, "
        f"{seen.get('frames')} frames of {seen.get('videos')} videos{reused}",
        "evaluated by": f"{content.get('command')} (in {content.get('working_folder')} on {content.get('host')})",
        "evaluated config": f"{config.get('file') or 'not recorded'}, SHA-256 {config.get('sha256') or 'not recorded'}",
        "evaluated data": _data(content.get("data")),
        "evaluators": "; ".join(_evaluator(evaluator) for evaluator in content.get("evaluators") or ()),
    }
    judged = content.get("judged")
    if judged:
        facts["metrics.json"] = (
            f"computed again from the predictions, {judged.get('begin')}, by {judged.get('command')}"
        )
    return facts


def _weights(record: EvaluationRecord) -> str:
    weights = record.weights
    iteration = weights.get("iteration")
    parts = ["at an unknown iteration" if iteration is None else f"after {iteration + 1} iterations"]
    parts += ["averaged"] if weights.get("averaged") else []
    if weights.get("path") is None:
        what = "weights of the training itself" if record.is_of_training else "weights in memory"
        return f"{what} (SHA-256 of weights and config {str(weights.get('model_sha256'))[:_SHORT]}), {', '.join(parts)}"
    given = weights.get("address") or weights["path"]
    return f"weights {given} (SHA-256 {str(weights.get('sha256'))[:_SHORT]}), {', '.join(parts)}"


def _evaluator(evaluator: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{key}={value}" for key, value in (evaluator.get("settings") or {}).items())
    return f"{str(evaluator.get('class')).rpartition('.')[2]}({settings})"


def _predictions(content: Mapping[str, Any]) -> str:
    given = content.get("predictions") or {}
    return f"{given.get('path')} (SHA-256 {str(given.get('sha256'))[:_SHORT]})"


def _fingerprint(predictions: Path) -> str:
    if predictions.is_file() and predictions.name != RunFolder("").prediction_manifest.name:
        return "unknown: COCO results do not record it"
    content = read_json(find_manifest(predictions))
    return f"SHA-256 of weights and config: {content.get('fingerprint') or 'not recorded'}"


# Which training made the weights


def _training_of(record: EvaluationRecord | None, run: RunFolder) -> tuple[RunFolder, Attempt | None] | None:
    """The run and the attempt that made the evaluated weights; None if that is not recorded."""
    if record is None:
        return None
    if record.is_of_training:
        number = (record.content.get("run") or {}).get("attempt")
        attempt = next((each for each in run.list_attempts() if each.number == number), None)
        process = ("host", "pid", "process_started")
        begun = (attempt.read_record() or {}) if attempt is not None else {}
        same = all(begun.get(key) == record.content.get(key) for key in process) and _began_during(record, begun)
        if number is None and not run.list_attempts():
            return run, None  # tools/plain_train_net.py records no attempts
        return (run, attempt) if attempt is not None and same else None
    path, sha256 = record.weights.get("path"), record.weights.get("sha256")
    if path is None or sha256 is None:
        return None
    around = RunFolder.containing(Path(path).parent)
    for source in (run, *([around] if around is not None else [])):
        if sha256 in _checkpoint_hashes(source, Path(path).name):
            return source, _attempt_at(source, record.weights.get("iteration"))
    return None


def _began_during(record: EvaluationRecord, attempt: Mapping[str, Any]) -> bool:
    """Whether an evaluation began while an attempt was at work: one process may have made several trainings, as a notebook's does."""
    end = (attempt.get("end") or {}).get("time")
    try:
        begin, first = (datetime.datetime.fromisoformat(str(t)) for t in (record.content["begin"], attempt["started"]))
        return first <= begin and (end is None or begin <= datetime.datetime.fromisoformat(str(end)))
    except (KeyError, ValueError, TypeError):
        return False


def _checkpoint_hashes(run: RunFolder, name: str) -> set[str]:
    """The hashes of a run's checkpoints; one that the manifest does not list, as a folder of shards, is hashed by its name."""
    rows = _checkpoints(run)
    found = {str(row[key]) for row in rows.values() for key in ("sha256", "sha256_before") if row.get(key)}
    path = run.path / name
    if name not in rows and path in run.checkpoints():
        found.add(sha256_of(path))
    return found


def _attempt_at(run: RunFolder, iteration: Any) -> Attempt | None:
    """The newest attempt that got to an iteration."""
    for attempt in reversed(run.list_attempts()):
        content = attempt.read_record()
        if content is not None and (not isinstance(iteration, int) or (content.get("start_iter") or 0) <= iteration):
            return attempt
    return None


def _checkpoints(run: RunFolder) -> dict[str, dict[str, Any]]:
    """What the run's manifest says of its checkpoints, by name."""
    try:
        rows = read_json(run.manifest)
    except DataError:
        return {}
    return {k: row for k, row in rows.items() if isinstance(row, dict)} if isinstance(rows, dict) else {}


def _checkpoints_at(run: RunFolder, iteration: Any) -> str:
    rows = [(n, row) for n, row in _checkpoints(run).items() if row.get("iteration") == iteration is not None]
    names = [f"{name} (SHA-256 {str(row.get('sha256'))[:_SHORT]})" for name, row in rows]
    return (
        f"of the evaluated iteration: {', '.join(names)}"
        if names
        else "no checkpoint of the evaluated iteration is recorded"
    )


# What does not fit together


def _warnings(run: RunFolder | None, record: EvaluationRecord | None) -> Iterator[str]:
    trained = None if run is None or record is None else _training_of(record, run)
    if any(each is not None and each.quick_report.is_file() for each in (run, trained[0] if trained else None)):
        yield "These are results of a trial run (--quick): a few iterations, evaluated on the beginning of the test data."
    if record is None:
        if run is not None:
            yield "No record says which weights made these predictions; the facts about the training may be those of other weights."
        return
    yield from _doubts_of_evaluation(record)
    if run is None:
        return
    if run.state() is RunState.RUNNING:
        content = run.newest_record() or {}
        yield f"The run is still training (process {content.get('pid')} on {content.get('host')}): its metrics will change."
    if record.is_of_predictions:
        return
    if trained is None:
        yield "The weights are not known to be those of the run in this folder."
    elif trained[0] == run:
        yield from _doubts_of_run(record, run, trained[1])


def _doubts_of_evaluation(record: EvaluationRecord) -> Iterator[str]:
    content, weights = record.content, record.weights
    written, host = str(content.get("folder")), content.get("host")
    if written != os.path.abspath(record.folder.path):
        there = "" if host == socket.gethostname() else f" on {host}"
        yield f"The evaluation was written to {written}{there}: this folder was moved or is a copy."
    if _is_other_config(record):
        yield f"{(content.get('config') or {}).get('file')} is not the config of this evaluation: its SHA-256 differs from the recorded one."
    if weights.get("from_scratch"):
        yield f"{weights['from_scratch']} of the model's weights were not in the file and are those it started with."
    if weights.get("changed_since_loaded"):
        yield "The weights were changed in memory after they were loaded."


def _is_other_config(record: EvaluationRecord) -> bool:
    """Whether the file that a record names as its config was edited, or is that of another run. Versions save configs differently."""
    recorded = (record.content.get("config") or {}).get("sha256")
    version = (record.content.get("versions") or {}).get("ultravid")
    if record.config is None or recorded is None or version != ultravid.__version__:
        return False
    try:
        return config_hash(LazyConfig.load(record.config)) != recorded
    except ConfigError:
        return True


def _doubts_of_run(record: EvaluationRecord, run: RunFolder, attempt: Attempt | None) -> Iterator[str]:
    newest = run.newest_checkpoint()
    row = _checkpoints(run).get(newest.name, {}) if newest is not None else {}
    iteration, latest = record.weights.get("iteration"), row.get("iteration")
    if isinstance(iteration, int) and isinstance(latest, int) and latest > iteration and newest is not None:
        yield f"The run's newest checkpoint, {newest.name}, holds the weights after {latest + 1} iterations, this evaluation is of those after {iteration + 1}."
    path, end = record.weights.get("path"), record.content.get("end")
    if path is not None and end is not None and os.path.exists(path) and _is_later(os.path.getmtime(path), str(end)):
        yield f"{path} was written again after this evaluation."
    attempts = run.list_attempts()
    if attempt is None or not attempts:
        return
    last = attempts[-1]
    begin = (last.read_record() or {}).get("start_iter")
    if last.number > attempt.number and isinstance(begin, int) and isinstance(iteration, int) and begin <= iteration:
        yield f"Attempt {last.number} restarted at iteration {begin}; this evaluation is of attempt {attempt.number}."
    changed = _changed_keys(run.config, attempt.config)
    if changed and last.number == attempt.number:
        yield f"{run.config.name} was changed after attempt {attempt.number} had begun ({changed})."
    different = _changed_keys(record.config, attempt.config)
    if different:
        yield f"The evaluation's config differs from that of the training ({different})."


def _is_later(seconds: float, than: str) -> bool:
    try:
        return seconds > datetime.datetime.fromisoformat(than).timestamp() + 1  # records hold whole seconds
    except ValueError:
        return False


def _changed_keys(config: Path | None, trained: Path) -> str:
    """The keys in which two saved configs differ, apart from the weights to start from; "" if there are none or one is missing."""
    if config is None or not (config.is_file() and trained.is_file()) or os.path.samefile(config, trained):
        return ""
    try:
        found = significant_changes(LazyConfig.load(config), trained)
    except ConfigError as error:
        return f"it can't be read: {error}"
    keys = [str(difference) for difference in found if difference.key != "train.init_checkpoint"]
    return "; ".join(keys[:_MOST_KEYS]) + (f"; and {len(keys) - _MOST_KEYS} more" if len(keys) > _MOST_KEYS else "")


# Two evaluations


def differing_settings(a: Path, b: Path) -> list[str]:
    """What two evaluations differ in besides the weights, as far as it moves metrics: data, evaluators, limits of the model.

    Args:
        a: predictions of the first, as for `run_facts`.
        b: of the second.

    Returns:
        a sentence for each; none of what is not recorded.
    """
    first, second = _found(a)[2], _found(b)[2]
    if first is None or second is None:
        return []
    found = []
    data = [(record.content.get("data") or {}).get("sha256") for record in (first, second)]
    if None not in data and data[0] != data[1]:
        found.append("The data differ: their fingerprints are not equal, so frames, annotations or patients differ.")
    if first.content.get("evaluators") != second.content.get("evaluators"):
        texts = ["; ".join(map(_evaluator, record.content.get("evaluators") or ())) for record in (first, second)]
        found.append(f"The evaluators differ: {texts[0]} and {texts[1]}.")
    versions = [(record.content.get("versions") or {}).get("ultravid") for record in (first, second)]
    if versions[0] != versions[1]:
        found.append(f"They were evaluated by ultravid {versions[0]} and {versions[1]}.")
    files = [record.config for record in (first, second)]
    if files[0] is not None and files[1] is not None:
        found += [f"Their configs differ: {text}" for text in _differences_that_judge(files[0], files[1])]
    return found


def _differences_that_judge(a: Path, b: Path) -> list[str]:
    try:
        found = significant_changes(LazyConfig.load(b), a)
    except ConfigError:
        return []
    return [str(difference) for difference in found if _judges(difference.key)]


def _judges(key: str) -> bool:
    name = key.rpartition(".")[2]
    if key.startswith(("dataloader.test", "dataloader.evaluator")):
        return name not in ("output_dir", "resume", "root")
    return key.startswith("model") and _LIMIT.search(name) is not None


# The training


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
    unknown = data.get("videos_of_unknown_patient")
    patients = f", {unknown} videos of unknown patients" if unknown else ""
    return f"{counts}{patients}, SHA-256 {data.get('sha256')}"
