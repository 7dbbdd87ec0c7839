"""The program that `quick_python` names: ask the server for a process, hand on signals, end as it ends."""

import contextlib
import json
import os
import signal
import socket
import struct
import sys

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)


def open_files() -> list[int]:
    """The files that the process is to have: the standard ones, and those that were passed on to this one."""
    numbers = sorted(int(name) for name in os.listdir("/proc/self/fd"))
    return [n for n in numbers if n <= 2 or (n < 1000 and _is_inherited(n))]


def _is_inherited(number: int) -> bool:
    try:
        return os.get_inheritable(number)
    except OSError:  # that of the listing
        return False


def hand_on(number: int, server: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the process has just ended
        server.send(bytes([number]))


def main() -> None:
    address, arguments = sys.argv[1], sys.argv[2:]
    files = open_files()
    request = {"argv": arguments, "cwd": os.getcwd(), "environment": dict(os.environ), "files": files}
    # What a new program inherits; this one hands every signal on.
    request["ignored"] = [n for n in FORWARDED if signal.getsignal(n) is signal.SIG_IGN]
    request["blocked"] = list(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
    content = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(address)
        for number in FORWARDED:
            signal.signal(number, lambda number, _: hand_on(number, server))
        socket.send_fds(server, [struct.pack("i", len(content))], files)
        server.sendall(content)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
        for number in files[3:]:
            os.close(number)  # a pipe ends when the process has closed it
        status = server.recv(4)
    code = os.waitstatus_to_exitcode(struct.unpack("i", status)[0]) if status else 1
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    main()
