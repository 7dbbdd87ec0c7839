import runpy
import subprocess
import sys

import torch

from tests.conftest import ROOT


def test_a_bug_report_names_versions_hardware_and_the_variables_that_matter(monkeypatch, capsys):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("WANDB_API_KEY", "a secret")
    monkeypatch.delitem(sys.modules, "ultravid.utils.collect_env", raising=False)
    runpy.run_module(
        "ultravid.utils.collect_env", run_name="__main__"
    )  # as python -m does, without importing torch again
    printed = capsys.readouterr().out
    rows = {line.split("  ")[0].rstrip(): line for line in printed.splitlines()}
    assert torch.__version__ in rows["torch"] and sys.executable in rows["Python"]
    assert str(ROOT / "ultravid") in rows["ultravid"]
    if (ROOT / ".git").exists():
        head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        assert f"git {head.stdout[:12]}" in rows["ultravid"]
    assert f"available: {torch.cuda.is_available()}" in rows["CUDA of torch"]
    assert {"numpy", "fvcore", "omegaconf", "hydra-core", "opencv-python-headless", "memory", "CPU"} <= set(rows)
    assert rows["OMP_NUM_THREADS"].endswith("1") and "threads of torch" in rows
    assert "PyTorch built with" in printed and "a secret" not in printed
