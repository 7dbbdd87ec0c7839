"""Checkpoints: files that are whole or not there."""

from __future__ import annotations

import logging
import pickle
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ultravid.utils import comm
from ultravid.utils.errors import UserError
from ultravid.utils.file_io import replace_file

__all__ = ["CheckpointError", "DetectionCheckpointer", "load_file"]

logger = logging.getLogger(__name__)

_PERIODIC = re.compile(r"model_(\d{7,})\.pth")


class CheckpointError(UserError):
    """A checkpoint that can't be read or doesn't fit the model."""


class DetectionCheckpointer:
    """Saves and loads a model and what belongs to its training.

    A file is a dict: ``model`` (the state dict), ``iteration``, and one entry a checkpointable. It is written under a
    temporary name, flushed and renamed. ``last_checkpoint`` beside it names the newest one.

    Args:
        model: the plain module; one that is wrapped in DDP is unwrapped.
        save_dir: folder of the checkpoints.
        save_to_disk: whether this process writes; None: the main one does.
        checkpointables: by name, anything with ``state_dict`` and ``load_state_dict``.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str | Path = "",
        *,
        save_to_disk: bool | None = None,
        **checkpointables: Any,
    ) -> None:
        self.model = model.module if isinstance(model, DistributedDataParallel) else model
        self.save_dir = Path(save_dir)
        self.save_to_disk = comm.is_main_process() if save_to_disk is None else save_to_disk
        self.checkpointables: dict[str, Any] = {}
        for name, value in checkpointables.items():
            self.add_checkpointable(name, value)

    def add_checkpointable(self, key: str, checkpointable: Any) -> None:
        """Save and load this too.

        Raises:
            KeyError: the key is taken.
        """
        if key in self.checkpointables or key == "model":
            raise KeyError(f"Checkpoints already hold a {key!r}.")
        self.checkpointables[key] = checkpointable

    def save(self, name: str, *, tag_last: bool = True, **kwargs: Any) -> Path | None:
        """Write ``<name>.pth``.

        Args:
            name: without suffix.
            tag_last: whether it becomes the one to resume from; the best checkpoint does not.
            kwargs: further entries of the file, as ``iteration``.

        Returns:
            the file, None in a process that doesn't write.

        Raises:
            CheckpointError: it can't be written; older files stay as they are.
        """
        if not self.save_to_disk:
            return None
        data = {"model": self.model.state_dict()}
        data.update({key: value.state_dict() for key, value in self.checkpointables.items()})
        data.update(kwargs)
        path = self.save_dir / f"{name}.pth"
        try:
            self.save_dir.mkdir(parents=True, exist_ok=True)
            with replace_file(path) as file:
                torch.save(data, file)
            if tag_last:
                self.tag_last_checkpoint(path.name)
        # torch's writer turns a full disk into a RuntimeError.
        except (OSError, RuntimeError) as error:
            raise CheckpointError(
                f"Checkpoint {path} can't be written: {error}. Older checkpoints are untouched."
            ) from error
        logger.info("Saved checkpoint %s", path)
        return path

    def load(self, path: str | Path, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load the model and checkpointables.

        Args:
            path: the file; "" loads nothing.
            checkpointables: which of them; None: all. One that the file doesn't hold keeps its state.

        Returns:
            the file's other entries, as ``iteration``.

        Raises:
            CheckpointError: the file is missing or damaged, or doesn't fit the model: which keys, which shapes.
        """
        if not str(path):
            logger.info("No initial checkpoint: training from scratch.")
            return {}
        content = load_file(path)
        weights = content.pop("model", None)
        if weights is None:  # a bare state dict
            weights, content = content, {}
        self._load_model(weights, Path(path))
        for key in self.checkpointables if checkpointables is None else checkpointables:
            if key in content:
                try:
                    self.checkpointables[key].load_state_dict(content.pop(key))
                except (ValueError, KeyError, RuntimeError) as error:
                    raise CheckpointError(f"{path}: its {key!r} doesn't fit this run's: {error}") from error
        logger.info("Loaded checkpoint %s", path)
        return content

    def resume_or_load(self, path: str | Path, *, resume: bool = True) -> dict[str, Any]:
        """Load the newest good checkpoint of ``save_dir`` if asked to and there is one, else the weights of ``path``.

        Returns:
            as `load`.

        Raises:
            CheckpointError: there are checkpoints to resume from and none is good, or `load` fails.
        """
        if resume and self.has_checkpoint():
            return self._resume()
        if resume:
            logger.info("No checkpoint in %s to resume from: starting at iteration 0.", self.save_dir)
        return self.load(path, checkpointables=[])

    def has_checkpoint(self) -> bool:
        """Whether ``save_dir`` holds a checkpoint to resume from."""
        return self.get_checkpoint_file() != ""

    def get_checkpoint_file(self) -> str:
        """The newest checkpoint of ``save_dir``, "" where there is none.

        A process that was killed between writing its first checkpoint and naming it left a file without a name for it.
        """
        named = self.save_dir / "last_checkpoint"
        if named.is_file():
            return str(self.save_dir / named.read_text(encoding="utf-8").strip())
        periodic = self.periodic_checkpoints()
        return str(periodic[-1]) if periodic else ""

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Make a file of ``save_dir`` the one to resume from."""
        with replace_file(self.save_dir / "last_checkpoint") as file:
            file.write(last_filename_basename.encode())

    def set_earlier_run_aside(self) -> None:
        """A new run begins in ``save_dir``: move an older one's checkpoints to a folder of their own.

        Left where they are they would be taken for this run's, when it is resumed or when the oldest are removed.
        """
        old = [*self.save_dir.glob("model_*.pth"), *self.save_dir.glob("last_checkpoint")]
        if not self.save_to_disk or not old:
            return
        number = 1
        while (folder := self.save_dir / f"earlier_run_{number}").exists():
            number += 1
        folder.mkdir()
        for path in old:
            path.rename(folder / path.name)
        logger.warning(
            "%s holds an earlier run; its checkpoints were moved to %s. To take it up, give --resume.",
            self.save_dir,
            folder.name,
        )

    def periodic_checkpoints(self) -> list[Path]:
        """``model_<iteration>.pth`` of ``save_dir``, newest iteration last."""
        found = [(int(m[1]), p) for p in self.save_dir.glob("model_*.pth") if (m := _PERIODIC.fullmatch(p.name))]
        return [path for _, path in sorted(found)]

    def _resume(self) -> dict[str, Any]:
        last = Path(self.get_checkpoint_file())
        older = [p for p in reversed(self.periodic_checkpoints()) if p != last]
        for path in [last, *older]:
            try:
                load_file(path)
            except CheckpointError as error:
                logger.warning("Can't resume from %s (%s); trying the one before.", path.name, error)
                continue
            return self.load(path)
        raise CheckpointError(f"{self.save_dir}: no checkpoint to resume from is good, the last one is {last.name}.")

    def _load_model(self, weights: dict[str, Tensor], path: Path) -> None:
        weights = _from_torchvision_resnet(weights, self.model)
        expected = self.model.state_dict()
        shared = [k for k in expected if k in weights]
        partial = bool(weights) and all(k.startswith("backbone.") for k in weights)
        missing = [k for k in expected if k not in weights and not (partial and not k.startswith("backbone."))]
        unexpected = [k for k in weights if k not in expected]
        shapes = [
            f"{k} is {tuple(weights[k].shape)}, the model wants {tuple(expected[k].shape)}"
            for k in shared
            if weights[k].shape != expected[k].shape
        ]
        if missing or unexpected or shapes:
            parts = [
                f"{len(rows)} {what} ({', '.join(rows[:3])}{', ...' if len(rows) > 3 else ''})"
                for what, rows in (
                    ("keys of the model are missing in it", missing),
                    ("of its keys are unknown to the model", unexpected),
                    ("shapes differ", shapes),
                )
                if rows
            ]
            raise CheckpointError(f"{path} doesn't fit the model: {'; '.join(parts)}.")
        self.model.load_state_dict(weights, strict=False)
        if partial:
            logger.info("%s holds a backbone alone; the rest of the model starts from scratch.", path)


def load_file(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; tensors and plain data alone are admitted.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"Checkpoint {path} is not there.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"Checkpoint {path} can't be read, or holds more than tensors and plain data: {reason}"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"Checkpoint {path} is damaged: {str(error).partition(chr(10))[0]}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"Checkpoint {path} holds a {type(content).__name__}, not a dict.")
    return dict(content)


def _from_torchvision_resnet(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Torchvision's names of a ResNet as this package's, below ``backbone.``; the classifier and stages that the model lacks are left out."""
    if "layer1.0.conv1.weight" not in weights:
        return weights
    renamed = {}
    for name, value in weights.items():
        if name.startswith("fc."):
            continue
        name = re.sub(r"^(conv1|bn1)\.", r"stem.\1.", name)
        name = re.sub(r"^layer(\d)\.", lambda m: f"res{int(m[1]) + 1}.", name)
        name = re.sub(r"\bbn(\d)\.", r"conv\1.norm.", name)
        name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
        renamed[f"backbone.{name}"] = value
    stages = {k.split(".")[1] for k in model.state_dict() if k.startswith("backbone.")}
    kept = {k: v for k, v in renamed.items() if k.split(".")[1] in stages}
    frozen = "num_batches_tracked"  # which frozen batch norm does not count
    return {k: v for k, v in kept.items() if not k.endswith(frozen) or k in model.state_dict()}
