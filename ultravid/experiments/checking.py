"""Read and check the config of every job before the first one starts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ultravid.config import ConfigError, Node
from ultravid.config.check import RUN_KEYS, RUN_OBJECTS
from ultravid.config.command_line import load_with_overrides
from ultravid.config.errors import Fault, FaultyConfigError
from ultravid.config.loader import importable_project
from ultravid.config.overrides import apply_overrides
from ultravid.config.variants import Variants
from ultravid.experiments.settings import JobSettings
from ultravid.utils.text import counted

__all__ = ["CheckedJob", "check_jobs"]

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


def check_jobs(
    config_file: str,
    common: Sequence[str],
    jobs: Sequence[JobSettings],
    *,
    required: Iterable[str] = RUN_KEYS,
    objects: Iterable[str] = RUN_OBJECTS,
    labels: Sequence[str] = (),
) -> tuple[Node, list[CheckedJob]]:
    """Check the config of each job as ``--check`` does; the file is read once.

    Args:
        config_file: the config file of all jobs.
        common: the overrides of all jobs.
        jobs: what each sets.
        required: keys that each config must have.
        objects: those of them that must describe an object.
        labels: what messages call each job, ``"fold 3"``; without them ``"job 3"``.

    Returns:
        the config with the overrides of all jobs, and the checked jobs.

    Raises:
        ConfigError: faults, each with the jobs that have it.
    """
    with importable_project(config_file):
        loaded = load_with_overrides(config_file)
        variants = Variants(config_file, loaded, required, objects)
        checked: list[CheckedJob] = []
        faults: dict[tuple[str, str], tuple[Fault, list[int]]] = {}
        for number, job in enumerate(jobs):
            try:
                checked.append(CheckedJob(job, variants.identity(job.overrides)))
            except FaultyConfigError as error:
                for fault in error.faults:
                    same = fault.message if fault.about in ("", "type") else fault.about
                    faults.setdefault((fault.key, same), (fault, []))[1].append(number)
        _report(config_file, list(faults.values()), labels or [f"job {number}" for number in range(len(jobs))])
        return _with_common(loaded, common), checked


def _with_common(loaded: Node, common: Sequence[str]) -> Node:
    """The config with the overrides of all jobs, but for those that only fit together with a job's own."""
    for text in common:
        with contextlib.suppress(ConfigError):
            apply_overrides(loaded, [text])
    return loaded


def _report(config_file: str, faults: Sequence[tuple[Fault, list[int]]], labels: Sequence[str]) -> None:
    if not faults:
        return
    rows = [f"  {_concerned(numbers, labels)}{fault}" for fault, numbers in faults[:_MOST_FAULTS]]
    more = [f"  and {counted(len(faults) - _MOST_FAULTS, 'further fault')}"] if len(faults) > _MOST_FAULTS else []
    num_bad = len({number for _, numbers in faults for number in numbers})
    what = labels[0].partition(" ")[0]
    of_all = f"{num_bad} of {counted(len(labels), what)}" if len(labels) > 1 else f"the {what}"
    raise ConfigError("\n".join([f"{config_file}: {of_all} can't run:", *rows, *more]))


def _concerned(numbers: Sequence[int], labels: Sequence[str]) -> str:
    if len(labels) == 1:
        return ""
    if len(numbers) == len(labels):
        return f"every {labels[0].partition(' ')[0]}: "
    shown = ", ".join(labels[number] for number in numbers[:10])
    return f"{shown}{', ...' if len(numbers) > 10 else ''}: "
