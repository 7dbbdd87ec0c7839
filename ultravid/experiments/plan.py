"""The plan of an experiment: its jobs, each with a number that never changes, an identity and a folder of its own.

A plan is kept in ``plan.json``. The same command finds its jobs again by their identities, further jobs get further numbers, and a
config that was changed since is refused by key: two runs under one number would not be comparable with the others.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ultravid
from ultravid.config import ConfigError, LazyConfig, Node
from ultravid.config.override_values import quoted_value
from ultravid.config.resume import is_named, significant_changes
from ultravid.experiments.checking import CheckedJob
from ultravid.utils.errors import UserError
from ultravid.utils.file_io import dump_json, replace_file
from ultravid.utils.run_folder import RunFolder
from ultravid.utils.tool import tools_folder

__all__ = ["ExperimentFolder", "Plan", "PlannedJob", "extend_plan"]

_FORMAT = 1
_SHOWN = 8  # characters of an identity in the name of a folder


@dataclass(frozen=True)
class PlannedJob:
    """A run that an experiment consists of.

    Attributes:
        number: from 0; given once.
        identity: `ultravid.config.identity.config_identity` of its config.
        overrides: of the config file, without the output folder.
        settings: what differs between jobs: values as text by key.
        run: its folder.
        name: the user's own name for it; "" if there is none.
    """

    number: int
    identity: str
    overrides: tuple[str, ...]
    settings: Mapping[str, str]
    run: RunFolder
    name: str = ""

    @property
    def label(self) -> str:
        """The name of its folder, ``003-1f09a2bc``."""
        return self.run.path.name

    def command(self, config_file: str, python: str, *options: str) -> list[str]:
        """The launcher's command for this job: it resumes what was begun, and refuses a config other than the planned one."""
        output_dir = f"train.output_dir={quoted_path(self.run.path)}"
        launcher = str(tools_folder() / "lazyconfig_train.py")
        own = ["--config-file", config_file, "--resume", "--identity", self.identity[:16]]
        return [python, launcher, *own, *options, *self.overrides, output_dir]


@dataclass(frozen=True)
class Plan:
    """The jobs of an experiment's folder.

    Attributes:
        config_file: the config of all of them, absolute.
        jobs: by number.
    """

    config_file: str
    jobs: tuple[PlannedJob, ...] = field(default_factory=tuple)

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
    def jobs(self) -> Path:
        """The folder of the runs' folders."""
        return self.path / "jobs"

    @property
    def summary(self) -> Path:
        """A row a job, once all are finished: number, each swept key, each metric."""
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
                    f"{ultravid.__version__}. Continue the experiment with that version."
                )
            jobs = tuple(self._job(entry) for entry in content["jobs"])
            return Plan(content["config_file"], jobs)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(
                f"{self.plan} is not a plan of an experiment: {error!r}. Choose another --output-dir."
            ) from error

    def _job(self, entry: Mapping[str, Any]) -> PlannedJob:
        run = RunFolder(self.path / entry["folder"])
        overrides = tuple(str(text) for text in entry["overrides"])
        settings = {str(key): str(text) for key, text in entry["settings"].items()}
        return PlannedJob(
            int(entry["number"]), str(entry["identity"]), overrides, settings, run, str(entry.get("name", ""))
        )

    def write_plan(self, plan: Plan, base: Node) -> None:
        """Write the plan and the config that it starts from, each as a whole."""
        self.jobs.mkdir(parents=True, exist_ok=True)
        LazyConfig.save(base, self.base_config)
        entries = [
            {
                "number": job.number,
                "identity": job.identity,
                "name": job.name,
                "folder": str(job.run.path.relative_to(self.path)),
                "settings": dict(job.settings),
                "overrides": list(job.overrides),
            }
            for job in plan.jobs
        ]
        content = {
            "format": _FORMAT,
            "ultravid": ultravid.__version__,
            "config_file": plan.config_file,
            "swept": plan.swept,
        }
        with replace_file(self.plan) as file:
            file.write(dump_json({**content, "jobs": entries}, indent=1).encode())

    def new_job(self, number: int, job: CheckedJob) -> PlannedJob:
        """A job with the next number."""
        run = RunFolder(self.jobs / f"{number:03d}-{job.identity[:_SHOWN]}")
        return PlannedJob(number, job.identity, job.settings.overrides, job.settings.settings, run, job.settings.name)


def extend_plan(
    folder: ExperimentFolder, config_file: str, base: Node, checked: Sequence[CheckedJob], allowed: Iterable[str] = ()
) -> tuple[Plan, list[PlannedJob]]:
    """The plan of a folder with further jobs; nothing is written.

    Args:
        folder: of the experiment.
        config_file: of all jobs.
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
        jobs = [folder.new_job(number, job) for number, job in enumerate(checked)]
        return Plan(config_file, tuple(jobs)), jobs
    changed = _changes(folder, old, base, checked, tuple(allowed))
    by_identity = {job.identity: job for job in old.jobs}
    by_settings = {tuple(sorted(job.settings.items())): job for job in old.jobs} if changed else {}
    plan = {job.number: job for job in old.jobs}
    chosen = []
    for job in checked:
        known = by_identity.get(job.identity) or by_settings.get(tuple(sorted(job.settings.settings.items())))
        if known is None:
            planned = folder.new_job(max(plan, default=-1) + 1, job)
        else:  # under an allowed change the folder stays, and the identity is the new one
            planned = PlannedJob(
                known.number, job.identity, job.settings.overrides, job.settings.settings, known.run, job.settings.name
            )
        plan[planned.number] = planned
        chosen.append(planned)
    return Plan(config_file, tuple(plan[number] for number in sorted(plan))), chosen


def _changes(
    folder: ExperimentFolder, old: Plan, base: Node, checked: Sequence[CheckedJob], allowed: tuple[str, ...]
) -> list[str]:
    """The keys that changed since the plan was made, all of them allowed."""
    if not folder.base_config.is_file():
        raise UserError(f"{folder.base_config} is missing: it says what the jobs in {folder.plan} have in common.")
    swept = {*old.swept, *(key for job in checked for key in job.settings.settings)}
    differences = [d for d in significant_changes(base, folder.base_config) if not is_named(d, swept)]
    if unnamed := [d for d in differences if not is_named(d, allowed)]:
        rows = "\n".join(f"  {difference}" for difference in unnamed)
        keys = shlex.quote(",".join([*allowed, *(d.key for d in unnamed)]))
        raise ConfigError(
            f"The jobs in {folder.path} were planned with another config:\n{rows}\n"
            f"Use another --output-dir; or sweep the key; or let all jobs go on with the new values: --allow-change {keys}"
        )
    return [d.key for d in differences]


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
