"""Checks that the runs in an experiment's folder are those of its plan, by comparing each run's saved config with its job's once."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ultravid.config import ConfigError
from ultravid.config.command_line import load_with_overrides
from ultravid.config.diff import Difference
from ultravid.config.identity import config_identity
from ultravid.config.kinds import load_config
from ultravid.config.resume import is_named, significant_changes
from ultravid.experiments.plan import ExperimentFolder, PlannedJob
from ultravid.utils.file_io import dump_json, replace_file
from ultravid.utils.run_folder import Attempt
from ultravid.utils.text import shell_argument

__all__ = ["note_verified", "refuse_other_runs"]

_MOST_ROWS = 20
_LEAST_OF_AN_IDENTITY = 16  # characters, as `PlannedJob.command` gives


def refuse_other_runs(
    folder: ExperimentFolder, config_file: str, jobs: Sequence[PlannedJob], allowed: Iterable[str] = ()
) -> None:
    """Refuse an experiment in whose folders somebody ran something else.

    Args:
        folder: the folder of the experiment.
        config_file: the config file of all jobs; its project is importable.
        jobs: the jobs of the command. A run's config is read if it changed since it was last compared (`note_verified`).
        allowed: keys that may differ.

    Raises:
        ConfigError: a run has another config than its job: every key that differs.
    """
    names = tuple(allowed)
    verified = _read(folder)
    rows: list[str] = []
    keys: list[str] = list(names)
    for job in jobs:
        path = _config_that_counts(job)
        if path is None or verified.get(job.label) == _stamp(job, path) or _was_checked_by_launcher(job, path):
            continue
        unnamed = [d for d in _differences(job, config_file, path) if not is_named(d, names)]
        rows += [f"  job {job.number}, {job.label}: {difference}" for difference in unnamed]
        keys += [d.key for d in unnamed if d.key not in keys]
    if rows:
        shown = "\n".join([*rows[:_MOST_ROWS], *(["  ..."] if len(rows) > _MOST_ROWS else [])])
        raise ConfigError(
            f"Runs in {folder.jobs} are not those of the plan:\n{shown}\n"
            "Move their folders away to run the jobs again, or accept these runs: "
            f"--allow-change {shell_argument(','.join(keys))}"
        )


def note_verified(folder: ExperimentFolder, jobs: Sequence[PlannedJob]) -> None:
    """Remember that the runs of jobs are those of the plan, as far as they have begun."""
    verified = _read(folder)
    now = {job.label: _stamp(job, path) for job in jobs if (path := _config_that_counts(job)) is not None}
    if any(verified.get(label) != stamp for label, stamp in now.items()):
        with replace_file(folder.verified) as file:
            file.write(dump_json({**verified, **now}).encode())


def _config_that_counts(job: PlannedJob) -> Path | None:
    """The saved config of a job's run; None if there is none yet, or if the next start begins from scratch."""
    path = job.run.trained_config()
    return path if path is not None and (job.run.checkpoints() or job.run.evaluation_metrics.is_file()) else None


def _was_checked_by_launcher(job: PlannedJob, path: Path) -> bool:
    """Whether the process that saved a config compared it with this job's identity itself, as the experiment's commands have it do.

    So a thousand runs that another scheduler has run need not be read. A config that was edited since is younger than the record of
    how the process ended.
    """
    attempt = Attempt(path.parent)
    record = attempt.read_record() if attempt.config == path else None
    try:
        words = shlex.split(str(record.get("command"))) if record is not None else []
        expected = words[words.index("--identity") + 1]
        was_edited = path.stat().st_mtime_ns > attempt.record.stat().st_mtime_ns
    except (ValueError, IndexError, OSError):
        return False
    return len(expected) >= _LEAST_OF_AN_IDENTITY and job.identity.startswith(expected) and not was_edited


def _differences(job: PlannedJob, config_file: str, path: Path) -> list[Difference]:
    if config_identity(load_config(path)) == job.identity:  # as nearly always, and faster
        return []
    return significant_changes(load_with_overrides(config_file, job.overrides), path)


def _stamp(job: PlannedJob, path: Path) -> list[Any]:
    """What tells a saved config that was compared from another one."""
    status = path.stat()
    return [job.identity, str(path.relative_to(job.run.path)), status.st_size, status.st_mtime_ns]


def _read(folder: ExperimentFolder) -> dict[str, Any]:
    try:
        content = json.loads(folder.verified.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # they are compared again
        return {}
    return content if isinstance(content, dict) else {}
