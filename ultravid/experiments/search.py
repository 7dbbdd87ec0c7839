"""A search: an experiment whose jobs Optuna proposes from the results of earlier ones.

The study is kept in Optuna's journal file in the experiment's folder, which several processes and machines may use at once. A trial is a job
of the plan, or several that differ in their seeds or folds: its value is their mean. What is asked and told is written under the folder's lock, so numbers are given once; training needs no lock. A trial belongs to
the command that runs it; if that is gone, the next one resumes the trial from its run's folder.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultravid.config import ConfigError, LazyConfig, Node
from ultravid.config.command_line import load_with_overrides
from ultravid.config.loader import importable_project, with_project_folders
from ultravid.config.targets import target_name
from ultravid.config.tree import Container, walk
from ultravid.evaluation.bootstrap import BOOTSTRAP_METRICS
from ultravid.evaluation.metrics import IMAGE_METRICS, TRAINING_METRICS
from ultravid.experiments.checking import check_jobs
from ultravid.experiments.grouping import lower_is_better
from ultravid.experiments.local import Job, JobListener
from ultravid.experiments.plan import ExperimentFolder, PlannedJob, extend_plan
from ultravid.experiments.run_results import learning_curves
from ultravid.experiments.running import run_locally
from ultravid.experiments.search_space import SearchSpace
from ultravid.experiments.status import JobState, JobStatus, note_pruned, started_process, status_of
from ultravid.experiments.summary import write_summary
from ultravid.utils.errors import UserError
from ultravid.utils.file_io import replace_file
from ultravid.utils.folder_lock import LockedError, locked, read_lock
from ultravid.utils.text import counted, nearest, rounded
from ultravid.utils.tool import EXIT_STOPPED

__all__ = ["Search", "SearchOptions", "default_direction"]

_STUDY = "search"
_JOB, _OWNER, _SAME, _WHY, _RETRY, _PRUNING = "job", "owner", "same_as", "why", "retry_of", "pruning"
_LOCK_WAIT_S = 120.0
_LOOK_S = 1.0
_WAIT_S = 2.0
_OF_VIDEOS = {"VideoDetectionEvaluator", "FramePictures", "DatasetEvaluators"}
_KNOWN_METRICS = (*BOOTSTRAP_METRICS, "multi_mAP", "mAP_s", "mAP_l")


def default_direction(objective: str) -> str:
    """Whether a metric is maximized or minimized by default."""
    return "minimize" if lower_is_better(objective) else "maximize"


@dataclass(frozen=True)
class SearchOptions:
    """How a search goes.

    Attributes:
        objective: name of the metric.
        direction: "maximize" or "minimize".
        num_trials: how many trials there are in all, of all commands.
        sampler: one of `search_options.SAMPLERS`.
        pruner: one of `search_options.PRUNERS`.
        seed: the seed of the sampler. What a trial proposes depends on it, on the trial's number and on the trials before.
        restarts: how often a job that was killed is resumed.
        retry_failed: whether failed trials are tried again.
    """

    objective: str
    direction: str
    num_trials: int
    sampler: str = "tpe"
    pruner: str = "median"
    seed: int = 0
    restarts: int = 3
    retry_failed: bool = False


@dataclass
class Search:
    """A search in a folder, as one of the processes that work on it.

    Attributes:
        folder: the folder of the experiment.
        config_file: the config file of all jobs.
        space: what varies.
        options: how.
        report: called with a line of output for the user.
    """

    folder: ExperimentFolder
    config_file: str
    space: SearchSpace
    options: SearchOptions
    report: Callable[[str], None] = print
    _stopped_jobs: set[int] = field(default_factory=set)
    _to_retry: set[int] = field(default_factory=set)

    def check(self) -> None:
        """Refuse, before anything is written, what can't be searched: each choice and both ends of each interval are checked.

        Raises:
            UserError: Optuna is missing, the folder holds something else, or a config has a fault.
        """
        optuna = import_optuna()
        del optuna
        if self.folder.plan.exists() and not self.folder.study.exists():
            raise UserError(f"{self.folder.path} holds an experiment without a search. Choose another --output-dir.")
        corners = self.space.corners()
        labels = [f"trial of {', '.join(f'{key}={text}' for key, text in job.settings.items())}" for job in corners]
        base, _ = check_jobs(self.config_file, self.space.plain, corners, labels=labels)
        name = self.options.objective
        if _evaluates_videos_alone(base) and "/" not in name and name not in _KNOWN_METRICS:
            close = nearest(name, _KNOWN_METRICS)
            hint = f" Did you mean {close!r}?" if close else f" There are {', '.join(_KNOWN_METRICS)}."
            raise UserError(f"--objective {name}: the evaluator computes no such metric.{hint}")
        if note := _pruning_note(base, self.options):
            self.report(note)

    def run(self, slot: Mapping[str, str]) -> int:
        """Run trials one by one until all are done, or a signal arrives.

        Args:
            slot: environment variables of the jobs.

        Returns:
            an exit code.
        """
        others = self.others_at_work()
        if others:
            self.report(f"{counted(others, 'other command')} on this study at work.")
        study = self._study()
        if self.options.retry_failed:
            self._to_retry = {t.number for t in study.get_trials(deepcopy=False) if _is_failed_job(t)}
        with self._at_work() as owner:
            while True:
                with self._lock():
                    claimed = self._claim(study, owner)
                if claimed is None:
                    if not self._waits_for_others(study, owner):
                        break
                    time.sleep(_WAIT_S)
                    continue
                trial, jobs = claimed
                if self._run_trial(study, trial, jobs, slot):
                    return EXIT_STOPPED
        return self.conclude(study)

    def conclude(self, study: Any = None) -> int:
        """Report how the search ended, write the summary if all trials are done, and choose the exit code."""
        study = study if study is not None else self._study()
        counts = _counts(study)
        self.report(
            f"{counted(sum(counts.values()), 'trial')}: {', '.join(f'{n} {state}' for state, n in counts.items())}."
        )
        self._report_best(study)
        if counts.get("running"):
            self.report("Stopped. Run the same command to continue.")
            return EXIT_STOPPED
        plan = self.folder.read_plan()
        if plan is not None:
            statuses = {job.number: _without_unfinished(status_of(job.run)) for job in plan.jobs}
            write_summary(self.folder, plan.jobs, statuses)
            self.report(f"Wrote {self.folder.summary}")
        return 1 if counts.get("failed") else 0

    # The study

    def _study(self) -> Any:
        """The study of the folder, which is created if it is missing.

        Raises:
            UserError: it is one of another objective, direction or space.
        """
        optuna = import_optuna()
        self.folder.path.mkdir(parents=True, exist_ok=True)
        path = str(self.folder.study.resolve())
        lock = optuna.storages.journal.JournalFileSymlinkLock(path)
        with self._lock():
            _repair_journal(Path(path), lock, self.report)
            backend = optuna.storages.journal.JournalFileBackend(path, lock_obj=lock)
            try:
                storage = optuna.storages.JournalStorage(backend)
                study = optuna.create_study(
                    storage=storage,
                    study_name=_STUDY,
                    direction=self.options.direction,
                    load_if_exists=True,
                    pruner=_pruner(optuna, self.options.pruner),
                )
            except (ValueError, KeyError) as error:
                raise UserError(f"{path} can't be read: {error}. Choose another --output-dir.") from error
            own = {
                "objective": self.options.objective,
                "direction": self.options.direction,
                "space": self.space.described(),
            }
            kept = study.user_attrs.get("search")
            if kept is None:
                study.set_user_attr("search", own)
            elif kept != own:
                raise UserError(_what_differs(self.folder.path, kept, own))
        return study

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """The lock of the folder for a moment: other commands of this search hold it for moments alone."""
        deadline = time.monotonic() + _LOCK_WAIT_S
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(locked(self.folder.path, "an experiment", "choose another --output-dir"))
                    break
                except LockedError:
                    if time.monotonic() > deadline:
                        raise
                time.sleep(0.2)
            yield

    @property
    def _searchers(self) -> Path:
        return self.folder.path / "searchers"

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[str]:
        """A folder with a lock says that this process is at work; yields its name."""
        name = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns():x}"
        own = self._searchers / name
        with locked(own, "a search", "wait until it has ended"):
            yield name
        with contextlib.suppress(OSError):
            own.rmdir()

    def _is_at_work(self, owner: str | None) -> bool:
        holder = read_lock(self._searchers / owner, exact=True) if owner else None
        return holder is not None and holder.is_alive()

    def others_at_work(self) -> int:
        """How many other processes work on this search now."""
        names = [path.name for path in self._searchers.iterdir() if path.is_dir()] if self._searchers.is_dir() else []
        return sum(self._is_at_work(name) for name in names)

    # A trial

    def _claim(self, study: Any, owner: str) -> tuple[Any, list[PlannedJob]] | None:
        """A trial to run next, under the lock: one that a dead command left, or a new one; None if there is none."""
        optuna = import_optuna()
        while True:
            trials = study.get_trials(deepcopy=False)
            running = [t for t in trials if t.state == optuna.trial.TrialState.RUNNING]
            orphan = next((t for t in running if self._may_resume(t, owner)), None)
            if orphan is not None:
                trial = optuna.trial.Trial(study, orphan._trial_id)
            elif (trial := self._retried(study, trials)) is None:
                if not self._has_room(trials):
                    return None
                study.sampler = _sampler(optuna, self.options, len(trials))
                trial = study.ask()
            study.sampler = _sampler(optuna, self.options, trial.number)
            trial.set_user_attr(_OWNER, owner)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                texts = {dimension.key: dimension.suggest(trial) for dimension in self.space.dimensions}
            jobs = self._planned(study, trial, texts)
            if jobs:
                return trial, jobs

    def _may_resume(self, trial: Any, owner: str) -> bool:
        if trial.user_attrs.get(_JOB) in self._stopped_jobs:
            return False
        other = trial.user_attrs.get(_OWNER)
        return other != owner and not self._is_at_work(other)

    def _has_room(self, trials: Sequence[Any]) -> bool:
        """Whether a further trial is wanted, and there is one that was not tried."""
        asked = [t for t in trials if _RETRY not in t.user_attrs]
        tried = {t.user_attrs.get(_JOB) for t in trials if _JOB in t.user_attrs}
        return len(asked) < self.options.num_trials and len(tried) < self.space.size

    def _retried(self, study: Any, trials: Sequence[Any]) -> Any:
        """A trial that repeats a failed one, if that is wanted; None if there is none left."""
        known = {t.user_attrs.get(_RETRY) for t in trials}
        for failed in trials:
            if failed.number in self._to_retry and failed.number not in known:
                study.enqueue_trial(failed.params, user_attrs={_RETRY: failed.number})
                return study.ask()
        return None

    def _planned(self, study: Any, trial: Any, texts: Mapping[str, str]) -> list[PlannedJob]:
        """The jobs of a trial, in the plan; none if it needs none, as it can't run or was run already. The first one names the trial."""
        try:
            base, checked = check_jobs(self.config_file, self.space.plain, self.space.settings(texts))
        except ConfigError as error:
            self._tell(study, trial, "FAIL", why=str(error))
            return []
        plan, jobs = extend_plan(self.folder, self.config_file, base, checked)
        number = jobs[0].number
        retried = trial.user_attrs.get(_RETRY)
        same = [
            t
            for t in study.get_trials(deepcopy=False)
            if t.user_attrs.get(_JOB) == number and t.number not in (trial.number, retried)
        ]
        if same and retried is None:
            self._tell_same(study, trial, same[-1])
            return []
        trial.set_user_attr(_JOB, number)
        self.folder.write_plan(plan, base)
        return jobs

    def _tell_same(self, study: Any, trial: Any, other: Any) -> None:
        """A proposal that was run already gets the result of that; of one that is running, none."""
        trial.set_user_attr(_SAME, other.number)
        if other.state.name == "COMPLETE":
            study.tell(trial.number, other.value)
        else:
            self._tell(study, trial, "FAIL", why=f"the same as trial {other.number}")

    def _tell(self, study: Any, trial: Any, state: str, value: float | None = None, why: str = "") -> None:
        optuna = import_optuna()
        if why:
            trial.set_user_attr(_WHY, why)
        study.tell(trial.number, value, state=optuna.trial.TrialState[state])

    def _run_trial(self, study: Any, trial: Any, jobs: Sequence[PlannedJob], slot: Mapping[str, str]) -> bool:
        """Run the jobs of a trial one after the other and tell the study their mean.

        Returns:
            whether a signal stopped it.
        """
        values: list[float] = []
        so_far = 0
        for job in jobs:
            watcher = _Watcher(self, trial, job, values, so_far, is_last=job is jobs[-1])
            stopped, status = self._run_job(trial, job, watcher, slot)
            if status.state == JobState.STOPPED and not watcher.is_pruning:
                self._stopped_jobs.add(jobs[0].number)
                self.report(f"trial {trial.number}: stopped; the same command continues it")
                return stopped
            value = self._value(status)
            if value is None or math.isnan(value) or watcher.is_pruning or job is jobs[-1]:
                with self._lock():
                    self._settle(study, trial, jobs, job, status, watcher, values)
                return stopped
            values.append(value)
            so_far += status.max_iter or 0
            if stopped:
                self._stopped_jobs.add(jobs[0].number)
                return True
        return False

    def _run_job(
        self, trial: Any, job: PlannedJob, watcher: _Watcher, slot: Mapping[str, str]
    ) -> tuple[bool, JobStatus]:
        """Run a job unless it is finished or pruned: whether a signal stopped it, and its status."""
        status, stopped = status_of(job.run), False
        if status.state != JobState.FINISHED and not watcher.is_pruning:
            values = ", ".join(f"{key}={rounded([text])[text]}" for key, text in job.settings.items())
            self.report(f"trial {trial.number}, job {job.label}: {values}")
            results = run_locally([job], self.config_file, [slot], watcher, restarts=self.options.restarts)
            stopped, status = results.stopped, status_of(job.run)
        watcher.look()
        return stopped, status

    def _value(self, status: JobStatus) -> float | None:
        """The objective of a job; None if it has none, or is not finished."""
        return status.metrics.get(self.options.objective) if status.state == JobState.FINISHED else None

    def _settle(
        self,
        study: Any,
        trial: Any,
        jobs: Sequence[PlannedJob],
        job: PlannedJob,
        status: JobStatus,
        watcher: _Watcher,
        before: Sequence[float],
    ) -> None:
        """Tell the study how a trial ended, by the job that ended last and the values of those before."""
        name, value = self.options.objective, self._value(status)
        if status.state == JobState.FINISHED and value is None:
            self._tell(study, trial, "FAIL", why=f"there is no metric {name}")
            close = nearest(name, status.metrics)
            hint = f" Did you mean {close!r}?" if close else f" It has {', '.join(list(status.metrics)[:12])}."
            raise UserError(
                f"--objective {name}: the evaluation in {job.run.evaluation.path} has no such metric.{hint}"
            )
        if value is not None and math.isnan(value):
            self._tell(study, trial, "FAIL", why=f"{name} is undefined")
            self.report(f"trial {trial.number}: failed, as {name} is undefined")
        elif value is not None and job is jobs[-1]:
            values = [*before, value]
            mean = math.fsum(values) / len(values)
            self._tell(study, trial, "COMPLETE", mean)
            of = f", the mean of {', '.join(f'{v:.4f}' for v in values)}" if before else ""
            self.report(f"trial {trial.number}: {name} {mean:.4f}{of}")
            if study.best_trial.number == trial.number:
                self._write_best(jobs[0])
        elif watcher.is_pruning:
            for each in jobs:
                if status_of(each.run).state != JobState.FINISHED:
                    note_pruned(each.run)
            self._tell(study, trial, "PRUNED")
            self.report(f"trial {trial.number}: pruned after {counted((status.iteration or 0) + 1, 'iteration')}")
        else:
            self._tell(study, trial, "FAIL", why=status.error or status.state.value)
            self.report(f"trial {trial.number}: failed: {status.error}\n  {job.run.terminal}")

    # Results

    def _write_best(self, job: PlannedJob) -> None:
        """Write the config of the best job so far, with which the launcher can train again."""
        with importable_project(self.config_file):
            cfg = load_with_overrides(self.config_file, list(job.overrides))
        LazyConfig.save(with_project_folders(cfg, self.config_file), self.folder.path / "best.yaml")

    def _report_best(self, study: Any) -> None:
        try:
            best = study.best_trial
        except ValueError:
            self.report("No trial reached a value.")
            return
        values = ", ".join(f"{key}={value}" for key, value in best.params.items())
        path = self.folder.path / "best.yaml"
        self.report(
            f"Best: trial {best.number}, job {best.user_attrs.get(_JOB)}, {self.options.objective} {best.value:.4f}: {values}\n"
            f"Its config: {path}"
        )

    def _waits_for_others(self, study: Any, owner: str) -> bool:
        """Whether another command still runs a trial: if it dies, this one takes the trial over."""
        running = [t for t in study.get_trials(deepcopy=False) if t.state.name == "RUNNING"]
        return any(self._is_at_work(t.user_attrs.get(_OWNER)) for t in running if t.user_attrs.get(_OWNER) != owner)


class _Watcher(JobListener):
    """Reports the metrics that a running job writes to its trial, and stops the job if the trial is pruned.

    Args:
        search: the search.
        trial: the trial of the job.
        job: the job.
        before: the values of the trial's jobs that have ended: what is reported is the mean of these and that of the job.
        so_far: their iterations.
        is_last: whether the trial has no further job.
    """

    def __init__(
        self, search: Search, trial: Any, job: PlannedJob, before: Sequence[float], so_far: int, *, is_last: bool
    ) -> None:
        self._search, self._trial, self._job = search, trial, job
        self._before, self._so_far, self._has_others = tuple(before), so_far, not is_last
        self.is_pruning = bool(trial.user_attrs.get(_PRUNING))
        self._next = 0.0
        self._size = -1
        study = trial.study
        self._reported = set(study.get_trials(deepcopy=False)[trial.number].intermediate_values)

    def started(self, job: Job, slot: Mapping[str, str]) -> None:
        """See `JobListener`."""

    def waiting(self) -> None:
        """See `JobListener`."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _LOOK_S
        self.look()
        if self.is_pruning:
            self._stop()

    def look(self) -> None:
        """Read new evaluations from the run's folder."""
        try:
            size = self._job.run.metrics.stat().st_size
        except OSError:
            return
        if size == self._size or self.is_pruning:
            return
        self._size = size
        for at, value in learning_curves(self._job.run).get(self._search.options.objective, []):
            step = self._so_far + at
            if step not in self._reported:
                self._trial.report(math.fsum([*self._before, value]) / (len(self._before) + 1), step)
                self._reported.add(step)
                if self._trial.should_prune() and not self._is_last(at):
                    self.is_pruning = True
                    self._trial.set_user_attr(_PRUNING, True)
                    return

    def _is_last(self, at: int) -> bool:
        if self._has_others:
            return False
        max_iter = (self._job.run.newest_record() or {}).get("max_iter")
        return isinstance(max_iter, int) and at >= max_iter

    def _stop(self) -> None:
        """Ask the job's process to save a checkpoint and leave; again, until it has."""
        started = started_process(self._job.run)
        holder = self._job.run.holder() if started is None else None
        is_here = holder is not None and holder.facts.get("host") == socket.gethostname()
        pid = (
            started.pid if started is not None else holder.facts.get("pid") if holder is not None and is_here else None
        )
        if not isinstance(pid, int):
            return
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGTERM)
        self._next = time.monotonic() + 30


def _evaluates_videos_alone(base: Node) -> bool:
    """Whether a config's evaluator computes the metrics of `ultravid.evaluation.metrics`, and no others."""
    loader = base.raw.get("dataloader") if "dataloader" in base else None
    evaluator = loader.raw.get("evaluator") if isinstance(loader, Node) else None
    nodes = walk(evaluator) if isinstance(evaluator, Container) else ()
    targets = {
        target_name(node.raw["_target_"]).rpartition(".")[2]
        for node in nodes
        if isinstance(node, Node) and "_target_" in node
    }
    return "VideoDetectionEvaluator" in targets and targets <= _OF_VIDEOS


def _pruning_note(base: Node, options: SearchOptions) -> str:
    """Why no job of a search can be pruned; "" if that is not known."""
    recorded = (*TRAINING_METRICS, *IMAGE_METRICS)
    if options.pruner == "none" or options.objective in recorded or not _evaluates_videos_alone(base):
        return ""
    return (
        f"No job will be pruned: {options.objective} is known only at the end of a run. The evaluations during training record "
        f"{', '.join(TRAINING_METRICS)}."
    )


def import_optuna() -> Any:
    """Optuna, which is silent but for warnings.

    Raises:
        UserError: it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise UserError("--search optuna needs Optuna: pip install 'ultravid[search]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _sampler(optuna: Any, options: SearchOptions, number: int) -> Any:
    """The sampler of a trial: its seed depends on the number, so that processes propose different values, and a resumed search the same."""
    seed = (options.seed * 1_000_003 + number) % 2**32
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some arguments are marked as experimental
        if options.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)


def _pruner(optuna: Any, name: str) -> Any:
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5)
    return optuna.pruners.SuccessiveHalvingPruner() if name == "halving" else optuna.pruners.NopPruner()


def _repair_journal(path: Path, lock: Any, report: Callable[[str], None]) -> None:
    """Cut off a last line that a process did not write to its end: nobody could read the journal any more."""
    if not path.is_file():
        return
    lock.acquire()
    try:
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            kept = content[: content.rfind(b"\n") + 1]
            with replace_file(path) as file:
                file.write(kept)
            report(f"{path}: its last line is incomplete and is ignored.")
    finally:
        lock.release()


def _what_differs(folder: Path, kept: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    differing = [key for key in ("objective", "direction") if kept.get(key) != own[key]]
    rows = [f"  {key}: {kept.get(key)} -> {own[key]}" for key in differing]
    old, new = kept.get("space") or {}, own["space"]
    rows += [
        f"  {key}: {old.get(key, '(not searched)')} -> {new.get(key, '(not searched)')}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]
    changes = "\n".join(rows) or json.dumps(kept)
    return f"The search in {folder} is another one:\n{changes}\nContinue it with its own options, or use another --output-dir."


def _is_failed_job(trial: Any) -> bool:
    """Whether a trial's job was run and failed."""
    return trial.state.name == "FAIL" and _SAME not in trial.user_attrs and _JOB in trial.user_attrs


def _counts(study: Any) -> dict[str, int]:
    words = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}
    counts: dict[str, int] = {}
    retried = {t.user_attrs.get(_RETRY) for t in study.get_trials(deepcopy=False)}
    for trial in study.get_trials(deepcopy=False):
        is_repeated = _SAME in trial.user_attrs
        word = "repeated" if is_repeated else words[trial.state.name]
        if trial.number in retried and word == "failed":
            word = "tried again"
        counts[word] = counts.get(word, 0) + 1
    return counts


def _without_unfinished(status: JobStatus) -> JobStatus:
    """A status without metrics if they are not those of the end of a run."""
    return status if status.state == JobState.FINISHED else JobStatus(status.state)
