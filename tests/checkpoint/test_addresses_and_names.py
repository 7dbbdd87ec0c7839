"""What code written for detectron2's and fvcore's checkpointers relies on: addresses, path managers, names that differ."""

import http.server
import pickle
import threading

import numpy as np
import pytest
import torch
from fvcore.common.checkpoint import PeriodicCheckpointer as FvcorePeriodicCheckpointer
from iopath.common.file_io import PathHandler, PathManager
from torch import nn

from ultravid import checkpoint
from ultravid.checkpoint import CheckpointError, DetectionCheckpointer, load_file
from ultravid.checkpoint.c2_model_loading import align_and_update_state_dicts
from ultravid.utils.file_io import AddressError


def nested() -> nn.ModuleDict:
    return nn.ModuleDict({"body": nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 1)}), "b": nn.Linear(2, 1)})


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """The address of a server of the folder ``served``."""
    monkeypatch.setenv("ULTRAVID_CACHE", str(tmp_path / "cache"))
    (tmp_path / "served").mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path / "served"))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_weights_load_from_an_address(tmp_path, serve):
    torch.save({"model": {"weight": torch.full((1, 2), 3.0), "bias": torch.zeros(1)}}, tmp_path / "served/x.pth")
    (tmp_path / "served/x.pkl").write_bytes(pickle.dumps({"model": {"a.weight": np.full((1, 2), 4.0, np.float32)}}))
    (tmp_path / "served/bad.pth").write_bytes(b"no checkpoint")
    model = nn.Linear(2, 1)
    checkpointer = DetectionCheckpointer(model, tmp_path)
    checkpointer.resume_or_load(f"{serve}/x.pth")
    assert model.weight.tolist() == [[3.0, 3.0]]
    checkpointer.load(f"{serve}/x.pkl?matching_heuristics=True")
    assert model.weight.tolist() == [[4.0, 4.0]]
    with pytest.raises(CheckpointError, match=rf"{serve}/y.pth can't be read: HTTP Error 404"):
        checkpointer.load(f"{serve}/y.pth")
    with pytest.raises(CheckpointError, match=rf"{serve}/bad.pth \(downloaded to {tmp_path}/cache/.*\) can't be read"):
        checkpointer.load(f"{serve}/bad.pth")
    with pytest.raises(CheckpointError, match=r"No handler takes foo://x\.pth"):
        checkpointer.load("foo://x.pth")


def test_a_path_manager_of_the_users_own_is_asked(tmp_path):
    class Handler(PathHandler):
        def _get_supported_prefixes(self):
            return ["zoo:"]

        def _get_local_path(self, path, **kwargs):
            return str(tmp_path / path.removeprefix("zoo:"))

    checkpointer = DetectionCheckpointer(nn.Linear(2, 1), tmp_path)
    checkpointer.save("x")
    assert callable(checkpointer.path_manager.register_handler)
    checkpointer.path_manager = PathManager()
    checkpointer.path_manager.register_handler(Handler())
    checkpointer.load("zoo:x.pth", [], strict=True)
    checkpointer.load("zoo:x.pth?matching_heuristics=False", strict=True)


def test_outputs_must_be_local():
    with pytest.raises(AddressError, match="save_dir can't be at s3://bucket/run"):
        DetectionCheckpointer(nn.Linear(1, 1), "s3://bucket/run")


def test_names_are_matched_by_their_longest_end_when_asked_for(tmp_path, caplog):
    weights = {"a.weight": torch.ones(2, 2), "body.b.bias": torch.full((1,), 2.0), "b.bias": torch.full((1,), 3.0)}
    torch.save(weights, tmp_path / "x.pth")
    model = nested()
    with pytest.raises(CheckpointError, match="doesn't fit"):
        DetectionCheckpointer(model).load(tmp_path / "x.pth", strict=True)
    with caplog.at_level("INFO"):
        DetectionCheckpointer(model).resume_or_load(f"{tmp_path}/x.pth?matching_heuristics=True")
    assert model["body"]["a"].weight.min() == 1 and model["body"]["b"].bias == 2 and model["b"].bias == 3
    assert "3 weights matched by the ends of their names" in caplog.text and "3 from scratch" in caplog.text


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_the_prefix_of_a_wrapper_is_no_part_of_a_name(tmp_path, prefix):
    saved, model = nested(), nested()
    torch.save({f"{prefix}{name}": value for name, value in saved.state_dict().items()}, tmp_path / "x.pth")
    DetectionCheckpointer(model).load(tmp_path / "x.pth", strict=True)
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in model.state_dict().items())


def test_heuristics_leave_a_head_for_other_classes_from_scratch(tmp_path, caplog):
    torch.save(nested().state_dict() | {"b.weight": torch.ones(80, 2), "b.bias": torch.ones(80)}, tmp_path / "x.pth")
    model = nested()
    DetectionCheckpointer(model, tmp_path / "run").resume_or_load(f"{tmp_path}/x.pth?matching_heuristics=True")
    assert "2 shapes differ (b.weight is (80, 2), the model's (1, 2)" in caplog.text
    assert torch.equal(model["body"]["a"].weight, torch.load(tmp_path / "x.pth")["body.a.weight"])


def test_align_and_update_state_dicts_follows_detectron2s_rule(caplog):
    names = ["body.res2.conv1.weight", "body.conv1.weight", "body.whatever_conv1.weight", "other"]
    model = {name: torch.zeros(2) for name in names}
    file = {"conv1.weight": torch.ones(2), "res2.conv1.weight": torch.full((2,), 2.0), "other": torch.ones(3)}
    found = align_and_update_state_dicts(model, file)
    assert {name: value[0].item() for name, value in found.items()} == {names[0]: 2.0, names[1]: 1.0}
    assert found[names[1]] is not file["conv1.weight"] and "other" in caplog.text
    with pytest.raises(ValueError, match=r"conv1.weight matches two of the model: a.conv1.weight and b.conv1.weight"):
        align_and_update_state_dicts({"a.conv1.weight": torch.zeros(2), "b.conv1.weight": torch.zeros(2)}, file)


def test_what_is_no_state_dict_is_refused_with_the_entry(tmp_path):
    (tmp_path / "caffe2.pkl").write_bytes(pickle.dumps({"blobs": {"conv1_w": np.zeros(3)}}))
    with pytest.raises(CheckpointError, match=r"holds no state dict: its 'blobs' is a dict"):
        DetectionCheckpointer(nn.Linear(1, 1)).load(tmp_path / "caffe2.pkl")


def test_the_api_of_fvcores_checkpointer(tmp_path):
    model = nn.Linear(2, 1)
    assert DetectionCheckpointer(model).save("x") is None  # without a folder nothing is saved
    assert DetectionCheckpointer(nn.DataParallel(model)).model is model
    checkpointer = DetectionCheckpointer(model, str(tmp_path), save_to_disk=True)
    assert not checkpointer.has_checkpoint() and checkpointer.get_checkpoint_file() == ""
    for name in ("a", "b"):
        checkpointer.save(name, note=name)
    assert checkpointer.has_checkpoint() and checkpointer.get_checkpoint_file() == str(tmp_path / "b.pth")
    assert checkpointer.get_all_checkpoint_files() == [str(tmp_path / f"{name}.pth") for name in ("a", "b")]
    checkpointer.tag_last_checkpoint("a.pth")
    assert checkpointer.resume_or_load("", resume=True) == {"note": "a"} == checkpointer.load(tmp_path / "a.pth")
    with pytest.raises(TypeError, match=r"'thing' is a int, which has no state_dict\(\)"):
        checkpointer.add_checkpointable("thing", 3)


def test_fvcores_periodic_checkpointer_works_with_ours(tmp_path):
    assert checkpoint.PeriodicCheckpointer is FvcorePeriodicCheckpointer
    periodic = checkpoint.PeriodicCheckpointer(DetectionCheckpointer(nn.Linear(1, 1), tmp_path), 2, 6, max_to_keep=1)
    for iteration in range(6):
        periodic.step(iteration)
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == ["model_0000005.pth", "model_final.pth"]
    assert load_file(tmp_path / "model_final.pth")["iteration"] == 5
