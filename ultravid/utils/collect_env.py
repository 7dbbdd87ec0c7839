"""Facts about the machine for a bug report: ``python -m ultravid.utils.collect_env``."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from tabulate import tabulate

import ultravid

__all__ = ["collect_env_info"]

PACKAGES = (
    *(
        "torchvision",
        "numpy",
        "scipy",
        "opencv-python-headless",
        "pillow",
        "fvcore",
        "iopath",
        "hydra-core",
        "omegaconf",
    ),
    *("PyYAML", "cloudpickle", "tensorboard", "rich", "av", "pydicom", "pycocotools", "wandb", "mlflow-skinny"),
)
# The values of other variables may be secret.
VARIABLES = re.compile(
    r"ULTRAVID_DATASETS|(CUDA|CUBLAS|CUDNN|NCCL|GLOO|TORCH|PYTORCH|OMP|MKL|OPENBLAS|KMP)_\w+|PYTHONPATH|LD_LIBRARY_PATH|"
    r"LD_PRELOAD|RANK|LOCAL_RANK|WORLD_SIZE|SLURM_(JOB_ID|NNODES|NTASKS|CPUS_PER_TASK|GPUS_ON_NODE)|"
    r"WANDB_MODE|HF_HUB_OFFLINE"
)


def collect_env_info() -> str:
    """A table of versions, hardware and environment variables, followed by torch's compile-time configuration."""
    rows = [*_software(), *_cuda(), *_machine(), *_variables()]
    return f"{tabulate(rows, tablefmt='plain', disable_numparse=True)}\n{torch.__config__.show().rstrip()}"


def _software() -> Iterator[tuple[str, str]]:
    yield "ultravid", f"{_version('ultravid') or 'not installed'}, {_commit()} @ {Path(ultravid.__file__).parent}"
    yield "Python", f"{sys.version.replace(chr(10), '')} @ {sys.executable}"
    yield "platform", platform.platform()
    debug = " debug" if torch.version.debug else ""
    yield "torch", f"{torch.__version__}{debug} @ {Path(torch.__file__).parent}"
    for package in PACKAGES:
        if (version := _version(package)) is not None:
            yield package, version
    missing = [package for package in PACKAGES if _version(package) is None]
    yield "not installed", ", ".join(missing) or "-"


def _cuda() -> Iterator[tuple[str, str]]:
    yield "CUDA of torch", f"{torch.version.cuda or '-'}; available: {torch.cuda.is_available()}"
    yield (
        "driver",
        _output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0] or "-",
    )
    if not torch.cuda.is_available():
        return
    yield "cuDNN", str(torch.backends.cudnn.version())
    if torch.distributed.is_nccl_available():
        yield "NCCL", ".".join(map(str, torch.cuda.nccl.version()))
    yield "architectures", " ".join(torch.cuda.get_arch_list())
    yield "CUDA_HOME", os.environ.get("CUDA_HOME", "-")
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        memory = f"{found.total_memory / 2**30:.1f} GiB, compute capability {found.major}.{found.minor}"
        yield f"GPU {index}", f"{found.name}, {memory}"


def _machine() -> Iterator[tuple[str, str]]:
    yield "CPU", f"{_cpu_name()}, {platform.machine()}, {os.cpu_count()} cores, {_usable_cores()} usable"
    threads = f"{torch.get_num_threads()} in an operation, {torch.get_num_interop_threads()} between them"
    yield "threads of torch", f"{threads}; instructions {torch.backends.cpu.get_cpu_capability()}"
    yield "memory", _memory()
    flag = {False: "no", True: "yes"}
    yield "MKL, oneDNN", f"{flag[torch.backends.mkl.is_available()]}, {flag[torch.backends.mkldnn.is_available()]}"
    yield "compiler", (_output_of("c++", "--version").partition("\n")[0] or "no c++")


def _variables() -> Iterator[tuple[str, str]]:
    yield from ((name, value) for name, value in sorted(os.environ.items()) if VARIABLES.fullmatch(name))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str:
    """The commit of the package's repository, with "+changes" if files differ from it."""
    root = Path(ultravid.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return "not in a git repository"
    commit = _output_of("git", "-C", str(root), "rev-parse", "--short=12", "HEAD")
    changed = _output_of("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return f"git {commit}{'+changes' if changed else ''}" if commit else "git does not report its commit"


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", path.read_text(encoding="utf-8")) if path.is_file() else None
    return found[1] if found else platform.processor() or "unknown"


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> str:
    path = Path("/proc/meminfo")
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    sizes = {
        name: int(kib) / 2**20 for name, kib in re.findall(r"^(MemTotal|MemAvailable): +(\d+) kB$", text, re.MULTILINE)
    }
    if len(sizes) < 2:
        return "unknown"
    return f"{sizes['MemTotal']:.1f} GiB, {sizes['MemAvailable']:.1f} GiB available"


def _output_of(*command: str) -> str:
    """What a program prints; "" if it is missing or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


if __name__ == "__main__":
    print(collect_env_info())  # noqa: T201
