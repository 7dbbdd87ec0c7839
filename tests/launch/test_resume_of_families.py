"""A run that is killed and resumed gives the bits of one that was not: a detector of each family, through the launcher.

BasicDet is `tools/resume_drill.py`'s.
"""

import json
import os
import signal
import subprocess
import time

import pytest

from tests.conftest import ROOT, read_rows, same_weights, small_arguments, without_times
from tests.quick_python import quick_python

DETECTORS = [
    "ultradet/configs/phantom_causal.py",
    "one_stage/configs/phantom_fcos_fgfa.py",
    "query/configs/phantom_transvod.py",
]


@pytest.mark.slow
@pytest.mark.parametrize("config", DETECTORS, ids=lambda config: config.split("/")[0])
def test_a_killed_run_of_each_family_is_resumed_to_the_same_bits(phantom, launch_run, tmp_path, config):
    def arguments(folder):
        changed = ["--config-file", str(ROOT / "projects" / config), *small_arguments(phantom, tmp_path / folder)[2:]]
        changed += ["train.max_iter=4", "train.checkpointer.period=1", "dataloader.train.frame_sampler.num_frames=2"]
        return [*changed, "~trainer.hooks.eval", "~trainer.hooks.best"]

    assert launch_run(arguments("whole")) == 0
    command = [quick_python(), str(ROOT / "tools/lazyconfig_train.py"), *arguments("cut")]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    deadline = time.time() + 120
    while not (tmp_path / "cut/last_checkpoint").is_file() and process.poll() is None and time.time() < deadline:
        time.sleep(0.005)
    record = json.loads((tmp_path / "cut/attempts/1/record.json").read_text())
    assert "end" not in record or record["end"] is None, "the run ended before it could be killed"
    os.kill(record["pid"], signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "cut/model_final.pth").exists()
    assert launch_run([*arguments("cut"), "--resume"]) == 0
    rows = [without_times(read_rows(tmp_path / folder / "metrics.json")) for folder in ("whole", "cut")]
    assert rows[0] == rows[1] and [row["iteration"] for row in rows[0]] == [0, 1, 2, 3]
    assert same_weights(tmp_path / "whole/model_final.pth", tmp_path / "cut/model_final.pth")
    assert json.loads((tmp_path / "cut/attempts/2/record.json").read_text())["start_iter"] > 0
