"""A small phantom on disk, and the launcher called in this process."""

import os

# Set before torch is loaded. Small tensors gain nothing from a second thread, and threads that spin while they wait cost as
# much CPU time as those that work: these two lines save 40% of the suite's.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import importlib.util
import json
import logging
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ultravid.datasets.phantom import write_phantom_dataset
from ultravid.utils.folder_lock import release_locks
from ultravid.utils.tool import run_tool

# Under nohup it is ignored, and runs leave it so; the tests look at runs that were started without.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parents[1]
os.environ["ULTRAVID_CACHE"] = "off"  # tests write nothing to the user's cache; those of the cache use their own
PHANTOM_CONFIG = ROOT / "projects/basicdet/configs/phantom.py"


def load_tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tools_{name}", ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _leaves_no_trace() -> Iterator[None]:
    """Restore the settings of the process that a run changes; remove log handlers, which hold a test's streams, and locks."""
    environment, threads = dict(os.environ), torch.get_num_threads()
    determinism, benchmark = torch.get_deterministic_debug_mode(), torch.backends.cudnn.benchmark
    precision = torch.get_float32_matmul_precision()
    yield
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(threads)
    torch.set_deterministic_debug_mode(determinism)
    torch.backends.cudnn.benchmark = benchmark
    torch.set_float32_matmul_precision(precision)
    release_locks()
    log = logging.getLogger("ultravid")
    for handler in list(log.handlers):
        handler.close()
        log.removeHandler(handler)
    log.propagate = True


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight videos of 12 frames, 64 px: six for training, two for testing."""
    root = tmp_path_factory.mktemp("data") / "phantom"
    list(write_phantom_dataset(root, 8, 12, 64, seed=3, test_fraction=0.25, num_workers=2))
    return root


def small_arguments(phantom: Path, output_dir: Path) -> list[str]:
    """Arguments that make the phantom config a run of a few seconds."""
    return [
        "--config-file",
        str(PHANTOM_CONFIG),
        f"data.root={phantom}",
        f"train.output_dir={output_dir}",
        "train.max_iter=8",
        "train.log_period=1",
        "train.checkpointer.period=3",
        "dataloader.train.frame_sampler.num_frames=3",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
    ]


@pytest.fixture
def small_run(phantom: Path, tmp_path: Path) -> list[str]:
    """Arguments of a run of a few seconds in the test's own folder."""
    return small_arguments(phantom, tmp_path / "run")


@pytest.fixture
def launch_run() -> Callable[[list[str]], int]:
    """The launcher's exit code for arguments, in this process."""
    tool = load_tool("lazyconfig_train")
    return lambda argv: run_tool(tool.main, argv)


def read_rows(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def without_times(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k not in ("time", "data_time")} for row in rows]


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["model"]


def same_weights(a: Path, b: Path) -> bool:
    left, right = load_weights(a), load_weights(b)
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)
