"""Many runs: which ones an experiment needs, in which folders, and how they are started on this machine."""

from ultravid.experiments.folds import FOLD_KEY, CrossValidation, Fold, summarize_folds, write_fold_tables
from ultravid.experiments.local import Job, JobListener, JobResults, describe_exit, gpu_slots, run_jobs
from ultravid.experiments.plan import ExperimentFolder, Plan, PlannedJob
from ultravid.experiments.status import JobState, JobStatus, status_of
from ultravid.experiments.trained import is_trained
from ultravid.utils.folder_lock import locked

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
