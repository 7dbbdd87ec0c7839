"""The slots in which jobs run on this machine, on GPUs or on the CPU, and the number of threads of each job."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ultravid.experiments.local import GPU_VARIABLE
from ultravid.utils.errors import UserError
from ultravid.utils.file_io import dump_json, replace_file
from ultravid.utils.text import counted

__all__ = ["Threads", "make_slots", "threads_per_job", "with_threads"]

_THREADS_VARIABLE = "OMP_NUM_THREADS"
_BY_NAME = re.compile(r"(GPU|MIG)-[\w/-]+")  # as nvidia-smi -L lists them


def make_slots(gpus: str | None = None, per_gpu: int | None = None, slots: int | None = None) -> list[dict[str, str]]:
    """The slots of ``--gpus 0,1 --per-gpu 2`` or of ``--slots 4``: environment variables of each. Without any, one slot.

    Jobs of one GPU are spread over the list: the first slots are one of each GPU.

    Raises:
        UserError: numbers below 1, options that contradict each other, a GPU that is repeated or not there.
    """
    for name, number in (("--per-gpu", per_gpu), ("--slots", slots)):
        if number is not None and number < 1:
            raise UserError(f"{name} {number}: is below 1.")
    if gpus is None:
        if per_gpu is not None:
            raise UserError(
                f"--per-gpu {per_gpu}: needs --gpus, the list of GPUs; without GPUs it is --slots {per_gpu}."
            )
        return [{} for _ in range(slots or 1)]
    if slots is not None:
        raise UserError(
            f"--slots {slots}: is for jobs on the processor; on GPUs say how many each takes, --per-gpu {slots}."
        )
    names = [gpu.strip() for gpu in gpus.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise UserError(f"--gpus {gpus}: name each GPU once, as 0,1,2; several jobs on each are --per-gpu N.")
    _check_gpus(gpus, names)
    return [{GPU_VARIABLE: name} for _ in range(per_gpu or 1) for name in names]


def _check_gpus(text: str, names: Sequence[str]) -> None:
    """Refuse a GPU that is not there, or that this process was not given."""
    given = os.environ.get(GPU_VARIABLE)
    import torch  # here, as it takes seconds to import

    if not torch.cuda.is_available():
        hidden = f" ({GPU_VARIABLE}={given} hides what there is)" if given is not None else ""
        raise UserError(
            f"--gpus {text}: torch finds no GPU here{hidden}. Leave it out; on the processor --slots N runs N jobs at a time."
        )
    known = given.split(",") if given else [str(number) for number in range(torch.cuda.device_count())]
    known = [name.strip() for name in known]
    missing = [name for name in names if name not in known and not (_BY_NAME.fullmatch(name) and not given)]
    if missing:
        why = f" as {GPU_VARIABLE}={given}" if given else ""
        raise UserError(f"--gpus {text}: there is no GPU {', '.join(missing)}; there is {', '.join(known)}{why}.")


class Threads:
    """The number of threads of each job of an experiment on the processor, kept in its folder.

    The last digits of a training on the processor depend on its number of threads. So it is chosen by the first command, and
    the slots of later ones do not change it.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> int | None:
        """The number; None before the first command, and if the file is damaged."""
        try:
            number = json.loads(self.path.read_text(encoding="utf-8"))["threads"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return number if isinstance(number, int) and not isinstance(number, bool) and number >= 1 else None

    def write(self, number: int) -> None:
        """Keep a number."""
        with replace_file(self.path) as file:
            file.write(dump_json({"threads": number}).encode())


def threads_per_job(threads: Threads, slots: Sequence[Mapping[str, str]], wanted: int | None = None) -> tuple[int, str]:
    """The number of threads that each new job gets, which is kept for later commands unless jobs run on GPUs.

    Args:
        threads: where it is kept.
        slots: as of `make_slots`.
        wanted: the user's number; None: the one that is kept, else the cores divided by the slots.

    Returns:
        the number, and a note for the user if it is not what the slots alone would give; "" without one.

    Raises:
        UserError: a number below 1.
    """
    if wanted is not None and wanted < 1:
        raise UserError(f"--threads {wanted}: is below 1.")
    is_kept = not any(GPU_VARIABLE in slot for slot in slots)
    cores, num_slots, kept = _cores(), len(slots), threads.read() if is_kept else None
    share = _of_environment() or max(1, cores // num_slots)
    number = wanted or kept or share
    if is_kept and number != kept:
        threads.write(number)
    if wanted is not None and kept not in (None, wanted):
        return number, f"Jobs that begin now have {counted(number, 'thread')}; those that began before keep {kept}."
    if wanted is None and number == kept and number != share:
        return number, (
            f"{counted(number, 'thread')} for each job, as when the experiment began: the last digits of results depend on it. "
            f"--threads {share} changes it for jobs that have not begun."
        )
    if is_kept and num_slots * number > cores:
        return number, f"{num_slots} slots of {counted(number, 'thread')} share {counted(cores, 'core')}."
    return number, ""


def with_threads(slots: Sequence[Mapping[str, str]], threads: int) -> list[Mapping[str, str]]:
    """The slots with a number of threads for each job."""
    return [{**slot, _THREADS_VARIABLE: str(threads)} for slot in slots]


def _cores() -> int:
    """Cores that this process may use, each once if it runs two threads: the number of threads that torch takes."""
    try:
        numbers = os.sched_getaffinity(0)
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1
    try:
        siblings = [Path(f"/sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list").read_text() for n in numbers]
    except OSError:
        return len(numbers)
    return len(set(siblings))


def _of_environment() -> int | None:
    text = os.environ.get(_THREADS_VARIABLE, "").partition(",")[0].strip()
    return int(text) if text.isdecimal() and int(text) >= 1 else None
