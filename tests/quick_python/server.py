"""Import what the tools import, then fork a process for each client that asks."""

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import multiprocessing.spawn
import os
import runpy
import selectors
import signal
import socket
import struct
import sys
import threading
import types
from pathlib import Path
from typing import Any

IMPORTED = [
    *("torch.distributed.run", "torch.utils.tensorboard", "tensorboard.summary.writer.event_file_writer", "cv2"),
    *("ultravid.data", "ultravid.engine.hooks", "ultravid.evaluation", "ultravid.modeling"),
]


def receive(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    header, files, _, _ = socket.recv_fds(client, 4, 250)
    (length,) = struct.unpack("i", header)
    content = b""
    while len(content) < length:
        content += client.recv(length - len(content))
    return json.loads(content), files


def serve(address: str) -> dict[str, Any] | None:
    """Fork for each client; returns its request in a forked process, None in the server when its standard input closes."""
    selector = selectors.DefaultSelector()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    selector.register(listener, selectors.EVENT_READ, "listener")
    selector.register(sys.stdin, selectors.EVENT_READ, "stdin")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        # A client that was killed comes before one that asks: what is started next must find the killed process gone.
        for key, _ in sorted(selector.select(), key=lambda event: event[0].data == "listener"):
            if key.data == "stdin":
                return None
            if key.data == "listener":
                client, _ = listener.accept()
                request, files = receive(client)
                pid = os.fork()
                if pid == 0:
                    for each in selector.get_map().values():
                        if each.fileobj is not sys.stdin:
                            _close(each.fileobj)
                    selector.close()
                    client.close()
                    take_files(files, request["files"])
                    return request
                for number in files:
                    os.close(number)
                selector.register(client, selectors.EVENT_READ, ("client", pid))
                selector.register(os.pidfd_open(pid), selectors.EVENT_READ, ("process", pid, client))
            elif key.data[0] == "client":
                try:
                    received = key.fileobj.recv(1)
                except OSError:
                    received = b""
                # A client that is gone was killed, and so is its process.
                os.kill(key.data[1], received[0] if received else signal.SIGKILL)
                if not received:
                    selector.unregister(key.fileobj)
            else:
                _, pid, client = key.data
                selector.unregister(key.fileobj)
                os.close(key.fileobj)
                _, status = os.waitpid(pid, 0)
                if client in {each.fileobj for each in selector.get_map().values()}:
                    selector.unregister(client)
                    with contextlib.suppress(OSError):
                        client.send(struct.pack("i", status))
                client.close()
                break  # further events of this round may be of what was closed


def _close(file: Any) -> None:
    os.close(file) if isinstance(file, int) else file.close()


def take_files(received: list[int], numbers: list[int]) -> None:
    """Give files the numbers that they had in the client."""
    high = [fcntl.fcntl(file, fcntl.F_DUPFD, 1000) for file in received]
    for file in received:
        os.close(file)
    for file, number in zip(high, numbers, strict=True):
        os.dup2(file, number)
        os.close(file)


def become(request: dict[str, Any], program: str) -> list[str]:
    """Take over a client's environment; returns the arguments after python's own options."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for number in request["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    added = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path[1:]]
    sys.path[0:1] = ["", *added]
    sys.executable = program
    multiprocessing.spawn.set_executable(program)
    sys.modules["torch"].set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    arguments = list(request["argv"])
    while arguments[0].startswith("-") and arguments[0] not in ("-c", "-m"):
        del arguments[: 2 if arguments[0] in ("-X", "-W") else 1]
    return arguments


def execute(arguments: list[str]) -> None:
    """What python does with ``-c CODE``, ``-m MODULE`` or ``FILE``."""
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path[0] = os.getcwd()
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(arguments[1], module.__dict__)
        return
    sys.argv = arguments
    sys.path[0] = str(Path(arguments[0]).resolve().parent)
    module.__file__ = arguments[0]
    exec(compile(Path(arguments[0]).read_bytes(), arguments[0], "exec"), module.__dict__)


def end_as_python_does(arguments: list[str]) -> None:
    """Execute, and end with python's exit code; without tearing down the modules, which takes seconds and shows nothing."""
    code: Any = 0
    try:
        execute(arguments)
    except SystemExit as end:
        code = end.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = -signal.SIGINT if isinstance(sys.exception(), KeyboardInterrupt) else 1
    if code is not None and not isinstance(code, int):
        sys.stderr.write(f"{code}\n")
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # nobody reads it, or the tool closed it
            stream.flush()
    if (code or 0) < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit((code or 0) & 0xFF)


def main() -> None:
    """Import, serve, and in each forked process execute what the client asked for."""
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    for name in IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # collections in forked processes leave the imported pages alone
    asked = serve(sys.argv[1])
    if asked is None:
        os._exit(0)
    end_as_python_does(become(asked, sys.argv[2]))


if __name__ == "__main__":
    main()
