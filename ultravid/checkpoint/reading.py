"""Files of weights read onto the CPU; tensors and plain data alone are admitted."""

from __future__ import annotations

import io
import pickle
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

__all__ = ["CheckpointError", "load_file"]

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


def load_file(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of torch, or a pickle of arrays as detectron2's model zoo has them (``.pkl``).

    A folder is one of `DistributedCheckpointer`, and read whole; its index is a pickle of torch's, so it has to be trusted.

    Returns:
        what the file holds; arrays are tensors.

    Raises:
        CheckpointError: the file is missing, damaged, or holds more than tensors and plain data. No code in it is run.
    """
    path = Path(path)
    if not path.exists():
        shards = path.with_suffix(".dcp")
        raise CheckpointError(f"Checkpoint {path} is not there{f'; {shards.name} is' if shards.exists() else ''}.")
    try:
        if path.is_dir():
            content = _read_shards(path)
        else:
            content = _read_pickle(path) if path.suffix == ".pkl" else _read_torch(path)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"Checkpoint {path} can't be read, or holds more than tensors and plain data: {reason}"
        ) from error
    except (MemoryError, KeyboardInterrupt, SystemExit):
        raise
    # What a cut or foreign file raises is anything; torch's reader of shards has an error that is no Exception.
    except BaseException as error:
        raise CheckpointError(
            f"Checkpoint {path} is damaged: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"Checkpoint {path} holds a {type(content).__name__}, not a dict.")
    return dict(content)


def _read_torch(path: Path) -> Any:
    # detectron2 saved numpy's numbers beside tensors.
    admitted: list[Any] = [(value, f"{module}.{name}") for (module, name), value in _ADMITTED.items()]
    admitted += [
        type(np.dtype(kind)) for kind in (np.float16, np.float32, np.float64, np.int32, np.int64, np.uint8, np.bool_)
    ]
    with torch.serialization.safe_globals(admitted):
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_shards(path: Path) -> Any:
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save  # half a second that few need

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that there is one process
        dcp_to_torch_save(path, Path(folder) / "whole.pth")
        return _read_torch(Path(folder) / "whole.pth")


def _read_pickle(path: Path) -> Any:
    with path.open("rb") as file:
        return _as_tensors(_PlainUnpickler(file, encoding="latin1").load())


class _PlainUnpickler(pickle.Unpickler):
    """Admits what arrays and plain containers are made of; a name of anything else ends the reading."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch.storage", "_load_from_bytes"):  # how a tensor's numbers stand in a plain pickle
            return _storage
        if (module, name) == ("_codecs", "encode"):  # how protocol 2 writes the bytes of an array
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
        return torch.from_numpy(value.copy())  # not np.ascontiguousarray, which gives an array of no axis one
    if isinstance(value, Mapping):
        return {key: _as_tensors(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_as_tensors(item) for item in value)
    return value
