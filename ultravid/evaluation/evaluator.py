"""Run a model over frames and pass inputs and outputs to evaluators."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import nn

from ultravid.data.class_checks import check_num_classes, check_organs
from ultravid.evaluation.evaluated_run import named_data_set
from ultravid.evaluation.recording import Recording, recorded_evaluation
from ultravid.utils import comm

__all__ = [
    "DatasetEvaluator",
    "DatasetEvaluators",
    "inference_context",
    "inference_on_dataset",
    "inference_on_datasets",
    "model_fingerprint",
]

logger = logging.getLogger(__name__)

_WARMUP_FRAMES = 5


class DatasetEvaluator:
    """Receives each input and output of a model, and computes results at the end.

    `inference_on_dataset` calls an evaluator like this, in each process::

        evaluator.reset()
        for inputs in data_loader:  # a list with one dict for each frame
            evaluator.process(inputs, model(inputs))
        metrics = evaluator.evaluate()  # {"AP50": 61.5}, in the main process

    To write one, override these three methods.

    An evaluator that writes files has the attribute ``output_dir`` (or ``_output_dir``, as in detectron2) for their folder, and creates
    the folder when it writes: `inference_on_dataset` sets another folder if the weights are not those of the run (`docs/runs.md`).

    Attributes:
        metric_names: names of the metrics, if they are known beforehand; None if not. A training compares them with the name of
            the metric by which it keeps the best checkpoint before its first evaluation.
        logs_metrics: whether `evaluate` logs the metrics that ``metric_names`` declares; a training logs all others.
    """

    metric_names: Sequence[str] | None = None
    logs_metrics: bool = False

    def settings(self) -> dict[str, Any]:
        """Settings on which the results depend, besides inputs and outputs, for the record of the evaluation: plain data by name."""
        return {}

    def reset(self) -> None:
        """Prepare for a new evaluation; called before the first frame."""

    def begin(self, fingerprint: Callable[[], str]) -> None:
        """Called by `inference_on_dataset` after `reset`, for evaluators that reuse saved outputs.

        Args:
            fingerprint: returns a text that is the same for the same weights and settings of the model (`model_fingerprint`). It reads all
                weights, so call it only if it is needed.
        """

    def cached_outputs(self, inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]] | None:
        """The model's outputs for these inputs, if an interrupted evaluation saved them; None if not.

        Inputs with saved outputs are not passed to the model, so either all frames of a video must have them or none.

        Args:
            inputs: a batch of the loader, as of `process`.

        Returns:
            ``{"instances": Instances}`` for each input, which is passed to `process` in place of the model's output.
        """
        del inputs
        return None

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Add a batch: the inputs from the loader, and the model's output for each of them.

        Args:
            inputs: the test items: ``image``, ``video_id``, ``frame_index`` and what else the loader gives.
            outputs: for each item what the model returned, ``{"instances": Instances}``.
        """

    def evaluate(self) -> dict[str, Any] | None:
        """Compute the results over all processes: metrics by name in the main process, None in the others."""
        return None


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one; their results are merged into one dict.

    Args:
        evaluators: the evaluators, called in this order.
    """

    def __init__(self, evaluators: Sequence[DatasetEvaluator]) -> None:
        self._evaluators = list(evaluators)

    def flat(self) -> list[DatasetEvaluator]:
        """The evaluators, without nesting."""
        return [part for each in self._evaluators for part in _flat(each)]

    def reset(self) -> None:
        """Reset all evaluators."""
        for evaluator in self._evaluators:
            evaluator.reset()

    def begin(self, fingerprint: Callable[[], str]) -> None:
        """Call `DatasetEvaluator.begin` of all evaluators, with the same ``fingerprint``."""
        for evaluator in self._evaluators:
            evaluator.begin(fingerprint)

    def cached_outputs(self, inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]] | None:
        """`DatasetEvaluator.cached_outputs` of the first evaluator that has outputs for ``inputs``."""
        known = (evaluator.cached_outputs(inputs) for evaluator in self._evaluators)
        return next((outputs for outputs in known if outputs is not None), None)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Pass ``inputs`` and ``outputs``, as of `DatasetEvaluator.process`, to all evaluators."""
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, Any]:
        """The merged results.

        Raises:
            ValueError: two evaluators return a metric of the same name.
        """
        results: OrderedDict[str, Any] = OrderedDict()
        for evaluator in self._evaluators:
            for name, value in (evaluator.evaluate() or {}).items():
                if name in results:
                    raise ValueError(f"Two evaluators return a metric named {name!r}.")
                results[name] = value
        return results


def _flat(evaluator: DatasetEvaluator) -> list[DatasetEvaluator]:
    """The single evaluators that an evaluator consists of; empty for an evaluator that evaluates nothing."""
    if type(evaluator) is DatasetEvaluator:
        return []
    return evaluator.flat() if isinstance(evaluator, DatasetEvaluators) else [evaluator]


def inference_on_dataset(
    model: nn.Module,
    data_loader: Iterable[list[dict[str, Any]]],
    evaluator: DatasetEvaluator | Sequence[DatasetEvaluator] | None,
    callbacks: Mapping[str, Any] | None = None,
    described_by: str = "",
) -> dict[str, Any]:
    """Run the model over a loader, frame after frame, and evaluate.

    The folder of each evaluator, or ``inference`` of the run if none has one, gets a ``record.json`` that says which weights
    were evaluated, on what, how and when (`ultravid.evaluation.records`).

    Args:
        model: put into evaluation mode, and back afterwards. If it has a method ``reset``, it is called before and after.
        data_loader: lists of inputs; this process's share of the frames.
        evaluator: one evaluator, several, or None to run the model without evaluation.
        callbacks: functions without arguments, called at "on_start", "before_inference", "after_inference" and "on_end".
        described_by: text that identifies what else the model's output depends on besides its weights, for example the hash
            of its config, which "" stands for if the config is known (`evaluating`). It is part of the fingerprint by which an
            interrupted evaluation is resumed.

    Returns:
        metrics by name in the main process, an empty dict in the others. The speed is logged.

    Raises:
        UserError: another process is writing an evaluation to the same folder, the processes have different weights, or the model
            has fewer classes than the data, or does not know their organ.
    """
    check_num_classes(model, data_loader)
    check_organs(model, data_loader)
    evaluator = DatasetEvaluators(evaluator) if isinstance(evaluator, Sequence) else evaluator or DatasetEvaluator()
    _share_buffers(model)
    with recorded_evaluation(
        model, data_loader, _flat(evaluator), functools.partial(model_fingerprint, model), described_by
    ) as recording:
        evaluator.reset()
        recording.begin()
        evaluator.begin(recording.fingerprint)
        seconds = _run(model, data_loader, evaluator, callbacks or {}, recording)
        _log_speed(seconds)
        results = evaluator.evaluate() or {}
        recording.results = results
    return results


def _run(
    model: nn.Module,
    data_loader: Iterable[list[dict[str, Any]]],
    evaluator: DatasetEvaluator,
    callbacks: Mapping[str, Any],
    recording: Recording,
) -> list[float]:
    """Pass all inputs to the model and its outputs to the evaluator; returns the seconds that each batch took."""
    total = len(data_loader) if isinstance(data_loader, Sized) else None
    logger.info("Start inference on %s batches", total if total is not None else "an unknown number of")
    seconds: list[float] = []
    start = time.perf_counter()
    next_log = start + 10
    reset = getattr(model, "reset", lambda: None)
    with inference_context(model), torch.inference_mode():
        reset()
        callbacks.get("on_start", lambda: None)()
        for index, inputs in enumerate(data_loader):
            cached = evaluator.cached_outputs(inputs)
            recording.saw(inputs, cached is not None)
            if cached is not None:
                evaluator.process(inputs, cached)
                continue
            outputs, taken = _timed(model, inputs, callbacks)
            seconds.append(taken)
            evaluator.process(inputs, outputs)
            if time.perf_counter() > next_log:
                next_log = time.perf_counter() + 10
                each = (time.perf_counter() - start) / len(seconds)  # loading and evaluator included
                eta = f", eta {timedelta(seconds=int(each * (total - index - 1)))}" if total is not None else ""
                done = f"{index + 1}/{'?' if total is None else total}"
                logger.info("Inference done %s, %.4f s per batch%s", done, float(np.mean(seconds)), eta)
        callbacks.get("on_end", lambda: None)()
        reset()
    return seconds


def _timed(
    model: nn.Module, inputs: list[dict[str, Any]], callbacks: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], float]:
    """Outputs of a batch, and the seconds that they took on host and device."""
    start = time.perf_counter()
    callbacks.get("before_inference", lambda: None)()
    outputs = model(inputs)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    callbacks.get("after_inference", lambda: None)()
    return outputs, time.perf_counter() - start


def inference_on_datasets(
    model: nn.Module,
    data_loader: Mapping[str, Iterable[list[dict[str, Any]]]],
    evaluator: Mapping[str, DatasetEvaluator | Sequence[DatasetEvaluator] | None],
    described_by: str = "",
) -> dict[str, Any]:
    """`inference_on_dataset` for several data sets, one after the other.

    Args:
        model: as in `inference_on_dataset`.
        data_loader: the loader of each data set, by name.
        evaluator: the evaluator of each, by the same names.
        described_by: as in `inference_on_dataset`.

    Returns:
        metrics by data set and name.
    """
    results = {}
    for name, loader in data_loader.items():
        with named_data_set(name):
            results[name] = inference_on_dataset(model, loader, evaluator[name], described_by=described_by)
    return results


def _share_buffers(model: nn.Module) -> None:
    """Copy the main process's buffers to all others: batch statistics differ between them, but one model is evaluated."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)


def model_fingerprint(model: nn.Module, described_by: str = "") -> str:
    """A hash of a model's parameters and buffers, and of a text that identifies the rest of it."""
    digest = hashlib.sha256(described_by.encode())
    # Not from the state dict: making one, FSDP2 shards again what was gathered for the evaluation.
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        copied = (
            value.detach().cpu().clone().contiguous()
        )  # a copy: memory shared with numpy could not be freed, which FSDP2 does
        digest.update(copied.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _log_speed(seconds: list[float]) -> None:
    timed = np.asarray(seconds[min(_WARMUP_FRAMES, len(seconds) - 1) :] if seconds else [])
    gathered = comm.gather(timed)
    if not comm.is_main_process() or not any(len(t) for t in gathered):
        return
    pooled = np.concatenate(gathered) * 1000
    p50, p95, p99 = np.percentile(pooled, [50, 95, 99])
    logger.info(
        "Speed per process: %.1f batches per second (model and synchronisation, loading excluded); ms per batch: p50 %.1f, "
        "p95 %.1f, p99 %.1f",
        1000 / pooled.mean(),
        p50,
        p95,
        p99,
    )


@contextlib.contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode inside the block, and restore the mode of each of its modules afterwards.

    Args:
        model: the model; the modes are restored after an error, too.
    """
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        model.train(training[0][1])  # a model's own may do more than set modes
        for module, mode in training:
            module.training = mode
