"""Backbones: sizes of their maps, what is frozen, and weights from files, without a network."""

import socket

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from ultravid.checkpoint import CheckpointError, DetectionCheckpointer
from ultravid.checkpoint.weights import _from_torchvision_resnet
from ultravid.config import LazyCall as L
from ultravid.config import get_config, instantiate
from ultravid.layers import FrozenBatchNorm2d
from ultravid.modeling import ResNet, TimmBackbone
from ultravid.utils.errors import UserError
from ultravid.utils.file_io import PathHandler, PathManager

SIZES = ((31, 47), (64, 96), (65, 33))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Whoever opens a connection fails the test."""

    def refuse(*args, **kwargs):
        raise AssertionError("a backbone asked for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def check_maps(backbone):
    """Each size gives ceil(size / stride) cells, and what is outside an image is not seen by the cells before it."""
    backbone.eval()
    for height, width in SIZES:
        with torch.no_grad():
            out = backbone(torch.randn(2, 3, height, width))
        s = backbone.stride
        assert out.shape == (2, backbone.out_channels, -(-height // s), -(-width // s)) and out.isfinite().all()


def frozen_parts(backbone):
    learning = {name.split(".")[0] for name, p in backbone.named_parameters() if p.requires_grad}
    frozen = {name.split(".")[0] for name, p in backbone.named_parameters() if not p.requires_grad}
    assert not learning & frozen
    return frozen


@pytest.mark.parametrize(
    "arguments",
    [
        {"depth": 18},
        {"depth": 50, "last_stage": "res3"},
        {"depth": 18, "last_stage": "res5", "strides": (1, 2, 2, 1), "dilations": (1, 1, 1, 2), "out_channels": 24},
        {"num_blocks": (1, 1), "channels": (16, 32), "strides": (1, 2), "stem_channels": 8, "block": "bottleneck"},
    ],
    ids=["to res4", "bottlenecks", "dilated", "small bottlenecks"],
)
def test_a_resnet_gives_a_cell_for_each_begun_stride(arguments):
    check_maps(ResNet(norm="BN", **arguments))


def test_a_resnet_of_any_depth_has_torchvisions_weights_and_computes_what_they_do(tmp_path):
    for depth in (34, 50):
        with torch.device("meta"):
            own = ResNet(depth=depth, last_stage="res5", norm="BN")
            reference = getattr(torchvision.models, f"resnet{depth}")()
        renamed = _from_torchvision_resnet(
            reference.state_dict(), {f"backbone.{k}": v for k, v in own.state_dict().items()}
        )
        assert {k.removeprefix("backbone."): v.shape for k, v in renamed.items()} == {
            k: v.shape for k, v in own.state_dict().items()
        }
    for block, stage in ((BasicBlock, "res5"), (Bottleneck, "res4")):
        torch.manual_seed(0)
        reference = torchvision.models.ResNet(block, [1, 2, 1, 1]).eval()
        for module in reference.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
        torch.save(reference.state_dict(), tmp_path / "file.pth")
        kind = "basic" if block is BasicBlock else "bottleneck"
        own = ResNet(num_blocks=[1, 2, 1, 1], block=kind, last_stage=stage, weights=str(tmp_path / "file.pth")).eval()
        x = torch.randn(1, 3, 31, 47)
        with torch.no_grad():
            expected = reference.maxpool(reference.relu(reference.bn1(reference.conv1(x))))
            for layer in list(reference.children())[4 : 3 + int(stage[3])]:
                expected = layer(expected)
            torch.testing.assert_close(own(x), expected)


def test_frozen_stages_and_norms_are_values():
    plain = ResNet(num_blocks=(1, 1, 1), channels=(8, 8, 16), stem_channels=8, norm="BN", freeze_at=2)
    assert frozen_parts(plain) == {"stem", "res2"}
    norms = {name.split(".")[0]: type(m) for name, m in plain.named_modules() if name.endswith("norm")}
    assert norms == {
        "stem": FrozenBatchNorm2d,
        "res2": FrozenBatchNorm2d,
        "res3": nn.BatchNorm2d,
        "res4": nn.BatchNorm2d,
    }
    before = plain.stem.conv1.norm.running_mean.clone()
    plain.train()(torch.randn(1, 3, 31, 47)).sum().backward()
    assert torch.equal(plain.stem.conv1.norm.running_mean, before)
    assert all((p.grad is not None) == p.requires_grad for p in plain.parameters())
    with pytest.raises(ValueError, match="depth 18, 34, 50, 101, 152, got 20"):
        ResNet(depth=20)


def test_weights_come_from_a_file_or_an_address_and_a_missing_file_says_where_they_are(tmp_path):
    small = {"num_blocks": (1, 1), "channels": (8, 16), "strides": (1, 2), "stem_channels": 8}
    source = ResNet(**small, norm="BN")
    torch.save({"model": source.state_dict()}, tmp_path / "own.pth")
    torch.save(
        {f"backbone.{k}": v for k, v in source.state_dict().items()} | {"head.weight": torch.ones(1)},
        tmp_path / "whole.pth",
    )

    class Handler(PathHandler):
        def _get_supported_prefixes(self):
            return ["hospital://"]

        def _get_local_path(self, path, force=False, **kwargs):
            return str(tmp_path / path.removeprefix("hospital://"))

    PathManager.register_handler(Handler(), allow_override=True)
    for address in (str(tmp_path / "own.pth"), str(tmp_path / "whole.pth"), "hospital://own.pth"):
        loaded = ResNet(**small, norm="FrozenBN", weights=address)
        assert torch.equal(loaded.res3[0].conv1.weight, source.res3[0].conv1.weight)
    with pytest.raises(CheckpointError, match="missing"):
        ResNet(**small | {"num_blocks": (1, 2)}, weights=str(tmp_path / "own.pth"))
    with pytest.raises(
        CheckpointError, match=r'does not exist.*download\.pytorch\.org/models/resnet50.*set weights=""'
    ):
        ResNet(depth=50, weights="there_is_none.pth")
    with pytest.raises(CheckpointError, match='set weights=""') as caught:
        ResNet(depth=50, weights="no/resnet50.pth")
    assert str(caught.value).count("download.pytorch.org") == 1
    with pytest.raises(
        CheckpointError, match=r"resnet34\.pth does not exist\..*download\.pytorch\.org/models/resnet34"
    ):
        DetectionCheckpointer(source).load(tmp_path / "resnet34.pth")


@pytest.mark.parametrize("backbone", ["ResNet", "TimmBackbone"])
def test_a_backbone_of_another_width_takes_one_line_of_a_config(backbone):
    cfg = get_config("common/models/faster_rcnn_small.py").model
    if backbone == "ResNet":
        cfg.backbone = L(ResNet)(depth=50, last_stage="res3", norm="BN", out_channels=64)
    else:
        pytest.importorskip("timm", reason="the extra ultravid[timm] is not installed")
        cfg.backbone = L(TimmBackbone)(name="convnext_atto", stride=8, out_channels=64)
    model = instantiate(cfg).eval()
    with torch.no_grad():
        (found,) = model([{"image": torch.randint(0, 255, (3, 31, 47), dtype=torch.uint8), "video_id": "v"}])
    assert found["instances"].scores.isfinite().all()


# --- timm ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def timm():
    return pytest.importorskip("timm", reason="the extra ultravid[timm] is not installed")


def test_without_timm_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(UserError, match=r"pip install ultravid\[timm\]"):
        TimmBackbone(name="convnext_tiny", stride=16)


@pytest.mark.parametrize(
    ("name", "frozen"),
    [
        ("convnext_atto", {"stem_0", "stem_1", "stages_0"}),
        ("resnet10t", {"conv1"}),  # its frozen norm has no parameters
        ("mobilenetv3_small_050", {"conv_stem"}),
    ],
)
def test_a_timm_backbone_gives_a_cell_for_each_begun_stride_and_freezes_its_first_layers(timm, name, frozen):
    backbone = TimmBackbone(name=name, stride=16, freeze_at=1)
    check_maps(backbone)
    backbone.train()(torch.randn(2, 3, 31, 47)).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in backbone.parameters())  # none is unused
    assert frozen_parts(backbone.body) == frozen
    everything = TimmBackbone(name=name, out_index=1, norm="FrozenBN")
    assert not any(isinstance(m, nn.BatchNorm2d) for m in everything.modules())
    check_maps(everything)


def test_timms_weights_come_from_a_local_file_and_nothing_is_fetched(timm, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    torch.manual_seed(3)
    reference = timm.create_model("convnext_atto", pretrained=False).eval()
    torch.save(reference.state_dict(), tmp_path / "atto.pth")
    safetensors.save_file(reference.state_dict(), tmp_path / "model.safetensors")
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = reference.stages[1](reference.stages[0](reference.stem(x)))
        for file in ("atto.pth", "model.safetensors"):
            own = TimmBackbone(name="convnext_atto", stride=8, weights=str(tmp_path / file)).eval()
            torch.testing.assert_close(own(x), expected)
    with pytest.raises(CheckpointError, match=r"does not exist\..*Hugging Face hub.*timm/convnext_tiny\."):
        TimmBackbone(name="convnext_tiny", stride=16, weights=str(tmp_path / "missing.pth"))
    with pytest.raises(CheckpointError, match="doesn't fit 'convnext_femto'"):
        TimmBackbone(name="convnext_femto", stride=16, weights=str(tmp_path / "atto.pth"))
    with pytest.raises(UserError, match="has no model 'hf-hub:timm/convnext_atto'"):
        TimmBackbone(name="hf-hub:timm/convnext_atto", stride=16)
    with pytest.raises(UserError, match="strides 4, 8, 16, 32; there is none of 2"):
        TimmBackbone(name="convnext_atto", stride=2)
