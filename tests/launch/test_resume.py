"""Runs that are stopped, resumed, changed and repeated, through the real tools."""

import json
import math
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import ROOT, load_tool, read_rows, small_arguments
from tests.quick_python import quick_python
from ultravid.utils.tool import run_tool

EMA = "trainer.hooks.ema=common/hooks.py:EMA"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "workers", "seed"),
    [(1, "1,2", 4), pytest.param(2, "0,3", 5, marks=[pytest.mark.distributed, pytest.mark.slow_models])],
)
def test_a_short_drill_finds_no_difference(tmp_path, ranks, workers, seed):
    command = [quick_python(), str(ROOT / "tools/resume_drill.py"), "--kills", "2", "--iterations", "6"]
    command += ["--seed", str(seed), "--ranks", str(ranks), "--workers", workers]
    done = subprocess.run([*command, "--work-dir", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 SIGKILL" in done.stdout and "1 SIGTERM" in done.stdout and done.stdout.endswith(": no differences\n")
    again = subprocess.run([*command, "--work-dir", str(tmp_path)], capture_output=True, text=True, check=False)
    assert again.returncode == 2 and "is not empty" in again.stderr


def test_averaged_weights_are_a_line_and_eval_only_gives_their_metrics(small_run, launch_run, tmp_path):
    assert launch_run([*small_run, EMA, "train.max_iter=3"]) == 0
    trained = {p: (tmp_path / "run/inference" / p).read_text() for p in ("metrics.json", "predictions.json")}
    arguments = [a for a in small_run if not a.startswith("train.output_dir=")]
    for name, weights in (("final", "model_final.pth"), ("best", "model_best.pth")):
        init = f"train.init_checkpoint={tmp_path / 'run' / weights}"
        assert launch_run([*arguments, "--eval-only", init, f"train.output_dir={tmp_path / name}"]) == 0
        for file, text in trained.items():
            assert (tmp_path / name / "inference" / file).read_text() == text


def test_a_run_is_resumed_with_another_config_when_the_changed_keys_are_named(small_run, launch_run, tmp_path, capfd):
    assert launch_run([*small_run, "train.max_iter=4"]) == 0
    rates = [r["lr"] for r in read_rows(tmp_path / "run/metrics.json") if "lr" in r]
    again = [*small_run, "train.max_iter=8", "optimizer.weight_decay=0.5", "--resume"]
    capfd.readouterr()
    assert launch_run(again) == 2
    error = capfd.readouterr().err
    assert "~ optimizer.weight_decay: 0.01 -> 0.5" in error and "~ train.max_iter: 4 -> 8" in error
    assert "--allow-change train.max_iter,optimizer.weight_decay" in error or (
        "--allow-change optimizer.weight_decay,train.max_iter" in error
    )
    assert launch_run([*again, "--allow-change", "train.max_iter"]) == 2
    assert "train.max_iter: 4" not in capfd.readouterr().err
    # The number of workers changes no number and needs no name.
    assert launch_run([*again, "--allow-change", "train.max_iter,optimizer", "dataloader.train.num_workers=1"]) == 0
    rows = [r for r in read_rows(tmp_path / "run/metrics.json") if "lr" in r]
    assert [r["iteration"] for r in rows] == list(range(8))
    # The schedule is computed from the iteration: from 4 on it is that of a run of 8.
    whole = yaml.safe_load((tmp_path / "run/attempts/1/config.yaml").read_text())
    assert whole["train"]["max_iter"] == 4 and rates == [r["lr"] for r in rows[:4]]
    record = json.loads((tmp_path / "run/attempts/2/record.json").read_text())
    assert {c.partition(":")[0] for c in record["config_changes"]} >= {"~ train.max_iter", "~ optimizer.weight_decay"}
    assert record["datasets"]["train"]["videos"] == 6 and record["git"] is not None
    assert record["start_iter"] == 4 and record["end"]["how"] == "finished"


def test_a_scheduler_of_torch_follows_a_changed_config_and_one_without_its_metric_is_refused(
    small_run, launch_run, tmp_path, capfd
):
    torchs = "{{_target_: torch.optim.lr_scheduler.{}, optimizer: '${{optimizer}}'{}}}".format
    cosine = "trainer.hooks.lr.scheduler=" + torchs("CosineAnnealingLR", ", T_max: '${train.max_iter}'")
    short = [*small_run, "~trainer.hooks.eval", "~trainer.hooks.best"]
    assert launch_run([*short, cosine, "train.max_iter=3"]) == 0
    changed = [*short, cosine, "train.max_iter=5", "optimizer.lr=0.01", "--resume"]
    assert launch_run([*changed, "--allow-change", "train.max_iter,optimizer.lr"]) == 0
    rates = [r["lr"] for r in read_rows(tmp_path / "run/metrics.json")]
    whole = [(1 + math.cos(math.pi * i / 5)) / 2 * 0.01 for i in range(5)]
    assert rates[3:] == pytest.approx(whole[3:]) and rates[0] == 0.001
    capfd.readouterr()
    assert launch_run([*small_run, "trainer.hooks.lr.scheduler=" + torchs("ReduceLROnPlateau", "")]) == 2
    error = capfd.readouterr().err
    assert "ReduceLROnPlateau needs a metric" in error and "trainer.hooks.lr" in error and "Traceback" not in error


def test_a_start_that_fails_does_not_become_the_config_of_the_run(small_run, launch_run, tmp_path, capfd):
    assert launch_run([*small_run, "train.max_iter=2"]) == 0
    torch.save({"model": {"x": torch.zeros(1)}}, tmp_path / "other.pth")
    assert launch_run([*small_run, "optimizer.lr=0.5", f"train.init_checkpoint={tmp_path / 'other.pth'}"]) == 2
    capfd.readouterr()
    again = [*small_run, "train.max_iter=3", "--resume", "--allow-change", "train.max_iter"]
    assert launch_run([*again, "optimizer.lr=0.5"]) == 2
    assert "~ optimizer.lr: 0.001 -> 0.5" in capfd.readouterr().err
    assert launch_run(again) == 0


def test_a_run_in_yaml_asks_for_changed_keys_and_its_step_dump_is_repeated(phantom, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("ULTRAVID_DATASETS", str(phantom.parent))
    tool = load_tool("train_net")
    arguments = ["--config-file", str(ROOT / "projects/basicdet/configs/phantom.yaml")]
    small = ["OUTPUT_DIR", str(tmp_path), "INPUT.CLIP.NUM_FRAMES", "3", "DATALOADER.NUM_WORKERS", "0"]
    small += ["SOLVER.CHECKPOINT_PERIOD", "1", "SOLVER.MAX_ITER", "2"]
    assert run_tool(tool.main, [*arguments, *small]) == 0
    changed = [*small, "SOLVER.MAX_ITER", "4", "SOLVER.BASE_LR", "1e30"]
    assert run_tool(tool.main, [*arguments, "--resume", *changed]) == 2
    error = capfd.readouterr().err
    assert "~ train.max_iter: 2 -> 4 (SOLVER.MAX_ITER, command line)" in error and "SOLVER.BASE_LR" in error
    allow = ["--allow-change", "SOLVER.MAX_ITER,SOLVER.BASE_LR"]
    assert run_tool(tool.main, [*arguments, "--resume", *allow, *changed]) == 1
    assert "The step was kept" in capfd.readouterr().err
    (dump,) = (tmp_path / "step_dumps").iterdir()
    assert run_tool(load_tool("replay").main, [str(dump)]) == 0
    assert " is not finite" in capfd.readouterr().out


def test_a_run_that_meets_a_nan_leaves_a_step_dump_and_replay_names_the_module(phantom, launch_run, tmp_path, capfd):
    (tmp_path / "breaking.py").write_text(
        "import torch\n"
        "from ultravid.engine import HookBase\n"
        "class Break(HookBase):\n"
        "    def before_step(self):\n"
        "        if self.trainer.iter == 2:\n"
        "            with torch.no_grad():\n"
        "                self.trainer.model.backbone.res3[0].conv1.weight[0, 0, 0, 0] = float('inf')\n"
    )
    (tmp_path / "mine.py").write_text(
        "from ultravid.config import LazyCall as L, LazyConfig\n"
        "from breaking import Break\n"
        f"_base = LazyConfig.load({str(ROOT / 'projects/basicdet/configs/phantom.py')!r})\n"
        "globals().update({k: _base[k] for k in _base if k != 'project_folders'})\n"
        "trainer.hooks['breaks'] = L(Break)()\n"
    )
    arguments = ["--config-file", str(tmp_path / "mine.py"), *small_arguments(phantom, tmp_path / "run")[2:]]
    assert launch_run(arguments) == 1
    error = capfd.readouterr().err
    assert re.fullmatch(
        r"error: Loss is not finite in iteration 2: loss_rpn_cls=nan, .*python tools/replay\.py \S+\n",
        error,
    )
    assert "Traceback" in (tmp_path / "run/log.txt").read_text()
    (dump,) = (tmp_path / "run/step_dumps").iterdir()
    capfd.readouterr()
    replay = load_tool("replay")
    assert run_tool(replay.main, [str(dump)]) == 0
    out = capfd.readouterr().out
    assert "Iteration 2, rank 0, samples: " in out and " frames [" in out
    assert "Not finite before the step already: 1 weights, the first is backbone.res3.0.conv1.weight" in out
    assert "The output of backbone.res3.0.conv1" in out and "its inputs are finite" in out
    record = json.loads((tmp_path / "run/attempts/1/record.json").read_text())
    assert record["end"]["how"] == "failed" and "FloatingPointError" in record["end"]["why"]
    # Twice: a dump that is cut, and one whose config is gone.
    cut = tmp_path / "cut.pth"
    cut.write_bytes(dump.read_bytes()[:-200])
    assert run_tool(replay.main, [str(cut)]) == 2 and "can't be read" in capfd.readouterr().err
    os.replace(tmp_path / "run/config.yaml", tmp_path / "elsewhere.yaml")
    assert run_tool(replay.main, [str(dump)]) == 2 and "--config-file" in capfd.readouterr().err
    assert run_tool(replay.main, [str(dump), "--config-file", str(tmp_path / "elsewhere.yaml")]) == 0


@pytest.mark.slow
def test_a_second_interrupt_leaves_at_once(small_run, tmp_path):
    (tmp_path / "slow.py").write_text(
        "import time\n"
        "from ultravid.engine import HookBase\n"
        "class Slow(HookBase):\n"
        "    def before_step(self):\n"
        "        print('sleeping', flush=True)\n"
        "        time.sleep(60)\n"
    )
    overrides = ["+trainer.hooks.slow={_target_: slow.Slow}"]
    command = [quick_python(), str(ROOT / "tools/lazyconfig_train.py"), *small_run, *overrides]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment)
    for line in process.stdout:
        if "sleeping" in line:
            break
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None  # the first waits for the end of the iteration
    process.send_signal(signal.SIGINT)
    began = time.time()
    process.communicate(timeout=30)
    assert process.returncode == 130 and time.time() - began < 20
    assert not list(Path(tmp_path / "run").glob("model_*"))
