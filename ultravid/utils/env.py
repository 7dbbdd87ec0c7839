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
    "device_fault",
    "existing_devices",
    "is_device_name",
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


def device_fault(name: str) -> str | None:
    """Why a name can't be used as a device on this machine, and which devices there are; None if it can.

    Args:
        name: "auto", or the name of a device; without a number, the current one of its kind.

    Returns:
        a sentence without subject and full stop, as "is not a device of this machine, which has cpu; ...".
    """
    if not is_device_name(name):
        return f"is not the name of one device. This machine has {_devices_in_words()}"
    device = select_device(name)
    same_kind = [each for each in existing_devices() if torch.device(each).type == device.type]
    if same_kind and (device.type in ("cpu", "mps") or (device.index or 0) < len(same_kind)):
        return None
    return f"is not a device of this machine, which has {_devices_in_words()}"


def _devices_in_words() -> str:
    return f"{', '.join(existing_devices())}; 'auto' chooses {select_device()}"


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
