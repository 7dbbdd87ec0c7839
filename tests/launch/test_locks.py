"""Two runs that want one output folder, one of them living, as a user meets it."""

import os
import signal
import subprocess
import time

import pytest
import torch
from torch import nn

from tests.conftest import PHANTOM_CONFIG, ROOT, load_tool, read_rows
from tests.quick_python import quick_python
from ultravid.checkpoint import DetectionCheckpointer
from ultravid.config import Builder, LazyConfig, load_checked
from ultravid.engine import HookBase, SimpleTrainer, default_setup
from ultravid.utils.folder_lock import LockedError
from ultravid.utils.run_folder import RunFolder, RunState
from ultravid.utils.tool import run_tool

LAUNCHER = str(ROOT / "tools/lazyconfig_train.py")
ENDLESS = ["train.max_iter=1000000", "train.checkpointer.period=3", "train.checkpointer.max_to_keep=1"]


def wait_for(condition):
    deadline = time.time() + 60
    while not condition():
        assert time.time() < deadline
        time.sleep(0.02)


def content_of(folder):
    """The files of a run, except for those to which a living one adds."""
    growing = (
        "metrics.json",
        "log.txt",
        "events.out",
        "model_",
        ".model_",
        "manifest.json",
        ".manifest",
        "last_check",
        ".last",
    )
    paths = [p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(growing)]
    return {p.relative_to(folder): p.read_bytes() for p in paths}


def test_a_second_training_in_the_folder_of_a_living_one_is_refused_and_changes_nothing(
    small_run, launch_run, tmp_path, capfd
):
    run = RunFolder(tmp_path / "run")
    with (tmp_path / "first.txt").open("wb") as file:
        process = subprocess.Popen([quick_python(), LAUNCHER, *small_run, *ENDLESS], stdout=file, stderr=file)
    wait_for(run.lock.exists)
    assert run.state() is RunState.RUNNING  # before the first record, too
    wait_for(run.last_checkpoint.exists)
    before = content_of(run.path)
    plain = load_tool("plain_train_net").main
    for second in ([], ["--resume"], ["--num-gpus", "2"]):
        assert launch_run([*small_run, *second]) == 2
        said = capfd.readouterr()
        assert f"run is in use: a training is still running there, started by {run.holder()}\n" in said.err
        assert "Traceback" not in said.err and "train.output_dir=..." in said.err
        assert f"'kill {run.holder().facts['pid']}'" in said.err
    assert run_tool(plain, small_run) == 2
    with pytest.raises(LockedError):  # a script of the user's own
        default_setup(LazyConfig.load(run.config), {})
    own = SimpleTrainer(nn.Linear(2, 2), [], torch.optim.SGD([torch.zeros(1)]), checkpointer=None)
    own.checkpointer = DetectionCheckpointer(own.model, run.path)
    for resume in (False, True):
        with pytest.raises(LockedError, match="run is in use"):
            own.resume_or_load(resume)
    assert launch_run([*small_run, "--check"]) == 0
    assert content_of(run.path) == before and not list(run.path.glob("earlier_*"))
    # An evaluation may read what is there; its files and its log are its own.
    assert launch_run([*small_run, "--eval-only", "--resume"]) == 0
    assert "Another process is training in" in (run.path / "log_eval.txt").read_text()
    assert "Another process is training in" not in run.log.read_text() and not run.inference.exists()
    assert len(list(run.path.glob("inference_*/metrics.json"))) == 1
    assert {k: v for k, v in content_of(run.path).items() if k in before} == before
    os.kill(run.holder().facts["pid"], signal.SIGKILL)
    process.wait()
    assert run.state() is RunState.FAILED
    capfd.readouterr()
    assert launch_run([*small_run, "train.max_iter=2"]) == 0  # not --resume: the first one's checkpoints are archived
    assert "Took over the lock of " in capfd.readouterr().out and "Took over the lock of " in run.log.read_text()
    assert [row["iteration"] for row in read_rows(run.metrics)] == [0, 1, 2] and not run.lock.exists()


class Calls(HookBase):
    def __init__(self, function):
        self.before_train = function


def test_a_notebook_that_has_trained_lets_others_train_in_the_folder_and_may_train_again(small_run, tmp_path):
    without_eval = ["~trainer.hooks.eval", "~trainer.hooks.best"]

    def train(folder, max_iter):
        overrides = [*small_run[2:], *without_eval, f"train.output_dir={folder}", f"train.max_iter={max_iter}"]
        cfg = load_checked(PHANTOM_CONFIG, overrides)
        default_setup(cfg, {"resume": True})
        held = []
        for _ in range(2):  # the second time there is nothing left to do
            trainer = Builder(cfg).build("trainer")
            trainer.register_hooks([Calls(lambda: held.append(RunFolder(folder).lock.exists()))])
            trainer.resume_or_load(True)
            trainer.train()
            assert not RunFolder(folder).lock.exists()
        assert held == [True, True]

    train(tmp_path / "run", 1)
    command = [quick_python(), LAUNCHER, *small_run, *without_eval, "--resume", "--allow-change", "train.max_iter"]
    command.append("train.max_iter=2")
    assert subprocess.run(command, check=False).returncode == 0
    train(tmp_path / "other", 1)
    train(tmp_path / "run", 3)
    assert [row["iteration"] for row in read_rows(tmp_path / "run/metrics.json")] == [0, 1, 2]
