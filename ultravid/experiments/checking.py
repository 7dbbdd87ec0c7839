"""Read and check the config of every job before the first one starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ultravid.config import ConfigError, Node
from ultravid.config.command_line import load_with_overrides
from ultravid.config.loader import config_errors, importable_project
from ultravid.config.overrides import apply_overrides
from ultravid.config.variants import Variants
from ultravid.experiments.settings import JobSettings
from ultravid.utils.text import counted

__all__ = ["REQUIRED_KEYS", "CheckedJob", "check_jobs"]

REQUIRED_KEYS = (
    *("model", "dataloader.train", "dataloader.test", "dataloader.evaluator", "trainer"),
    *("train.output_dir", "train.device", "train.seed", "train.init_checkpoint"),
)
"""What every run of an experiment needs in its config."""

_MOST_FAULTS = 20


@dataclass(frozen=True)
class CheckedJob:
    """A job whose config has no fault.

    Attributes:
        settings: what it sets.
        identity: `ultravid.config.identity.config_identity` of its config.
    """

    settings: JobSettings
    identity: str


def check_jobs(config_file: str, common: Sequence[str], jobs: Sequence[JobSettings]) -> tuple[Node, list[CheckedJob]]:
    """Check the config of each job as ``--check`` does; the file is read once.

    Args:
        config_file: of all jobs.
        common: the overrides of all jobs.
        jobs: what each sets.

    Returns:
        the config with the overrides of all jobs, and the checked jobs.

    Raises:
        ConfigError: faults, each with the jobs that have it.
    """
    with importable_project(config_file):
        loaded = load_with_overrides(config_file)
        variants = Variants(config_file, loaded, REQUIRED_KEYS)
        checked: list[CheckedJob] = []
        faults: dict[str, list[int]] = {}
        for number, job in enumerate(jobs):
            try:
                checked.append(CheckedJob(job, variants.identity(job.overrides)))
            except ConfigError as error:
                faults.setdefault(str(error), []).append(number)
        _report(config_file, faults, len(jobs))
        with config_errors():
            base = apply_overrides(loaded, common)
    return base, checked


def _report(config_file: str, faults: dict[str, list[int]], num_jobs: int) -> None:
    if not faults:
        return
    rows = [f"  {_numbers(numbers, num_jobs)}: {text}" for text, numbers in list(faults.items())[:_MOST_FAULTS]]
    more = [f"  and {counted(len(faults) - _MOST_FAULTS, 'further fault')}"] if len(faults) > _MOST_FAULTS else []
    num_bad = len({number for numbers in faults.values() for number in numbers})
    raise ConfigError("\n".join([f"{config_file}: {num_bad} of {counted(num_jobs, 'job')} can't run:", *rows, *more]))


def _numbers(numbers: Sequence[int], num_jobs: int) -> str:
    if len(numbers) == num_jobs > 1:
        return "every job"
    shown = ", ".join(map(str, numbers[:10]))
    return f"job {shown}{', ...' if len(numbers) > 10 else ''}"
