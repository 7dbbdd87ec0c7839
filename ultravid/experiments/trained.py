"""Checks whether a run of an experiment is finished, under the config that it should have."""

from __future__ import annotations

from pathlib import Path

from ultravid.config import Node
from ultravid.config.resume import significant_changes
from ultravid.evaluation.records import EvaluationRecord, read_record
from ultravid.utils.run_folder import RunFolder, RunState

__all__ = ["changed_at", "is_trained"]


def is_trained(run: RunFolder, cfg: Node) -> bool:
    """Whether training finished under this config, and the evaluation in the folder is still that of its end.

    Args:
        run: the folder of the run.
        cfg: the config that the run should have had; only significant keys are compared.
    """
    if not (run.prediction_manifest.is_file() and run.evaluation_metrics.is_file() and run.final_checkpoint()):
        return False
    if run.state() is not RunState.FINISHED:
        return False
    record = read_record(run.evaluation)
    if record is not None:
        return _is_of_the_end(record, run, cfg) and not significant_changes(cfg, run.config)
    if run.eval_config.is_file() and changed_at(run.eval_config) > changed_at(run.config):
        return False
    return not significant_changes(cfg, run.config)


def _is_of_the_end(record: EvaluationRecord, run: RunFolder, cfg: Node) -> bool:
    """Whether an evaluation is of the weights after the last iteration, under this config."""
    max_iter = (run.newest_record() or {}).get("max_iter")
    last = None if max_iter is None else max_iter - 1
    is_last = last is None or record.weights.get("iteration") == last
    is_same = record.config is not None and not significant_changes(cfg, record.config)
    return record.has_ended and is_last and is_same


def changed_at(path: Path) -> int:
    """When a file was last written, in nanoseconds."""
    return path.stat().st_mtime_ns
