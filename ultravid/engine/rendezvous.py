"""The address at which the processes of a run meet, and checks of it in advance."""

from __future__ import annotations

import datetime
import errno
import os
import re
import socket
from collections.abc import Callable
from urllib.parse import urlsplit

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from ultravid.utils.errors import UserError

__all__ = [
    "check_address",
    "first_to_report",
    "free_address",
    "join_group",
    "kept_over_restarts",
    "lost_peer",
    "ranks_of_torchrun",
]

_LOST_PEER = re.compile(
    r"Connection (closed|reset|refused)|Broken pipe|Socket (closed|Timeout)|remote process exited|ncclRemoteError|"
    r"recvBytes failed|sendBytes failed|Timed out waiting .*ms for (recv|send)|Application timeout caused pair closure"
)


def ranks_of_torchrun() -> tuple[int, int] | None:
    """This process's rank and the number of processes, if torchrun has started it; else None.

    Raises:
        UserError: the environment has only a part of what torchrun sets.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")
    wrong = [f"{name}={os.environ.get(name, '')}" for name in names if not os.environ.get(name, "").isdecimal()]
    wrong += ["MASTER_ADDR="] if not os.environ.get("MASTER_ADDR") else []
    if wrong:
        raise UserError(
            f"TORCHELASTIC_RUN_ID is set, as by torchrun, but other variables that it sets are not: {', '.join(wrong)}. Start the "
            "run by torchrun, or unset TORCHELASTIC_RUN_ID."
        )
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def kept_over_restarts(make: Callable[[], bytes]) -> bytes:
    """What rank 0 made when torchrun started the group first; in a restarted group ``make`` is not called again.

    torchrun keeps it. If it can't, as when its workers serve the store themselves, every start creates a new one.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return make()
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = PrefixStore("ultravid", TCPStore(address, port, is_master=False))
        if int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) > 0 and store.check(["made"]):
            return bytes(store.get("made"))
    except RuntimeError as error:
        raise UserError(
            f"torchrun's store at {address}:{port} can't be reached: {str(error).splitlines()[0]}."
        ) from error
    content = make()
    store.set("made", content)  # type: ignore[arg-type]  # it takes bytes
    return content


def free_address() -> str:
    """An address of this machine with a port that is free now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{sock.getsockname()[1]}"


def check_address(dist_url: str, is_served_here: bool) -> None:
    """Refuse an address at which no processes can meet.

    Args:
        dist_url: ``tcp://host:port``, or another kind that torch knows.
        is_served_here: whether a process of this machine will listen there.

    Raises:
        UserError: it is not an address, its host is unknown, or its port is in use.
    """
    if dist_url.startswith(("file://", "env://")):
        return
    try:
        found = urlsplit(dist_url)
        scheme, host, port = found.scheme, found.hostname, found.port
    except ValueError:
        scheme, host, port = "", None, None
    if scheme != "tcp" or not host or not port:
        raise UserError(
            f"--dist-url {dist_url} is not an address. Write tcp://HOST:PORT, with the name of machine 0 and a free port of it, for "
            "example tcp://127.0.0.1:29500; on a single machine 'auto' finds a port."
        )
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UserError(f"--dist-url {dist_url}: the host {host!r} can't be found: {error.strerror}.") from None
    if is_served_here:
        try:
            with socket.create_server(("", port)):
                pass
        except OSError as error:
            raise UserError(
                f"--dist-url {dist_url}: port {port} of this machine {_why_not(error)}. Choose another port, or on a single machine "
                "'auto'."
            ) from None


def _why_not(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "is in use by another program, perhaps another run"
    return f"can't be opened: {error.strerror}"


def join_group(rank: int, world_size: int, init_method: str, timeout: datetime.timedelta) -> None:
    """Meet the other processes of the run.

    Raises:
        UserError: that failed: where, and why.
    """
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    try:
        store = None
        if init_method == "env://" and os.environ.get("LOCAL_WORLD_SIZE") == str(world_size):
            # torchrun's store outlives a group that lost a process. A new group that found the old one's addresses in it would
            # wait for processes that are gone; so each start uses its own prefix. (On several machines the counts differ.)
            store, rank, world_size = next(rendezvous(init_method, rank, world_size, timeout=timeout))
            store = PrefixStore(f"start_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group(
            backend,
            init_method=init_method if store is None else None,
            store=store,
            world_size=world_size,
            rank=rank,
            timeout=timeout,
        )
    except (RuntimeError, ValueError) as error:
        place = init_method
        if init_method == "env://":
            place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = str(error).strip().splitlines()[0]
        if re.search("EADDRINUSE|[Aa]ddress already in use", reason):
            reason = "the port is in use by another program"
        elif re.search("[Tt]imed? ?out", reason):
            reason = (
                f"not all of its {world_size} processes came within {timeout.total_seconds():.0f} seconds ({reason}). Each machine needs "
                "the same --num-machines, --num-gpus and --dist-url, and its own --machine-rank"
            )
        raise UserError(f"Rank {rank} can't meet the other processes of the run at {place}: {reason}.") from error


def first_to_report() -> bool:
    """Whether no other process of the group has asked this before; the first one prints an error that all of them have."""
    try:
        store = dist.distributed_c10d._get_default_store()
        return int(store.add(f"reported_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", 1)) == 1
    except (RuntimeError, ValueError):  # the store is gone
        return True


def lost_peer(error: object) -> bool:
    """Whether an error, or its text, is the consequence of another process's end."""
    return _LOST_PEER.search(str(error)) is not None
