"""Jobs of an experiment on Slurm: arrays of tasks with a job script that a person can read, without sacct."""

from ultravid.experiments.slurm.options import SlurmOptions
from ultravid.experiments.slurm.queue import SlurmQueue, SlurmRefusalError, SlurmUnreachableError
from ultravid.experiments.slurm.running import SlurmLauncher, refuse_queued, statuses_with_queue

__all__ = [
    "SlurmLauncher",
    "SlurmOptions",
    "SlurmQueue",
    "SlurmRefusalError",
    "SlurmUnreachableError",
    "refuse_queued",
    "statuses_with_queue",
]
