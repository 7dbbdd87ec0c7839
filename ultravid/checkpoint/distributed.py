"""Checkpoints of a sharded model (FSDP2), as torch's distributed checkpoints (DCP)."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_shards
from torch.distributed.checkpoint.state_dict_saver import save as save_shards
from torch.optim import Optimizer

from ultravid.checkpoint.checkpointer import AVERAGED, DetectionCheckpointer
from ultravid.checkpoint.reading import REST_OF_SHARDS, CheckpointError, load_file
from ultravid.checkpoint.snapshot import check_plain_data
from ultravid.utils import comm
from ultravid.utils.file_io import dump_json, remove_path, replace_file
from ultravid.utils.hashing import sha256_of

__all__ = ["DistributedCheckpointer"]

logger = logging.getLogger(__name__)

_FLAT = StateDictOptions(flatten_optimizer_state_dict=True)
_MANIFEST = "manifest.json"  # of the files in the folder of one checkpoint


class DistributedCheckpointer(DetectionCheckpointer):
    """A `DetectionCheckpointer` whose checkpoint is a folder ``<name>.dcp``, to which each process writes its shards.

    It loads in any number of processes, sharded or not. All processes must take part in each call. The folder is written under
    a temporary name and renamed when all processes have written; ``rest.pth`` in it holds what is not a tensor. The folder's
    index is a pickle of torch's, so it must come from a source you trust.

    Args:
        model: sharded or not.
        save_dir: local folder of the checkpoints.
        optimizer: its state is saved by the names of parameters, so that other processes can share it out differently.
        on_error: see `DetectionCheckpointer`.
        partial_init: see `DetectionCheckpointer`; weights in shards must fit.
        checkpointables: see `DetectionCheckpointer`; their states must be plain data, except averaged weights and the
            trainer's optimizer.
    """

    suffix = ".dcp"

    def __init__(
        self,
        model: nn.Module,
        save_dir: str | Path,
        optimizer: Optimizer,
        *,
        on_error: Literal["stop", "continue"] = "stop",
        partial_init: bool = False,
        **checkpointables: Any,
    ) -> None:
        self._optimizer = optimizer
        super().__init__(model, save_dir, on_error=on_error, partial_init=partial_init, **checkpointables)

    def save(
        self, name: str, *, tag_last: bool = True, tag_best: bool = False, remove: Iterable[Path] = (), **kwargs: Any
    ) -> Path | None:
        """Write the folder ``<name>.dcp``; arguments as of `DetectionCheckpointer.save`. It returns when all processes have written.

        Returns:
            the folder, in all processes; None if it can't be written and ``on_error`` is "continue".

        Raises:
            CheckpointError: it can't be written, and ``on_error`` is "stop"; older checkpoints stay as they are.
            TypeError: a checkpointable's state is not plain data.
        """
        start = time.perf_counter()
        path = self._run.checkpoint(name, self.suffix)
        temporary = path.with_name(f".{path.name}.{comm.all_gather(os.getpid())[0]}.tmp")
        tensors, rest = self._state(kwargs)
        failure = ""
        try:
            temporary.mkdir(parents=True, exist_ok=True)
            with _quiet():
                save_shards(tensors, checkpoint_id=temporary)
            if self.save_to_disk:
                with replace_file(temporary / REST_OF_SHARDS) as file:
                    torch.save(rest, file)
                hashes = {p.name: sha256_of(p) for p in sorted(temporary.iterdir())}
                with replace_file(temporary / _MANIFEST) as file:
                    file.write(dump_json(hashes, indent=1).encode())
        except (Exception, CheckpointException) as error:  # of any process: all get it below
            failure = f"{type(error).__name__}: {error}"
        failures = [f for f in comm.all_gather(failure) if f]
        if failures:
            if self.save_to_disk:
                shutil.rmtree(temporary, ignore_errors=True)
            self._failure = CheckpointError(
                f"Checkpoint {path} can't be written: {failures[0]}. Older checkpoints are untouched."
            )
            if self.on_error == "stop":
                self.raise_failure()
            return None
        if self.save_to_disk:
            self._put_in_place(temporary, path, self._tags(tag_last, tag_best), tuple(remove))
            logger.info("Saved checkpoint %s (%.1f s)", path, time.perf_counter() - start)
        if tag_last:
            self._note_origin(path, kwargs.get("iteration"))
        comm.synchronize()
        return path

    def _put_in_place(self, temporary: Path, path: Path, tags: list[Path], remove: tuple[Path, ...]) -> None:
        before = path.with_name(f".{path.name}.before.tmp")
        if path.exists():
            path.rename(before)
        temporary.rename(path)
        shutil.rmtree(before, ignore_errors=True)
        for tag in tags:
            self._write_name(tag, path.name)
        for old in remove:
            if old != path:
                remove_path(old)

    def _state(self, extra: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What DCP writes, and the rest."""
        optimizer = get_optimizer_state_dict(self.model, self._optimizer, options=_FLAT)
        tensors: dict[str, Any] = {
            "model": get_model_state_dict(self.model),
            "optimizer": {k: v for k, v in optimizer.items() if isinstance(v, Tensor)},
        }
        rest: dict[str, Any] = {"optimizer": {k: v for k, v in optimizer.items() if not isinstance(v, Tensor)}, **extra}
        for key, value in self.checkpointables.items():
            state = value.state_dict()
            if key == AVERAGED:
                tensors[key] = state
            else:
                # The trainer's optimizer is saved by names, above; its key stays.
                rest[key] = {k: None if k == "optimizer" else v for k, v in state.items()}
        check_plain_data(rest)
        return tensors, rest

    def load(
        self, path: str | Path, checkpointables: list[str] | None = None, *, strict: bool = False
    ) -> dict[str, Any]:
        """Load a folder of shards, or a file as `DetectionCheckpointer.load` does, which describes arguments and result.

        A folder of shards must fit the model, whatever ``strict`` is.

        Raises:
            CheckpointError: it is missing or damaged, or doesn't fit the model.
        """
        if not (str(path) and Path(path).is_dir()):
            return super().load(path, checkpointables, strict=strict)
        wanted = list(self.checkpointables if checkpointables is None else checkpointables)
        tensors, current = self._state({})
        rest = load_file(Path(path) / REST_OF_SHARDS)
        keys = list(_keys(Path(path)))
        stored = {key.partition(".")[0] for key in keys}
        load_average = not wanted and AVERAGED in stored
        if load_average:
            tensors = {AVERAGED: tensors["model"]}
        elif not wanted:
            tensors = {"model": tensors["model"]}
        earlier = self._earlier_names(keys)
        in_file = {
            key: {_renamed(name, earlier): value for name, value in values.items()}
            for key, values in tensors.items()
            if key in stored
        }
        try:
            with _quiet():
                load_shards(in_file, checkpoint_id=path)
        except (Exception, CheckpointException) as error:  # the latter is no Exception
            first = str(error).strip().rpartition("\n")[2]
            raise CheckpointError(f"Checkpoint {path} is damaged or doesn't fit the model: {first}") from error
        tensors = {key: {name: in_file[key][_renamed(name, earlier)] for name in tensors[key]} for key in in_file}
        set_model_state_dict(self.model, tensors[AVERAGED if load_average else "model"])
        self._note_origin(path, rest.get("iteration"), averaged=load_average)
        if wanted:
            today = {old: new for new, old in earlier.items()}
            saved = {_renamed(name, today): value for name, value in rest.pop("optimizer").items()}
            flat = {**current["optimizer"], **saved, **tensors["optimizer"]}
            set_optimizer_state_dict(self.model, self._optimizer, flat, options=_FLAT)
        for key in wanted:
            if key == AVERAGED and key in tensors:
                self.checkpointables[key].load_state_dict(tensors[key])
            elif key in rest:
                state = rest.pop(key)
                if "optimizer" in state:
                    state["optimizer"] = self._optimizer.state_dict()
                    state.pop("parameter_names", None)  # the state was restored by names, above
                self.checkpointables[key].load_state_dict(state)
        logger.info("Loaded checkpoint %s", path)
        return rest

    def _earlier_names(self, keys: Iterable[str]) -> dict[str, str]:
        """What a checkpoint with these keys calls the model's weights, for those that have another name today."""
        ask: Callable[[Iterable[str]], dict[str, str]] | None = getattr(self.model, "current_names", None)
        if ask is None:
            return {}
        of_models = [key.partition(".")[2] for key in keys if key.partition(".")[0] in ("model", AVERAGED)]
        return {new: old for old, new in ask(of_models).items() if new}

    def _read_verified(self, path: Path) -> dict[str, Any]:
        if not path.is_dir():
            return super()._read_verified(path)
        try:
            hashes = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
            changed = [name for name, sha256 in hashes.items() if sha256_of(path / name) != sha256]
        except (OSError, ValueError) as error:
            raise CheckpointError(f"Checkpoint {path} is damaged: {error}") from error
        if changed:
            raise CheckpointError(
                f"Checkpoint {path} is damaged: the hash of {changed[0]} is not the one in {_MANIFEST}."
            )
        return load_file(path / REST_OF_SHARDS)

    def _apply(
        self, content: dict[str, Any], path: str | Path, checkpointables: Iterable[str], *, strict: bool
    ) -> dict[str, Any]:
        if Path(path).is_dir():
            return self.load(path, list(checkpointables), strict=strict)
        return super()._apply(content, path, checkpointables, strict=strict)


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """A weight's name by a table, also in an optimizer's ``state.NAME.exp_avg`` and ``param_groups.NAME.lr``."""
    kind, _, rest = name.partition(".")
    weight, _, entry = rest.rpartition(".")
    if kind in ("state", "param_groups") and weight in names:
        return f"{kind}.{names[weight]}.{entry}"
    return names.get(name, name)


def _keys(path: Path) -> Iterable[str]:
    try:
        return list(FileSystemReader(path).read_metadata().state_dict_metadata)
    except (Exception, CheckpointException) as error:  # a damaged pickle may raise anything
        raise CheckpointError(f"Checkpoint {path} is damaged: {error}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide DCP's warning that there is one process, which is intended then."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield
