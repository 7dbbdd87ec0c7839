"""The environment of a run: its device, and the versions of its packages."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Annotated, Any

import torch

from ultravid.utils.limits import Accepts
from ultravid.utils.seed import seed_all_rng

__all__ = [
    "TORCH_VERSION",
    "DeviceName",
    "describe_environment",
    "existing_devices",
    "is_device_name",
    "is_existing_device",
    "seed_all_rng",
    "select_device",
]

TORCH_VERSION: tuple[int, int] = (int(torch.__version__.split(".")[0]), int(torch.__version__.split(".")[1]))
"""Major and minor version of torch."""


def is_device_name(value: Any) -> bool:
    """Whether a value names a device, which need not exist on this machine: "auto", or a name that torch knows.

    Args:
        value: what a config has.
    """
    if value == "auto":
        return True
    try:
        torch.device(value)
    except (RuntimeError, TypeError):
        return False
    return True


DeviceName = Annotated[str, Accepts(is_device_name, "'auto', 'cpu', 'cuda' or 'cuda:1'")]
"""The name of a device, for a signature; see `ultravid.utils.limits`."""


def select_device(device: str = "auto") -> torch.device:
    """The device of a run.

    Args:
        device: "auto" for the current CUDA device, or the CPU if there is none; or the name of a device.
    """
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def existing_devices() -> list[str]:
    """The names of this machine's devices: "cpu", and those of each accelerator, as "cuda:0" or "mps"."""
    found = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    found += [f"xpu:{number}" for number in range(torch.xpu.device_count())]
    return [*found, "mps"] if torch.backends.mps.is_available() else found


def is_existing_device(device: torch.device) -> bool:
    """Whether this machine has a device.

    Args:
        device: as a name means it; without a number, the current one of its kind.
    """
    existing = [torch.device(name) for name in existing_devices()]
    same_kind = [each for each in existing if each.type == device.type]
    return bool(same_kind) and (device.type in ("cpu", "mps") or (device.index or 0) < len(same_kind))


def describe_environment() -> str:
    """Versions and hardware in a few lines, for the log."""
    packages = (
        "torch",
        "torchvision",
        "numpy",
        "opencv-python-headless",
        "omegaconf",
        "hydra-core",
    )
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    return (
        f"Python {platform.python_version()} on {platform.platform()}\n{versions}\n"
        f"{device}, {torch.get_num_threads()} threads on the CPU"
    )
