"""Checkpoints: files that are whole or not there."""

from __future__ import annotations

import logging
import re
import shutil
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from ultravid.checkpoint.manifest import MANIFEST, changed_since_written, enter, listed, sha256_of
from ultravid.checkpoint.reading import CheckpointError, load_file
from ultravid.checkpoint.snapshot import Snapshot, refuse_what_cannot_be_read
from ultravid.checkpoint.weights import load_weights
from ultravid.utils import comm
from ultravid.utils.file_io import next_free_path, remove_path, replace_file

__all__ = ["AVERAGED", "DetectionCheckpointer"]

logger = logging.getLogger(__name__)

AVERAGED = "averaged_model"
"""The entry that holds averaged weights (`ultravid.engine.hooks.EMA`), beside ``model``, which training goes on from."""

_ITERATION = re.compile(r"(.+)_(\d{7,})")


class DetectionCheckpointer:
    """Saves and loads a model and what belongs to its training.

    A file is a dict: ``model`` (the state dict), ``iteration``, and one entry a checkpointable. It is written under a
    temporary name, flushed to disk and renamed; ``manifest.json`` beside it holds its hash. ``last_checkpoint`` names the one
    to resume from, ``best_checkpoint`` the best by some figure.

    Args:
        model: the plain module; one that is wrapped in DDP is unwrapped.
        save_dir: folder of the checkpoints.
        save_to_disk: whether this process writes; None: the main one does.
        background: `save` returns when the state is copied, and a thread writes it; `wait` waits for that.
        on_error: a file that can't be written, as on a full disk, is an error ("stop") or one line in the log ("continue").
            What the end of a run rests on is an error either way.
        checkpointables: by name, anything with ``state_dict`` and ``load_state_dict``.
    """

    suffix: ClassVar[str] = ".pth"
    last: ClassVar[str] = "last_checkpoint"
    best: ClassVar[str] = "best_checkpoint"

    def __init__(
        self,
        model: nn.Module,
        save_dir: str | Path = "",
        *,
        save_to_disk: bool | None = None,
        background: bool = False,
        on_error: str = "stop",
        **checkpointables: Any,
    ) -> None:
        if on_error not in ("stop", "continue"):
            raise ValueError(f"on_error={on_error!r} is neither 'stop' nor 'continue'.")
        self.model = comm.unwrapped(model)
        self.save_dir = Path(save_dir)
        self.save_to_disk = comm.is_main_process() if save_to_disk is None else save_to_disk
        self.background = background
        self.on_error = on_error
        self.checkpointables: dict[str, Any] = {}
        self._snapshot = Snapshot()
        self._thread: threading.Thread | None = None
        self._failure: CheckpointError | None = None
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

    def save(
        self, name: str, *, tag_last: bool = True, tag_best: bool = False, remove: Iterable[Path] = (), **kwargs: Any
    ) -> Path | None:
        """Write ``<name>.pth``. A file that is still being written is waited for first.

        Args:
            name: without suffix.
            tag_last: whether it becomes the one to resume from; the best checkpoint does not.
            tag_best: whether ``best_checkpoint`` names it.
            remove: older files that go when this one stands.
            kwargs: further entries of the file, as ``iteration``.

        Returns:
            the file, None in a process that doesn't write.

        Raises:
            CheckpointError: it, or the one before it, can't be written; older files stay as they are.
        """
        if not self.save_to_disk:
            return None
        self.wait()
        start = time.perf_counter()
        data = {"model": self.model.state_dict()}
        data.update({key: value.state_dict() for key, value in self.checkpointables.items()})
        data.update(kwargs)
        refuse_what_cannot_be_read(data)
        path = self.save_dir / f"{name}{self.suffix}"
        tags = [tag for tag, wanted in ((self.last, tag_last), (self.best, tag_best)) if wanted]
        if not self.background:
            self._write(path, data, tags, tuple(remove), start)
            if self.on_error == "stop":
                self.raise_failure()
            return path
        self._thread = threading.Thread(
            target=self._write,
            args=(path, self._snapshot.take(data), tags, tuple(remove), start),
            name=f"writes {path.name}",
        )
        self._thread.start()
        return path

    def wait(self, *, must_stand: bool = False) -> None:
        """Wait until what was saved stands on disk.

        Args:
            must_stand: a file that can't be written is an error whatever ``on_error`` says.

        Raises:
            CheckpointError: it can't be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.raise_failure(must_stand=must_stand)

    def raise_failure(self, *, must_stand: bool = False) -> None:
        """Raise, or with ``on_error="continue"`` log, that a file could not be written; nothing where none failed so far."""
        failure, self._failure = self._failure, None
        if failure is None:
            return
        if must_stand or self.on_error == "stop":
            raise failure
        logger.error("%s The run goes on.", failure)

    def _write(self, path: Path, data: dict[str, Any], tags: list[str], remove: tuple[Path, ...], start: float) -> None:
        try:
            self.save_dir.mkdir(parents=True, exist_ok=True)
            with replace_file(path) as file:
                torch.save(data, file)
                file.flush()
                facts = {k: v for k, v in data.items() if k == "iteration"}
                enter(self.save_dir, path.name, sha256_of(Path(file.name)), facts)
            for tag in tags:
                self._tag(tag, path.name)
            for old in remove:
                if old != path:
                    remove_path(old)
        # torch's writer turns a full disk into a RuntimeError; whatever else happens in a thread must be heard of too.
        except Exception as error:
            reason = str(error)
            if isinstance(error, RuntimeError) and shutil.disk_usage(path.parent).free < _num_bytes(data):
                reason = f"no space is left on the device ({error})"  # which torch's writer does not say
            self._failure = CheckpointError(
                f"Checkpoint {path} can't be written: {reason}. Older checkpoints are untouched."
            )
            self._failure.__cause__ = error
            return
        logger.info("Saved checkpoint %s (%.1f s)", path, time.perf_counter() - start)

    def load(self, path: str | Path, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load the model and checkpointables.

        Where nothing but the model is taken, and the file holds averaged weights, the model gets those: they are what the
        run evaluated.

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
        return self._take(load_file(path), path, self.checkpointables if checkpointables is None else checkpointables)

    def _take(self, content: dict[str, Any], path: str | Path, checkpointables: Iterable[str]) -> dict[str, Any]:
        checkpointables = list(checkpointables)
        if checkpointables and Path(path).is_dir():
            raise CheckpointError(f"{path} is in shards: take it up with checkpointer=common/fsdp.py:checkpointer.")
        wanted = [k for k in checkpointables if k in content]
        weights = content.pop("model", None)
        if not wanted and AVERAGED in content:
            weights = content.pop(AVERAGED)
            logger.info("%s: took its averaged weights.", path)
        if weights is None:  # a bare state dict
            weights, content = content, {}
        load_weights(self.model, weights, path, by_suffix=bool(content.pop("matching_heuristics", False)))
        for key in wanted:
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
        named = self.save_dir / self.last
        if named.is_file() and (name := named.read_text(encoding="utf-8").strip()):
            return str(self.save_dir / name)
        periodic = self.periodic_checkpoints()
        return str(periodic[-1]) if periodic else ""

    def get_all_checkpoint_files(self) -> list[str]:
        """All checkpoints of ``save_dir``, by name."""
        return sorted(str(path) for path in self.save_dir.glob(f"*{self.suffix}"))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Make a file of ``save_dir`` the one to resume from."""
        self._tag(self.last, last_filename_basename)

    def _tag(self, tag: str, name: str) -> None:
        with replace_file(self.save_dir / tag) as file:
            file.write(name.encode())

    def archive_previous_run(self) -> None:
        """A new run begins in ``save_dir``: move an older one's checkpoints to a folder of their own.

        Left where they are they would be taken for this run's, when it is resumed or when the oldest are removed.
        """
        pointers = (self.last, self.best, MANIFEST)
        own = sorted(listed(self.save_dir))  # of whatever prefix
        old = {p for kind in ("model_*.pth", "model_*.dcp", *own, *pointers) for p in self.save_dir.glob(kind)}
        if not self.save_to_disk or not old:
            return
        folder = next_free_path(self.save_dir, "earlier_run_")
        folder.mkdir()
        for path in sorted(old):
            path.rename(folder / path.name)
        logger.warning(
            "%s holds an earlier run; its checkpoints were moved to %s. To take it up, give --resume.",
            self.save_dir,
            folder.name,
        )

    def remove_leftovers(self) -> None:
        """Remove what a process that was killed while it wrote has left; for the one run that writes to ``save_dir``."""
        if self.save_to_disk:
            for path in self.save_dir.glob(f".*{self.suffix}.*.tmp"):
                remove_path(path)

    def periodic_checkpoints(self, prefix: str = "model") -> list[Path]:
        """``<prefix>_<iteration>.pth`` of ``save_dir``, newest iteration last."""
        files = self.save_dir.glob(f"{prefix}_*{self.suffix}")
        found = [(m, p) for p in files if (m := _ITERATION.fullmatch(p.name.removesuffix(self.suffix)))]
        return [path for _, path in sorted((int(m[2]), path) for m, path in found if m[1] == prefix)]

    def _resume(self) -> dict[str, Any]:
        last = Path(self.get_checkpoint_file())
        prefix = last.stem.rpartition("_")[0] or "model"
        older = [p for p in reversed(self.periodic_checkpoints(prefix)) if p != last]
        for path in [last, *older]:
            try:
                content = self._good(path)
            except CheckpointError as error:
                logger.warning("Can't resume from %s (%s); trying the one before.", path.name, error)
                continue
            return self._take(content, path, self.checkpointables)
        raise CheckpointError(f"{self.save_dir}: no checkpoint to resume from is good, the last one is {last.name}.")

    def _good(self, path: Path) -> dict[str, Any]:
        """The content of a checkpoint that is whole and as it was written."""
        content = load_file(path)
        if changed_since_written(path):
            raise CheckpointError(f"Checkpoint {path} is damaged: it is not what manifest.json says was written.")
        return content


def _num_bytes(state: Any) -> int:
    """What the tensors of a state take."""
    if isinstance(state, torch.Tensor):
        return state.nbytes
    if isinstance(state, dict):
        return sum(map(_num_bytes, state.values()))
    return sum(map(_num_bytes, state)) if isinstance(state, list | tuple) else 0
