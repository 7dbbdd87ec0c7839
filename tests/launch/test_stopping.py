"""Signals to real processes: while a run is built, and in training."""

import contextlib
import functools
import os
import signal
import subprocess
import time

import pytest

from tests.conftest import ROOT
from tests.quick_python import quick_python
from ultravid.utils.run_folder import RunFolder, RunState

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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "ends"),
    [
        (1, [None, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP]),
        pytest.param(2, [signal.SIGUSR1, None], marks=pytest.mark.distributed),
    ],
)
def test_a_signal_and_a_closed_terminal_in_training_save_a_checkpoint_from_which_the_run_goes_on(
    small_run, tmp_path, processes, ends
):
    """None closes the terminal."""
    run = RunFolder(tmp_path / "run")
    command = [quick_python(), str(ROOT / "tools/lazyconfig_train.py"), *small_run, "--num-gpus", str(processes)]
    command += ["train.max_iter=1000000", "train.checkpointer.period=1000000", "--resume"]
    start_iter = size = 0
    for number, end in enumerate(ends, 1):
        master, slave = os.openpty()
        files = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        in_terminal = {"preexec_fn": functools.partial(os.login_tty, slave), "env": {**os.environ, "TERM": "xterm"}}
        process = subprocess.Popen(command, cwd=tmp_path, **(in_terminal if end is None else files))
        os.close(slave)
        os.set_blocking(master, False)
        deadline = time.time() + 60
        while len(run.list_attempts()) < number or not run.metrics.exists() or run.metrics.stat().st_size <= size:
            assert time.time() < deadline
            with contextlib.suppress(OSError):  # a full terminal lets the run wait
                os.read(master, 65536)
            time.sleep(0.02)
        os.close(master)
        if end is not None:
            process.send_signal(end)
        assert process.wait(timeout=40) == 75, run.log.read_text()[-2000:]
        assert run.state() is RunState.STOPPED and not run.lock.exists()
        record = run.list_attempts()[-1].read_record()
        assert record["start_iter"] == start_iter and (end or signal.SIGHUP).name in record["end"]["why"]
        start_iter, size = record["end"]["iter"] + 1, run.metrics.stat().st_size
        assert run.newest_checkpoint().name == f"model_{start_iter - 1:07d}.pth"
    assert "Traceback" not in run.log.read_text()
