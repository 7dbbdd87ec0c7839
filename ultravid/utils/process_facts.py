"""Facts about this process for a record: its command, host and time, the versions of its packages, and the commit of its code."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from ultravid.utils.processes import machine_id, process_start_time
from ultravid.utils.tool import command_line

__all__ = ["git_state", "iso_time", "package_versions", "process_facts"]

_PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "fvcore", "hydra-core", "omegaconf")


def iso_time(seconds: float) -> str:
    """A time since the epoch as a date with the local time zone.

    Args:
        seconds: the time in seconds, as `time.time` gives it.

    Returns:
        The date in ISO 8601, to the second.
    """
    return datetime.datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def package_versions() -> dict[str, str]:
    """The versions of the packages that results depend on."""
    return {package: importlib.metadata.version(package) for package in _PACKAGES}


def process_facts() -> dict[str, Any]:
    """Command, working folder, host and process; with pid and start time another process can tell whether it lives."""
    return {
        "command": command_line(),
        "working_folder": str(Path.cwd()),
        **machine_id(),
        "pid": os.getpid(),
        "process_started": process_start_time(os.getpid()),
        "python": platform.python_version(),
    }


def git_state(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Commit and state of a checkout, and its uncommitted changes as a diff; None and "" if the folder is not one.

    Args:
        folder: the folder at the top of the checkout.

    Returns:
        ``commit``, ``changed`` (whether files of it differ) and ``untracked`` (names of new files); and the diff as
        text.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=20).stdout

    try:
        if Path(git("rev-parse", "--show-toplevel").strip()) != folder.resolve():
            return None, ""  # installed inside some other checkout
        changes = git("diff", "HEAD")
        untracked = git("ls-files", "--others", "--exclude-standard").split("\n")[:-1]
        return {"commit": git("rev-parse", "HEAD").strip(), "changed": bool(changes), "untracked": untracked}, changes
    except (OSError, subprocess.SubprocessError):
        return None, ""
