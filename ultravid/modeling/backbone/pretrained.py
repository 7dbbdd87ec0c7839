"""Weights of a backbone from a file. Nothing is downloaded unless an address is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

from torch import Tensor, nn

from ultravid.checkpoint import CheckpointError, load_file
from ultravid.checkpoint.reading import where_torchvision_has
from ultravid.checkpoint.weights import load_weights, without_wrapper

__all__ = ["WITHOUT_WEIGHTS", "load_backbone_weights", "read_weights", "torchvision_hint"]

WITHOUT_WEIGHTS = (
    'To train the backbone from scratch, set weights="", freeze_at=0 and a norm that is trained, such as norm="BN".'
)

_PREFIX = "backbone."
_COUNTER = "num_batches_tracked"  # which old files lack


def torchvision_hint(name: str) -> str:
    """Where torchvision has weights of a model, and what to do without them."""
    return f"{where_torchvision_has(name).strip()} {WITHOUT_WEIGHTS}"


def read_weights(address: str, hint: str, read: Callable[[str], Mapping[str, Any]] = load_file) -> dict[str, Tensor]:
    """The state dict in a file at an address: the file's own, or under ``model`` or ``state_dict``, without the prefix of a wrapper.

    Args:
        address: a local file, or an address of `ultravid.utils.file_io.PathManager`.
        hint: what to say if there is no such file.
        read: reads the file.

    Raises:
        CheckpointError: it can't be read; the message ends with the hint, less what it says already.
    """
    try:
        content = read(address)
    except CheckpointError as error:
        # The error says it already if the file's name is a ResNet's.
        said = where_torchvision_has(PurePosixPath(address).name).strip()
        rest = hint.removeprefix(said).strip() if said and said in str(error) else hint
        raise CheckpointError(f"{error} {rest}") from error
    for key in ("model", "state_dict"):
        if isinstance(content.get(key), Mapping):
            return dict(without_wrapper(content[key]))
    return dict(without_wrapper(content))


def load_backbone_weights(backbone: nn.Module, address: str, hint: str) -> None:
    """Give a backbone the weights of torchvision, of detectron2, of a whole detector of ours, or its own.

    Args:
        backbone: all of its weights must be in the file.
        address: see `read_weights`.
        hint: what to say if there is no such file.

    Raises:
        CheckpointError: the file can't be read, or does not fit.
    """
    weights = read_weights(address, hint)
    own = backbone.state_dict()
    inside = {name.removeprefix(_PREFIX): value for name, value in weights.items() if name.startswith(_PREFIX)}
    named = {name: value for name, value in (inside or weights).items() if name in own}
    if named:  # a batch norm that counts its batches may become a frozen one, and the file may be of more stages
        weights = {_PREFIX + name: value for name, value in named.items()}
    missing = load_weights(nn.ModuleDict({"backbone": backbone}), weights, address)
    if missing > sum(name.endswith(_COUNTER) for name in own):
        raise CheckpointError(f"{address} has only a part of the backbone: {missing} of its weights are missing.")
