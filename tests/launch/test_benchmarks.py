"""Benchmarks run in processes of their own: each measurement begins with a garbage collection, slow beside all that tests hold."""

import subprocess

from tests.conftest import ROOT
from tests.quick_python import quick_python


def printed_by(benchmark, *arguments):
    command = [quick_python(), "-m", f"benchmarks.{benchmark}", *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_benchmark_of_configs_prints_a_row_for_each_thing():
    out = printed_by("config", "--nodes", "25", "--depths", "5", "--repeats", "1")
    for row in ("load", "20 overrides", "check", "instantiate", "save and reload", "deepcopy"):
        assert f"25 nodes: {row}" in out
    assert "OmegaConf" in out and "5 deep" in out


def test_the_benchmark_of_metrics_agrees_with_plain_loops_and_prints_a_row_for_each_thing():
    out = printed_by(
        "evaluation", "--videos", "2", "--frames", "12", "--detections", "4", "--draws", "10", "--repeats", "1"
    )
    for row in ("the ten legacy metrics", "all metrics", "10 draws of patients", "pycocotools"):
        assert row in out


def test_the_benchmark_of_data_prints_a_row_for_each_path_and_the_memory(phantom):
    out = printed_by("data", "--data", str(phantom), "--clips", "2", "--repeats", "1", "--memory-clips", "2")
    for row in (
        "bare decoding",
        "decoding to clips",
        "flips",
        "CVA-BUS",
        "augmentation of ultrasound",
        "MB after 2 clips",
    ):
        assert row in out


def test_the_benchmark_of_the_engine_prints_a_row_for_each_system_that_is_installed():
    out = printed_by("engine", "--steps", "20", "--repeats", "1")
    for row in (
        "bare loop",
        "ultravid SimpleTrainer, default hooks",
        "ultravid AMPTrainer off",
        "SimpleTrainer, no hook",
    ):
        assert row in out
