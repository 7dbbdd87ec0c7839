"""The start of a loader's worker processes."""

from __future__ import annotations

import os
import signal
import threading

import cv2
import torch

from ultravid.utils.seed import seed_all_rng

__all__ = ["init_worker", "worker_init_reset_seed"]


def init_worker(worker_id: int) -> None:
    """Use one thread, because the workers are the parallelism, and leave signals to the trainer."""
    del worker_id
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU):
        signal.signal(number, signal.SIG_IGN)
    # A scheduler sends SIGTERM to every process of a job; a worker that died of it would take the trainer's last iteration
    # along. Python itself ends workers with the same signal, so the sender counts.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_the_trainer, args=(os.getppid(),), daemon=True).start()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def worker_init_reset_seed(worker_id: int) -> None:
    """`init_worker`, and seeds for Python's and numpy's generators, which differ from worker to worker.

    torch seeds its own generator of each worker by itself; the others would all draw the same numbers.
    """
    init_worker(worker_id)
    seed_all_rng((torch.initial_seed() + worker_id) % 2**31)


def _end_with_the_trainer(trainer: int) -> None:
    """Leave at a SIGTERM of the process that started this one; ignore any other's."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != trainer:
        pass
    os._exit(128 + signal.SIGTERM)
