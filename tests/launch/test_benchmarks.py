import pytest

from benchmarks import config as config_benchmark
from benchmarks import data as data_benchmark
from benchmarks import evaluation as evaluation_benchmark


@pytest.mark.slow
def test_the_benchmark_of_configs_prints_a_row_for_each_thing(capsys):
    assert config_benchmark.main(["--nodes", "25", "--depths", "5", "--repeats", "1"]) == 0
    out = capsys.readouterr().out
    for row in ("load", "20 overrides", "check", "instantiate", "save and reload", "deepcopy"):
        assert f"25 nodes: {row}" in out
    assert "OmegaConf" in out and "5 deep" in out


def test_the_benchmark_of_metrics_agrees_with_plain_loops_and_prints_a_row_for_each_thing(capsys):
    arguments = ["--videos", "2", "--frames", "12", "--detections", "4", "--draws", "10", "--repeats", "1"]
    assert evaluation_benchmark.main(arguments) == 0
    out = capsys.readouterr().out
    for row in ("the ten legacy metrics", "all metrics", "10 draws of patients", "pycocotools"):
        assert row in out


@pytest.mark.slow
def test_the_benchmark_of_data_prints_a_row_for_each_path_and_the_memory(capsys, phantom):
    arguments = ["--data", str(phantom), "--clips", "2", "--repeats", "1", "--memory-clips", "2"]
    assert data_benchmark.main(arguments) == 0
    out = capsys.readouterr().out
    for row in (
        "bare decoding",
        "decoding to clips",
        "flips",
        "CVA-BUS",
        "augmentation of ultrasound",
        "MB after 2 clips",
    ):
        assert row in out
