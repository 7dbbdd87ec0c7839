import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision import ops

from ultravid.layers import (
    Box2BoxTransform,
    CNNBlockBase,
    Conv2d,
    DepthwiseSeparableConv2d,
    FrozenBatchNorm2d,
    NaiveSyncBatchNorm,
    ROIAlign,
    ShapeSpec,
    batch_norm,
    batched_nms,
    cat,
    ciou_loss,
    cross_entropy,
    diou_loss,
    get_norm,
    giou_loss,
    nonzero_tuple,
)

SQUARE = torch.tensor([-1.0, -1.0, 1.0, 1.0])
RIGHT_HALF = torch.tensor([0.0, -1.0, 1.0, 1.0])


def test_overlap_losses_by_hand():
    # IoU 1/2; the centres are 1/2 apart, the diagonal of the enclosing box is sqrt(8); the enclosing box is the square itself.
    assert giou_loss(SQUARE, RIGHT_HALF) == pytest.approx(0.5)
    assert diou_loss(SQUARE, RIGHT_HALF) == pytest.approx(0.5 + 0.25 / 8)
    v = 4 / math.pi**2 * (math.atan(1) - math.atan(0.5)) ** 2
    assert ciou_loss(SQUARE, RIGHT_HALF) == pytest.approx(0.5 + 0.25 / 8 + v * v / (0.5 + v), abs=1e-6)
    # Apart, corner to corner: a quarter of the enclosing box is covered by each.
    a, b = torch.tensor([0.0, 0, 1, 1]), torch.tensor([1.0, 1, 2, 2])
    assert giou_loss(a, b) == pytest.approx(1 + 0.5)
    assert diou_loss(a, b) == pytest.approx(1 + 2 / 8)


def test_overlap_losses_have_reductions_and_a_gradient():
    pairs = torch.stack([SQUARE, SQUARE]).requires_grad_(), torch.stack([RIGHT_HALF, SQUARE])
    for loss in (giou_loss, diou_loss, ciou_loss):
        each = loss(*pairs)
        assert each.shape == (2,) and each[1].abs() < 1e-6
        assert loss(*pairs, reduction="sum") == each.sum() and loss(*pairs, reduction="mean") == each.mean()
        none = loss(pairs[0][:0], pairs[1][:0], reduction="mean")
        assert none == 0 and torch.autograd.grad(each.sum() + none, pairs[0])[0].isfinite().all()


def test_boxes_of_different_groups_do_not_suppress_each_other():
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [1, 1, 11, 11]])
    kept = batched_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 0, 1]), 0.5)
    assert kept.tolist() == [0, 2]


def test_roi_align_is_torchvisions_with_centres_at_half():
    features = torch.arange(25.0).view(1, 1, 5, 5)
    rois = torch.tensor([[0.0, 1, 1, 3, 3]])
    pooled = ROIAlign((2, 2), 1.0, 0)(features, rois)
    assert torch.equal(pooled, ops.RoIAlign((2, 2), 1.0, 0, aligned=True)(features, [rois[:, 1:]]))
    # The map rises by 1 to the right and by 5 downwards; the four cells' centres are at 1.5 - 0.5 and 2.5 - 0.5.
    assert torch.allclose(pooled[0, 0], torch.tensor([[6.0, 7], [11, 12]]))
    assert ROIAlign(7, 1.0, 0)(features, rois[:0]).shape == (0, 1, 7, 7)
    with pytest.raises(ValueError, match=r"\(N, 5\)"):
        ROIAlign(7, 1.0, 0)(features, rois[:, 1:])


def test_small_functions():
    a = torch.zeros(2, 3)
    assert cat([a]) is a and cat([a, a], dim=1).shape == (2, 6)
    rows, columns = nonzero_tuple(torch.tensor([[0, 1], [2, 0]]))
    assert rows.tolist() == [0, 1] and columns.tolist() == [1, 0]
    assert [i.tolist() for i in nonzero_tuple(torch.tensor(5))] == [[0]]
    assert ShapeSpec(channels=3) == ShapeSpec(3, None, None, None)


def test_a_loss_over_no_rows_is_zero_with_a_gradient():
    logits = torch.zeros(0, 3, requires_grad=True)
    loss = cross_entropy(logits, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss == 0 and logits.grad.shape == (0, 3)
    logits, classes = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    assert cross_entropy(logits, classes) == F.cross_entropy(logits, classes)


def trained_norm(channels=4):
    norm = nn.BatchNorm2d(channels, eps=1e-3)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    norm(torch.randn(8, channels, 3, 3) * 3 + 1)
    return norm.eval()


def test_a_frozen_norm_gives_what_the_norm_gave():
    model = nn.Sequential(nn.Sequential(trained_norm()), trained_norm())
    x = torch.randn(2, 4, 5, 5)
    before = model(x)
    assert FrozenBatchNorm2d.convert_frozen_batchnorm(model) is model
    assert torch.allclose(model.train()(x), before, atol=1e-5)
    assert not list(model.parameters()) and not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert isinstance(FrozenBatchNorm2d.convert_frozen_batchnorm(trained_norm()), FrozenBatchNorm2d)


def test_a_frozen_block_does_not_learn():
    class Block(CNNBlockBase):
        def __init__(self):
            super().__init__(3, 4, stride=2)
            self.conv = Conv2d(3, 4, 3, 2, 1, bias=False, norm=get_norm("BN", 4), activation=F.relu)

    block = Block()
    assert block.freeze() is block and block.stride == 2
    assert not any(p.requires_grad for p in block.parameters()) and isinstance(block.conv.norm, FrozenBatchNorm2d)


def test_norms_by_name():
    kinds = {"BN": nn.BatchNorm2d, "SyncBN": nn.SyncBatchNorm, "FrozenBN": FrozenBatchNorm2d, "GN": nn.GroupNorm}
    assert all(isinstance(get_norm(name, 32), kind) for name, kind in kinds.items())
    assert get_norm("", 32) is None and get_norm(None, 32) is None
    assert get_norm("naiveSyncBN_N", 32).stats_mode == "N" and get_norm("naiveSyncBN", 32).stats_mode == ""
    assert get_norm(nn.InstanceNorm2d, 32).num_features == 32
    with pytest.raises(ValueError, match="Unknown norm 'bn'"):
        get_norm("bn", 32)


def test_a_separable_convolution_is_one_by_channel_and_one_over_channels():
    layer = DepthwiseSeparableConv2d(3, 5, norm1="BN", activation1=F.relu)
    assert layer(torch.randn(2, 3, 8, 8)).shape == (2, 5, 8, 8)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert shapes["depthwise.weight"] == (3, 1, 3, 3) and shapes["pointwise.weight"] == (5, 3, 1, 1)
    assert "depthwise.bias" not in shapes and "pointwise.bias" in shapes


@pytest.mark.parametrize(("mode", "mine"), [("", 2), ("N", 3), ("N", 0)])
def test_statistics_of_all_processes_are_those_of_one_batch(monkeypatch, mode, mine):
    """The other process's part of the sums is added by hand."""
    whole = torch.randn(4, 2, 3, 3) * 2 + 1
    here, there = whole[:mine], whole[mine:]
    share = float(len(there)) if mode == "N" else 1.0
    moments = torch.cat((there.mean((0, 2, 3)), (there * there).mean((0, 2, 3)))) * share
    monkeypatch.setattr(batch_norm.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(batch_norm, "all_reduce", lambda x: x + torch.cat((moments, torch.tensor([share]))))
    norm = NaiveSyncBatchNorm(2, stats_mode=mode)
    found = norm(here)
    reference = nn.BatchNorm2d(2)
    assert torch.allclose(found, reference(whole)[:mine], atol=1e-5)
    assert torch.allclose(norm.running_mean, reference.running_mean, atol=1e-6)
    unbiased = 36 / 35  # detectron2's running variance is the biased one
    assert torch.allclose((norm.running_var - 0.9) * unbiased, reference.running_var - 0.9, atol=1e-5)
    found.sum().backward()
    assert norm.weight.grad is not None


def test_a_synchronised_norm_refuses_an_empty_batch_that_would_count(monkeypatch):
    monkeypatch.setattr(batch_norm.comm, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="stats_mode='N'"):
        NaiveSyncBatchNorm(2)(torch.zeros(0, 2, 3, 3))
    with pytest.raises(ValueError, match="neither"):
        NaiveSyncBatchNorm(2, stats_mode="n")


def test_deltas_of_several_classes_are_applied_to_the_same_boxes():
    coding = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    boxes, targets = torch.tensor([[0.0, 0, 4, 2], [5, 5, 9, 15]]), torch.tensor([[1.0, 0, 3, 4], [4, 6, 8, 18]])
    deltas = coding.get_deltas(boxes, targets)
    assert torch.allclose(coding.apply_deltas(deltas, boxes), targets, atol=1e-5)
    both = coding.apply_deltas(torch.cat((deltas, torch.zeros_like(deltas)), dim=1), boxes)
    assert torch.allclose(both, torch.cat((targets, boxes), dim=1), atol=1e-5)
