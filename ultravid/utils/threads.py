"""How the threads of an operation on the CPU wait for each other, and their number. Imports no torch.

torch's threads spin while they wait for each other (GNU OpenMP's default). Beside another busy process the one that is waited for has no
core then: a frame of the small phantom model takes 576 ms with two spinning threads and 23 ms with two that sleep. To wake a thread
takes longer than most operations, though, so threads spin briefly before they sleep.
"""

from __future__ import annotations

import os
from typing import Annotated, Any

from ultravid.utils.limits import Accepts

__all__ = ["NumThreads", "available_cores", "number_of_threads", "threads_for", "wait_passively"]

SPIN_COUNT = "1000"
"""Rounds that a waiting thread spins before it sleeps: some tens of microseconds. Against none, a frame of YOLOX takes 146 ms in place of 183 on
two free cores; beside a busy process a frame of the small phantom model takes as long as before, with 5,000 rounds twice as long."""

SMALL_MODEL = 2_000_000
"""Parameters up to which a frame is faster on one thread than on two: of 0.7 million, at 128 px, 13.1 ms against 15.5."""


def wait_passively() -> None:
    """Let waiting threads sleep soon, unless the environment says how they wait. Has no effect on a torch that is imported already."""
    if "OMP_WAIT_POLICY" not in os.environ and "GOMP_SPINCOUNT" not in os.environ:
        os.environ.update(OMP_WAIT_POLICY="passive", GOMP_SPINCOUNT=SPIN_COUNT)


def available_cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def number_of_threads(value: Any) -> int | None:
    """A number of threads; None for "auto". The command line gives text, ``"2"``, as the value in the config is text.

    Args:
        value: ``"auto"``, a whole number of at least 1, or one as text.

    Raises:
        ValueError: it is neither.
    """
    if value == "auto":
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError
    return value


def _is_num_threads(value: Any) -> bool:
    try:
        number_of_threads(value)
    except ValueError:
        return False
    return True


NumThreads = Annotated[int | str, Accepts(_is_num_threads, "'auto' or a number of at least 1")]
"""Threads of an operation on the CPU, for a signature."""


def threads_for(num_parameters: int, available: int) -> int:
    """Number of threads for one frame after another through a model.

    Args:
        num_parameters: the number of parameters of the model.
        available: threads that there may be at most.
    """
    return 1 if num_parameters < SMALL_MODEL else max(1, available)
