"""Run a model over frames and let evaluators look at what it says."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import torch
from torch import nn

from ultravid.utils import comm

__all__ = ["DatasetEvaluator", "DatasetEvaluators", "inference_on_dataset", "model_fingerprint"]

logger = logging.getLogger(__name__)

_WARMUP_FRAMES = 5


class DatasetEvaluator:
    """Looks at each input and output of a model, and sums up at the end."""

    def reset(self) -> None:
        """Forget everything; called before a round of evaluation."""

    def begin(self, fingerprint: Callable[[], str]) -> None:
        """Called after `reset` where a model is run; ``fingerprint()`` says what it is made of (`model_fingerprint`)."""

    def cached_outputs(self, inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]] | None:
        """What the model said of these inputs in an evaluation that was interrupted; None where that is not known.

        Inputs of which it is known are not given to the model: it must be so for all frames of a video or for none.
        """
        del inputs
        return None

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Look at a batch: inputs as the loader gave them, outputs as the model did, one for one."""

    def evaluate(self) -> dict[str, Any] | None:
        """Sum up over all processes: figures by name in the main process, None elsewhere."""
        return None


class DatasetEvaluators(DatasetEvaluator):
    """Several evaluators as one; their figures are joined."""

    def __init__(self, evaluators: Sequence[DatasetEvaluator]) -> None:
        self._evaluators = list(evaluators)

    def reset(self) -> None:
        """See `DatasetEvaluator`."""
        for evaluator in self._evaluators:
            evaluator.reset()

    def begin(self, fingerprint: Callable[[], str]) -> None:
        """See `DatasetEvaluator`."""
        for evaluator in self._evaluators:
            evaluator.begin(fingerprint)

    def cached_outputs(self, inputs: Sequence[dict[str, Any]]) -> list[dict[str, Any]] | None:
        """See `DatasetEvaluator`; the first that knows."""
        known = (evaluator.cached_outputs(inputs) for evaluator in self._evaluators)
        return next((outputs for outputs in known if outputs is not None), None)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """See `DatasetEvaluator`."""
        for evaluator in self._evaluators:
            evaluator.process(inputs, outputs)

    def evaluate(self) -> dict[str, Any]:
        """See `DatasetEvaluator`.

        Raises:
            ValueError: two evaluators give a figure of one name.
        """
        results: OrderedDict[str, Any] = OrderedDict()
        for evaluator in self._evaluators:
            for name, value in (evaluator.evaluate() or {}).items():
                if name in results:
                    raise ValueError(f"Two evaluators give a figure {name!r}.")
                results[name] = value
        return results


def inference_on_dataset(
    model: nn.Module,
    data_loader: Iterable[list[dict[str, Any]]],
    evaluator: DatasetEvaluator | Sequence[DatasetEvaluator] | None,
    callbacks: Mapping[str, Any] | None = None,
    described_by: str = "",
) -> dict[str, Any]:
    """Run the model over a loader, frame after frame, and evaluate.

    Args:
        model: is put into evaluation mode and back afterwards. If it has ``reset``, that is called before and after.
        data_loader: lists of inputs; this process's share of the frames.
        evaluator: one, several, or None to run the model alone.
        callbacks: functions of no argument called at "on_start", "before_inference", "after_inference" and "on_end".
        described_by: what beside the weights makes the model's output, as the hash of its config.

    Returns:
        figures by name; empty in all processes but the main one. The speed goes to the log.
    """
    callbacks = callbacks or {}
    evaluator = DatasetEvaluators(evaluator) if isinstance(evaluator, Sequence) else evaluator or DatasetEvaluator()
    evaluator.reset()
    evaluator.begin(lambda: model_fingerprint(model, described_by))
    total = len(data_loader) if isinstance(data_loader, Sized) else None
    logger.info("Start inference on %s batches", total if total is not None else "an unknown number of")
    seconds: list[float] = []
    next_log = time.perf_counter() + 10
    reset = getattr(model, "reset", lambda: None)
    _share_buffers(model)
    with inference_context(model), torch.inference_mode():
        reset()
        callbacks.get("on_start", lambda: None)()
        for index, inputs in enumerate(data_loader):
            stored = evaluator.cached_outputs(inputs)
            if stored is not None:
                evaluator.process(inputs, stored)
                continue
            outputs, taken = _timed(model, inputs, callbacks)
            seconds.append(taken)
            evaluator.process(inputs, outputs)
            if time.perf_counter() > next_log:
                next_log = time.perf_counter() + 10
                logger.info(
                    "Inference done %d/%s, %.4f s a batch",
                    index + 1,
                    total or "?",
                    float(np.mean(seconds)),
                )
        callbacks.get("on_end", lambda: None)()
        reset()
    _log_speed(seconds)
    return evaluator.evaluate() or {}


def _timed(
    model: nn.Module, inputs: list[dict[str, Any]], callbacks: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], float]:
    """Outputs of a batch and the seconds they took, the device's included."""
    start = time.perf_counter()
    callbacks.get("before_inference", lambda: None)()
    outputs = model(inputs)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    callbacks.get("after_inference", lambda: None)()
    return outputs, time.perf_counter() - start


def _share_buffers(model: nn.Module) -> None:
    """Give every process the main one's buffers: batch statistics drift apart in training, and one model is evaluated."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)


def model_fingerprint(model: nn.Module, described_by: str = "") -> str:
    """A hash of a model's weights and buffers, and of a text that describes the rest of it."""
    digest = hashlib.sha256(described_by.encode())
    # Not the state dict: to make one, FSDP2 scatters what was gathered for the evaluation.
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        copied = value.detach().cpu().clone().contiguous()  # numpy() would pin the memory, which FSDP2 frees afterwards
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
        "Speed of a process: %.1f batches a second (model and synchronisation, loading excluded); ms a batch: p50 %.1f, "
        "p95 %.1f, p99 %.1f",
        1000 / pooled.mean(),
        p50,
        p95,
        p99,
    )


@contextlib.contextmanager
def inference_context(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode in the block, and as it was afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
