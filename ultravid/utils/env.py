"""What a run runs on."""

from __future__ import annotations

import importlib.metadata
import platform

import torch

__all__ = ["describe_environment", "select_device"]


def select_device(device: str = "auto") -> torch.device:
    """The device of a run.

    Args:
        device: "auto" is the current CUDA device where there is one, else the CPU; any other is taken by its name.
    """
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


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
