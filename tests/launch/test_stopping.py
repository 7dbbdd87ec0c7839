"""Signals that come before the first iteration, to real processes."""

import os
import signal
import subprocess
import time

import pytest

from tests.conftest import ROOT
from tests.quick_python import quick_python

SLOW = """
import os, time
from pathlib import Path
from ultravid.engine import HookBase
from ultravid.utils import comm

class Slow(HookBase):
    def __init__(self):
        Path(f"building_{comm.get_rank()}").write_text(str(os.getpid()))
        time.sleep(60)
"""


@pytest.mark.parametrize(
    ("processes", "number", "to_rank", "code"),
    [
        (1, signal.SIGUSR1, None, 75),
        (1, signal.SIGINT, None, 130),
        pytest.param(2, signal.SIGHUP, None, 75, marks=pytest.mark.distributed),
        pytest.param(2, signal.SIGTERM, 1, 75, marks=pytest.mark.distributed),
    ],
)
def test_a_signal_while_a_run_is_built_ends_it_in_order(small_run, tmp_path, processes, number, to_rank, code):
    (tmp_path / "slow.py").write_text(SLOW)
    command = [quick_python(), str(ROOT / "tools/lazyconfig_train.py"), *small_run, "--num-gpus", str(processes)]
    command.append("+trainer.hooks.slow={_target_: slow.Slow}")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, **pipes)
    pids = [tmp_path / f"building_{rank}" for rank in range(processes)]
    deadline = time.time() + 60
    while not all(p.exists() and p.read_text() for p in pids) and time.time() < deadline:
        time.sleep(0.02)
    began = time.time()
    if to_rank is None:
        process.send_signal(number)
    else:
        os.kill(int(pids[to_rank].read_text()), number)
    said = process.communicate(timeout=40)[1]
    assert process.returncode == code and time.time() - began < 20, said
    assert "Traceback" not in said and not (tmp_path / "run/lock.json").exists()
