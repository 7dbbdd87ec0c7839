"""The bar on a pseudo-terminal, as a user sees it, and plain lines elsewhere."""

import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT, small_arguments
from ultravid.engine import HookBase
from ultravid.engine.hooks import ProgressBar
from ultravid.utils.events import EventStorage

RUN = """
import sys, time
import torch
from ultravid.engine import HookBase, SimpleTrainer, hooks
from ultravid.engine.progress import ProgressBar
from ultravid.utils.events import CommonMetricPrinter
from ultravid.utils.logger import setup_logger

setup_logger("out")


class Model(torch.nn.Linear):
    def forward(self, x):
        time.sleep(0.02)
        return {"loss": super().forward(x).sum()}


class End(HookBase):
    def after_step(self):
        print(f"a print in iteration {self.trainer.iter}")
        print("to standard error", file=sys.stderr)
        if self.trainer.iter == 28 and "fail" in sys.argv:
            raise ArithmeticError("nan")


model = Model(2, 1)
named = {"bar": ProgressBar(), "end": End(), "write": hooks.PeriodicWriter([CommonMetricPrinter(30)], period=5)}
SimpleTrainer(model, [torch.ones(1, 2)], torch.optim.SGD(model.parameters(), lr=0.0), hooks=named, max_iter=30).train(10)
"""

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
LOG_LINE = re.compile(r"\[\d\d-\d\d \d\d:\d\d:\d\d ultravid\.utils\.events\] INFO: .*iter: \d+ .*max_(rss|mem): \d+M")


def on_terminal(command, cwd, until=None, send=signal.SIGINT):
    """What a command writes on a terminal of 200 columns, and its exit code; a signal goes out once `until` is read."""
    master, slave = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "COLUMNS": "200"}
    with (cwd / "stderr").open("wb") as errors:
        process = subprocess.Popen(command, cwd=cwd, env=environment, stdin=slave, stdout=slave, stderr=errors)
    os.close(slave)
    written = b""
    while True:
        try:
            written += os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        if until is not None and until in written:
            process.send_signal(send)
            until = None
    os.close(master)
    return written.decode(), process.wait()


def lines_of(written):
    """Lines without what moves the cursor or colours them; what was drawn and wiped again stands alone in its line."""
    return [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in re.split(r"\r?\n|\r", written)]


@pytest.mark.slow
def test_on_a_terminal_the_bar_counts_below_whole_lines_of_the_log(tmp_path):
    (tmp_path / "run.py").write_text(RUN)
    written, code = on_terminal([sys.executable, "run.py"], tmp_path)
    assert code == 0, written
    lines = lines_of(written)
    assert len([line for line in lines if LOG_LINE.fullmatch(line)]) == 4
    assert len([line for line in lines if re.fullmatch(r"a print in iteration \d+", line)]) == 20
    bars = [line for line in lines if line.startswith("training ")]
    assert re.fullmatch(r"training ━+ +30/30 +\d+\.\d it/s eta 0:00:00 total_loss -?[\d.]+", bars[-1].rstrip()), bars[
        -1
    ]
    counts = [int(found[1]) for line in bars if (found := re.search(r"(\d+)/30", line))]
    assert counts[0] == 10 and counts == sorted(counts)
    assert written.rindex(SHOW) > written.rindex(HIDE)
    assert "to standard error" in (tmp_path / "stderr").read_text()  # which is no terminal
    assert "\x1b" not in (tmp_path / "out/log.txt").read_text()


@pytest.mark.slow_models
def test_an_error_leaves_the_terminal_as_it_was(tmp_path):
    (tmp_path / "run.py").write_text(RUN)
    written, code = on_terminal([sys.executable, "run.py", "fail"], tmp_path)
    assert code == 1 and "ArithmeticError: nan" in written
    assert written.rindex(SHOW) > written.rindex(HIDE)
    assert any(re.match(r"training .* 28/30 ", line) for line in lines_of(written))


@pytest.mark.slow_models
def test_without_a_terminal_there_is_no_escape_code(tmp_path):
    (tmp_path / "run.py").write_text(RUN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FORCE_COLOR": "1"}
    command = [sys.executable, "run.py"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "\x1b" not in ended.stdout and "━" not in ended.stdout
    assert len([line for line in ended.stdout.splitlines() if LOG_LINE.fullmatch(line)]) == 4


@pytest.mark.slow
def test_ctrl_c_in_the_launcher_ends_the_bar_and_saves(phantom, tmp_path):
    arguments = [*small_arguments(phantom, tmp_path / "run"), "train.max_iter=1000", "dataloader.train.num_workers=1"]
    command = [sys.executable, str(ROOT / "tools/lazyconfig_train.py"), *arguments]
    written, code = on_terminal(command, tmp_path, until=b"iter: 3 ")
    assert code == 75, written
    assert "Stopped after iteration" in written and re.search(r"\d+/1000", written)
    assert written.rindex(SHOW) > written.rindex(HIDE)


class _Trainer:
    iter, start_iter, max_iter = 3, 0, 9
    storage = EventStorage(0)


def test_a_step_costs_next_to_nothing_and_a_loss_on_the_device_is_not_waited_for():
    bar = ProgressBar()
    bar.trainer = _Trainer()
    bar.before_train()  # the log goes to no terminal here
    start = time.perf_counter()
    for _ in range(10000):
        bar.after_step()
    assert (time.perf_counter() - start) / 10000 < 10e-6
    bar.after_train()
    assert isinstance(bar, HookBase)

    class Unread:
        def __len__(self):
            raise AssertionError("was read")

    storage = EventStorage(0)
    storage.put_scalar("total_loss", 2.0)
    storage.put_scalars_later(["total_loss"], Unread())
    assert storage.latest(wait=False) == {"total_loss": (2.0, 0)}
