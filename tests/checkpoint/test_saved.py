"""A checkpoint that version 0.1 wrote after two of a run's four iterations; ``metrics.json`` has what it recorded in the other two."""

import functools
import json
import shutil

import pytest
import torch
from torch.distributed.checkpoint.state_dict_saver import save as save_shards

from tests.conftest import ROOT, read_rows, without_times
from ultravid.checkpoint import DetectionCheckpointer, DistributedCheckpointer, load_file
from ultravid.config import LazyConfig, instantiate
from ultravid.solver.saved_optimizer import hyperparameters, load_optimizer, saved_optimizer


class Holder:
    """Something to save and load."""

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


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
        assert row == pytest.approx(of_then, rel=0.2)  # boxes for the loss are sampled by other random numbers today
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


def test_the_state_of_an_older_optimizer_goes_to_the_parameters_that_it_was_of(model):
    """Version 0.1 saved no names: the order of the parameters has to be the one of then."""
    content = load_file(CHECKPOINT)
    saved = content["trainer"]["optimizer"]
    buffers = {name for name, _ in model.named_buffers()}
    today = model.current_names(content["model"])
    then = [today.get(name, name) for name in content["model"] if today.get(name, name) not in buffers]
    assert then == [name for name, _ in model.named_parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    load_optimizer(optimizer, model, hyperparameters(optimizer), {"optimizer": saved})
    name = "token_mixer.relation.layers.1.linear_o.weight"
    state = optimizer.state[model.get_parameter(name)]
    assert torch.equal(state["exp_avg"], saved["state"][then.index(name)]["exp_avg"])
    # A checkpoint with names: parameters that were renamed since keep their state.
    old = {new: old for old, new in today.items()}
    named = saved_optimizer(optimizer, model, hyperparameters(optimizer))
    named["parameter_names"] = [[old.get(name, name) for name in group] for group in named["parameter_names"]]
    other = torch.optim.AdamW(list(model.parameters())[::-1], lr=1e-3)
    load_optimizer(other, model, hyperparameters(other), named)
    assert torch.equal(other.state[model.get_parameter(name)]["exp_avg"], state["exp_avg"])


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_shards_of_an_older_version_load_with_their_optimizer(model, tmp_path):
    def optimizer_of(detector):
        return torch.optim.AdamW(detector.parameters(), lr=1e-3)

    optimizer = optimizer_of(model)
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    tensors, rest = DistributedCheckpointer(model, tmp_path, optimizer)._state({"iteration": 1})
    old = {"token_mixer.relation": "roi_heads.relation", "box_predictor": "roi_heads.box_predictor"}

    def earlier(state):
        return {functools.reduce(lambda k, pair: k.replace(*pair), old.items(), key): v for key, v in state.items()}

    folder = tmp_path / "old.dcp"
    save_shards({key: earlier(value) for key, value in tensors.items()}, checkpoint_id=folder, no_dist=True)
    torch.save({**rest, "optimizer": earlier(rest["optimizer"])}, folder / "rest.pth")
    other = instantiate(LazyConfig.load(SAVED / "configs/tiny_run.yaml").model)
    fresh = optimizer_of(other)
    trainer = Holder()
    assert DistributedCheckpointer(other, tmp_path, fresh, trainer=trainer).load(folder)["iteration"] == 1
    for (name, value), mine in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(value, mine), name
        assert torch.equal(fresh.state[mine]["exp_avg"], optimizer.state[value]["exp_avg"]), name
