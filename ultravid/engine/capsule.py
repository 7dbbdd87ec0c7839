"""A step in which a number was not finite, kept so that it can be repeated, and the search for where it came from.

Legend: ``P`` parts that a step accumulates.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ultravid.checkpoint.reading import CheckpointError
from ultravid.structures import Boxes, Clip, ImageList, Instances
from ultravid.utils.file_io import replace_file
from ultravid.utils.seed import seed_step

__all__ = ["Capsule", "describe_batch", "first_nonfinite"]

logger = logging.getLogger(__name__)

_OWN_TYPES: list[Any] = [Boxes, Clip, ImageList, Instances]


def describe_batch(batch: Any) -> str:
    """The samples of a batch, as far as they say who they are."""
    rows = batch if isinstance(batch, list | tuple) else [batch]
    named = [f"{r.video_ids[0]} frames {r.frame_indices}" for r in rows if hasattr(r, "video_ids")]
    return "; ".join(named) or type(batch).__name__


@dataclass(frozen=True)
class Capsule:
    """What a step was made of.

    Attributes:
        iteration: of the step.
        seed: of the run; the generators of the step follow from it (`seed_step`). None: they were not seeded.
        rank: of the process.
        batches: the ``P`` batches, as the loader gave them.
        samples: for each batch, who is in it.
        losses: by name, as far as they were computed.
        model: state dict of the plain model. Its parameters are those before the step, its buffers (the statistics of batch
            norm) have seen the forward pass.
        autocast: "float16" or "bfloat16" where the forward pass ran in it.
        generators: states of torch's generators before the step (after it, where the run has no seed), and of numpy's and
            python's after it.
    """

    iteration: int
    seed: int | None
    rank: int
    batches: list[Any]
    samples: list[str]
    losses: dict[str, float]
    model: dict[str, Tensor]
    autocast: str | None = None
    generators: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: str | Path) -> str:
        """Write it to ``<folder>/capsules/`` and give a sentence that says where, or that it could not be written."""
        if self.seed is not None:
            seed_step(self.seed, self.iteration, self.rank)
        generators: dict[str, Any] = {"cpu": torch.get_rng_state(), "python": random.getstate()}
        if torch.cuda.is_initialized():
            generators["cuda"] = torch.cuda.get_rng_state()
        kind, keys, *rest = np.random.get_state()  # noqa: NPY002  # the global stream, which a model may draw from
        generators["numpy"] = (kind, torch.from_numpy(np.asarray(keys).copy()), *rest)
        content = {name: getattr(self, name) for name in self.__dataclass_fields__}
        content["generators"] = generators
        path = Path(folder) / "capsules" / f"iteration_{self.iteration:07d}_rank{self.rank}.pth"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(path) as file:
                torch.save(content, file)
        except (OSError, RuntimeError) as error:  # the number that is not finite is the news, not this
            logger.warning("The step could not be kept in %s: %s", path, error)
            return ""
        return f". The step was kept: python tools/replay.py {path}"

    @classmethod
    def read(cls, path: str | Path, *, trust: bool = False) -> Capsule:
        """Read what `write` wrote.

        Args:
            path: the file.
            trust: admit batches of any type; reading one may then run code that the file names.

        Raises:
            CheckpointError: it is missing, damaged, no capsule, or holds types that are not this package's.
        """
        if not Path(path).is_file():
            raise CheckpointError(f"Capsule {path} is not there.")
        try:
            with torch.serialization.safe_globals(_OWN_TYPES):
                content = torch.load(path, map_location="cpu", weights_only=not trust)
            return cls(**content)
        except Exception as error:  # a cut or foreign file raises anything
            first = str(error).partition("\n")[0]
            hint = "" if trust else " If its batches are of a type of your own, and you made the file, give --trust."
            raise CheckpointError(f"Capsule {path} can't be read: {first}{hint}") from error


def first_nonfinite(model: nn.Module, step: Callable[[], Tensor]) -> str | None:
    """Repeat a step and name the first place at which a number is not finite.

    Args:
        model: its modules are watched, in the order in which they finish; of nested ones the innermost is first.
        step: runs the forward pass and gives the loss.

    Returns:
        a sentence: the module whose output, the loss, or the module that a gradient reaches; None where all is finite.

    Raises:
        FloatingPointError: the model's own, where the outputs of all modules are finite.
    """
    found: list[str] = []
    with _watched(model, found):
        try:
            loss = step()
        except FloatingPointError:  # a check of the model's own, past the place where it began
            if not found:
                raise
            return found[0]
        if not found and not bool(torch.isfinite(loss).all()):
            found.append("The loss is not finite, though the outputs of all modules are.")
        if not found:
            loss.backward()
    if found:
        return found[0]
    for name, value in model.named_parameters():
        if value.grad is not None and not bool(torch.isfinite(value.grad).all()):
            return f"The gradient of {name} is not finite, though no module's outputs and their gradients are."
    return None


@contextmanager
def _watched(model: nn.Module, found: list[str]) -> Iterator[None]:
    handles = []

    def backward(label: str, gradient: Tensor) -> None:
        if not _is_finite(gradient):
            found.append(f"The gradient that reaches the output of {label} is not finite; all outputs are.")

    for name, module in model.named_modules():
        label = f"{name or '(the model)'} ({type(module).__name__})"

        def forward(_: nn.Module, inputs: Any, output: Any, label: str = label) -> None:
            if not _is_finite(output):
                whose = "its inputs are finite" if _is_finite(inputs) else "as some of its inputs are"
                found.append(f"The output of {label} is not finite; {whose}.")
            for tensor in _tensors(output):
                if tensor.requires_grad:
                    tensor.register_hook(lambda gradient: backward(label, gradient))

        handles.append(module.register_forward_hook(forward))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_finite(value: Any) -> bool:
    return all(not t.is_floating_point() or bool(torch.isfinite(t).all()) for t in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors of a value, however they are nested."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Boxes | ImageList):
        yield value.tensor
    elif isinstance(value, Instances):
        yield from _tensors(list(value.get_fields().values()))
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)
