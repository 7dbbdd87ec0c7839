import errno
import json
import os
import pickle
import threading

import numpy as np
import pytest
import torch
from torch import nn

from ultravid.checkpoint import CheckpointError, DetectionCheckpointer, load_file
from ultravid.checkpoint import checkpointer as module
from ultravid.checkpoint.weights import match_by_suffix
from ultravid.modeling import ResNet


@pytest.fixture
def held_writer(monkeypatch):
    """Lets a thread write only when the test says so."""
    go = threading.Event()
    real = torch.save

    def save(*args, **kwargs):
        if threading.current_thread() is not threading.main_thread():
            assert go.wait(30)
        return real(*args, **kwargs)

    monkeypatch.setattr(module.torch, "save", save)
    yield go
    go.set()


def test_what_a_thread_writes_is_the_state_at_the_call_and_not_a_later_one(tmp_path, held_writer):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    checkpointer = DetectionCheckpointer(model, tmp_path, background=True, optimizer=optimizer)
    for value in (1.0, 2.0):  # the second time into the memory of the first
        held_writer.clear()
        nn.init.constant_(model.weight, value)
        model.weight.grad = torch.full_like(model.weight, value)
        optimizer.step()
        expected = model.weight.detach().clone()
        momentum = optimizer.state[model.weight]["momentum_buffer"].clone()
        checkpointer.save(f"model_{int(value):07d}", iteration=int(value))
        assert not (tmp_path / f"model_{int(value):07d}.pth").exists()
        nn.init.constant_(model.weight, -1.0)
        optimizer.state[model.weight]["momentum_buffer"].fill_(-1.0)
        held_writer.set()
        checkpointer.wait()
        content = load_file(tmp_path / f"model_{int(value):07d}.pth")
        assert torch.equal(content["model"]["weight"], expected)
        assert torch.equal(content["optimizer"]["state"][0]["momentum_buffer"], momentum)
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000002.pth"


def test_tied_weights_stay_one_tensor_in_the_copy(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    checkpointer = DetectionCheckpointer(model, tmp_path, background=True)
    checkpointer.save("model_0000001")
    checkpointer.wait()
    weights = load_file(tmp_path / "model_0000001.pth")["model"]
    assert weights["0.weight"].data_ptr() == weights["1.weight"].data_ptr()


def test_a_byte_that_changed_on_disk_is_detected(tmp_path, caplog):
    checkpointer = DetectionCheckpointer(nn.Linear(50, 50), tmp_path)
    for i in (1, 3):
        checkpointer.save(f"model_{i:07d}", iteration=i)
    rows = json.loads((tmp_path / "manifest.json").read_text())
    assert rows["model_0000003.pth"]["iteration"] == 3 and len(rows["model_0000003.pth"]["sha256"]) == 64
    newest = tmp_path / "model_0000003.pth"
    content = torch.load(newest, weights_only=True)
    content["model"]["weight"][0, 0] += 1e-3
    torch.save(content, newest)  # a readable file, but not the one that was written
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 1
    assert "its hash is not the one in manifest.json" in caplog.text


def test_a_process_killed_between_manifest_and_renaming_leaves_a_good_file(tmp_path, monkeypatch):
    checkpointer = DetectionCheckpointer(nn.Linear(2, 2), tmp_path)
    checkpointer.save("model_final", iteration=5)

    class Killed(BaseException):
        pass

    def killed(*args):
        real(*args)
        raise Killed

    real = module.record_file
    monkeypatch.setattr(module, "record_file", killed)
    with pytest.raises(Killed):
        checkpointer.save("model_final", iteration=6)
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 5


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_stops_the_run_or_not_as_configured(tmp_path, monkeypatch, caplog, background):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    def saved(checkpointer):
        checkpointer.save("model_0000003", iteration=3)
        checkpointer.wait()

    def make(on_error):
        return DetectionCheckpointer(nn.Linear(1, 1), tmp_path, background=background, on_error=on_error)

    strict, lenient = make("stop"), make("continue")
    strict.save("model_0000001", iteration=1)
    strict.wait()
    with monkeypatch.context() as patch:
        patch.setattr(module.torch, "save", full)
        with pytest.raises(CheckpointError, match=r"model_0000003.pth can't be written: .*No space left.*untouched"):
            saved(strict)
        saved(lenient)
        assert "No space left" in caplog.text and "The run continues" in caplog.text
        lenient.save("model_final", iteration=3)
        with pytest.raises(CheckpointError, match="model_final"):
            lenient.wait(always_raise=True)
    assert strict.resume_or_load("", resume=True)["iteration"] == 1
    assert not list(tmp_path.glob("*.tmp"))


def test_leftovers_of_a_killed_writer_are_removed(tmp_path):
    (tmp_path / ".model_0000003.pth.123.tmp").write_bytes(b"half")
    DetectionCheckpointer(nn.Linear(1, 1), tmp_path).remove_leftovers()
    assert os.listdir(tmp_path) == []


def test_names_match_by_their_ends():
    model = ["backbone.stem.conv1.weight", "backbone.res2.0.conv1.weight", "head.weight", "head.bias"]
    assert match_by_suffix(model, ["stem.conv1.weight", "res2.0.conv1.weight", "conv1.weight"]) == {
        "backbone.stem.conv1.weight": "stem.conv1.weight",
        "backbone.res2.0.conv1.weight": "res2.0.conv1.weight",
    }
    assert match_by_suffix(model, ["module.head.weight", "module.head.bias"]) == {
        "head.weight": "module.head.weight",
        "head.bias": "module.head.bias",
    }
    assert match_by_suffix(["a.weight", "b.weight"], ["weight"]) == {}  # could be either


def test_a_pickle_of_detectron2s_model_zoo_loads_by_suffix(tmp_path, caplog):
    model = nn.ModuleDict({"backbone": nn.Linear(2, 3), "head": nn.Linear(3, 1)})
    arrays = {"weight": np.full((3, 2), 2.0, np.float32), "bias": np.arange(3, dtype=np.float32)}
    content = {"model": arrays, "__author__": "Detectron2 Model Zoo", "matching_heuristics": True}
    for protocol in (2, 4):
        path = tmp_path / f"zoo{protocol}.pkl"
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        with pytest.raises(CheckpointError, match="doesn't fit"):  # "weight" could be the backbone's or the head's
            DetectionCheckpointer(model).load(path)
    content["model"] = {f"backbone.{k}": v for k, v in arrays.items()}
    path.write_bytes(pickle.dumps(content))
    before = model["head"].weight.detach().clone()
    DetectionCheckpointer(model).load(path)
    assert model["backbone"].bias.tolist() == [0.0, 1.0, 2.0] and torch.equal(model["head"].weight, before)
    inner = {"layers.0.weight": torch.ones(3, 2), "layers.0.bias": torch.zeros(3), "other.scale": torch.ones(1)}
    torch.save({"model": inner, "iteration": np.int64(5)}, tmp_path / "part.pth")
    whole = nn.ModuleDict({"net": nn.ModuleDict({"layers": nn.Sequential(nn.Linear(2, 3))})})
    with caplog.at_level("INFO"):
        assert DetectionCheckpointer(whole).load(tmp_path / "part.pth")["iteration"] == 5
    assert whole["net"]["layers"][0].weight.min() == 1
    assert "1 not used (other.scale)" in caplog.text


def test_code_in_a_pickle_is_refused_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "hacked"),)

    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"model": {"weight": np.array([Evil()], dtype=object)}}))
    (tmp_path / "cut.pkl").write_bytes(pickle.dumps({"model": np.zeros(99)})[:-50])
    with pytest.raises(CheckpointError, match=r"more than tensors and plain data: it names posix\.mkdir"):
        load_file(tmp_path / "evil.pkl")
    with pytest.raises(CheckpointError, match=r"cut\.pkl"):
        load_file(tmp_path / "cut.pkl")
    assert not (tmp_path / "hacked").exists()


def test_weights_of_torchvision_load_at_any_place_of_the_resnet(tmp_path):
    import torchvision

    reference = torchvision.models.resnet18()
    torch.save(reference.state_dict(), tmp_path / "r18.pth")
    plain, inside = torchvision.models.resnet18(), nn.ModuleDict({"encoder": torchvision.models.resnet18()})
    own = nn.ModuleDict({"trunk": ResNet(depth=18, norm="BN")})
    for model in (plain, inside, own):
        DetectionCheckpointer(model).load(tmp_path / "r18.pth")
    assert torch.equal(plain.fc.weight, reference.fc.weight)
    assert torch.equal(inside["encoder"].layer3[1].bn2.bias, reference.layer3[1].bn2.bias)
    assert torch.equal(own["trunk"].res3[0].conv1.weight, reference.layer2[0].conv1.weight)


def test_a_pickle_of_tensors_loads(tmp_path):
    (tmp_path / "t.pkl").write_bytes(pickle.dumps({"model": {"weight": torch.ones(1, 2), "bias": torch.zeros(1)}}))
    model = nn.Linear(2, 1)
    DetectionCheckpointer(model).load(tmp_path / "t.pkl")
    assert model.weight.tolist() == [[1.0, 1.0]]


def test_checkpoints_of_another_prefix_are_resumed_from_and_archived_too(tmp_path):
    checkpointer = DetectionCheckpointer(nn.Linear(2, 2), tmp_path)
    for name, iteration in (("foo_0000003", 3), ("foo_final", 5)):
        checkpointer.save(name, iteration=iteration)
    (tmp_path / "foo_final.pth").write_bytes(b"cut")
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 3
    checkpointer.archive_previous_run()
    assert not checkpointer.has_checkpoint() and not list(tmp_path.glob("*.pth"))
