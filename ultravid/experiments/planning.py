"""Turns a command line into the jobs of an experiment: sweeps, named edits and lists of jobs, checked and numbered."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ultravid.config import Node
from ultravid.config.addresses import address_of, config_path
from ultravid.experiments.checking import check_jobs
from ultravid.experiments.held_out import note_on_folds
from ultravid.experiments.implied import with_implied
from ultravid.experiments.plan import ExperimentFolder, Plan, PlannedJob, extend_plan
from ultravid.experiments.settings import (
    JobSettings,
    Sweeps,
    jobs_of_config,
    parse_named_edits,
    read_jobs,
    span,
    split_sweeps,
)
from ultravid.experiments.status import JobState, status_of
from ultravid.experiments.verification import note_verified, refuse_other_runs
from ultravid.utils.errors import UserError
from ultravid.utils.folder_lock import locked
from ultravid.utils.run_folder import RunFolder
from ultravid.utils.text import counted

__all__ = ["ExperimentRequest", "PlannedExperiment", "experiment_folder", "plan_experiment", "settings_of_request"]

_WAYS_OF_HYDRA = {
    "hydra.sweep.dir": "the folder of all jobs is --output-dir",
    "hydra.run.dir": "the folder of all jobs is --output-dir",
    "hydra.sweep.subdir": "a job's folder is named by its number and identity, in --output-dir",
    "hydra/launcher": "jobs run on this machine, several at a time with --gpus 0,1,2,3; --launcher slurm queues them",
    "hydra.launcher": "jobs run on this machine, several at a time with --gpus 0,1,2,3; --launcher slurm queues them",
    "hydra/sweeper": "the swept keys span a grid; for a search add --search optuna",
    "hydra.sweeper": "the swept keys span a grid; for a search add --search optuna",
}


@dataclass(frozen=True)
class ExperimentRequest:
    """What a command asks for.

    Attributes:
        config_file: the config of all jobs.
        output_dir: the folder of the experiment.
        overrides: the overrides of the command line, sweeps among them.
        edits: texts of ``--set``.
        jobs_file: a list of jobs; None: none.
        most: refuse more jobs than this.
        allowed: keys whose values may differ from those of the plan.
    """

    config_file: str
    output_dir: Path
    overrides: Sequence[str] = ()
    edits: Sequence[str] = ()
    jobs_file: str | None = None
    most: int | None = None
    allowed: Sequence[str] = field(default_factory=tuple)


@dataclass(frozen=True)
class PlannedExperiment:
    """Jobs that were checked and found their numbers.

    Attributes:
        folder: the folder of the experiment.
        plan: all its jobs.
        jobs: those of the command, in its order.
        base: the config that they have in common.
        remarks: what the user should know: jobs of the plan that are not in the command, and what becomes of an allowed change.
    """

    folder: ExperimentFolder
    plan: Plan
    jobs: list[PlannedJob]
    base: Node
    remarks: list[str]

    @property
    def has_news(self) -> bool:
        """Whether a job of the command is not in the folder's plan as it is."""
        return self.folder.lacks(self.jobs)

    def write(self) -> None:
        """Write the plan, and remember that the runs that are there were compared with it."""
        self.folder.write_plan(self.plan, self.base)
        note_verified(self.folder, self.jobs)


def plan_experiment(request: ExperimentRequest) -> PlannedExperiment:
    """Check every job of a command, and find or give its number; nothing is written.

    Raises:
        UserError: no job or too many, two that are the same, a config that can't run, a folder of something else, or one of
            another config.
    """
    _refuse_folder(request.output_dir)
    folder = ExperimentFolder(request.output_dir.resolve())
    old = folder.read_plan()
    sweeps, jobs, remarks = settings_of_request(request, () if old is None else old.swept)
    base, checked = check_jobs(request.config_file, sweeps.plain, jobs)
    config_file = _absolute(request.config_file)
    plan, chosen = extend_plan(folder, config_file, base, checked, request.allowed)
    plan, chosen = with_implied(folder, config_file, base, plan, chosen, may_have_changed=bool(request.allowed))
    refuse_other_runs(folder, config_file, chosen, request.allowed)
    if note := note_on_folds(request.config_file, jobs):
        remarks.append(note)
    left = len(plan.jobs) - len(chosen)
    if left:
        remarks.append(f"{counted(left, 'job')} of the plan not in this command: left as they are.")
    notes = _notes_on_changes(folder, chosen) if request.allowed else _Notes([], [])
    remarks += notes.said
    return PlannedExperiment(folder, replace(plan, notes=(*plan.notes, *notes.kept)), chosen, base, remarks)


def settings_of_request(
    request: ExperimentRequest, swept: Sequence[str] = ()
) -> tuple[Sweeps, list[JobSettings], list[str]]:
    """The overrides of a command by what they are, what each job sets, and remarks for the user.

    Args:
        request: the command.
        swept: keys that distinguish jobs of the plan already.

    Raises:
        UserError: no job or too many; a key that is set in two ways; an interval, which a search alone can use.
    """
    _refuse_words(request.overrides)
    sweeps = split_sweeps(request.overrides)
    if sweeps.intervals:
        key = sweeps.intervals[0].key
        raise UserError(
            f"{key}: an interval holds endlessly many values; search it (--search optuna), or name some: {key}=1,2,3 or "
            f"'{key}=range(1,4)'."
        )
    edits = parse_named_edits(request.edits)
    jobs = read_jobs(request.jobs_file) if request.jobs_file else []
    own = [] if jobs else jobs_of_config(request.config_file)
    remarks = []
    if own and (edits or sweeps.choices):
        remarks.append(
            f"{request.config_file} lists jobs in 'experiment', which are not used beside a grid; --jobs {request.config_file} "
            "combines the two."
        )
    elif own:
        jobs = own
    elif not (jobs or edits or request.overrides):
        raise UserError(
            "This names no job. Sweep a key, as 'train.seed=range(3)'; or give --set NAME='key=value ...' or --jobs FILE; or "
            f"define experiment = [...] in {request.config_file}. For one run there is tools/lazyconfig_train.py."
        )
    for block in (jobs, *edits.values()):
        _refuse_words([text for job in block for text in job.overrides])
    sweeps = sweeps.with_swept(swept)
    return sweeps, span(sweeps, edits, jobs, most=request.most), remarks


@contextlib.contextmanager
def experiment_folder(path: Path) -> Iterator[None]:
    """A block that works in the folder of an experiment, under a lock; locked before there is a plan, it leaves no empty folder.

    Raises:
        UserError: it is a file, or a folder of something else.
        LockedError: another command works there.
    """
    _refuse_folder(path)
    is_new = not path.exists()
    try:
        with locked(path, "an experiment", "choose another --output-dir"):
            yield
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # it holds something by now
                path.rmdir()


def _refuse_words(overrides: Sequence[str]) -> None:
    """Refuse what other programs' users type, and what this one decides itself."""
    for text in overrides:
        key = text.partition("=")[0].lstrip("+~")
        if key.startswith(("hydra.", "hydra/")):
            way = next((way for word, way in _WAYS_OF_HYDRA.items() if key.startswith(word)), "it means nothing here")
            raise UserError(f"{text}: a setting of Hydra's; {way}.")
        if key == "train.output_dir":
            raise UserError(f"{text}: each job has its own folder in --output-dir; leave this out.")


def _refuse_folder(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise UserError(f"--output-dir {path}: is a file; name a folder.")
    run = RunFolder(path)
    if run.config.is_file() or run.attempts.is_dir():
        raise UserError(f"--output-dir {path}: is the folder of a run; choose another folder for the experiment.")
    if next(path.glob("fold_*"), None) is not None and not ExperimentFolder(path).plan.is_file():
        raise UserError(f"--output-dir {path}: holds a cross-validation; choose another folder for the experiment.")


def _absolute(config_file: str) -> str:
    """The path of a config file from everywhere; an address stays."""
    path = config_path(config_file)
    return address_of(path) or str(path.resolve())


@dataclass(frozen=True)
class _Notes:
    said: list[str]
    kept: list[str]


def _notes_on_changes(folder: ExperimentFolder, jobs: Sequence[PlannedJob]) -> _Notes:
    """What becomes of jobs whose config differs from the plan's, as was allowed."""
    old = folder.read_plan()
    before = {} if old is None else {job.number: job.identity for job in old.jobs}
    changed = [job for job in jobs if before.get(job.number, job.identity) != job.identity]
    if not changed:
        return _Notes([], [])
    states = {job.number: status_of(job.run).state for job in changed}
    finished = [number for number, state in states.items() if state is JobState.FINISHED]
    begun = [n for n, s in states.items() if s not in (JobState.FINISHED, JobState.WAITING, JobState.QUEUED)]
    waiting = [n for n in states if n not in finished and n not in begun]
    parts = [
        f"finished and left as before: {_ranges(finished)}" if finished else "",
        f"resumed with the new values: {_ranges(begun)}" if begun else "",
        f"not begun, run with the new values: {_ranges(waiting)}" if waiting else "",
    ]
    said = [f"The config changed, as allowed; {'; '.join(filter(None, parts))}."]
    kept = [f"Finished with the values before a change: {_ranges(finished)}."] if finished else []
    kept += [f"Trained in part with the values before a change: {_ranges(begun)}."] if begun else []
    return _Notes(said, kept)


def _ranges(numbers: Sequence[int]) -> str:
    """``jobs 0-3, 7``."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    texts = [str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts]
    return f"job{'s' if len(numbers) > 1 else ''} {', '.join(texts)}"
