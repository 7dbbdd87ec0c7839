"""Save and load checkpoints; a file is complete or absent."""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from ultravid.checkpoint.manifest import changed_since_written, listed_names, record_file
from ultravid.checkpoint.origin import WeightsOrigin, note_origin
from ultravid.checkpoint.reading import REST_OF_SHARDS, CheckpointError, load_file
from ultravid.checkpoint.snapshot import Snapshot, check_plain_data
from ultravid.checkpoint.weights import WeightsError, current_weights, load_weights
from ultravid.utils import comm, file_io
from ultravid.utils.file_io import remove_path, replace_file, require_local
from ultravid.utils.hashing import sha256_of
from ultravid.utils.run_folder import RunFolder

__all__ = ["AVERAGED", "DetectionCheckpointer", "split_heuristics"]

logger = logging.getLogger(__name__)

AVERAGED = "averaged_model"
"""The entry with averaged weights (`ultravid.engine.hooks.EMA`), beside ``model``, from which training continues."""

_ITERATION = re.compile(r"(.+)_(\d{7,})")
_HEURISTICS = re.compile(r"([?&])matching_heuristics=(True|False)(&|$)")


class DetectionCheckpointer:
    """Saves and loads a model and the state of its training.

    A file is a dict: ``model`` (the state dict), ``iteration``, and one entry for each checkpointable. It is written under a
    temporary name, flushed to disk and renamed; its hash is in ``manifest.json`` beside it. ``last_checkpoint`` names the file
    to resume from, ``best_checkpoint`` the best one by some metric.

    Args:
        model: the plain module; one that is wrapped in DDP or DataParallel is unwrapped.
        save_dir: local folder of the checkpoints; "" saves nothing.
        save_to_disk: whether this process writes; None: the main process does.
        background: `save` returns as soon as the state is copied, and a thread writes it; `wait` waits for the thread.
        on_error: what to do when a file can't be written, as on a full disk: raise ("stop"), or log it ("continue").
            A file that the end of a run depends on is an error either way.
        partial_init: whether weights to start from may fit a part of the model: what is missing, unknown or of another shape is
            left out with a warning, and starts from scratch.
        checkpointables: by name, objects with ``state_dict`` and ``load_state_dict``.

    Attributes:
        path_manager: iopath's path manager for addresses to load, `ultravid.utils.file_io.PathManager`; may be replaced.
    """

    suffix: ClassVar[str] = ".pth"

    def __init__(
        self,
        model: nn.Module,
        save_dir: str | Path = "",
        *,
        save_to_disk: bool | None = None,
        background: bool = False,
        on_error: Literal["stop", "continue"] = "stop",
        partial_init: bool = False,
        **checkpointables: Any,
    ) -> None:
        if on_error not in ("stop", "continue"):
            raise ValueError(f"on_error={on_error!r} is neither 'stop' nor 'continue'.")
        self.model = comm.unwrapped(model)
        self.save_dir = require_local(save_dir, "The checkpointer's save_dir")
        writes = comm.is_main_process() if save_to_disk is None else save_to_disk
        self.save_to_disk = writes and str(save_dir) != ""
        self.background = background
        self.on_error = on_error
        self.partial_init = partial_init
        self.checkpointables: dict[str, Any] = {}
        self._run = RunFolder(self.save_dir)
        self._path_manager: Any = None
        self._snapshot = Snapshot()
        self._thread: threading.Thread | None = None
        self._failure: CheckpointError | None = None
        for name, value in checkpointables.items():
            self.add_checkpointable(name, value)

    @property
    def path_manager(self) -> Any:
        """The path manager (iopath) for addresses to load; by default `ultravid.utils.file_io.PathManager`."""
        return self._path_manager or file_io.PathManager

    @path_manager.setter
    def path_manager(self, value: Any) -> None:
        self._path_manager = value

    def add_checkpointable(self, key: str, checkpointable: Any) -> None:
        """Save and load this object too.

        Args:
            key: its name in the file.
            checkpointable: an object with ``state_dict()``, and ``load_state_dict(state)`` to load it again.

        Raises:
            KeyError: the key is taken.
            TypeError: the object has no ``state_dict``.
        """
        if key in self.checkpointables or key == "model":
            raise KeyError(f"Checkpoints already hold a {key!r}.")
        if not hasattr(checkpointable, "state_dict"):
            raise TypeError(f"Checkpointable {key!r} is a {type(checkpointable).__name__}, which has no state_dict().")
        self.checkpointables[key] = checkpointable

    def save(
        self, name: str, *, tag_last: bool = True, tag_best: bool = False, remove: Iterable[Path] = (), **kwargs: Any
    ) -> Path | None:
        """Write ``<name>.pth``, after waiting for a file that is still being written.

        Args:
            name: the file's name without suffix.
            tag_last: make it the checkpoint to resume from. The best checkpoint is saved without.
            tag_best: make it the one that ``best_checkpoint`` names.
            remove: older files to remove once this one is on disk.
            kwargs: further entries of the file, as ``iteration``.

        Returns:
            the file; None if this process doesn't write.

        Raises:
            CheckpointError: this file, or the one before it, can't be written; older files stay as they are.
        """
        if not self.save_to_disk:
            return None
        self.wait()
        start = time.perf_counter()
        data = {"model": self.model.state_dict()}
        data.update({key: value.state_dict() for key, value in self.checkpointables.items()})
        data.update(kwargs)
        check_plain_data(data)
        path = self._run.checkpoint(name, self.suffix)
        if tag_last:
            self._note_origin(path, kwargs.get("iteration"))
        tags = self._tags(tag_last, tag_best)
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

    def wait(self, *, always_raise: bool = False) -> None:
        """Wait until everything that was saved is on disk.

        Args:
            always_raise: raise if a file couldn't be written, whatever ``on_error`` says.

        Raises:
            CheckpointError: a file can't be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.raise_failure(always_raise=always_raise)

    def raise_failure(self, *, always_raise: bool = False) -> None:
        """Raise, or with ``on_error="continue"`` log, that a file could not be written; does nothing if all were.

        Args:
            always_raise: raise whatever ``on_error`` says.
        """
        failure, self._failure = self._failure, None
        if failure is None:
            return
        if always_raise or self.on_error == "stop":
            raise failure
        logger.error("%s The run continues.", failure)

    def _tags(self, last: bool, best: bool) -> list[Path]:
        """The files that will name the checkpoint."""
        tags = ((self._run.last_checkpoint, last), (self._run.best_checkpoint, best))
        return [path for path, wanted in tags if wanted]

    def _write_name(self, tag: Path, name: str) -> None:
        with replace_file(tag) as file:
            file.write(name.encode())

    def _write(
        self, path: Path, data: dict[str, Any], tags: list[Path], remove: tuple[Path, ...], start: float
    ) -> None:
        try:
            self.save_dir.mkdir(parents=True, exist_ok=True)
            with replace_file(path) as file:
                torch.save(data, file)
                file.flush()
                facts = {k: v for k, v in data.items() if k == "iteration"}
                record_file(self.save_dir, path.name, sha256_of(Path(file.name)), facts)
            for tag in tags:
                self._write_name(tag, path.name)
            for old in remove:
                if old != path:
                    remove_path(old)
        # torch's writer turns a full disk into a RuntimeError, and no error in a thread may go unnoticed.
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

    def load(
        self, path: str | Path, checkpointables: list[str] | None = None, *, strict: bool = False
    ) -> dict[str, Any]:
        """Load the model and checkpointables.

        If only the model is loaded and the file holds averaged weights, the model gets the averaged ones: the run's
        evaluations used them.

        Args:
            path: a file or an address (`ultravid.utils.file_io`); "" loads nothing. With ``?matching_heuristics=True`` at its end,
                weights are matched by the ends of their names (`ultravid.checkpoint.weights.load_weights`).
            checkpointables: names of those to load; None: all. One that the file doesn't hold keeps its state.
            strict: weights must fit the model. If not, a weight that is missing, unknown or of another shape is
                left out with a warning, as in detectron2; a file without any weight of the model is an error still.

        Returns:
            the other entries of the file, as ``iteration``.

        Raises:
            CheckpointError: the file is missing or damaged, or doesn't fit the model: which keys, which shapes.
        """
        if not str(path):
            logger.info("No initial checkpoint: training from scratch.")
            return {}
        address, heuristics = split_heuristics(str(path))
        content = load_file(address, path_manager=self._path_manager)
        if heuristics is not None:
            content["matching_heuristics"] = heuristics
        wanted = self.checkpointables if checkpointables is None else checkpointables
        return self._apply(content, address, wanted, strict=strict)

    def _apply(
        self, content: dict[str, Any], path: str | Path, checkpointables: Iterable[str], *, strict: bool
    ) -> dict[str, Any]:
        """Give the model and the checkpointables the content of a file; returns the rest."""
        checkpointables = list(checkpointables)
        if checkpointables and Path(path).is_dir():
            raise CheckpointError(f"{path} is in shards: resume from it with checkpointer=common/fsdp.py:checkpointer.")
        wanted = [k for k in checkpointables if k in content]
        by_suffix = bool(content.pop("matching_heuristics", False))
        weights = content.pop("model", None)
        takes_average = not wanted and AVERAGED in content
        if takes_average:
            weights = content.pop(AVERAGED)
            logger.info("%s: loading its averaged weights.", path)
        if weights is None:  # a bare state dict
            weights, content = content, {}
        from_scratch = load_weights(self.model, weights, path, by_suffix=by_suffix, strict=strict)
        self._note_origin(path, content.get("iteration"), averaged=takes_average, from_scratch=from_scratch)
        for key in wanted:
            state = content.pop(key)
            if key == AVERAGED:
                state = current_weights(state, self.model, path)
            try:
                self.checkpointables[key].load_state_dict(state)
            except (ValueError, KeyError, RuntimeError) as error:
                raise CheckpointError(f"{path}: its {key!r} doesn't fit this run's: {error}") from error
        logger.info("Loaded checkpoint %s", path)
        return content

    def _note_origin(self, path: str | Path, iteration: Any, *, averaged: bool = False, from_scratch: int = 0) -> None:
        """Note which checkpoint the model's weights are those of, for the records of evaluations."""
        file = file_io.local_path(path, path_manager=self._path_manager)
        if iteration is None and (file / REST_OF_SHARDS).is_file():
            iteration = load_file(file / REST_OF_SHARDS).get("iteration")
        known = iteration if isinstance(iteration, int) else None
        note_origin(self.model, WeightsOrigin(os.path.abspath(file), str(path), known, averaged, from_scratch))

    def resume_or_load(self, path: str | Path, *, resume: bool = True) -> dict[str, Any]:
        """Load the newest good checkpoint of ``save_dir`` if ``resume`` is set and there is one, else the weights of ``path``.

        Weights must fit the model (`load` with ``strict=True``), unless ``partial_init`` is set or ``path`` asks for matching by
        heuristics.

        Args:
            path: a file or address of weights; "" loads none.
            resume: whether a checkpoint of ``save_dir`` is preferred.

        Returns:
            as `load`.

        Raises:
            CheckpointError: none of the checkpoints to resume from is good, or `load` fails.
        """
        if resume and self.has_checkpoint():
            return self._resume()
        if resume:
            logger.warning("No checkpoint in %s to resume from: starting at iteration 0.", self.save_dir)
        try:
            return self.load(path, checkpointables=[], strict=not self.partial_init)
        except WeightsError as error:
            if error.num_fitting == 0 or "trainer" not in self.checkpointables:  # of no use, or to evaluate
                raise
            raise CheckpointError(
                f"{error} {error.num_fitting} of the model's {error.num_expected} weights fit: "
                "checkpointer.partial_init=true takes them and lets the rest start from scratch (in a YAML config: "
                "MODEL.WEIGHTS 'FILE?matching_heuristics=True')."
            ) from error

    def has_checkpoint(self) -> bool:
        """Whether ``save_dir`` holds a checkpoint to resume from."""
        return self.get_checkpoint_file() != ""

    def get_checkpoint_file(self) -> str:
        """The newest checkpoint of ``save_dir``; "" if there is none.

        It is the one that ``last_checkpoint`` names. A process that was killed between writing its first checkpoint and
        naming it left no name: then it is the periodic one of the highest iteration.
        """
        if (named := self._run.newest_checkpoint()) is not None:
            return str(named)
        periodic = self.periodic_checkpoints()
        return str(periodic[-1]) if periodic else ""

    def get_all_checkpoint_files(self) -> list[str]:
        """All checkpoints of ``save_dir``, by name."""
        return sorted(str(path) for path in self.save_dir.glob(f"*{self.suffix}"))

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Make a file of ``save_dir`` the one to resume from.

        Args:
            last_filename_basename: the file's name, ``model_0000099.pth``.
        """
        self._write_name(self._run.last_checkpoint, last_filename_basename)

    def archive_previous_run(self) -> None:
        """Move an older run's checkpoints to a separate folder, when a new run starts in ``save_dir``.

        If they stayed, the new run would take them for its own when it is resumed or removes the oldest.

        Raises:
            LockedError: another process is training there.
        """
        if not self.save_to_disk:
            return
        self._refuse_if_in_use()
        folder = self._run.archive_checkpoints(listed_names(self.save_dir))  # the manifest's may have another prefix
        if folder is not None:
            logger.warning(
                "%s holds an earlier run; its checkpoints were moved to %s. To continue it, give --resume.",
                self.save_dir,
                folder.name,
            )

    def remove_leftovers(self) -> None:
        """Remove unfinished files of a process that was killed; only for the one run that writes to ``save_dir``.

        Raises:
            LockedError: another process is training there.
        """
        if self.save_to_disk:
            self._refuse_if_in_use()
            for path in self.save_dir.glob(f".*{self.suffix}.*.tmp"):
                remove_path(path)

    def _refuse_if_in_use(self) -> None:
        """A script that takes no lock itself, as it does without `default_setup`, must not move a living run's files."""
        holder = self._run.holder(exact=True) if comm.is_main_process() else None
        if holder is not None:
            raise holder.refusal(self.save_dir, "give this run its own folder")

    def periodic_checkpoints(self, prefix: str = "model") -> list[Path]:
        """``<prefix>_<iteration>.pth`` of ``save_dir``, by iteration."""
        files = self.save_dir.glob(f"{prefix}_*{self.suffix}")
        found = [(m, p) for p in files if (m := _ITERATION.fullmatch(p.name.removesuffix(self.suffix)))]
        return [path for _, path in sorted((int(m[2]), path) for m, path in found if m[1] == prefix)]

    def _resume(self) -> dict[str, Any]:
        tried: set[Path] = set()
        while (path := self._newest_besides(tried)) is not None:
            tried.add(path)
            try:
                content = self._read_verified(path)
            except CheckpointError as error:
                logger.warning("Can't resume from %s (%s); trying the one before.", path.name, error)
                continue
            try:
                return self._apply(content, path, self.checkpointables, strict=True)
            except WeightsError as error:
                raise CheckpointError(
                    f"{error} The model has changed since the checkpoint: resume with the run's own model "
                    f"({self._run.config}), or start another run from its weights: train.init_checkpoint={path} "
                    "checkpointer.partial_init=true, with another train.output_dir and without --resume."
                ) from error
        last = Path(self.get_checkpoint_file()).name
        raise CheckpointError(f"{self.save_dir}: no checkpoint to resume from is good, the last one is {last}.")

    def _newest_besides(self, tried: Collection[Path]) -> Path | None:
        """The newest checkpoint that was not tried; listed each time, because a living run adds some and removes others."""
        last = Path(self.get_checkpoint_file())
        prefix = last.stem.rpartition("_")[0] or "model"
        listed = [last, *reversed(self.periodic_checkpoints(prefix))]
        return next((path for path in listed if path not in tried), None)

    def _read_verified(self, path: Path) -> dict[str, Any]:
        """The content of a checkpoint that is complete and unchanged since it was written."""
        content = load_file(path)
        try:
            changed = changed_since_written(path)
        except FileNotFoundError as error:
            raise CheckpointError(f"Checkpoint {path} was removed while it was read.") from error
        if changed:
            raise CheckpointError(f"Checkpoint {path} is damaged: its hash is not the one in manifest.json.")
        return content


def split_heuristics(address: str) -> tuple[str, bool | None]:
    """An address without ``matching_heuristics=...`` in its query, and what that said."""
    found = _HEURISTICS.search(address)
    if found is None:
        return address, None
    rest = found[1] if found[3] else ""
    return address[: found.start()] + rest + address[found.end() :], found[2] == "True"


def _num_bytes(state: Any) -> int:
    """The memory of a state's tensors."""
    if isinstance(state, torch.Tensor):
        return state.nbytes
    if isinstance(state, dict):
        return sum(map(_num_bytes, state.values()))
    return sum(map(_num_bytes, state)) if isinstance(state, list | tuple) else 0
