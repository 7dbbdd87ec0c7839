"""Reads files of weights onto the CPU. Only tensors and plain data are allowed."""

from __future__ import annotations

import io
import pickle
import re
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray

from ultravid.utils.errors import UserError
from ultravid.utils.file_io import AddressError, is_local, local_path

__all__ = ["REST_OF_SHARDS", "CheckpointError", "check_present", "load_file", "where_torchvision_has"]

REST_OF_SHARDS = "rest.pth"
"""The file in a folder of shards that holds what is not a tensor, as the iteration."""

_ARRAY_MODULES = ("numpy.core.multiarray", "numpy._core.multiarray")
_ADMITTED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    **{(module, name): getattr(multiarray, name) for module in _ARRAY_MODULES for name in ("_reconstruct", "scalar")},
}


class CheckpointError(UserError):
    """A checkpoint that can't be read or written, or doesn't fit the model."""


def check_present(path: str | Path, *, fetch: bool = False) -> None:
    """Refuse a checkpoint on this machine that is not there.

    Args:
        path: a file or an address, as the user gave it.
        fetch: download one at another address too; it is not looked for otherwise.

    Raises:
        CheckpointError: there is no such file, or it is a folder that is no checkpoint.
    """
    if fetch or is_local(path):
        _present_file(path, None)


def _present_file(path: str | Path, path_manager: Any) -> Path:
    """The local file with the content of a checkpoint; raises as `check_present` does."""
    try:
        file = local_path(path, path_manager=path_manager)
    except AddressError as error:
        raise CheckpointError(f"Checkpoint {path} can't be loaded. {error}") from error
    if not file.exists():
        shards = file.with_suffix(".dcp")
        hint = f" There is {shards.name}." if shards.exists() else where_torchvision_has(file.name)
        raise CheckpointError(f"Checkpoint {path} does not exist.{hint}")
    if file.is_dir() and not (file / ".metadata").exists():
        found = sorted(p.name for suffix in (".pth", ".dcp") for p in file.glob(f"model_*{suffix}"))
        hint = f"give one of its files: {', '.join(found[-3:])}" if found else "it holds no checkpoint"
        raise CheckpointError(f"Checkpoint {path} is a folder; {hint}.")
    return file


def where_torchvision_has(name: str) -> str:
    """Where torchvision has weights of a ResNet whose name a file's name begins with, ``resnet34.pth``; begins with a space, or is empty."""
    found = re.match(r"resnet(18|34|50|101|152)(?![0-9])", name.lower())
    if found is None:
        return ""
    from torchvision.models import get_model_weights  # for this message alone

    url = get_model_weights(found[0])["IMAGENET1K_V1"].url
    return f" torchvision's ImageNet weights of {found[0]} are at {url}, an address that can be given in its place."


def load_file(path: str | Path, *, path_manager: Any = None) -> dict[str, Any]:
    """Read a checkpoint of torch, or a pickle of arrays as in detectron2's model zoo (``.pkl``). It runs no code of the file.

    Args:
        path: a file, a folder of `DistributedCheckpointer`, or an address (`ultravid.utils.file_io.local_path`). A folder is read
            whole; its index is a pickle of torch's, so it must come from a source you trust.
        path_manager: see `ultravid.utils.file_io.local_path`.

    Returns:
        the content of the file; arrays are tensors.

    Raises:
        CheckpointError: the file is missing, damaged, or holds more than tensors and plain data.
    """
    file = _present_file(path, path_manager)
    if str(file) != str(path):
        path = f"{path} (downloaded to {file})"
    if (foreign := _what_it_is_instead(file)) is not None:
        raise CheckpointError(f"Checkpoint {path} is {foreign}.")
    try:
        content = _read(file)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"Checkpoint {path} can't be read, or holds more than tensors and plain data: {reason}"
        ) from error
    except (MemoryError, KeyboardInterrupt, SystemExit):
        raise
    # A damaged or foreign file may raise anything; torch's reader of shards has an error that is not an Exception.
    except BaseException as error:
        raise CheckpointError(
            f"Checkpoint {path} is damaged: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"Checkpoint {path} holds a {type(content).__name__}, not a dict.")
    return dict(content)


def _what_it_is_instead(file: Path) -> str | None:
    """What a file is that has a checkpoint's name and something else in it, with what to do; None if it may be a checkpoint."""
    if not file.is_file():
        return None
    with file.open("rb") as opened:
        start = opened.read(256)
    text = start.lstrip().lower()
    if not start:
        return "empty: copy or download it again"
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page, not a file of weights: its address leads to a page (a login, a licence, a preview); take the one of the file itself"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of git-lfs, not the file itself: `git lfs pull` in its repository fetches it"
    if text.startswith((b"<?xml", b"{", b"[")):
        return f"text, not a file of weights: it begins with {start[:40].decode(errors='replace').strip()!r}"
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 100_000_000:
        return "in the format of safetensors: save it by torch.save(safetensors.torch.load_file(FILE), 'weights.pth')"
    return None


def _read(path: Path) -> Any:
    if path.is_dir():
        return _read_shards(path)
    return _read_pickle(path) if path.suffix == ".pkl" else _read_torch(path)


def _read_torch(path: Path) -> Any:
    # detectron2's checkpoints hold numpy scalars beside tensors.
    admitted: list[Any] = [(value, f"{module}.{name}") for (module, name), value in _ADMITTED.items()]
    admitted += [
        type(np.dtype(kind)) for kind in (np.float16, np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_)
    ]
    with torch.serialization.safe_globals(admitted):
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_shards(path: Path) -> Any:
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save  # half a second of imports that few need

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is one process
        dcp_to_torch_save(path, Path(folder) / "whole.pth")
        return _read_torch(Path(folder) / "whole.pth")


def _read_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        return _as_tensors(_PlainUnpickler(file, encoding="latin1").load())


class _PlainUnpickler(pickle.Unpickler):
    """Admits the types that arrays and plain containers are made of; a name of anything else is an error."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):  # the numbers of a tensor in a plain pickle
            return _storage
        if (module, name) == ("_codecs", "encode"):  # the bytes of an array in protocol 2
            return _encode
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _ADMITTED[module, name]


def _storage(content: bytes) -> Any:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"it encodes text as {encoding!r}")
    return text.encode("latin1")


def _as_tensors(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype != object:
        return torch.from_numpy(value.copy())  # np.ascontiguousarray would give a scalar an axis
    if isinstance(value, Mapping):
        return {key: _as_tensors(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_as_tensors(item) for item in value)
    return value
