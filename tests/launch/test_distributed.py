"""Runs of two real processes on the CPU, through the launcher, torchrun, or `launch`."""

import json
import math
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.conftest import ROOT, read_rows, same_weights, without_times
from tests.launch.timed_config import timed_config
from tests.quick_python import quick_python, spawns_quick_python
from ultravid.engine import SimpleTrainer, create_ddp_model, hooks, launch
from ultravid.engine.steps import NonfinitePolicy
from ultravid.utils import comm

FSDP = ["prepared_model=common/fsdp.py:prepared_model", "checkpointer=common/fsdp.py:checkpointer"]
EMA = "trainer.hooks.ema=common/hooks.py:EMA"
LAUNCHER = str(ROOT / "tools/lazyconfig_train.py")

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


def start(command, tmp_path, log):
    with (tmp_path / log).open("wb") as file:
        return subprocess.Popen(command, cwd=tmp_path, stdout=file, stderr=subprocess.STDOUT)


def run(command, tmp_path):
    process = start(command, tmp_path, "said.txt")
    assert process.wait(timeout=240) == 0, (tmp_path / "said.txt").read_text()[-3000:]


def into(arguments, folder):
    return [f"train.output_dir={folder}" if a.startswith("train.output_dir=") else a for a in arguments]


@pytest.mark.slow_models
def test_a_model_in_shards_learns_the_same_and_goes_on_in_any_number_of_processes(small_run, launch_run, tmp_path):
    two = [quick_python(), LAUNCHER, *small_run, "--num-gpus", "2", EMA]
    run([*into(two, tmp_path / "ddp"), "train.max_iter=4"], tmp_path)
    run([*into(two, tmp_path / "fsdp"), "train.max_iter=4", *FSDP], tmp_path)
    for plain, sharded in zip(*(read_rows(tmp_path / f / "metrics.json") for f in ("ddp", "fsdp")), strict=True):
        names = [n for n in plain if "loss" in n or n == "grad_norm"]
        assert [sharded[n] for n in names] == pytest.approx([plain[n] for n in names], rel=1e-4)
    # Cut after the checkpoint of iteration 2 and resumed by two processes: the same bits. By one: it continues.
    for name in ("again", "alone"):
        shutil.copytree(tmp_path / "fsdp", tmp_path / name)
        shutil.rmtree(tmp_path / name / "model_final.dcp")
        (tmp_path / name / "last_checkpoint").write_text("model_0000002.dcp")
    run([*into(two, tmp_path / "again"), "train.max_iter=4", *FSDP, "--resume"], tmp_path)
    rows = [without_times(read_rows(tmp_path / f / "metrics.json")) for f in ("fsdp", "again")]
    assert rows[0] == rows[1]
    one = [*into(small_run, tmp_path / "alone"), EMA, "train.max_iter=4"]
    assert launch_run([*one, *FSDP, "--resume"]) == 0
    assert [r["iteration"] for r in read_rows(tmp_path / "alone/metrics.json")] == [0, 1, 2, 3, 4]
    # What loads weights reads the folder, and takes the averaged ones.
    weights = tmp_path / "fsdp/model_final.dcp"
    evaluation = [*into(small_run, tmp_path / "evaluated"), "--eval-only", f"train.init_checkpoint={weights}"]
    assert launch_run(evaluation) == 0
    figures = [json.loads((tmp_path / f / "inference/metrics.json").read_text()) for f in ("fsdp", "evaluated")]
    assert figures[0]["AP50"] == pytest.approx(figures[1]["AP50"], abs=0.5)
    assert "loading its averaged weights" in (tmp_path / "evaluated/log.txt").read_text()


@pytest.mark.slow_models
def test_a_damaged_checkpoint_in_shards_is_passed_over(small_run, launch_run, tmp_path, capfd):
    assert launch_run([*small_run, "train.max_iter=7", *FSDP]) == 0
    run_dir = tmp_path / "run"
    shutil.rmtree(run_dir / "model_final.dcp")
    (run_dir / "last_checkpoint").write_text("model_0000005.dcp")
    metadata = run_dir / "model_0000005.dcp/.metadata"
    metadata.write_bytes(metadata.read_bytes()[:40])
    capfd.readouterr()
    assert launch_run([*small_run, "train.max_iter=7", *FSDP, "--resume"]) == 0
    out = capfd.readouterr().out
    assert "Can't resume from model_0000005.dcp" in out and "Resuming at iteration 3" in out
    # A shard that changed is found by its hash.
    shutil.rmtree(run_dir / "model_final.dcp")
    (run_dir / "last_checkpoint").write_text("model_0000005.dcp")
    (shard,) = (run_dir / "model_0000005.dcp").glob("*.distcp")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert launch_run([*small_run, "train.max_iter=7", *FSDP, "--resume"]) == 0
    assert ".distcp is not the one in manifest.json" in capfd.readouterr().out
    assert (
        launch_run([*small_run, "train.max_iter=7", "--resume", "--allow-change", "prepared_model,checkpointer"]) == 2
    )
    assert "is in shards: resume from it with checkpointer=common/fsdp.py:checkpointer" in capfd.readouterr().err


def test_under_torchrun_a_group_that_lost_a_process_goes_on_from_its_checkpoint(small_run, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # where the processes find `tests`
    torchrun = [quick_python(), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    torchrun += ["--max-restarts", "2", LAUNCHER]
    small_run += ["train.log_period=4"]  # the checkpoint, after three, holds the values since the last row
    draws = "dataloader.train.device_transforms=[{_target_: tests.launch.own_transform.RandomLevels}]"
    run([*torchrun, *into(small_run, tmp_path / "whole"), draws], tmp_path)
    # Each process, and each start of one, would read another config.
    overrides = [a for a in small_run[2:] if not a.startswith("train.output_dir=")]
    overrides += [draws, "dataloader.train.num_workers=1"]
    process = start([*torchrun, "--config-file", str(timed_config(tmp_path)), *overrides], tmp_path, "cut.txt")
    deadline = time.time() + 120
    while not list(tmp_path.glob("run_*/last_checkpoint")) and time.time() < deadline:
        time.sleep(0.01)
    (cut,) = tmp_path.glob("run_*")
    worker = json.loads((cut / "attempts/1/record.json").read_text())["pid"]
    os.kill(worker, signal.SIGKILL)
    assert process.wait(timeout=240) == 0, (tmp_path / "cut.txt").read_text()[-3000:]
    rows = [without_times(read_rows(folder / "metrics.json")) for folder in (tmp_path / "whole", cut)]
    assert rows[0] == rows[1]
    assert same_weights(tmp_path / "whole/model_final.pth", cut / "model_final.pth")
    log = (cut / "log.txt").read_text()
    assert "Resuming at iteration" in log and "Took over the lock of " in log and len(list(tmp_path.glob("run_*"))) == 1
    assert (tmp_path / "drawn_0.txt").read_text() == (tmp_path / "drawn_1.txt").read_text()


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x):
        return {"loss": self.layer(x).pow(2).mean()}


class Sleeps(hooks.HookBase):
    def before_step(self):
        if self.trainer.iter == 2 and comm.get_rank() == 1:
            time.sleep(2.5)


def stand_still_then_break(folder: Path):
    """The second process sleeps in iteration 2, and has a batch that is nan in iteration 3."""
    import logging

    rank = comm.get_rank()
    logging.basicConfig(filename=folder / f"log{rank}.txt", force=True)
    torch.manual_seed(0)
    model = create_ddp_model(Model())
    batches = [torch.ones(3, 2), torch.ones(3, 2), torch.ones(3, 2), torch.full((3, 2), math.nan if rank else 1.0)]
    trainer = SimpleTrainer(
        model,
        batches,
        torch.optim.SGD(model.parameters(), lr=0.1),
        max_iter=4,
        hooks=[Sleeps(), hooks.Watchdog(timeout_s=0.8)],
        nonfinite=NonfinitePolicy(dump_dir=folder),
        seed=0,
    )
    said = ""
    before = model.module.layer.weight.detach().clone()
    try:
        trainer.train()
    except FloatingPointError as error:
        said = str(error)
        before = model.module.layer.weight.detach().clone()
    result = {"said": said, "iter": trainer.iter, "finite": bool(torch.isfinite(before).all())}
    (folder / f"{rank}.json").write_text(json.dumps(result))


def test_each_process_reports_a_hang_and_a_nan_of_one_stops_all_before_the_step(tmp_path):
    with spawns_quick_python():
        launch(stand_still_then_break, 2, args=(tmp_path,))
    logs = [(tmp_path / f"log{rank}.txt").read_text() for rank in (0, 1)]
    assert "Rank 1 of 2 has finished no iteration" in logs[1] and "time.sleep(2.5)" in logs[1]
    assert "Rank 0 of 2 has finished no iteration" in logs[0] and "backward" in logs[0]
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert all(r["iter"] == 3 and r["finite"] for r in results)
    assert "Gradient is not finite in iteration 3" in results[0]["said"]
    assert "Loss is not finite in iteration 3" in results[1]["said"]
    assert {p.name for p in (tmp_path / "step_dumps").iterdir()} == {
        "iteration_0000003_rank0.pth",
        "iteration_0000003_rank1.pth",
    }


@pytest.mark.slow_models
def test_a_run_that_was_asked_to_stop_is_not_started_again_by_torchrun(small_run, tmp_path):
    torchrun = [quick_python(), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    torchrun += ["--max-restarts", "2", LAUNCHER, *small_run, "train.max_iter=100000", "train.wall_time_s=3"]
    torchrun += ["train.checkpointer.period=1000", "train.log_period=1000"]
    process = start(torchrun, tmp_path, "said.txt")
    assert process.wait(timeout=240) not in (0, None)
    assert [p.name for p in (tmp_path / "run/attempts").iterdir()] == ["1"]
    record = json.loads((tmp_path / "run/attempts/1/record.json").read_text())
    assert record["end"]["how"] == "stopped" and "its time limit is over" in record["end"]["why"]
    assert len(list((tmp_path / "run").glob("model_0*.pth"))) == 1


@pytest.mark.parametrize("twice", [False, True])
def test_an_interrupt_of_the_process_that_started_a_group_reaches_it(small_run, tmp_path, twice):
    command = [quick_python(), LAUNCHER, *small_run, "--num-gpus", "2", "train.max_iter=100000"]
    if twice:
        (tmp_path / "slow.py").write_text(
            "import time\n"
            "from ultravid.engine import HookBase\n"
            "class Slow(HookBase):\n"
            "    def after_step(self):\n"
            "        time.sleep(60 if self.trainer.iter == 1 else 0)\n"
        )
        command.append("+trainer.hooks.slow={_target_: slow.Slow}")
    with (tmp_path / "said.txt").open("wb") as file:
        environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
        process = subprocess.Popen(command, cwd=tmp_path, stdout=file, stderr=subprocess.STDOUT, env=environment)
    deadline = time.time() + 120
    while "iter: 0" not in (tmp_path / "said.txt").read_text() and time.time() < deadline:
        time.sleep(0.05)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    if twice:
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
    assert process.wait(timeout=40) == (130 if twice else 75), (tmp_path / "said.txt").read_text()[-2000:]
    assert bool(list((tmp_path / "run").glob("model_0*.pth"))) != twice
