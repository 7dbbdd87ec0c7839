import logging
import os
import pickle
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from ultravid.checkpoint import CheckpointError, DetectionCheckpointer
from ultravid.modeling import ResNet
from ultravid.utils.file_io import replace_file


class Counter:
    def __init__(self):
        self.value = 0

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def test_a_file_holds_the_model_and_all_else(tmp_path):
    counter = Counter()
    checkpointer = DetectionCheckpointer(nn.Linear(2, 1), tmp_path, counter=counter)
    counter.value = 7
    checkpointer.save("model_0000004", iteration=4)
    counter.value = 0
    assert checkpointer.resume_or_load("", resume=True) == {"iteration": 4}
    assert counter.value == 7
    assert set(torch.load(tmp_path / "model_0000004.pth", weights_only=True)) == {
        "model",
        "counter",
        "iteration",
    }
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".tmp"] == []


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path, caplog):
    model = nn.Linear(2, 1)
    checkpointer = DetectionCheckpointer(model, tmp_path)
    for i in (1, 3, 5):
        nn.init.constant_(model.weight, float(i))
        checkpointer.save(f"model_{i:07d}", iteration=i)
    newest = tmp_path / "model_0000005.pth"
    newest.write_bytes(newest.read_bytes()[:-300])
    with caplog.at_level(logging.WARNING):
        assert checkpointer.resume_or_load("", resume=True)["iteration"] == 3
    assert model.weight[0, 0] == 3
    assert "Can't resume from model_0000005.pth" in caplog.text
    for path in tmp_path.glob("*.pth"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="no checkpoint to resume from is good"):
        checkpointer.resume_or_load("", resume=True)


def test_a_checkpoint_that_does_not_fit_names_the_keys(tmp_path, caplog):
    DetectionCheckpointer(nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1)), tmp_path).save("x")
    model = nn.Sequential(nn.Linear(3, 1), nn.Identity(), nn.Linear(1, 1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    other = DetectionCheckpointer(model, tmp_path / "other")
    for load in (lambda path: other.load(path, strict=True), other.resume_or_load):
        with pytest.raises(CheckpointError) as caught:
            load(tmp_path / "x.pth")
        message = str(caught.value)
        assert "missing in it (2.weight, 2.bias)" in message
        assert "unknown to the model (1.weight, 1.bias)" in message
        assert "0.weight is (1, 2), the model's (1, 3)" in message
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    # By default what fits is loaded, as detectron2's checkpointer does.
    other.load(tmp_path / "x.pth")
    assert message.partition("model: ")[2].rstrip(".") in caplog.text and "keeps its own values" in caplog.text
    assert not torch.equal(model[0].bias, before["0.bias"]) and torch.equal(model[0].weight, before["0.weight"])
    with pytest.raises(CheckpointError, match="doesn't fit"):  # nothing in it belongs to the model
        DetectionCheckpointer(nn.Conv2d(3, 4, 1)).load(tmp_path / "x.pth")


def test_code_in_a_checkpoint_is_refused_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "hacked"),)

    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"model": Evil()}, protocol=2))
    torch.save({"model": {}, "x": Evil()}, tmp_path / "evil2.pth")
    for name in ("evil.pth", "evil2.pth"):
        with pytest.raises(CheckpointError, match=name):
            DetectionCheckpointer(nn.Linear(1, 1)).load(tmp_path / name)
    assert not (tmp_path / "hacked").exists()


def test_a_write_that_fails_leaves_the_older_file(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")

    def fail():
        with replace_file(path) as file:
            file.write(b"ne")
            raise OSError("disk full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["x"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_reported_and_older_checkpoints_stay(tmp_path, monkeypatch):
    checkpointer = DetectionCheckpointer(nn.Linear(1, 1), tmp_path)
    checkpointer.save("model_0000001", iteration=1)
    real_open = Path.open

    def full(path, *args, **kwargs):
        return real_open(Path("/dev/full"), "wb") if path.suffix == ".tmp" else real_open(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(CheckpointError, match=r"can't be written.*Older checkpoints are untouched"):
        checkpointer.save("model_0000003", iteration=3)
    monkeypatch.undo()
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 1


def test_weights_of_torchvision_fill_the_backbone(tmp_path):
    reference = torchvision.models.resnet18()
    torch.save(reference.state_dict(), tmp_path / "r18.pth")
    model = nn.Module()
    model.backbone = ResNet(depth=18, norm="FrozenBN")
    model.other = nn.Linear(1, 1)
    DetectionCheckpointer(model).load(tmp_path / "r18.pth")
    image = torch.randn(1, 3, 64, 48)
    x = reference.eval().maxpool(reference.relu(reference.bn1(reference.conv1(image))))
    expected = reference.layer3(reference.layer2(reference.layer1(x)))
    assert torch.allclose(model.backbone(image), expected, atol=1e-4)
