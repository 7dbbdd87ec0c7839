"""Reads the folders of existing runs: their differences, their progress, and their metrics.

A folder may be that of an experiment (with a plan), of one run, or any folder that holds runs at some depth.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultravid.config import ConfigError, LazyConfig
from ultravid.config.identity import has_no_influence, leaves, without_job
from ultravid.datasets.boxes import is_number
from ultravid.datasets.json_files import read_json
from ultravid.datasets.video import DataError
from ultravid.evaluation.records import EvaluationRecord, check_record
from ultravid.experiments.plan import ExperimentFolder, Plan
from ultravid.experiments.status import JobState, JobStatus, status_of
from ultravid.utils.errors import UserError
from ultravid.utils.run_folder import InferenceFolder, RunFolder

__all__ = ["RunResult", "canonical", "differing_keys", "last_step", "learning_curves", "number_in", "read_runs"]

_MOST_POINTS = 500  # of a learning curve
_NOT_RUNS = frozenset({"attempts", "step_dumps", "quick", "summary"})


@dataclass(frozen=True, eq=False)
class RunResult:
    """A run as its folder shows it.

    Attributes:
        name: what it is called among the others: the name of its folder, or the end of its path.
        run: its folder.
        settings: what may distinguish it from others: values as text by key.
        status: its state and how far it got.
        evaluation: the folder of the evaluation that is summarized.
        metrics: metrics by name; nan if undefined.
        counts: numbers of videos, frames and the like, by name.
        record: the record of the evaluation; None if there is none.
        problem: why its metrics are no result of the run; "" if they are one.
        is_damaged: whether what is there can't be used, as opposed to a run that has not ended.
        identity: the identity of its config, as far as a plan says; "" if none does.
    """

    name: str
    run: RunFolder
    settings: Mapping[str, str]
    status: JobStatus
    evaluation: InferenceFolder
    metrics: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)
    record: EvaluationRecord | None = None
    problem: str = ""
    is_damaged: bool = False
    identity: str = ""

    @property
    def counts_as_result(self) -> bool:
        """Whether its metrics may be averaged with those of others."""
        return not self.problem

    @property
    def progress(self) -> str:
        """How far training got, as ``40/600``; "" if it is not known."""
        at, end = self.status.iteration, self.status.max_iter
        if at is None:
            return ""
        return str(at + 1) if end is None else f"{min(at + 1, end)}/{end}"

    @property
    def fingerprint(self) -> tuple[str, str]:
        """What evaluated it, and on which data; two runs with other ones can't be averaged. Empty texts are not known."""
        content = {} if self.record is None else self.record.content
        data, seen = content.get("data") or {}, content.get("seen") or {}
        evaluators = [
            evaluator
            for evaluator in content.get("evaluators") or ()
            if not str(evaluator.get("class", "")).endswith("FramePictures")  # draws, and computes nothing
        ]
        parts = [data.get("sha256"), seen.get("frames"), seen.get("ids")]
        return json.dumps(evaluators, sort_keys=True) if evaluators else "", json.dumps(parts) if any(parts) else ""


@dataclass(frozen=True)
class _Found:
    """A run's folder, and what a plan says of it."""

    run: RunFolder
    settings: Mapping[str, str] | None = None
    identity: str = ""
    base: Path | None = None


def read_runs(folders: Sequence[Path], evaluation: str = "inference") -> tuple[list[RunResult], list[str]]:
    """The runs in folders.

    Args:
        folders: experiments, runs, or folders of them.
        evaluation: which evaluation to summarize: the path of its folder within each run's.

    Returns:
        the runs in order: of a plan by number, others by name; and what a reader must know, a sentence each.

    Raises:
        UserError: a folder is missing or holds no run.
    """
    notes: list[str] = []
    found: dict[Path, _Found] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}.")
        inside = list(_runs_in(folder, notes))
        if not inside:
            raise UserError(
                f"{folder} holds no run: there is neither a plan.json of an experiment nor a folder with the config.yaml or the "
                "attempts of a run in it."
            )
        # A folder may be given twice, and beside one that holds it: what a plan says of a run counts.
        for each in inside:
            path = each.run.path.resolve()
            if path not in found or found[path].settings is None:
                found[path] = each
    every = list(found.values())
    is_one_plan = every[0].settings is not None and len({each.base and each.base.resolve() for each in every}) == 1
    names = _names([each.run.path for each in every])
    bases: dict[Path, Mapping[str, str]] = {}
    runs = [
        _read(each, name, evaluation, _settings(each, name, bases, is_one_plan, notes))
        for each, name in zip(every, names, strict=True)
    ]
    return runs, [*dict.fromkeys(notes), *_notes_on_repeated(runs)]


def _notes_on_repeated(runs: Sequence[RunResult]) -> Iterator[str]:
    """Runs of one config in several folders, as of two experiments: they give the same results and make a mean look surer than it is."""
    names: dict[str, list[str]] = {}
    for run in runs:
        if run.identity and run.counts_as_result:
            names.setdefault(run.identity, []).append(run.name)
    for identity, same in names.items():
        if len(same) > 1:
            yield f"{', '.join(same)} have the same config (identity {identity[:8]}), and each of them counts as a separate run."


def _runs_in(folder: Path, notes: list[str]) -> Iterator[_Found]:
    experiment = ExperimentFolder(folder)
    plan = experiment.read_plan()
    if plan is not None:
        yield from _jobs_of(experiment, plan, notes)
    elif _is_run(folder):
        yield _Found(RunFolder(folder))
    else:
        for inside in _subfolders(folder):
            yield from _runs_in(inside, notes)


def _jobs_of(experiment: ExperimentFolder, plan: Plan, notes: list[str]) -> Iterator[_Found]:
    for job in plan.jobs:
        named = {"name": job.name} if job.name and "name" not in job.settings else {}
        yield _Found(job.run, {**named, **job.values}, job.identity, experiment.base_config)
    known = {job.run.path.name for job in plan.jobs}
    others = [path.name for path in _subfolders(experiment.jobs) if path.name not in known and _is_run(path)]
    if others:
        notes.append(f"Left out, as the plan does not know them: {', '.join(others)} in {experiment.jobs}.")


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.is_dir() and not e.name.startswith((".", "earlier_"))]
    except OSError:
        return []
    return [folder / name for name in sorted(names, key=_in_number_order) if name not in _NOT_RUNS]


def _in_number_order(name: str) -> tuple[Any, ...]:
    """A key that sorts ``fold_10`` behind ``fold_9``."""
    parts: list[Any] = []
    for is_digit, part in _runs_of_digits(name):
        parts.append((0, int(part), "") if is_digit else (1, 0, part))
    return tuple(parts)


def _runs_of_digits(text: str) -> Iterator[tuple[bool, str]]:
    start = 0
    for at in range(1, len(text) + 1):
        if at == len(text) or text[at].isdecimal() != text[start].isdecimal():
            yield text[start].isdecimal(), text[start:at]
            start = at


def _is_run(folder: Path) -> bool:
    run = RunFolder(folder)
    return (
        run.attempts.is_dir()
        or run.config.is_file()
        or run.eval_config.is_file()
        or run.job_record.is_file()
        or (run.prediction_manifest.is_file())
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """The last parts of each path that make it unique."""
    resolved = [path.resolve() for path in paths]
    depth = 1
    while len({path.parts[-depth:] for path in resolved}) < len(resolved):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in resolved]


def _settings(
    found: _Found, name: str, bases: dict[Path, Mapping[str, str]], is_one_plan: bool, notes: list[str]
) -> Mapping[str, str]:
    """The values of a run by key: those of its plan, or of its whole config if there are others than one plan's."""
    if is_one_plan and found.settings is not None:
        return found.settings
    config = found.run.trained_config() or found.run.saved_config
    try:
        if config is not None:
            return _leaves_of(config)
        if found.base is not None and found.base not in bases:
            bases[found.base] = _leaves_of(found.base)
    except ConfigError as error:
        if found.settings is None:
            notes.append(f"{name}: its config can't be read, so what distinguishes it is not known: {error}")
        else:
            notes.append(f"{name}: its config can't be read, so only what its plan says of it is known: {error}")
        return found.settings or {}
    base = {} if found.base is None else bases[found.base]
    return {**base, **(found.settings or {})}


def _leaves_of(config: Path) -> dict[str, str]:
    """The values of a saved config that are settings of the run, and say nothing of its folder or of the machine."""
    values = leaves(without_job(LazyConfig.load(config)))
    return {key: text for key, text in values.items() if not has_no_influence(key)}


def _read(found: _Found, name: str, evaluation: str, settings: Mapping[str, str]) -> RunResult:
    run, status = found.run, status_of(found.run)
    folder = InferenceFolder(run.path / evaluation)
    common: dict[str, Any] = {"name": name, "run": run, "settings": settings, "status": status, "evaluation": folder}
    if not folder.metrics.is_file():
        return RunResult(**common, identity=found.identity, **_without_metrics(run, status, folder))
    try:
        record = check_record(folder.metrics)
        written = read_json(folder.metrics)
    except (UserError, DataError, OSError) as error:
        is_bad = status.state == JobState.FINISHED
        return RunResult(**common, identity=found.identity, problem=str(error), is_damaged=is_bad)
    if not isinstance(written, dict) or not all(value is None or is_number(value) for value in written.values()):
        problem = f"{folder.metrics}: is not an object of numbers, which an evaluator writes."
        return RunResult(**common, identity=found.identity, problem=problem, is_damaged=True)
    values = {key: math.nan if value is None else float(value) for key, value in written.items()}
    return RunResult(
        **common,
        metrics={key: value for key, value in values.items() if not key.startswith("count/")},
        counts={key: value for key, value in values.items() if key.startswith("count/")},
        record=record,
        problem=_why_no_result(run, status, record),
        identity=found.identity,
    )


def _without_metrics(run: RunFolder, status: JobStatus, folder: InferenceFolder) -> dict[str, Any]:
    others = [each.path.relative_to(run.path).as_posix() for each in run.evaluations() if each.metrics.is_file()]
    if others:
        return {"problem": f"there are no metrics in {folder.path.name}; there are in: {', '.join(others)}"}
    if status.state == JobState.FINISHED:
        return {"problem": f"{folder.metrics} is missing", "is_damaged": True}
    return {"problem": _not_finished(status)}


def _why_no_result(run: RunFolder, status: JobStatus, record: EvaluationRecord | None) -> str:
    """Why the metrics of an evaluation are not those of the end of a run; "" if they are."""
    if not run.list_attempts() and not run.job_record.is_file() and (record is None or record.has_ended):
        return ""  # an evaluation without a training, or tools/plain_train_net.py, which records no attempts
    if status.state != JobState.FINISHED:
        return _not_finished(status)
    at = None if record is None else record.weights.get("iteration")
    if isinstance(at, int) and status.max_iter is not None and at + 1 < status.max_iter:
        return f"evaluated after {at + 1} of {status.max_iter} iterations"
    return ""


def _not_finished(status: JobStatus) -> str:
    return f"{status.state.value}{f': {status.error}' if status.error else ''}"


# What runs differ in


def differing_keys(runs: Iterable[RunResult]) -> list[str]:
    """The keys whose values are not the same in all runs, in order of their first appearance."""
    every = list(runs)
    keys = dict.fromkeys(key for run in every for key in run.settings)
    return [key for key in keys if len({canonical(run.settings.get(key)) for run in every}) > 1]


def canonical(text: str | None) -> str:
    """A value as text so that equal ones are equal: ``1e-4`` and ``0.0001``, ``'a'`` and ``a``; "" if there is none."""
    if text is None:
        return ""
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    number = number_in(text)
    if number is not None:
        return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
    return {"none": "null"}.get(text.lower(), text.lower()) if text.lower() in ("none", "true", "false") else text


def number_in(text: str | None) -> float | None:
    """The finite number that a text is; None if it is none."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def last_step(key: str) -> str:
    """The last step of a full key, ``lr`` of ``optimizer.lr``."""
    return key.rpartition(".")[2]


# How it went


def learning_curves(run: RunFolder) -> dict[str, list[tuple[int, float]]]:
    """(iteration, value) of everything that training recorded, by name; at most some 500 points each, the last included."""
    curves: dict[str, list[tuple[int, float]]] = {}
    try:
        lines = run.metrics.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:  # the last one, of a process that was killed
            continue
        if not (isinstance(row, dict) and isinstance(row.get("iteration"), int)):
            continue
        at = row.pop("iteration")
        for name, value in row.items():
            if is_number(value) and math.isfinite(value):
                curves.setdefault(name, []).append((at, float(value)))
    return {name: _thinned(points) for name, points in curves.items()}


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    step = -(-len(points) // _MOST_POINTS)
    return points[::-1][::step][::-1] if step > 1 else points
