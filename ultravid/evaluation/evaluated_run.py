"""The run for which a model is evaluated, as a launcher or a training states it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from ultravid.config import ConfigError, Node, config_hash
from ultravid.config.nodes import resolve_environment
from ultravid.utils.run_folder import RunFolder

__all__ = ["EvaluatedRun", "TrainedWeights", "evaluated_run", "evaluating", "named_data_set"]


@dataclass(frozen=True)
class TrainedWeights:
    """The weights that a training has at the moment.

    Attributes:
        iteration: the last iteration that changed them.
        averaged: whether they are the averaged ones.
    """

    iteration: int
    averaged: bool = False


@dataclass(frozen=True)
class EvaluatedRun:
    """The run for which a model is evaluated.

    Attributes:
        folder: the folder of the run.
        config: the config of the run, if known.
        config_file: the file that holds the config, if it will not change; else the evaluation's folder gets a copy.
        weights: the weights of the training that evaluates; None: the weights that were loaded into the model.
        model: the model that is trained, if a training evaluates: of another one its weights say nothing. None: any.
        data_set: name of the data set, if there are several.
        identities: what the evaluations made for it depended on besides the weights: a hash for each, in the main process.
        recorded: the folders of the evaluations that were made for it, in the main process.
    """

    folder: RunFolder
    config: Node | None = None
    config_file: Path | None = None
    weights: TrainedWeights | None = None
    model: nn.Module | None = None
    data_set: str = ""
    identities: list[str] = field(default_factory=list)
    recorded: list[str] = field(default_factory=list)

    @classmethod
    def of_config(cls, cfg: Node) -> EvaluatedRun:
        """The run whose folder is ``train.output_dir`` of ``cfg``."""
        return cls(RunFolder(cfg.train.output_dir), cfg)


_CURRENT: ContextVar[EvaluatedRun | None] = ContextVar("evaluated_run", default=None)


@contextlib.contextmanager
def evaluating(run: EvaluatedRun) -> Iterator[EvaluatedRun]:
    """A context that states for which run evaluations are made.

    Inside another one, as that of a training which evaluates, the outer run stays: it knows the weights. Its config is replaced by
    one that describes another model or other data.

    Args:
        run: the run whose weights are evaluated.

    Returns:
        The run that counts inside the block: this one, or the outer one.
    """
    outer = _CURRENT.get()
    chosen = run if outer is None else outer
    if outer is not None and run.config is not None and _described(run.config) != _described(outer.config):
        chosen = replace(outer, config=run.config, config_file=None)
    token = _CURRENT.set(chosen)
    try:
        yield chosen
    finally:
        _CURRENT.reset(token)


@contextlib.contextmanager
def named_data_set(name: str) -> Iterator[None]:
    """A context in which one of several data sets is evaluated: what has no folder is recorded in one of that name."""
    run = _CURRENT.get()
    token = _CURRENT.set(None if run is None else replace(run, data_set=name))
    try:
        yield
    finally:
        _CURRENT.reset(token)


def evaluated_run() -> EvaluatedRun | None:
    """The run for which this code evaluates; None outside of `evaluating`."""
    return _CURRENT.get()


def _described(config: Node | None) -> str:
    """A hash of what a config says of the model and the data; "" if it can't be saved, as with live objects in it."""
    if config is None:
        return ""
    parts = Node({key: config.raw[key] for key in ("model", "dataloader", "data") if key in config}).copy()
    try:
        resolve_environment(parts)
        return config_hash(parts)
    except ConfigError:
        return ""
