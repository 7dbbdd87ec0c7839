"""Start the processes of a run."""

from __future__ import annotations

import contextlib
import datetime
import logging
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.queues import SimpleQueue
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.multiprocessing.spawn import ProcessExitedException, start_processes

from ultravid.utils.errors import StopTraining, UserError
from ultravid.utils.folder_lock import held_locks, release_locks
from ultravid.utils.run_folder import RunFolder, RunState
from ultravid.utils.tool import EXIT_INTERRUPTED, EXIT_STOPPED, EXIT_USER_ERROR

__all__ = ["launch", "restarted_by_torchrun"]

logger = logging.getLogger(__name__)

DEFAULT_TIMEOUT = datetime.timedelta(minutes=30)


def launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int = 1,
    machine_rank: int = 0,
    dist_url: str | None = None,
    args: tuple[Any, ...] = (),
    timeout: datetime.timedelta = DEFAULT_TIMEOUT,
) -> None:
    """Call ``main_func(*args)`` in every process of a run.

    Under torchrun the processes exist already, and this one joins them. Without CUDA the processes share the CPU and
    communicate through gloo.

    Args:
        main_func: the run; a function at the top of a module, so that a new process finds it.
        num_gpus_per_machine: processes on each machine.
        num_machines: machines.
        machine_rank: this machine, from 0.
        dist_url: address at which the processes meet, ``tcp://host:port``; "auto" takes a free port of this machine.
        args: of ``main_func``.
        timeout: how long processes wait for each other.

    Raises:
        UserError: more processes than GPUs, "auto" on several machines, or what a process raised.
        SystemExit: a process exited with a code other than 0, for example `EXIT_STOPPED`.
    """
    with _released_locks():
        _launch(main_func, num_gpus_per_machine, num_machines, machine_rank, dist_url, args, timeout)


@contextlib.contextmanager
def _released_locks() -> Iterator[None]:
    """Release the locks that are taken in the block: a process that ends by `os._exit` would leave them."""
    held = held_locks()
    try:
        yield
    finally:
        release_locks(keep=held)


def _launch(
    main_func: Callable[..., Any],
    num_gpus_per_machine: int,
    num_machines: int,
    machine_rank: int,
    dist_url: str | None,
    args: tuple[Any, ...],
    timeout: datetime.timedelta,
) -> None:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _join(
            main_func,
            int(os.environ["RANK"]),
            int(os.environ["WORLD_SIZE"]),
            "env://",
            timeout,
            args,
        )
        return
    if num_gpus_per_machine < 1 or not 0 <= machine_rank < num_machines:
        raise UserError(
            f"--num-gpus {num_gpus_per_machine} must be at least 1, and --machine-rank {machine_rank} must be below "
            f"--num-machines {num_machines}."
        )
    world_size = num_machines * num_gpus_per_machine
    if world_size == 1:
        main_func(*args)
        return
    num_gpus = torch.cuda.device_count()
    if torch.cuda.is_available() and num_gpus_per_machine > num_gpus:
        raise UserError(f"--num-gpus {num_gpus_per_machine}, but this machine has {num_gpus}.")
    if dist_url in ("auto", None):
        if num_machines > 1:
            raise UserError("--dist-url auto works on one machine only; give an address for several machines.")
        dist_url = f"tcp://127.0.0.1:{_free_port()}"
    _spawn(main_func, world_size, num_gpus_per_machine, machine_rank, dist_url, timeout, args)


def restarted_by_torchrun(output_dir: str | os.PathLike[str]) -> bool:
    """Whether torchrun has restarted this group because one of its processes died: then the run is resumed.

    Args:
        output_dir: the run's folder.

    Raises:
        StopTraining: the group had stopped on request. torchrun restarts after every exit code but 0, and 0 would mean that
            the run is finished; so each restart that torchrun has left stops at once.
    """
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == 0:
        return False
    run = RunFolder(output_dir)
    record = run.newest_record()
    is_of_this_group = record is not None and record.get("torchrun") == os.environ.get("TORCHELASTIC_RUN_ID")
    if is_of_this_group and run.state() is RunState.STOPPED:
        raise StopTraining("the run was asked to stop, so it is not restarted")
    return True


def _spawn(
    main_func: Callable[..., Any],
    world_size: int,
    num_local: int,
    machine_rank: int,
    dist_url: str,
    timeout: datetime.timedelta,
    args: tuple[Any, ...],
) -> None:
    """Start this machine's processes and wait for them."""
    errors = multiprocessing.get_context("spawn").SimpleQueue()
    processes = start_processes(
        _worker,
        nprocs=num_local,
        args=(errors, main_func, world_size, num_local, machine_rank, dist_url, timeout, args),
        start_method="spawn",
        join=False,
    )
    with _forwarded_signals(processes.pids()):
        try:
            while not processes.join():
                pass
        except ProcessExitedException as error:
            if not errors.empty():
                raise UserError(errors.get()) from None
            raise SystemExit(error.exit_code) from error


@contextlib.contextmanager
def _forwarded_signals(pids: Sequence[int]) -> Iterator[None]:
    """Forward SIGTERM and SIGINT to the processes while this one waits for them.

    Ctrl-C in a terminal sends SIGINT to the processes as well, and a second SIGINT ends them at once. So the first one is
    forwarded as SIGTERM, which may arrive twice, and the second one is sent twice, because it may be the first they receive.
    """
    interrupts = 0

    def forward(number: int, frame: object) -> None:
        del frame
        nonlocal interrupts
        interrupts += number == signal.SIGINT
        if number == signal.SIGINT and interrupts > 1:
            send(signal.SIGINT)
            time.sleep(0.05)  # else the two signals would be delivered as one
            send(signal.SIGINT)
        else:
            send(signal.SIGTERM)

    def send(number: int) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    old = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _worker(
    local_rank: int,
    errors: SimpleQueue[str],
    main_func: Callable[..., Any],
    world_size: int,
    num_local: int,
    machine_rank: int,
    dist_url: str,
    timeout: datetime.timedelta,
    args: tuple[Any, ...],
) -> None:
    os.environ["LOCAL_RANK"] = str(local_rank)
    os.environ["LOCAL_WORLD_SIZE"] = str(num_local)
    code = 0
    try:
        _join(main_func, machine_rank * num_local + local_rank, world_size, dist_url, timeout, args)
    except UserError as error:  # the process that started this one reports it, once
        errors.put(str(error))
        code = EXIT_USER_ERROR
    except StopTraining:
        code = EXIT_STOPPED
    # Everything is written. A normal exit beside gloo's threads sometimes ends in "terminate called without an active
    # exception", which would turn a finished run into a failed one.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _join(
    main_func: Callable[..., Any],
    rank: int,
    world_size: int,
    init_method: str,
    timeout: datetime.timedelta,
    args: tuple[Any, ...],
) -> None:
    has_cuda = torch.cuda.is_available()
    if has_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        # Two processes that each use all cores wait for each other's threads and take many times as long.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    backend = "nccl" if has_cuda else "gloo"
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
    try:
        with _released_locks():
            main_func(*args)
        dist.barrier()  # a process that leaves while another still talks to it breaks the other
    except KeyboardInterrupt:
        logging.shutdown()
        os._exit(EXIT_INTERRUPTED)  # at once: taking the group down would wait for the others
    finally:
        dist.destroy_process_group()
