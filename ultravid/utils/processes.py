"""Processes of this machine: whether the process with a pid is still the same one."""

from __future__ import annotations

import os
import socket
from pathlib import Path

__all__ = ["is_running", "machine_id", "process_start_time"]


def machine_id() -> dict[str, str]:
    """The name of the machine, with values that distinguish it from machines of the same name, from itself before a restart, and from a container.

    Two processes see each other's pids if these values are equal. Where there is no ``/proc`` the host's name must do.
    """
    found = {"host": socket.gethostname()}
    try:
        found["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        found["pid_namespace"] = os.readlink("/proc/self/ns/pid")
    except OSError:
        pass
    return found


def process_start_time(pid: int) -> int | None:
    """When a process of this machine started, in the kernel's clock ticks since boot; None if there is no such process.

    With the pid it tells a process from a later one that got the same pid. Known only on Linux; elsewhere a process that
    is there gives 0.

    Args:
        pid: the process's number.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0 if not Path("/proc/self/stat").exists() and _exists(pid) else None
    fields = text.rpartition(")")[2].split()  # a program's name, in parentheses, may hold spaces
    return None if fields[0] in ("Z", "X") else int(fields[19])


def is_running(pid: int, started: int | None) -> bool:
    """Whether a process of this machine is there, and is the one that started then; None: whenever it started.

    Args:
        pid: the process's number.
        started: its start as of `process_start_time`.
    """
    now = process_start_time(pid)
    return now is not None and started in (None, now)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
