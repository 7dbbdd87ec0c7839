"""A checkpoint that version 0.1 wrote after two of a run's four iterations; ``metrics.json`` has what it recorded in the other two."""

import json
import shutil

import pytest
import torch

from tests.conftest import ROOT, read_rows, without_times
from ultravid.checkpoint import DetectionCheckpointer, load_file
from ultravid.config import LazyConfig, instantiate

SAVED = ROOT / "tests/saved/0.1"
CHECKPOINT = SAVED / "checkpoints/model_0000001.pth"


@pytest.fixture
def model():
    return instantiate(LazyConfig.load(SAVED / "configs/tiny_run.yaml").model)


def test_an_older_checkpoint_loads_for_evaluation(model):
    rest = DetectionCheckpointer(model).load(CHECKPOINT, [], strict=True)
    assert rest["iteration"] == 1
    averaged = load_file(CHECKPOINT)["averaged_model"]
    assert all(torch.equal(value, averaged[name]) for name, value in model.state_dict().items() if name in averaged)


def test_a_run_resumes_from_an_older_checkpoint_and_records_what_it_would_have(phantom, tmp_path, launch_run, caplog):
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(CHECKPOINT, run)
    (run / "last_checkpoint").write_text(CHECKPOINT.name)
    arguments = ["--config-file", str(SAVED / "configs/tiny_run.yaml"), "--resume"]
    assert launch_run([*arguments, f"data.root={phantom}", f"train.output_dir={run}", "train.deterministic=true"]) == 0
    rows = without_times([row for row in read_rows(run / "metrics.json") if row["iteration"] < 4])
    expected = read_rows(SAVED / "checkpoints/metrics.json")
    assert [row["iteration"] for row in rows] == [2, 3]
    for row, of_then in zip(rows, expected, strict=True):
        assert row == pytest.approx(of_then, rel=1e-4)  # the last digits depend on the machine
    log = (run / "log.txt").read_text()
    assert "holds the state of a hook" not in log and json.loads((run / "attempts/1/record.json").read_text())
    assert load_file(run / "model_final.pth")["trainer"]["hooks"]["ema"]["num_updates"] == 4


def test_weights_of_a_module_that_was_renamed_load_with_a_note(model, caplog):
    averaged = load_file(CHECKPOINT)["averaged_model"]
    with caplog.at_level("INFO"):
        DetectionCheckpointer(model).load(CHECKPOINT, [], strict=True)
    assert (
        "have other names now, as proposal_head.rpn_head.conv.weight for proposal_generator.rpn_head.conv"
        in caplog.text
    )
    old = averaged["roi_heads.relation.layers.0.linear_q.weight"]
    assert torch.equal(model.state_dict()["token_mixer.relation.layers.0.linear_q.weight"], old)
