"""Many runs: the jobs of an experiment, their folders, and the back ends that start them on this machine or on Slurm."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ultravid.experiments.local import Job, JobListener, JobResults, describe_exit, gpu_slots, run_jobs
from ultravid.experiments.plan import ExperimentFolder, Plan, PlannedJob
from ultravid.experiments.status import JobState, JobStatus, status_of
from ultravid.utils.folder_lock import locked

if TYPE_CHECKING:
    from ultravid.experiments.folds import FOLD_KEY, CrossValidation, Fold, summarize_folds, write_fold_tables
    from ultravid.experiments.trained import is_trained

__all__ = [
    "FOLD_KEY",
    "CrossValidation",
    "ExperimentFolder",
    "Fold",
    "Job",
    "JobListener",
    "JobResults",
    "JobState",
    "JobStatus",
    "Plan",
    "PlannedJob",
    "describe_exit",
    "gpu_slots",
    "is_trained",
    "locked",
    "run_jobs",
    "status_of",
    "summarize_folds",
    "write_fold_tables",
]

# These read evaluations and are imported on first use: the state of an experiment is shown in a tenth of the time.
_ON_DEMAND = {
    "FOLD_KEY": "folds",
    "CrossValidation": "folds",
    "Fold": "folds",
    "is_trained": "trained",
    "summarize_folds": "folds",
    "write_fold_tables": "folds",
}


def __getattr__(name: str) -> Any:
    if name not in _ON_DEMAND:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ON_DEMAND[name]}"), name)
