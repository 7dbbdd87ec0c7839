"""The position of a run in its training data, so that a resumed run continues there."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import yaml

__all__ = ["DataPosition"]

logger = logging.getLogger(__name__)


class DataPosition:
    """How many batches of its loader a run has taken, in all attempts.

    It is counted, not computed from the iteration: a run may be resumed with another number of batches a step, or of samples a
    batch. A loader says by an attribute ``total_batch_size`` how many samples a batch has, in all processes together.

    Attributes:
        num_batches: the count; None before the first batch of an attempt.
    """

    def __init__(self) -> None:
        self.num_batches: int | None = None
        self._total_batch_size: int | None = None
        self._saved: dict[str, Any] = {}

    def begin(self, loader: object, iteration: int, batches_per_step: int) -> int:
        """The number of the loader's batch that comes next.

        Args:
            loader: the loader of the batches.
            iteration: with which the attempt starts. A checkpoint of the iteration before has the count; without one, it is
                ``iteration * batches_per_step``.
            batches_per_step: number of batches that a step takes now.
        """
        self._total_batch_size = getattr(loader, "total_batch_size", None)
        if self.num_batches is None:
            self.num_batches = iteration * batches_per_step
            if self._saved.get("iteration") == iteration - 1:
                self.num_batches = self._resumed(self._saved["num_batches"], self._saved["total_batch_size"])
        return self.num_batches

    def _resumed(self, num_batches: int, size_before: int | None) -> int:
        size = self._total_batch_size
        if size is None or size_before is None or size == size_before:
            return num_batches
        samples = num_batches * size_before
        first = -(-samples // size)
        logger.info(
            "The batch size has changed from %d to %d: after %d samples in %d batches, the data continue with batch %d%s.",
            *(size_before, size, samples, num_batches, first),
            "" if first * size == samples else f", sample {first * size}",
        )
        return first

    def state_dict(self) -> dict[str, Any]:
        """The count and the size of a batch; empty if no batch was taken yet, in no attempt."""
        if self.num_batches is None:  # resumed after the last iteration
            return {name: value for name, value in self._saved.items() if name != "iteration"}
        return {"num_batches": self.num_batches, "total_batch_size": self._total_batch_size}

    def load_state_dict(self, state: Mapping[str, Any], iteration: int) -> None:
        """Restore what `state_dict` returned after an iteration."""
        self.num_batches = None
        self._saved = {**state, "iteration": iteration} if state else {}

    def load_config(self, config: str, iteration: int, batches_per_step: int) -> None:
        """Compute the count of a checkpoint that does not hold it, as those of version 0.1.

        Args:
            config: the config with which it was saved, as YAML; "" if it is not known.
            iteration: its last one.
            batches_per_step: number of batches that a step takes now, which is taken if the config does not say it.
        """
        try:
            content = yaml.safe_load(config)
        except yaml.YAMLError:
            content = None
        saved = _number_at(content, "trainer", "accumulation", "num_batches")
        saved = saved or _number_at(content, "trainer", "accumulate")  # its name in version 0.1
        then = saved or batches_per_step
        size = _number_at(content, "dataloader", "train", "total_batch_size")
        state = {"num_batches": (iteration + 1) * then, "total_batch_size": size}
        self.load_state_dict(state, iteration)
        logger.warning(
            "The checkpoint was saved by an earlier version and does not say how many batches the run has used. Assumed: %d, with %d per step as %s.",
            *(state["num_batches"], then, "its config says" if saved else "now"),
        )


def _number_at(content: Any, *keys: str) -> int | None:
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content if isinstance(content, int) else None
