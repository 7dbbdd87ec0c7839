"""The plan of an experiment: its jobs, each with a number that never changes, an identity and a folder.

A plan is kept in ``plan.json``. The same command finds its jobs again by their identities, further jobs get further numbers, and a
config that was changed since is refused by key: two runs under one number would not be comparable with the others.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ultravid
from ultravid.config import ConfigError, LazyConfig, Node
from ultravid.config.command_line import load_with_overrides
from ultravid.config.diff import Difference, diff
from ultravid.config.identity import has_no_influence, without_job
from ultravid.config.loader import with_project_folders
from ultravid.config.override_values import quoted_value
from ultravid.config.resume import is_named, significant_changes
from ultravid.experiments.checking import CheckedJob
from ultravid.experiments.settings import JobSettings
from ultravid.utils.errors import UserError
from ultravid.utils.file_io import dump_json, replace_file
from ultravid.utils.run_folder import RunFolder
from ultravid.utils.text import counted
from ultravid.utils.tool import tools_folder

__all__ = ["ExperimentFolder", "Plan", "PlannedJob", "extend_plan", "quoted_path"]

_FORMAT = 1
_SHOWN = 8  # characters of an identity in the name of a folder
_FOLDER = re.compile(rf"(?P<number>\d+)-(?P<identity>[0-9a-f]{{{_SHOWN}}})")


@dataclass(frozen=True)
class PlannedJob:
    """A run that an experiment consists of.

    Attributes:
        number: from 0; given once.
        identity: `ultravid.config.identity.config_identity` of its config.
        overrides: the overrides of the config file, without the output folder.
        settings: what differs between jobs: values as text by key.
        run: its folder.
        name: the user's own name for it; "" if there is none.
        implied: what it has of keys that other jobs set and it does not: the values of the config.
    """

    number: int
    identity: str
    overrides: tuple[str, ...]
    settings: Mapping[str, str]
    run: RunFolder
    name: str = ""
    implied: Mapping[str, str] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, str]:
        """What tables show: its settings, and what it has of the keys that others set."""
        return {**self.settings, **self.implied}

    @property
    def label(self) -> str:
        """The name of its folder, ``003-1f09a2bc``."""
        return self.run.path.name

    def command(self, config_file: str, python: str, *options: str) -> list[str]:
        """The launcher's command for this job: it resumes what was begun, and refuses a config other than the planned one.

        Args:
            config_file: path or address of the config file.
            python: the interpreter.
            options: further options of ``tools/lazyconfig_train.py``.

        Returns:
            the words of the command, for `subprocess`.
        """
        output_dir = f"train.output_dir={quoted_path(self.run.path)}"
        launcher = str(tools_folder() / "lazyconfig_train.py")
        own = ["--config-file", config_file, "--resume", "--identity", self.identity[:16]]
        return [python, launcher, *own, *options, *self.overrides, output_dir]


@dataclass(frozen=True)
class Plan:
    """The jobs of an experiment's folder.

    Attributes:
        config_file: the config of all of them, absolute or an address.
        jobs: by number.
        notes: what readers of the results have to know: which jobs were trained before a change that was allowed.
    """

    config_file: str
    jobs: tuple[PlannedJob, ...] = field(default_factory=tuple)
    notes: tuple[str, ...] = ()

    @property
    def swept(self) -> list[str]:
        """The keys (and groups of named edits) that jobs set, in order of their first appearance."""
        return list(dict.fromkeys(key for job in self.jobs for key in job.settings))


class ExperimentFolder:
    """The files of an experiment; a folder is described, not opened.

    Args:
        path: the folder of all its runs.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def plan(self) -> Path:
        """The jobs with number, identity, overrides and folder."""
        return self.path / "plan.json"

    @property
    def base_config(self) -> Path:
        """The config of all jobs before their own settings, as data."""
        return self.path / "base_config.yaml"

    @property
    def verified(self) -> Path:
        """Which runs' configs were compared with the plan, and what they looked like, so that each is compared once."""
        return self.path / "verified.json"

    @property
    def jobs(self) -> Path:
        """The folder of the runs' folders."""
        return self.path / "jobs"

    @property
    def summary(self) -> Path:
        """The table of results, written once all jobs are finished: a row for each job with its number, each swept key and each metric."""
        return self.path / "summary.csv"

    @property
    def threads(self) -> Path:
        """How many threads each job has on the processor, as the last digits of results depend on it."""
        return self.path / "threads.json"

    @property
    def slurm(self) -> Path:
        """The job scripts that were submitted to Slurm, and what became of them."""
        return self.path / "slurm"

    @property
    def study(self) -> Path:
        """The journal of a search."""
        return self.path / "study.journal"

    def read_plan(self) -> Plan | None:
        """The plan; None if there is none yet.

        Raises:
            UserError: the file is no plan, or one of a newer version.
        """
        try:
            content = json.loads(self.plan.read_text(encoding="utf-8"))
            if content["format"] > _FORMAT:
                raise UserError(
                    f"{self.plan} was written by ultravid {content.get('ultravid')}, which is newer than this one, "
                    f"{ultravid.__version__}. Continue the experiment with that version, or choose another --output-dir."
                )
            jobs = tuple(self._job(entry) for entry in content["jobs"])
            if len({job.number for job in jobs}) < len(jobs):
                raise ValueError("two jobs have one number")
            return Plan(str(content["config_file"]), jobs, tuple(map(str, content.get("notes", ()))))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            aside = shlex.join(["mv", str(self.plan), f"{self.plan}.damaged"])
            raise UserError(
                f"{self.plan} is damaged: {type(error).__name__}: {error}. Move it aside ({aside}) and run the experiment's "
                "command again: jobs find their folders by their identities."
            ) from error

    def known_folders(self) -> dict[str, tuple[int, Path]]:
        """The jobs' folders that are there, by the beginning of the identity in their names, with their numbers."""
        names = [path.name for path in self.jobs.iterdir() if path.is_dir()] if self.jobs.is_dir() else []
        found = [(match, name) for name in sorted(names) if (match := _FOLDER.fullmatch(name))]
        return {match["identity"]: (int(match["number"]), self.jobs / name) for match, name in found}

    def _job(self, entry: Mapping[str, Any]) -> PlannedJob:
        parent, _, name = str(entry["folder"]).rpartition("/")
        if parent != self.jobs.name or not _FOLDER.fullmatch(name):  # jobs write there
            raise ValueError(f"{entry['folder']!r} is no folder of a job")
        run = RunFolder(self.path / entry["folder"])
        overrides = tuple(str(text) for text in entry["overrides"])
        settings = {str(key): str(text) for key, text in entry["settings"].items()}
        implied = {str(key): str(text) for key, text in entry.get("implied", {}).items()}
        name = str(entry.get("name", ""))
        return PlannedJob(int(entry["number"]), str(entry["identity"]), overrides, settings, run, name, implied)

    def lacks(self, jobs: Iterable[PlannedJob]) -> bool:
        """Whether one of the jobs is not in the folder's plan with the identity that it has, or there is no plan."""
        plan = self.read_plan()
        return plan is None or not {job.identity for job in jobs} <= {job.identity for job in plan.jobs}

    def write_plan(self, plan: Plan, base: Node) -> None:
        """Write ``plan``, and ``base``, the config that its jobs override, as files that are complete or absent.

        The config stays as it is if the plan has no new job.
        """
        self.jobs.mkdir(parents=True, exist_ok=True)
        if not self.base_config.is_file() or self.lacks(plan.jobs):
            LazyConfig.save(with_project_folders(base, plan.config_file), self.base_config)
        entries = [
            {
                "number": job.number,
                "identity": job.identity,
                "name": job.name,
                "folder": str(job.run.path.relative_to(self.path)),
                "settings": dict(job.settings),
                "implied": dict(job.implied),
                "overrides": list(job.overrides),
            }
            for job in plan.jobs
        ]
        content = {
            "format": _FORMAT,
            "ultravid": ultravid.__version__,
            "config_file": plan.config_file,
            "swept": plan.swept,
            "notes": list(plan.notes),
        }
        with replace_file(self.plan) as file:
            file.write(dump_json({**content, "jobs": entries}, indent=1).encode())

    def new_job(self, number: int, job: CheckedJob, known: PlannedJob | None = None) -> PlannedJob:
        """The planned form of a checked job.

        A command may sweep fewer keys than the one before, as ``optimizer.lr=1e-4`` to run a part of a grid: tables still show what
        distinguishes its jobs from the others.

        Args:
            number: the next number of the plan.
            job: the job.
            known: the job of the plan that it is; its number, its folder and its other settings are kept, and its name unless there is
                a new one. None for a new job.
        """
        settings, name = job.settings.settings, job.settings.name
        implied: Mapping[str, str] = {}
        if known is None:
            run = RunFolder(self.jobs / f"{number:03d}-{job.identity[:_SHOWN]}")
        else:
            number, run, name = known.number, known.run, name or known.name
            settings, implied = {**known.settings, **settings}, known.implied
        return PlannedJob(number, job.identity, job.settings.overrides, settings, run, name, implied)


def extend_plan(
    folder: ExperimentFolder, config_file: str, base: Node, checked: Sequence[CheckedJob], allowed: Iterable[str] = ()
) -> tuple[Plan, list[PlannedJob]]:
    """The plan of a folder with further jobs; nothing is written.

    A job of the command is one of the plan if the two have the same identity, or the same settings and no value that counts has
    changed; under an allowed change it keeps its folder and gets the new identity. It keeps the settings that the plan names.

    Args:
        folder: the folder of the experiment.
        config_file: the config file of all jobs.
        base: its config with the overrides of all jobs.
        checked: the jobs of the command; those that are in the plan already keep their number.
        allowed: keys whose values may differ from those that the plan was made with.

    Returns:
        the whole plan, and the jobs of the command in its order.

    Raises:
        UserError: two jobs of the command are the same.
        ConfigError: the config differs from the plan's, by key.
    """
    _refuse_duplicates(checked)
    old = folder.read_plan()
    if old is None:
        return _first_plan(folder, config_file, checked)
    _refuse_changes(folder, config_file, old, base, checked, tuple(allowed))
    by_identity = {job.identity: job for job in old.jobs}
    by_settings = {_settings(job): job for job in old.jobs}
    taken = {by_identity[job.identity].number for job in checked if job.identity in by_identity}
    plan = {job.number: job for job in old.jobs}
    chosen = []
    for job in checked:
        known = by_identity.get(job.identity)
        if known is None:
            known = by_settings.get(_settings(job.settings))
            known = None if known is None or known.number in taken else known
        planned = folder.new_job(max(plan, default=-1) + 1, job, known)
        plan[planned.number] = planned
        chosen.append(planned)
    return Plan(config_file, tuple(plan[number] for number in sorted(plan)), old.notes), chosen


def _first_plan(
    folder: ExperimentFolder, config_file: str, checked: Sequence[CheckedJob]
) -> tuple[Plan, list[PlannedJob]]:
    """A plan where there is none; jobs whose folders are there, as of a plan that was lost, keep their numbers."""
    known = folder.known_folders()
    free = itertools.count(1 + max((number for number, _ in known.values()), default=-1))
    chosen = []
    for job in checked:
        found = known.get(job.identity[:_SHOWN])
        planned = folder.new_job(next(free) if found is None else found[0], job)
        chosen.append(planned)
    return Plan(config_file, tuple(sorted(chosen, key=lambda job: job.number))), chosen


def _settings(job: PlannedJob | JobSettings) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(job.settings.items()))


def _refuse_changes(
    folder: ExperimentFolder,
    config_file: str,
    old: Plan,
    base: Node,
    checked: Sequence[CheckedJob],
    allowed: tuple[str, ...],
) -> None:
    """Refuse a config that differs from the plan's by a key that is not allowed."""
    identities = {job.identity for job in old.jobs}
    unknown = [job for job in checked if job.identity not in identities]
    rows = [(difference, "") for difference in _changes_of_base(folder, base, unknown)]
    rows = rows or list(_changes_of_jobs(config_file, old, unknown))
    unnamed = [(difference, note) for difference, note in rows if not is_named(difference, allowed)]
    if unnamed:
        text = "\n".join(f"  {difference}{note}" for difference, note in unnamed)
        keys = shlex.quote(",".join(dict.fromkeys([*allowed, *(d.key for d, _ in unnamed)])))
        raise ConfigError(
            f"The jobs in {folder.path} were planned with another config:\n{text}\n"
            f"Use another --output-dir; or sweep the key; or let all jobs go on with the new values: --allow-change {keys}"
        )


def _changes_of_base(folder: ExperimentFolder, base: Node, unknown: Sequence[CheckedJob]) -> list[Difference]:
    """The keys that changed since the plan was made in what all jobs have in common, if a job does not set them itself."""
    if not unknown:  # all are in the plan as they are
        return []
    if not folder.base_config.is_file():
        raise UserError(
            f"{folder.base_config} is missing, and {counted(len(unknown), 'job')} of this command is not in {folder.plan.name}. "
            "Without that file, it is not known whether the new job is comparable with the others: use another --output-dir."
        )
    changes = significant_changes(base, folder.base_config)
    return [d for d in changes if not all(is_named(d, job.settings.own_keys) for job in unknown)]


def _changes_of_jobs(config_file: str, old: Plan, unknown: Sequence[CheckedJob]) -> Iterator[tuple[Difference, str]]:
    """The keys of jobs that have the settings of a planned one and other overrides: a named edit that was rewritten."""
    by_settings = {_settings(job): job for job in old.jobs}
    for job in unknown:
        known = by_settings.get(_settings(job.settings))
        if known is None or known.overrides == job.settings.overrides:
            continue
        before, now = (load_with_overrides(config_file, o) for o in (known.overrides, job.settings.overrides))
        for difference in diff(without_job(before), without_job(now)):
            if not has_no_influence(difference.key):
                yield difference, f" (job {known.number}, {_text(job)})"


def _refuse_duplicates(checked: Sequence[CheckedJob]) -> None:
    first: dict[str, int] = {}
    for number, job in enumerate(checked):
        if job.identity in first:
            both = f"{first[job.identity]} ({_text(checked[first[job.identity]])}) and {number} ({_text(job)})"
            raise UserError(f"Jobs {both} are the same run: their settings resolve to the same config.")
        first[job.identity] = number


def _text(job: CheckedJob) -> str:
    return ", ".join(f"{key}={value}" for key, value in job.settings.settings.items()) or "no settings"


def quoted_path(path: Path) -> str:
    """A path as a value in the grammar of overrides."""
    text = str(path)
    return text if re.fullmatch(r"[\w./@+-]+", text) else quoted_value(text)
