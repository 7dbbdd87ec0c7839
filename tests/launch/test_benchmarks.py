"""Benchmarks run in processes of their own: each measurement begins with a garbage collection, slow beside all that tests hold."""

import json
import subprocess
import sys

import pytest

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


@pytest.mark.slow_models
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


def test_the_gpu_check_runs_its_cpu_part_says_what_it_skipped_and_survives_a_row_that_fails(tmp_path):
    arguments = ["--minutes", "3", "--models", "faster_rcnn,nonesuch", "--device", "cpu", "--output", str(tmp_path)]
    command = [quick_python(), "-m", "benchmarks.gpu", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1, ended.stderr
    record = json.loads((tmp_path / "gpu_check.json").read_text())
    status = {f"{row['section']}: {row['name']}": row["status"] for row in record["rows"]}
    assert record["finished"] and record["environment"]["device"] == "CPU"
    assert (
        status.pop("frames a second, eager: nonesuch, 128 px")
        == status.pop("training step: nonesuch, fp32")
        == "failed"
    )
    good = {
        "launcher: fp32",
        "one process: gloo",
        "frames a second, eager: faster_rcnn, 128 px",
        "training step: faster_rcnn, fp32",
    }
    assert {name for name, each in status.items() if each == "ok"} == good
    assert {each for name, each in status.items() if name not in good} == {"skipped"}
    table = (tmp_path / "gpu_check.md").read_text().splitlines()
    assert sum("needs a CUDA device" in line for line in table) == sum(each == "skipped" for each in status.values())
    assert any("nonesuch" in line and "No shipped config" in line for line in table)
    assert len(table) == len(record["rows"]) + 6


@pytest.mark.slow_models
def test_the_benchmark_of_inference_keeps_a_row_for_each_form_and_its_plain_forms_detect_the_same(tmp_path):
    file = tmp_path / "rows.json"
    arguments = ["--size", "64", "--depth", "18", "--turns", "1", "--threads", "1", "--forms", "eager", "--json", file]
    printed_by("inference", "--models", "TrackYOLO", "MEGA", *arguments)
    out = printed_by("inference", "--models", "TransVOD", "CVANet", *arguments)
    rows = json.loads(file.read_text())["rows"]
    assert list(rows) == ["TrackYOLO", "MEGA", "TransVOD", "CVANet"]
    for name, forms in rows.items():
        assert name in out and list(forms) == ["plain", "eager"] and forms["eager"]["same"] > 0.95
        assert forms["eager"]["ratio"] > 0 and forms["plain"]["ratio"] == 1


@pytest.mark.slow_models
def test_the_benchmark_of_training_prints_a_row_for_each_form():
    out = printed_by(
        "training", *["--models", "FasterRCNN", "--size", "64", "--depth", "18", "--turns", "1", "--frames", "2"]
    )
    assert "plain" in out and "ours" in out


ONLY_THE_CHECKS_PACKAGES = """
import re, sys
from importlib import metadata

def name_of(requirement):
    return re.match("[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-")

wanted = [name_of(line) for line in open("requirements-gpu-check.txt") if line.strip() and line[0] != "#"]
allowed = set()
while wanted:
    name = wanted.pop()
    if name in allowed:
        continue
    allowed.add(name)
    try:
        wanted += [name_of(each) for each in metadata.requires(name) or () if "extra ==" not in each]
    except metadata.PackageNotFoundError:  # of another platform
        continue
owners = metadata.packages_distributions()

def hidden(name):
    names = {name_of(owner) for owner in owners.get(name.partition(".")[0], ())} - {"ultravid"}
    return bool(names) and not names & allowed

class OnlyTheAllowed:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if hidden(name) else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [OnlyTheAllowed(finder) for finder in sys.meta_path]

from benchmarks import gpu

folder = sys.argv[1]
gpu.row_of_environment("cpu")
gpu.row_of_stream("cpu", model="ultradet", size=(64, 64), mode="eager", small=True)
gpu.row_of_train("cpu", model="deformable_detr", precision="fp32", small=True)
from tools import lazyconfig_train, make_phantom

phantom = ["--output", f"{folder}/phantom", "--videos", "4", "--frames", "12", "--size", "64", "--workers", "1"]
assert not make_phantom.main(phantom)
small = ["train.max_iter=1", "dataloader.train.frame_sampler.num_frames=2", "train.device=cpu"]
small += [f"data.root={folder}/phantom", f"train.output_dir={folder}/run"]
small += ["dataloader.train.num_workers=0", "dataloader.test.num_workers=0"]
config = "projects/basicdet/configs/phantom.py"
assert not lazyconfig_train.main(["--config-file", config, *small])
gpu.row_of_equal("cpu", files=[f"{folder}/run/model_final.pth"] * 2)
"""


@pytest.mark.slow_models
def test_the_gpu_check_needs_no_package_beside_those_of_its_requirements(tmp_path):
    command = [sys.executable, "-c", ONLY_THE_CHECKS_PACKAGES, str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
