"""Assigners of dense heads against loops over boxes and locations."""

import itertools
import math

import pytest
import torch

from ultravid.modeling.assign import CenterSampling, DensePredictions, OneToOne, SimOTA, TopQuality
from ultravid.modeling.types import Targets

STRIDE, ROWS, COLUMNS = 8, 4, 5
SIZES = torch.tensor([[32.0, 40.0], [20.0, 33.0]])  # the second frame has padding: its last row begins at 24
BOXES = [
    [[4.0, 3.0, 27.0, 21.0], [6.0, 2.0, 30.0, 30.0], [33.0, 25.0, 35.0, 27.0]],  # the last holds no location
    [[8.0, 2.0, 26.0, 19.0]],
]
CLASSES = [[0, 1, 1], [1]]


def made_targets(junk_rows=0):
    """Boxes of two frames in rows that are padded, with whatever else in rows that are not valid."""
    rows = max(map(len, BOXES)) + junk_rows
    boxes, classes = torch.zeros(2, rows, 4), torch.zeros(2, rows, dtype=torch.int64)
    valid = torch.zeros(2, rows, dtype=torch.bool)
    if junk_rows:
        boxes += torch.tensor([0.0, 0.0, 40.0, 32.0])
    for b, frame in enumerate(BOXES):
        boxes[b, : len(frame)], valid[b, : len(frame)] = torch.tensor(frame), True
        classes[b, : len(frame)] = torch.tensor(CLASSES[b])
    return Targets(boxes, classes, valid, torch.ones(2), SIZES)


@pytest.fixture
def seen():
    generator = torch.Generator().manual_seed(3)
    y, x = torch.meshgrid(torch.arange(ROWS), torch.arange(COLUMNS), indexing="ij")
    locations = torch.stack((x, y), dim=-1).flatten(0, 1) * STRIDE + STRIDE / 2
    distances = torch.rand(2, len(locations), 4, generator=generator) * 14
    boxes = torch.cat((locations - distances[..., :2], locations + distances[..., 2:]), dim=-1)
    scores = torch.rand(2, len(locations), 2, generator=generator)
    inside = (locations[None] - STRIDE / 2 < SIZES.flip(-1)[:, None]).all(dim=-1)
    assert (~inside).sum(dim=1).tolist() == [0, COLUMNS]
    return DensePredictions(locations, STRIDE, boxes, scores, inside)


def iou(a, b):
    inter = max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return inter / (area - inter)


def lies_in(point, box):
    return box[0] < point[0] < box[2] and box[1] < point[1] < box[3]


def square(box, radius):
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return [x - radius, y - radius, x + radius, y + radius]


def quality(seen, b, n, box, cls):
    return seen.scores[b, n, cls].item() ** 0.2 * iou(box, seen.boxes[b, n].tolist()) ** 0.8


def center_sampling(seen, b):
    found = {}
    for n, point in enumerate(seen.locations.tolist()):
        fits = [
            ((box[2] - box[0]) * (box[3] - box[1]), g)
            for g, box in enumerate(BOXES[b])
            if lies_in(point, box) and lies_in(point, square(box, 1.5 * STRIDE))
        ]
        if fits and seen.inside[b, n]:
            found[n] = min(fits)[1]
    return found


def one_to_one(seen, b):
    """Over all ways to give each box another location; where none is near, the nearest."""
    points = seen.locations.tolist()
    worth = []
    for box, cls in zip(BOXES[b], CLASSES[b], strict=True):
        row = []
        for n, point in enumerate(points):
            near = lies_in(point, box) and lies_in(point, square(box, 1.5 * STRIDE))
            centre = square(box, 0)[:2]
            row.append(quality(seen, b, n, box, cls) if near else -1 - math.dist(point, centre) / 1e3)
            if not seen.inside[b, n]:
                row[-1] = -3.0
        worth.append(row)
    choices = itertools.permutations(range(len(points)), len(worth))
    best = max(choices, key=lambda c: sum(row[n] for row, n in zip(worth, c, strict=True)))
    return {n: g for g, n in enumerate(best)}


def top_quality(seen, b):
    best = {}
    for g, (box, cls) in enumerate(zip(BOXES[b], CLASSES[b], strict=True)):
        of_box = {n: quality(seen, b, n, box, cls) for n in range(len(seen.locations)) if seen.inside[b, n]}
        top = sorted(of_box, key=of_box.get, reverse=True)[:9]
        mean = sum(of_box[n] for n in top) / 9
        threshold = mean + math.sqrt(sum((of_box[n] - mean) ** 2 for n in top) / 8)
        for n in top:
            if of_box[n] >= threshold and lies_in(seen.locations[n].tolist(), box):
                best[n] = max(best.get(n, (-1, -1)), (of_box[n], g))
    return {n: g for n, (_, g) in best.items()}


def sim_ota(seen, b):
    points = seen.locations.tolist()
    squares = [square(box, 2.5 * STRIDE) for box in BOXES[b]]
    usable = [
        n for n, p in enumerate(points) if seen.inside[b, n] and any(lies_in(p, box) for box in [*BOXES[b], *squares])
    ]
    cost, wanted = {}, {}
    for g, (box, cls) in enumerate(zip(BOXES[b], CLASSES[b], strict=True)):
        overlap = {n: iou(box, seen.boxes[b, n].tolist()) for n in usable}
        for n in usable:
            p = seen.scores[b, n].sqrt().tolist()
            entropy = sum(-math.log(q if k == cls else 1 - q) for k, q in enumerate(p))
            both = lies_in(points[n], box) and lies_in(points[n], squares[g])
            cost[g, n] = entropy - 3 * math.log(overlap[n] + 1e-8) + (0 if both else 1e5)
        count = max(1, int(sum(sorted(overlap.values(), reverse=True)[:10])))
        for n in sorted(usable, key=lambda n, g=g: cost[g, n])[:count]:
            wanted.setdefault(n, []).append(g)
    boxes = range(len(BOXES[b]))
    return {n: w[0] if len(w) == 1 else min(boxes, key=lambda g: cost[g, n]) for n, w in wanted.items()}


ASSIGNERS = {
    "center_sampling": (CenterSampling(1.5), center_sampling),
    "one_to_one": (OneToOne(0.8, 1.5), one_to_one),
    "top_quality": (TopQuality(9, 0.8), top_quality),
    "sim_ota": (SimOTA(2.5, 10), sim_ota),
}


@pytest.mark.parametrize("name", ASSIGNERS)
def test_an_assigner_agrees_with_loops_and_ignores_rows_and_cells_of_padding(name, seen):
    assigner, by_loops = ASSIGNERS[name]
    for junk_rows in (0, 2):
        rows, labels = assigner(seen, made_targets(junk_rows))
        for b in range(2):
            expected = by_loops(seen, b)
            assert expected
            found = {n: rows[b, n].item() for n in (labels[b] == 1).nonzero()[:, 0].tolist()}
            assert found == expected
            assert (labels[b] == -1).equal(~seen.inside[b])


@pytest.mark.parametrize("name", ASSIGNERS)
def test_without_boxes_all_is_background(name, seen):
    targets = made_targets(1)
    targets = targets._replace(valid=torch.zeros_like(targets.valid))
    rows, labels = ASSIGNERS[name][0](seen, targets)
    assert (labels == torch.where(seen.inside, 0, -1)).all() and not rows.any()


@pytest.mark.parametrize("name", ASSIGNERS)
def test_more_boxes_than_locations_are_assigned_as_far_as_that_goes(name, seen):
    boxes = torch.rand(2, 200, 4, generator=torch.Generator().manual_seed(0)) * 20
    boxes[..., 2:] += boxes[..., :2]
    boxes[:, 100:] = boxes[:, :1]  # many equal ones
    boxes[:, 99, 2:] = boxes[:, 99, :2]  # an empty one
    targets = made_targets()._replace(
        boxes=boxes,
        classes=torch.ones(2, 200, dtype=torch.int64),
        valid=torch.ones(2, 200, dtype=torch.bool),
    )
    _, labels = ASSIGNERS[name][0](seen, targets)
    positive = (labels == 1).sum(dim=1)
    assert (positive > 0).all()
    if name == "one_to_one":
        assert positive.equal(seen.inside.sum(dim=1))
