"""What the jobs of an experiment have of keys that only other jobs set: the values of the config.

A command may sweep a key that earlier jobs had at the config's own value, and a list of jobs may leave a cell empty: tables show
the value that the job has, not a blank.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from ultravid.config import ConfigError, LazyConfig, Node
from ultravid.config.command_line import load_with_overrides
from ultravid.config.default_arguments import default_argument
from ultravid.config.everywhere import everywhere, is_everywhere, may_set
from ultravid.config.overrides import split_override
from ultravid.config.references import is_reference
from ultravid.config.tree import child_key, raw_child, split_key, value_at
from ultravid.config.variants import Variants
from ultravid.experiments.plan import ExperimentFolder, Plan, PlannedJob
from ultravid.experiments.settings import value_text
from ultravid.experiments.status import JobState, status_of
from ultravid.utils.errors import UserError

__all__ = ["with_implied"]


def with_implied(
    folder: ExperimentFolder,
    config_file: str,
    base: Node,
    plan: Plan,
    chosen: Sequence[PlannedJob],
    *,
    may_have_changed: bool = False,
) -> tuple[Plan, list[PlannedJob]]:
    """Fill in `PlannedJob.implied`.

    Args:
        folder: the folder of the experiment; jobs that are left out of the command have the config that its plan was made with.
        config_file: the config file of all jobs.
        base: its config with the overrides of all jobs of the command.
        plan: all jobs.
        chosen: those of the command.
        may_have_changed: whether their config may differ from the plan's; jobs that are finished had the earlier one.

    Returns:
        both with these values.
    """
    keys = [key for key in plan.swept if _is_key(key, plan)]
    configs = _Configs(folder, config_file, base)
    numbers = {job.number for job in chosen}
    jobs: dict[int, PlannedJob] = {}
    for job in plan.jobs:
        is_old = job.number not in numbers or (may_have_changed and status_of(job.run).state is JobState.FINISHED)
        known = {} if may_have_changed and not is_old else job.implied
        known = {key: text for key, text in known.items() if key not in job.settings}
        lacking = [key for key in keys if key not in job.settings and key not in known]
        found = {key: text for key in lacking if (text := configs.text(job, key, is_old=is_old)) is not None}
        jobs[job.number] = replace(job, implied={**known, **found})
    return replace(plan, jobs=tuple(jobs.values())), [jobs[job.number] for job in chosen]


def _is_key(name: str, plan: Plan) -> bool:
    """Whether a setting is a key of the config, and no name of a job or of a group of named edits."""
    return "." in name or any(_key(text) == name for job in plan.jobs for text in job.overrides)


class _Configs:
    """The configs of an experiment's jobs, each read if it is needed.

    Args:
        folder: see `with_implied`.
        config_file: see there.
        base: see there.
    """

    def __init__(self, folder: ExperimentFolder, config_file: str, base: Node) -> None:
        self._folder, self._file, self._base = folder, config_file, base
        self._of_jobs: dict[int, Node | None] = {}

    def text(self, job: PlannedJob, key: str, *, is_old: bool) -> str | None:
        """The value that a job has of a key, as text in the grammar of overrides; None if it has none."""
        with contextlib.suppress(ConfigError):
            base = self._earlier_base if is_old else self._base
            if base is not None and _is_plain(base, key) and not any(may_set(_key(o), key) for o in job.overrides):
                return _text(base, key)
            if job.number not in self._of_jobs:
                self._of_jobs[job.number] = None
                self._of_jobs[job.number] = self._variants.config(job.overrides)
            config = self._of_jobs[job.number]
            return None if config is None else _text(config, key)
        return None

    @cached_property
    def _earlier_base(self) -> Node | None:
        return LazyConfig.load(self._folder.base_config) if self._folder.base_config.is_file() else None

    @cached_property
    def _variants(self) -> Variants:
        return Variants(self._file, load_with_overrides(self._file))


def _text(config: Node, key: str) -> str | None:
    if is_everywhere(key):
        texts = {_text(config, place) for place in everywhere(config, key).values}
        return texts.pop() if len(texts) == 1 else None
    above, _, name = key.rpartition(".")
    owner = value_at(config, above) if above else config
    if child_key(owner, name) is not None:
        value = value_at(owner, name)
    elif isinstance(owner, Node) and (default := default_argument(owner, name)) is not inspect.Parameter.empty:
        value = default
    else:
        return None
    if isinstance(value, Mapping):
        return None
    with contextlib.suppress(UserError):  # an object, which no override can express
        return value_text(value, key)
    return None


def _is_plain(config: Node, key: str) -> bool:
    """Whether what a config has of a key, or has not, does not depend on a value elsewhere."""
    if is_everywhere(key):
        return False
    node: Any = config
    for step in split_key(key):
        found = child_key(node, step)
        if found is None:
            return True
        node = raw_child(node, found)
        if is_reference(node):
            return False
    return not isinstance(node, list | tuple)  # whose items may be references


def _key(override: str) -> str:
    return split_override(override)[1]
