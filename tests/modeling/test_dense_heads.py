"""Losses and detections of the dense heads against loops."""

import math

import pytest
import torch
from torchvision.ops import generalized_box_iou_loss

from ultravid.config import get_config, instantiate
from ultravid.layers import Box2BoxTransform
from ultravid.layers.fixed_nms import offset_boxes_by_class, top_rows
from ultravid.modeling import (
    FCOS,
    RPN,
    YOLOX,
    AnchorGenerator,
    CenterSampling,
    DeFCN,
    Matcher,
    OneToOne,
    RetinaNet,
    RPNHead,
    SimOTA,
    TopQuality,
)
from ultravid.modeling.losses import focal_loss, giou_loss, pair_iou, product_focal_loss
from ultravid.modeling.types import Targets

STRIDE, SIZE = 8, (32, 40)  # 4 x 5 cells
CELLS = [(x * STRIDE, y * STRIDE) for y in range(4) for x in range(5)]
GT = [[(4.0, 3.0, 27.0, 21.0), (20.0, 8.0, 38.0, 30.0)], [], [(8.0, 2.0, 26.0, 19.0)]]
WEIGHT = [1.0, 2.0, 0.0]  # the last frame carries no loss


def make_head(kind, **kwargs):
    torch.manual_seed(0)
    common = dict(in_channels=32, num_convs=1)
    if kind == "retinanet":
        return RetinaNet(
            anchor_generator=AnchorGenerator(shapes=[(20, 16), (28, 12)], stride=STRIDE),
            anchor_matcher=Matcher((0.3, 0.5), (0, -1, 1), allow_low_quality_matches=True),
            box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
            focal_gamma=1.5,
            **common | kwargs,
        )
    if kind == "rpn":
        return RPN(
            rpn_head=RPNHead(in_channels=32, num_anchors=2),
            anchor_generator=AnchorGenerator(shapes=[(20, 16), (28, 12)], stride=STRIDE),
            anchor_matcher=Matcher((0.3, 0.7), (0, -1, 1), allow_low_quality_matches=True),
            box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
            **dict(batch_size_per_image=1000, positive_fraction=1.0, loss_weight=1000.0) | kwargs,  # all anchors
        )
    if kind == "fcos":
        return FCOS(stride=STRIDE, assigner=CenterSampling(1.5), **common | kwargs)
    if kind == "defcn":
        return DeFCN(stride=STRIDE, assigner=OneToOne(), aux_assigner=TopQuality(), **common | kwargs)
    return YOLOX(stride=STRIDE, assigner=SimOTA(), channels=16, **common | kwargs)


KINDS = ("retinanet", "fcos", "defcn", "yolox")


def make_targets(junk_rows=0, sizes=SIZE):
    boxes = torch.full((3, 2 + junk_rows, 4), 7.0 if junk_rows else 0.0)
    valid = torch.zeros(3, 2 + junk_rows, dtype=torch.bool)
    for b, frame in enumerate(GT):
        for g, box in enumerate(frame):
            boxes[b, g], valid[b, g] = torch.tensor(box), True
    classes = torch.zeros_like(valid, dtype=torch.int64)
    return Targets(boxes, classes, valid, torch.tensor(WEIGHT), torch.tensor([sizes] * 3).float())


def predict(head, height=4, width=5):
    """Predictions with some spread on maps that are random."""
    generator = torch.Generator().manual_seed(1)
    predictions = head(torch.randn(3, 32, height, width, generator=generator))
    fields = predictions._asdict()
    for name, value in fields.items():
        if name in ("anchors", "corners"):
            continue
        noise = torch.randn(value.shape, generator=generator)
        fields[name] = (noise.abs() * 1.5 if name == "distances" else noise).requires_grad_()
    return type(predictions)(**fields)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def focal(p, positive, alpha, gamma):
    return -alpha * (1 - p) ** gamma * math.log(p) if positive else -(1 - alpha) * p**gamma * math.log(1 - p)


def entropy(p, target):
    return -target * math.log(p) - (1 - target) * math.log(1 - p)


def overlap(a, b):
    inter = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter
    enclosing = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return inter, union, enclosing


def giou_of(a, b, plus=0.0):
    inter, union, enclosing = overlap(a, b)
    return 1 - (inter + plus) / (union + plus) + (enclosing - union) / enclosing


def around(x, y, d, unit=STRIDE):
    return (x - d[0] * unit, y - d[1] * unit, x + d[2] * unit, y + d[3] * unit)


def expected_retinanet(head, predictions):
    cls = box = count = 0.0
    for b, weight in enumerate(WEIGHT):
        ious = [[(o := overlap(a, g))[0] / o[1] for g in GT[b]] for a in predictions.anchors.tolist()]
        highest = [max(column) for column in zip(*ious, strict=True)]
        for n, anchor in enumerate(predictions.anchors.tolist()):
            best = max(ious[n], default=0.0)
            positive = best >= 0.5 or any(i == h for i, h in zip(ious[n], highest, strict=True))
            if not positive and best >= 0.3:
                continue
            count += positive and weight > 0
            cls += weight * focal(sigmoid(predictions.logits[b, n, 0].item()), positive, 0.25, 1.5)
            if positive:
                gt = GT[b][ious[n].index(best)]
                (ax, ay, aw, ah), (gx, gy, gw, gh) = (
                    ((c[0] + c[2]) / 2, (c[1] + c[3]) / 2, c[2] - c[0], c[3] - c[1]) for c in (anchor, gt)
                )
                deltas = ((gx - ax) / aw, (gy - ay) / ah, math.log(gw / aw), math.log(gh / ah))
                found = predictions.deltas[b, n].tolist()
                box += weight * sum(abs(p - q) for p, q in zip(found, deltas, strict=True))
    return {"loss_retinanet_cls": cls / count, "loss_retinanet_box": box / count}


def labels_of(head, predictions, assigner, scores, boxes):
    """Labels as the assigner gives them, which its own tests verify; the head must show it the right scores and boxes."""
    seen = {}

    def spy(shown, targets):
        seen["shown"] = shown
        return assigner(shown, targets)

    attribute = "assigner" if head.assigner is assigner else "aux_assigner"
    setattr(head, attribute, spy)
    head.losses(predictions, make_targets())
    setattr(head, attribute, assigner)
    assert torch.allclose(seen["shown"].scores[..., 0], torch.tensor(scores), atol=1e-5)
    assert torch.allclose(seen["shown"].boxes, torch.tensor(boxes), atol=1e-4)
    return assigner(seen["shown"], make_targets())


def expected_fcos(head, predictions):
    cls = box = ctr = count = share = 0.0
    logits, ctrness, distances = (
        x.tolist() for x in (predictions.logits, predictions.centerness, predictions.distances)
    )
    middles = [(x + 4, y + 4) for x, y in CELLS]
    boxes = [[around(*middles[n], distances[b][n]) for n in range(20)] for b in range(3)]
    scores = [[sigmoid(logits[b][n][0]) * sigmoid(ctrness[b][n]) for n in range(20)] for b in range(3)]
    rows, labels = labels_of(head, predictions, head.assigner, scores, boxes)
    for b, weight in enumerate(WEIGHT):
        for n, (x, y) in enumerate(middles):
            positive = labels[b, n] == 1
            cls += weight * focal(sigmoid(logits[b][n][0]), positive, 0.25, 2)
            if positive:
                g = GT[b][rows[b, n]]
                left, top, right, low = x - g[0], y - g[1], g[2] - x, g[3] - y
                centerness = math.sqrt(min(left, right) / max(left, right) * min(top, low) / max(top, low))
                count += weight > 0
                share += centerness * (weight > 0)
                scaled = [[c / STRIDE for c in corners] for corners in (boxes[b][n], g)]
                box += weight * centerness * giou_of(*scaled, plus=float(head.giou_plus_one))
                ctr += weight * entropy(sigmoid(ctrness[b][n]), centerness)
    return {"loss_fcos_cls": cls / count, "loss_fcos_box": box / share, "loss_fcos_centerness": ctr / count}


def expected_defcn(head, predictions):
    logits, filters, distances = (
        x.tolist() for x in (predictions.logits, predictions.filter_logits, predictions.distances)
    )
    middles = [(x + 4, y + 4) for x, y in CELLS]
    boxes = [[around(*middles[n], distances[b][n]) for n in range(20)] for b in range(3)]
    alone = [[sigmoid(logits[b][n][0]) for n in range(20)] for b in range(3)]
    scores = [[p * sigmoid(f) for p, f in zip(*frame, strict=True)] for frame in zip(alone, filters, strict=True)]
    rows, labels = labels_of(head, predictions, head.assigner, scores, boxes)
    aux = labels_of(head, predictions, head.aux_assigner, alone, boxes).labels
    assert (labels == 1).sum(dim=1).tolist() == [2, 0, 1] and (aux == 1).any()
    cls = box = auxiliary = 0.0
    for b, weight in enumerate(WEIGHT):
        for n in range(20):
            cls += weight * focal(scores[b][n], labels[b, n] == 1, 0.25, 2)
            auxiliary += weight * focal(alone[b][n], aux[b, n] == 1, 0.25, 2)
            if labels[b, n] == 1:
                box += weight * giou_of(boxes[b][n], GT[b][rows[b, n]])
    aux_count = (aux[torch.tensor(WEIGHT) > 0] == 1).sum().item()
    return {"loss_defcn_cls": cls / 2, "loss_defcn_box": 2 * box / 2, "loss_defcn_aux": auxiliary / aux_count}


def expected_yolox(head, predictions):
    logits, objectness, raw = (x.tolist() for x in (predictions.logits, predictions.objectness, predictions.raw_boxes))
    boxes = []
    for frame in raw:
        sides = [
            ((r[0] * 8 + x, r[1] * 8 + y), (8 * math.exp(r[2]), 8 * math.exp(r[3])))
            for r, (x, y) in zip(frame, CELLS, strict=True)
        ]
        boxes.append([(x - w / 2, y - h / 2, x + w / 2, y + h / 2) for (x, y), (w, h) in sides])
    scores = [[sigmoid(logits[b][n][0]) * sigmoid(objectness[b][n]) for n in range(20)] for b in range(3)]
    rows, labels = labels_of(head, predictions, head.assigner, scores, boxes)
    cls = obj = iou_sum = l1 = count = 0.0
    for b, weight in enumerate(WEIGHT):
        for n, (x, y) in enumerate(CELLS):
            positive = labels[b, n].item() == 1
            obj += weight * entropy(sigmoid(objectness[b][n]), float(positive))
            if positive:
                g = GT[b][rows[b, n]]
                inter, union, _ = overlap(boxes[b][n], g)
                count += weight > 0
                cls += weight * entropy(sigmoid(logits[b][n][0]), inter / union)
                iou_sum += weight * 5 * (1 - (inter / union) ** 2)
                centre = ((g[0] + g[2]) / 2 - x) / 8, ((g[1] + g[3]) / 2 - y) / 8
                target = (*centre, math.log((g[2] - g[0]) / 8), math.log((g[3] - g[1]) / 8))
                l1 += weight * sum(abs(p - q) for p, q in zip(raw[b][n], target, strict=True))
    named = dict(cls=cls, obj=obj, iou=iou_sum, l1=l1)
    return {f"loss_yolox_{name}": value / count for name, value in named.items()}


EXPECTED = dict(retinanet=expected_retinanet, fcos=expected_fcos, defcn=expected_defcn, yolox=expected_yolox)


@pytest.mark.parametrize(
    ("kind", "kwargs"), [*((kind, {}) for kind in KINDS), ("fcos", {"giou_plus_one": True})], ids=str
)
def test_losses_agree_with_loops_and_ignore_padded_rows_and_cells(kind, kwargs):
    head = make_head(kind, **kwargs)
    predictions = predict(head)
    losses = head.losses(predictions, make_targets())
    expected = EXPECTED[kind](head, predictions)
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4), name
    junk = head.losses(predictions, make_targets(junk_rows=3))
    assert all(torch.allclose(junk[name], losses[name]) for name in losses)
    sum(losses.values()).backward()
    predicted = [x for x in predictions if x.requires_grad]
    assert all(x.grad.isfinite().all() and not x.grad[2].any() for x in predicted)  # frame 2 has weight 0


@pytest.mark.parametrize("kind", [*KINDS, "rpn"])
@pytest.mark.parametrize("low", [False, True], ids=["boxes in the frame", "a box at its lower border"])
def test_what_is_predicted_in_the_padding_of_a_frame_does_not_matter(kind, low):
    head = make_head(kind)
    targets = make_targets()
    if low:  # of all anchors, one in the padding overlaps it most
        targets.boxes[0, 0] = torch.tensor([10.0, 28.0, 22.0, 32.0])
    wide, narrow = predict(head, 5, 7), {}
    for name, value in wide._asdict().items():
        if name in ("anchors", "corners"):
            per_cell = value.unflatten(0, (5, 7, -1))[:4, :5].flatten(0, 2)
            narrow[name] = per_cell
        else:
            per_cell = value.unflatten(1, (5, 7, -1))[:, :4, :5].flatten(1, 3)
            narrow[name] = per_cell.detach()
    narrow = type(wide)(**narrow)
    losses = [head.losses(p, targets) for p in (wide, narrow)]
    assert all(torch.allclose(losses[0][name], losses[1][name], rtol=1e-4) for name in losses[0])
    found = [head.decode(p, targets.image_sizes) for p in (wide, narrow)]
    same = min(f.scores.shape[1] for f in found)
    assert torch.equal(found[0].valid.sum(dim=1), found[1].valid.sum(dim=1))
    assert torch.allclose(found[0].boxes[:, :same], found[1].boxes[:, :same])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(32, 40), (31, 47), (3, 5)])
def test_detections_are_as_many_rows_as_promised_inside_the_frame_by_falling_score(kind, size):
    head = make_head(kind, num_classes=2).eval()
    predictions = predict(head, -(-size[0] // STRIDE), -(-size[1] // STRIDE))
    found = head.decode(predictions, torch.tensor([size] * 3).float())
    assert found.boxes.shape == (3, head.num_detections(size), 4)
    assert (found.valid.int().diff(dim=1) <= 0).all() and found.boxes.isfinite().all()
    assert found.valid.any() or size == (3, 5)
    boxes = found.boxes[found.valid]
    assert (boxes >= 0).all() and (boxes <= torch.tensor(size).flip(0).repeat(2)).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    both = found.valid[:, 1:]
    assert (found.scores.diff(dim=1)[both] <= 0).all() and set(found.classes[found.valid].tolist()) <= {0, 1}


@pytest.mark.parametrize("kind", KINDS)
def test_two_classes_and_no_box_and_200_boxes_give_finite_losses(kind):
    head = make_head(kind, num_classes=2)
    predictions = predict(head)
    targets = make_targets()
    none = targets._replace(valid=torch.zeros_like(targets.valid))
    corner = torch.rand(3, 200, 2, generator=torch.Generator().manual_seed(0)) * 30
    boxes = torch.cat((corner, corner + 3), dim=-1)
    boxes[:, 0, 2:] = boxes[:, 0, :2]  # an empty one
    many = targets._replace(
        boxes=boxes, classes=torch.arange(600).view(3, 200) % 2, valid=torch.ones(3, 200, dtype=torch.bool)
    )
    for t in (none, many, many._replace(weight=torch.zeros(3))):
        losses = head.losses(predictions, t)
        total = sum(losses.values())
        grads = torch.autograd.grad(total, [x for x in predictions if x.requires_grad], allow_unused=True)
        assert total.isfinite() and all(g is None or g.isfinite().all() for g in grads)


def test_fcos_keeps_detections_whose_scores_equal_the_last_one():
    head = make_head("fcos", keep_ties=True, max_detections=3, nms_threshold=1.0)
    predictions = predict(head)
    logits = torch.linspace(4, 0, 20).repeat(3, 1)
    logits[:, 2:6] = logits[:, 2:3]
    tied = predictions._replace(logits=logits[..., None], centerness=torch.zeros(3, 20))
    sizes = make_targets().image_sizes
    assert head.num_detections(SIZE) == 20 and head.decode(tied, sizes).valid.sum(dim=1).tolist() == [6, 6, 6]
    head.keep_ties = False
    found = head.decode(tied, sizes)
    assert head.num_detections(SIZE) == 3 and found.valid.sum(dim=1).tolist() == [3, 3, 3]
    head.sqrt_scores = False
    assert torch.allclose(head.decode(tied, sizes).scores, found.scores**2)
    # Of fewer than asked for, all stay, also those with a lower score than a box that was suppressed.
    head.nms_threshold, head.max_detections = 0.05, 18
    few = head.decode(tied, sizes)
    head.keep_ties = True
    assert few.valid.sum(dim=1).max() < 18
    assert torch.equal(head.decode(tied, sizes).boxes[:, :18][few.valid], few.boxes[few.valid])
    assert torch.equal(head.decode(tied, sizes).valid[:, :18], few.valid)


def test_yolox_can_scale_by_the_padded_size_as_published():
    head = make_head("yolox")
    predictions, sizes = predict(head), torch.tensor([[27.0, 35.0]] * 3)
    plain = head.decode(predictions, torch.tensor([[1e5, 1e5]] * 3))  # nothing is cut above
    head.scale_by_padded_size = True
    scaled = head.decode(predictions, sizes)
    expected = (plain.boxes * torch.tensor([35 / 40, 27 / 32] * 2)).minimum(torch.tensor([35.0, 27.0] * 2))
    for b in range(3):
        left = (expected[b, :, 2:] > expected[b, :, :2]).all(dim=1)
        assert left.any() and torch.allclose(scaled.boxes[b][scaled.valid[b]], expected[b][left], atol=1e-4)


def test_retinanet_divides_by_a_running_number_of_foreground_anchors_that_is_saved():
    head = make_head("retinanet", normalizer_momentum=0.9)
    predictions, targets = predict(head), make_targets()
    plain = make_head("retinanet").losses(predictions, targets)
    first = head.losses(predictions, targets)["loss_retinanet_box"]
    count = (head._assign(predictions, targets).labels == 1)[:2].sum()
    assert head.state_dict()["loss_normalizer"].item() == pytest.approx(90 + 0.1 * count)
    assert (first * (90 + 0.1 * count)).item() == pytest.approx((plain["loss_retinanet_box"] * count).item())
    assert "loss_normalizer" not in make_head("retinanet").state_dict()


def test_losses_of_pairs_and_probabilities_by_hand():
    box, other = torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 0, 3, 2])
    assert giou_loss(box, other).item() == pytest.approx(1 - 2 / 6)
    assert giou_loss(box, other, plus_one=True).item() == pytest.approx(1 - 3 / 7)
    assert pair_iou(box, other).item() == pytest.approx(2 / 6)
    a, b = torch.rand(2, 50, 4) * 10
    a[:, 2:] += a[:, :2]
    b[:, 2:] += b[:, :2]
    assert torch.allclose(giou_loss(a, b), generalized_box_iou_loss(a, b), atol=1e-5)
    assert focal_loss(torch.tensor(0.0), torch.tensor(1.0), 0.25, 2).item() == pytest.approx(0.25 * 0.25 * math.log(2))
    x, y = torch.randn(2, 30).mul(3).double()
    target, p = torch.arange(30) % 2, x.sigmoid() * y.sigmoid()
    expected = torch.where(target == 1, -0.9 * (1 - p) ** 2 * p.log(), -0.1 * p**2 * (1 - p).log())
    assert torch.allclose(product_focal_loss(x, y, target, 0.9, 2).double(), expected, atol=1e-5)
    far = torch.tensor([-80.0, 80.0], requires_grad=True)
    product_focal_loss(far, far, torch.tensor([1.0, 0.0])).sum().backward()
    assert far.grad.isfinite().all()


def test_top_rows_and_classes_apart():
    scores, index = top_rows(torch.tensor([1.0, 3, 2, 3, 3]), 4)
    assert scores.tolist() == [3, 3, 3, 2] and index.tolist() == [1, 3, 4, 2]
    boxes = torch.tensor([[-5.0, -5, 5, 5], [-5.0, -5, 5, 5]])
    one, two = offset_boxes_by_class(boxes, torch.tensor([0, 1]), 2)
    assert one[2] < two[0]


@pytest.mark.parametrize("proposals", ["fcos", "yolox"])
def test_a_one_stage_head_makes_proposals_and_an_rpn_detects(proposals):
    two_stage = get_config("common/models/faster_rcnn_small.py").model
    one_stage = get_config(f"common/models/{proposals}_small.py").model
    one_stage.dense_head, two_stage.proposal_head = two_stage.proposal_head, one_stage.dense_head
    if proposals == "fcos":
        two_stage.proposal_head.score_threshold = 0.0
    for description in (two_stage, one_stage):
        torch.manual_seed(0)
        model = instantiate(description).eval()
        (found,) = model([{"image": torch.rand(3, 64, 72) * 255, "video_id": "v"}])
        scores = found["instances"].scores
        assert len(scores) > 0 and ((scores >= 0) & (scores <= 1)).all()
