"""Checks that the test videos of a run change with its fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ultravid.config import ConfigError, Node, config_hash
from ultravid.config.command_line import load_with_overrides
from ultravid.config.serialize import resolved
from ultravid.experiments.settings import JobSettings

__all__ = ["how_to_hold_out", "is_tested_on_the_same", "note_on_folds"]

_FOLD = "fold"


def is_tested_on_the_same(first: Node, second: Node) -> bool:
    """Whether two configs describe the same test loader."""
    return config_hash(resolved(first).dataloader.test) == config_hash(resolved(second).dataloader.test)


def how_to_hold_out(fold_key: str) -> str:
    """What to set so that each run is tested on the fold that it was not trained on.

    Args:
        fold_key: the config's key of the fold.
    """
    return (
        f"Let it use the held-out fold: dataloader.test.fold='${{{fold_key}}}' and dataloader.test.num_folds, of the videos that "
        "dataloader.train uses."
    )


def note_on_folds(config_file: str, jobs: Sequence[JobSettings]) -> str:
    """A note if a fold is swept and every job is tested on the same videos; "" otherwise.

    Args:
        config_file: of all jobs; its project is importable.
        jobs: their configs have no fault.
    """
    for key in dict.fromkeys(key for job in jobs for key in job.settings if key.rpartition(".")[2] == _FOLD):
        pair = _pair(key, jobs)
        if pair is None:
            continue
        try:
            configs = [load_with_overrides(config_file, job.overrides) for job in pair]
            is_same = all("test" in cfg.get("dataloader", {}) for cfg in configs) and is_tested_on_the_same(*configs)
        except (ConfigError, AttributeError, TypeError):  # a config of another form
            continue
        if is_same:
            return (
                f"WARNING: dataloader.test does not change with {key}: the jobs of all folds are tested on the same videos. If that is "
                f"not what you want: {how_to_hold_out(key)}"
            )
    return ""


def _pair(key: str, jobs: Sequence[JobSettings]) -> tuple[JobSettings, JobSettings] | None:
    """Two jobs that differ in a key alone; None if there are none."""
    first: dict[tuple[tuple[str, str], ...], JobSettings] = {}
    for job in jobs:
        if key in job.settings:
            other = first.setdefault(_others(key, job.settings), job)
            if other.settings[key] != job.settings[key]:
                return other, job
    return None


def _others(key: str, settings: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, text) for name, text in settings.items() if name != key))
