import numpy as np
import pytest

from ultravid.evaluation import (
    DetectionPool,
    FrameResult,
    VideoResult,
    average_precision,
    false_positive_sequences,
    match_detections,
    precision_at_recall,
    video_detection_metrics,
)
from ultravid.evaluation.frame_ap import recall_with_top, threshold_at_recall

NONE = np.zeros((0, 4), np.float32)


def frame(index, gt, boxes, scores):
    boxes, gt = (np.asarray(b, np.float32).reshape(-1, 4) for b in (boxes, gt))
    return FrameResult(index, index, gt, boxes, np.asarray(scores, np.float32))


def video(*frames, fps=None, name="v"):
    return VideoResult(name, [frame(i, *f) for i, f in enumerate(frames)], fps)


A, B = [0, 0, 10, 10], [20, 20, 30, 30]
NEAR_A = [0, 0, 10, 9]  # IoU 0.9 with A
HALF_A = [0, 0, 10, 5]  # IoU 0.5 with A
FAR = [50, 50, 60, 60]


def test_matching_by_hand():
    pool = DetectionPool([video(([A, B], [NEAR_A, A, HALF_A, B, FAR], [0.9, 0.8, 0.95, 0.7, 0.6]))])
    # By falling score: HALF_A reaches 0.5 exactly and takes A; NEAR_A and A come too late and have no second choice.
    assert match_detections(pool, 0.5).tolist() == [True, False, False, True, False]
    assert match_detections(pool, 0.75).tolist() == [False, True, False, True, False]
    # precision 1, 1/2, 1/3, 2/4, 2/5 at recall .5, .5, .5, 1, 1; envelope 1 up to .5, then 1/2
    assert average_precision(pool, 0.5) == pytest.approx(0.5 * 1 + 0.5 * 0.5)
    # precision 0, 1/2, 1/3, 1/2, 2/5 at recall 0, .5, .5, 1, 1
    assert average_precision(pool, 0.75) == pytest.approx(0.5)
    assert precision_at_recall(pool, 0.8) == pytest.approx(1 / 3 + 0.3 / 0.5 * (1 / 2 - 1 / 3))
    assert threshold_at_recall(pool, 0.8) == pytest.approx(0.8 + 0.3 / 0.5 * (0.7 - 0.8))


def test_empty_ground_truth_counts_every_detection_as_false_positive():
    pool = DetectionPool([video(([A], [A], [0.5]), ([], [A, B], [0.9, 0.8]))])
    assert match_detections(pool, 0.5).tolist() == [False, False, True]
    assert average_precision(pool, 0.5) == pytest.approx(1 / 3)


def test_what_is_undefined_is_nan_and_what_is_zero_is_zero():
    no_lesion = video_detection_metrics([video(([], [A], [0.9]))])
    assert all(np.isnan(v) for v in no_lesion.values())
    nothing_found = video_detection_metrics([video(([A], NONE, []))])
    assert nothing_found["AP50"] == nothing_found["R@16"] == 0
    assert np.isnan(nothing_found["Pr80"]) and np.isnan(nothing_found["FP80"])


def test_recall_with_sixteen_counts_sixteen_a_frame():
    many = [FAR] * 16 + [A]
    pool = DetectionPool([video(([A], many, [*np.linspace(0.9, 0.5, 16), 0.4]))])
    assert recall_with_top(pool, 16) == 0
    assert recall_with_top(pool, 17) == 1


def test_sequences_by_hand():
    found, miss = ([A], [A], [0.9]), ([A], NONE, [])
    false = ([A], [FAR], [0.9])
    assert false_positive_sequences(video(found, found, found), 0.5) == 0
    # A gap of four empty frames is bridged, one of five is not.
    assert false_positive_sequences(video(false, *[miss] * 4, false), 0.5) == 1
    assert false_positive_sequences(video(false, *[miss] * 5, false), 0.5) == 2
    # Nine hits of ten are 0.9, which is not above 0.9; ten of eleven are.
    outside = ([B], [A], [0.9])
    assert false_positive_sequences(video(*[found] * 9, outside), 0.5) == 1
    assert false_positive_sequences(video(*[found] * 10, outside), 0.5) == 0
    # A score that equals the threshold is kept, unless asked to be strict.
    assert false_positive_sequences(video(false), float(np.float32(0.9))) == 1
    assert false_positive_sequences(video(false), float(np.float32(0.9)), strict=True) == 0


def test_the_rate_counts_the_videos_own_frames_a_second():
    found, false = ([A], [A], [0.9]), ([A], [A, FAR], [0.9, 0.95])
    slow = video_detection_metrics([video(*[found] * 59, false, fps=10.0)])
    assert slow["FP80"] == pytest.approx(1 / (60 / 10 / 60))
    unknown = video_detection_metrics([video(*[found] * 59, false)])
    assert unknown["FP80"] == pytest.approx(1800 / 60)


def random_videos(rng):
    videos = []
    for v in range(3):
        frames = []
        for _ in range(rng.integers(5, 25)):
            gt = [random_box(rng) for _ in range(rng.integers(0, 3))]
            boxes = [jitter(rng, g) for g in gt if rng.random() < 0.8] + [
                random_box(rng) for _ in range(rng.integers(0, 3))
            ]
            frames.append((gt, boxes, rng.integers(1, 20, len(boxes)) / 20))
        videos.append(video(*frames, name=f"v{v}"))
    return videos


def random_box(rng):
    x, y = rng.uniform(0, 60, 2)
    w, h = rng.uniform(8, 40, 2)
    return [x, y, x + w, y + h]


def jitter(rng, box):
    return (np.asarray(box) + rng.normal(0, 2, 4)).tolist()


def iou(a, b):
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    area = lambda c: (c[2] - c[0]) * (c[3] - c[1])  # noqa: E731
    return w * h / (area(a) + area(b) - w * h)


def plain_average_precision(videos, threshold):
    """Loops that follow the definition word for word, in float64."""
    rows, taken, num_gt = [], set(), 0
    for v, vid in enumerate(videos):
        for f, fr in enumerate(vid.frames):
            num_gt += len(fr.gt_boxes)
            rows += [(-s, (v, f), b, fr.gt_boxes) for b, s in zip(fr.boxes, fr.scores, strict=True)]
    hits = []
    for _, place, box, gts in sorted(rows, key=lambda r: r[0]):
        overlaps = [iou(box, g) for g in gts]
        best = int(np.argmax(overlaps)) if overlaps else -1
        hit = best >= 0 and overlaps[best] >= threshold and (place, best) not in taken
        if hit:
            taken.add((place, best))
        hits.append(hit)
    points = [(sum(hits[: k + 1]) / num_gt, sum(hits[: k + 1]) / (k + 1)) for k in range(len(hits))]
    area, last = 0.0, 0.0
    for k, (recall, _) in enumerate(points):
        area += (recall - last) * max(p for _, p in points[k:])
        last = recall
    return area


def plain_sequences(vid, threshold):
    nodes = [
        (
            f,
            b,
            any(g[0] <= (b[0] + b[2]) / 2 <= g[2] and g[1] <= (b[1] + b[3]) / 2 <= g[3] for g in fr.gt_boxes),
        )
        for f, fr in enumerate(vid.frames)
        for b, s in zip(fr.boxes, fr.scores, strict=True)
        if s >= threshold
    ]
    root = list(range(len(nodes)))
    for i, (f, b, _) in enumerate(nodes):
        best = (0.5, None)
        for j, (g, c, _) in enumerate(nodes):
            if f - 5 <= g < f and iou(b, c) > best[0]:
                best = (iou(b, c), j)
        if best[1] is not None:
            root[i] = root[best[1]]
    groups = {r: [nodes[i][2] for i in range(len(nodes)) if root[i] == r] for r in set(root)}
    return sum(sum(hits) / len(hits) <= 0.9 for hits in groups.values())


@pytest.mark.parametrize("seed", range(8))
def test_figures_equal_plain_loops_on_random_videos(seed):
    videos = random_videos(np.random.default_rng(seed))
    pool = DetectionPool(videos)
    for threshold in (0.5, 0.75):
        assert average_precision(pool, threshold) == pytest.approx(plain_average_precision(videos, threshold))
    for vid in videos:
        assert false_positive_sequences(vid, 0.3) == plain_sequences(vid, np.float32(0.3))
