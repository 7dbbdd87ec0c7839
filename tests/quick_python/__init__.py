"""A ``python`` that has imported torch and ultravid already: what tests start as processes costs 0.1 s of CPU instead of 3 to 6.

`quick_python` gives the path of a program that is used as ``sys.executable`` is: ``[quick_python(), "tools/x.py", ...]``, and
``-c`` and ``-m``. It asks a server, which has done the imports, to fork. The forked process is one as any other: it has a
pid, signals, an exit code, files, a working folder and an environment of its own, it is a session leader, and what it starts
by ``sys.executable`` or ``multiprocessing`` is quick too. It dies when the program that asked for it is killed.

A process that must be python's own (SIGKILL that must act at once, what is imported, a terminal's process group) is started by
``sys.executable``.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import multiprocessing.spawn
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["quick_python", "spawns_quick_python"]

_HERE = Path(__file__).resolve().parent


@functools.cache
def quick_python() -> str:
    """The path of the program; starts the server when it is called first."""
    folder = Path(tempfile.mkdtemp(prefix="quick_python"))
    address, program = folder / "socket", folder / "python"
    client = [sys.executable, "-I", "-S", str(_HERE / "client.py"), str(address)]
    program.write_text(f'#!/bin/sh\nexec {shlex.join(client)} "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    command = [sys.executable, str(_HERE / "server.py"), str(address), str(program)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert server.stdout is not None and server.stdout.readline() == b"ready\n"
    atexit.register(_stop, server, folder)
    return str(program)


def _stop(server: subprocess.Popen[bytes], folder: Path) -> None:
    """End the server. It is waited for, so that its time and that of its processes counts as the tests' own."""
    assert server.stdin is not None
    server.stdin.close()  # which also happens if this process is killed
    server.wait()
    shutil.rmtree(folder)


@contextlib.contextmanager
def spawns_quick_python() -> Iterator[None]:
    """Let what ``multiprocessing`` spawns in the block be quick."""
    executable = multiprocessing.spawn.get_executable()
    multiprocessing.spawn.set_executable(quick_python())
    try:
        yield
    finally:
        multiprocessing.spawn.set_executable(executable)
