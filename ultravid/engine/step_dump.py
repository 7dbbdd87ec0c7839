"""Dumps of steps in which a number was not finite, to repeat the step and find the module in which it first appeared.

Legend: ``P`` batches that one step accumulates.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ultravid.checkpoint.reading import CheckpointError
from ultravid.structures import Boxes, Clip, ImageList, Instances
from ultravid.utils.file_io import replace_file
from ultravid.utils.run_folder import RunFolder
from ultravid.utils.seed import generator_states, seed_step

__all__ = ["StepDump", "describe_batch", "first_nonfinite"]

logger = logging.getLogger(__name__)

_OWN_TYPES: list[Any] = [Boxes, Clip, ImageList, Instances]


def describe_batch(batch: Any) -> str:
    """Videos and frames of a batch, as text; its type if the samples do not name them."""
    rows = batch if isinstance(batch, list | tuple) else [batch]
    named = [f"{r.video_ids[0]} frames {r.frame_indices}" for r in rows if hasattr(r, "video_ids")]
    return "; ".join(named) or type(batch).__name__


@dataclass(frozen=True)
class StepDump:
    """All that is needed to repeat a step.

    Attributes:
        iteration: iteration of the step.
        seed: seed of the run, from which the step's generators follow (`seed_step`). None: they were not seeded.
        rank: rank of the process.
        batches: the ``P`` batches, as the loader gave them.
        samples: videos and frames of each batch, as text.
        losses: losses by name, as far as they were computed.
        model: state dict of the plain model: the parameters before the step, and the buffers (statistics of batch norm) after
            the forward pass.
        autocast: dtype of autocast in the forward pass, "float16" or "bfloat16"; None without autocast.
        generators: states of the global generators before the step, or after it if the run has no seed.
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
        """Write the dump to ``<folder>/step_dumps/``.

        Returns:
            a sentence for the error message that says where it is; "" if it could not be written, which is logged.
        """
        if self.seed is not None:
            seed_step(self.seed, self.iteration, self.rank)
        content = {name: getattr(self, name) for name in self.__dataclass_fields__}
        content["generators"] = generator_states()
        path = RunFolder(folder).step_dumps / f"iteration_{self.iteration:07d}_rank{self.rank}.pth"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(path) as file:
                torch.save(content, file)
        except (OSError, RuntimeError) as error:  # the step's own error matters more than this one
            logger.warning("The step could not be written to %s: %s", path, error)
            return ""
        return f". The step was kept: python tools/replay.py {path}"

    @classmethod
    def read(cls, path: str | Path, *, trust: bool = False) -> StepDump:
        """Read what `write` wrote.

        Args:
            path: the file.
            trust: allow batches of any type; reading the file may then run code that it names.

        Raises:
            CheckpointError: it is missing, damaged, not a step dump, or holds types that are not this package's.
        """
        if not Path(path).is_file():
            raise CheckpointError(f"Step dump {path} does not exist.")
        try:
            with torch.serialization.safe_globals(_OWN_TYPES):
                content = torch.load(path, map_location="cpu", weights_only=not trust)
            if not isinstance(content, dict) or content.keys() != cls.__dataclass_fields__.keys():
                raise CheckpointError(f"{path} is not a step dump.")
            return cls(**content)
        except CheckpointError:
            raise
        except Exception as error:  # a cut or foreign file raises anything
            first = str(error).partition("\n")[0]
            hint = "" if trust else " If its batches are of your own type and you trust the file, add --trust."
            raise CheckpointError(f"Step dump {path} can't be read: {first}.{hint}") from error


def first_nonfinite(model: nn.Module, step: Callable[[], Tensor]) -> str | None:
    """Repeat a step and name the first place at which a number is not finite.

    Args:
        model: its modules are checked in the order in which they finish; of nested ones the innermost with finite inputs is
            named.
        step: runs the forward pass and returns the loss.

    Returns:
        a sentence that names the module whose output is not finite, the loss, or the first gradient; None if all numbers are
        finite.

    Raises:
        FloatingPointError: raised by the model itself although the outputs of all its modules are finite.
    """
    watch = _Watch()
    with watch.over(model):
        try:
            loss = step()
        except (
            FloatingPointError
        ):  # the model checks its numbers itself, after the place where the first was not finite
            if not watch.outputs:
                raise
            return watch.first_output()
        if watch.outputs:
            return watch.first_output()
        if not bool(torch.isfinite(loss).all()):
            return "The loss is not finite, though the outputs of all modules are."
        loss.backward()
    if watch.gradients:
        return f"The gradient that reaches the output of {watch.gradients[0]} is not finite; all outputs are."
    for name, value in model.named_parameters():
        if value.grad is not None and not bool(torch.isfinite(value.grad).all()):
            return f"The gradient of {name} is not finite, though the outputs of all modules and their gradients are."
    return None


@dataclass
class _Watch:
    """Where numbers were not finite, in the order in which they were computed.

    Attributes:
        outputs: name and class of each module whose output was not finite, and whether its inputs were finite.
        gradients: name of each module whose output's gradient was not finite.
    """

    outputs: list[tuple[str, str, bool]] = field(default_factory=list)
    gradients: list[str] = field(default_factory=list)

    @contextmanager
    def over(self, model: nn.Module) -> Iterator[None]:
        handles = [module.register_forward_hook(self._hook(name)) for name, module in model.named_modules()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def reached(gradient: Tensor) -> None:
            if not _is_finite(gradient):
                self.gradients.append(name or "the model")

        def forward(module: nn.Module, inputs: Any, output: Any) -> None:
            if not _is_finite(output):
                self.outputs.append((name, type(module).__name__, _is_finite(inputs)))
            for tensor in _tensors(output):
                if tensor.requires_grad:
                    tensor.register_hook(reached)

        return forward

    def first_output(self) -> str:
        """Names the innermost module around the first bad output that had finite inputs, else the module of that output."""
        first = self.outputs[0][0]
        around = [row for row in self.outputs if row[2] and f"{first}.".startswith(f"{row[0]}." if row[0] else "")]
        name, kind, inputs_finite = around[0] if around else self.outputs[0]
        whose = "its inputs are finite" if inputs_finite else "as some of its inputs are"
        return f"The output of {name or 'the model'} ({kind}) is not finite; {whose}."


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
