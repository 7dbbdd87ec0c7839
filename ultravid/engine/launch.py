"""Start the processes of a run."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from typing import Any

import torch
import torch.distributed as dist

from ultravid.engine.rendezvous import (
    check_address,
    first_to_report,
    free_address,
    join_group,
    kept_over_restarts,
    lost_peer,
    ranks_of_torchrun,
)
from ultravid.engine.spawn import run_in_processes
from ultravid.engine.stop_signals import StopSignals, blocked_signals, installed_signals
from ultravid.utils import comm
from ultravid.utils.errors import StopTraining, UserError
from ultravid.utils.folder_lock import held_locks, release_locks
from ultravid.utils.run_folder import RunFolder, RunState
from ultravid.utils.tool import EXIT_INTERRUPTED, EXIT_USER_ERROR

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
    *,
    prepare: Callable[[], tuple[Any, ...]] | None = None,
) -> None:
    """Start the processes of a run and call ``main_func(*args)`` in each of them.

    Under torchrun the processes exist already, and this one joins them. Without CUDA the processes share the CPU and
    communicate through gloo. Locks that the run takes are released when it ends. A signal that asks it to stop ends it in order
    (`ultravid.engine.stop_signals`), and reaches all processes.

    Args:
        main_func: the run; a function at the top of a module, so that a new process finds it.
        num_gpus_per_machine: processes on each machine.
        num_machines: machines.
        machine_rank: this machine, from 0.
        dist_url: address at which the processes meet, ``tcp://host:port``; "auto" takes a free port of this machine.
        args: the arguments of ``main_func``.
        timeout: how long processes wait for each other.
        prepare: returns ``args``, and is called once for the whole run: in this process, before others are started; under torchrun
            and on several machines for rank 0, and not again when torchrun restarts the group. So a random or time-dependent value in a
            config is the same in all processes.

    Raises:
        UserError: more processes than GPUs, an address at which processes can't meet, or what a process raised.
        SystemExit: a process exited with a code other than 0, for example `EXIT_STOPPED`.
    """
    with _ended_in_order():
        ranks = ranks_of_torchrun()
        if ranks is not None:
            content = args if prepare is None else None
            if prepare is not None and ranks[0] == 0:
                content = pickle.loads(kept_over_restarts(lambda: _pickled(prepare())))
            _join(*ranks, (main_func, "env://", timeout, content))
            return
        if num_gpus_per_machine < 1 or not 0 <= machine_rank < num_machines:
            raise UserError(
                f"--num-gpus {num_gpus_per_machine} must be at least 1, and --machine-rank {machine_rank} must be below "
                f"--num-machines {num_machines}."
            )
        world_size = num_machines * num_gpus_per_machine
        if world_size > 1:
            dist_url = _checked_address(dist_url, num_gpus_per_machine, num_machines, machine_rank)
        content = (prepare() if prepare else args) if machine_rank == 0 or prepare is None else None
        if world_size == 1:
            assert content is not None
            main_func(*content)
            return
        payload = _pickled((world_size, (main_func, dist_url, timeout, content)))
        run_in_processes(machine_rank * num_gpus_per_machine, num_gpus_per_machine, _spawned, payload)


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


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """In the block a signal ends the process in order, and after it the locks that were taken in it are released."""
    held = held_locks()
    signals = StopSignals()
    with contextlib.suppress(ValueError):  # not in the main thread, where signals arrive
        signals.install()
    with blocked_signals():  # or a scheduler's signal to every process of a job ends it, with a traceback of its own
        resource_tracker.ensure_running()
    try:
        yield
    finally:
        release_locks(keep=held)
        signals.remove()


def _checked_address(dist_url: str | None, num_gpus: int, num_machines: int, machine_rank: int) -> str:
    """The address at which the processes meet, if there are the GPUs for them."""
    found = torch.cuda.device_count()
    if torch.cuda.is_available() and num_gpus > found:
        raise UserError(f"--num-gpus {num_gpus}, but this machine has {found}.")
    if dist_url not in ("auto", None):
        check_address(dist_url, is_served_here=machine_rank == 0)
        return dist_url
    if num_machines > 1:
        raise UserError("--dist-url auto works on one machine only; give an address for several machines.")
    return free_address()


def _pickled(content: Any) -> bytes:
    try:
        return pickle.dumps(content)
    except Exception as error:
        found = _not_pickled(content)
        raise UserError(
            f"{found} can't be sent to the other processes of the run: {error}. Describe it with LazyCall, or define it at the top "
            "of a module; or start the run with a single process."
        ) from error


def _not_pickled(value: Any, key: str = "") -> str:
    """The key and the text of the innermost value that can't be pickled."""
    items: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        items = [(f"{key}.{name}" if key else str(name), v) for name, v in dict.items(value)]
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        items = [(f"{key}[{index}]" if key else "", v) for index, v in enumerate(value)]
    for name, inner in items:
        try:
            pickle.dumps(inner)
        except Exception:
            return _not_pickled(inner, name)
    return f"{key}={value!r}" if key else repr(value)


def _spawned(rank: int, content: tuple[int, Any]) -> None:
    """What `launch` does in a process that it has started."""
    world_size, task = content
    with _ended_in_order():
        _join(rank, world_size, task)


def _join(rank: int, world_size: int, task: tuple[Callable[..., Any], str, datetime.timedelta, Any]) -> None:
    """Meet the other processes, and call the run."""
    main_func, init_method, timeout, args = task
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        # Two processes that each use all cores wait for each other's threads and take many times as long.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    signals = installed_signals()
    with contextlib.nullcontext() if signals is None else signals.suspended():
        join_group(rank, world_size, init_method, timeout)
    held = held_locks()
    try:
        main_func(*_from_main_process(args))
        release_locks(keep=held)
        if signals is not None:
            signals.postponed_by = _has_ended  # the others decide: this process has nothing left to stop
        dist.barrier()  # a process that leaves while another still talks to it breaks the other
    except (KeyboardInterrupt, SystemExit) as end:
        release_locks(keep=held)
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        # At once: taking the group down would wait for the others.
        os._exit(EXIT_INTERRUPTED if isinstance(end, KeyboardInterrupt) else _exit_code(end))
    except UserError:
        if "TORCHELASTIC_RUN_ID" in os.environ and not first_to_report():
            raise SystemExit(EXIT_USER_ERROR) from None
        raise
    except RuntimeError as error:
        if "TORCHELASTIC_RUN_ID" in os.environ and lost_peer(error):
            raise SystemExit(
                f"Rank {rank} lost the connection to another process, whose own message says why."
            ) from None
        raise
    finally:
        dist.destroy_process_group()


def _has_ended(number: int) -> None:
    """What a signal does to a process whose part of the run is complete, while it waits for the others."""


def _from_main_process(args: tuple[Any, ...] | None) -> tuple[Any, ...]:
    """The arguments of rank 0 in each process that has none itself."""
    if comm.all_agree(args is not None):
        assert args is not None
        return args
    payload = comm.all_gather(_pickled(args) if comm.is_main_process() else None)[0]
    return args if comm.is_main_process() else pickle.loads(payload)  # type: ignore[return-value]


def _exit_code(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    sys.stderr.write(f"{end.code}\n")
    return 1
