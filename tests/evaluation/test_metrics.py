import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.evaluation.cases import (
    FAR,
    HALF_A,
    NEAR_A,
    NONE,
    A,
    B,
    coco_content,
    jitter,
    random_box,
    random_videos,
    reference_set,
    video,
)
from ultravid.evaluation import (
    DetectionPool,
    all_metrics,
    average_precision,
    false_positive_sequences,
    legacy_metrics,
    match_detections,
    match_video,
    precision_at_recall,
    video_detection_metrics,
)
from ultravid.evaluation.frame_ap import average_recall, recall_precision, recall_with_top, threshold_at_recall
from ultravid.evaluation.metrics import stratum_metrics, why_undefined
from ultravid.evaluation.video_metrics import false_sequences_at


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
def test_metrics_equal_plain_loops_on_random_videos(seed):
    videos = random_videos(np.random.default_rng(seed))
    pool = DetectionPool(videos)
    for threshold in (0.5, 0.75):
        assert average_precision(pool, threshold) == pytest.approx(plain_average_precision(videos, threshold))
    for vid in videos:
        assert false_positive_sequences(vid, 0.3) == plain_sequences(vid, np.float32(0.3))


@pytest.mark.parametrize("seed", range(4))
def test_sequences_at_many_thresholds_equal_plain_loops(seed):
    rng = np.random.default_rng(seed)
    for vid in random_videos(rng):
        # Boxes that nearly stand still: links are many, and which one is taken depends on the threshold.
        still = video(*[(f.gt_boxes, [jitter(rng, A) for _ in range(4)], rng.random(4)) for f in vid.frames])
        for each in (vid, still):
            thresholds = np.concatenate([rng.random(20), each.frames[3].scores]).astype(np.float32)
            counts = false_sequences_at(match_video(each), thresholds)
            assert counts.tolist() == [plain_sequences(each, t) for t in thresholds]


@pytest.mark.parametrize("number", [1, 5])
def test_the_legacy_metrics_equal_the_results_of_ultradets_evaluator(number):
    # 1: scores of two decimals, so ties matter. 5: borderline cases made by hand, such as an IoU of exactly 0.5 and 9 hits of 10.
    videos, expected = reference_set(number)
    assert legacy_metrics([match_video(v) for v in videos]) == pytest.approx(expected, abs=1e-6)


def test_how_our_metrics_differ_from_the_legacy_ones():
    # Two lesions, one found by the second of 17 detections, by score: precision 1/2 at recall 1/2, then 1/17.
    many = [FAR, A, *[FAR] * 15]
    metrics = all_metrics([video(([A, B], many, np.linspace(0.9, 0.1, 17)), ([], [], []))])
    assert metrics["AP50"] == pytest.approx(25) and metrics["legacy/AP50"] == pytest.approx(0.25)
    # A has IoU 1: ten values of 25 percent.
    assert metrics["mAP"] == pytest.approx(25) and metrics["legacy/mAP"] == pytest.approx(0.25 * 10 / 9)
    # Recall 0.8 is never reached. The legacy metrics take the last precision, and the lowest score, which is then not kept.
    assert np.isnan(metrics["Pr80"]) and metrics["legacy/P@R0.8"] == pytest.approx(1 / 17)
    assert np.isnan(metrics["FP80"]) and metrics["legacy/FP@R0.8"] == 15 * 1800 / 2
    # Sixteen a frame: only the legacy metric counts the 17th.
    metrics = all_metrics([video(([A], [*[FAR] * 16, A], np.linspace(0.9, 0.1, 17)))])
    assert metrics["R@16"] == 0 and metrics["legacy/R@16"] == 1
    # Recall 0.8 is 4 of 5, reached at score 0.5 exactly: that detection is kept, here a false one of the same score.
    found = [([A], [A], [0.9])] * 3
    metrics = all_metrics([video(*found, ([A], [A, FAR], [0.5, 0.5]), ([A], NONE, []))])
    assert metrics["FP80"] == pytest.approx(1 * 1800 / 5) and metrics["legacy/FP@R0.8"] == 0


def test_a_video_of_known_rate_has_its_own_minutes_in_ours_alone():
    metrics = all_metrics([video(*[([A], [A, FAR], [0.9, 0.95])] * 10, fps=10.0)])
    assert metrics["FP80"] == pytest.approx(60) and metrics["legacy/FP@R0.8"] == pytest.approx(180)


def test_subsets_of_lesions_by_hand():
    small, large = [0, 0, 100, 100], [300, 300, 600, 600]  # 100 squared, 300 squared
    wrong_small, wrong_large = [700, 700, 800, 800], [0, 600, 300, 900]
    frames = [
        ([small, large], [small, large, wrong_small], [0.6, 0.9, 0.8]),  # two lesions
        ([large], [wrong_large], [0.7]),
    ]
    metrics = all_metrics([video(*frames)])
    # Frames with several: large, wrong_small, small by score: 1/2 at precision 1, 1/2 at 2/3.
    assert metrics["multi_mAP"] == pytest.approx(100 * (1 / 2 + 1 / 2 * 2 / 3))
    # Small: wrong_small, then small; hits of the large lesion and wrong_large are left out.
    assert metrics["mAP_s"] == pytest.approx(50)
    # Large: found one of two, before anything false.
    assert metrics["mAP_l"] == pytest.approx(50)
    assert np.isnan(all_metrics([video(([large], [large], [0.5]))])["mAP_s"])


def test_the_per_video_convention_by_hand():
    # Video a: frames of AP 1 and 1/2 (a false one before), and one without lesion, which is left out. Video b: one of 0.
    a = video(([A], [A], [0.9]), ([A], [FAR, A], [0.9, 0.8]), ([], [FAR], [0.9]), name="a")
    b = video(([A], [HALF_A, FAR], [0.9, 0.95]), ([A], NONE, []), name="b")
    metrics = all_metrics([a, b])
    # b's first frame: HALF_A has IoU 0.5 and comes second: AP50 1/2; its second frame 0.
    assert metrics["per_video/AP50"] == pytest.approx(100 * (3 / 4 + 1 / 4) / 2)
    assert metrics["per_video/AP75"] == pytest.approx(100 * (3 / 4 + 0) / 2)
    assert metrics["per_video/mAP"] == pytest.approx(100 * (3 / 4 + 1 / 40) / 2)
    assert metrics["per_video/R@16"] == pytest.approx(100 * (1 + 1 / 2) / 2)
    assert metrics["per_video/AR@16"] == pytest.approx(100 * (1 + 1 / 20) / 2)
    assert np.isnan(metrics["per_video/multi_mAP"])


@pytest.mark.parametrize("seed", range(4))
def test_the_per_video_convention_equals_pooled_metrics_of_single_frames(seed):
    videos = random_videos(np.random.default_rng(seed))
    names = ("AP50", "AP75", "mAP", "R@16", "AR@16", "multi_mAP", "mAP_s")
    averaged = all_metrics(videos)
    single = [[all_metrics([type(vid)("x", [f])]) for f in vid.frames if len(f.gt_boxes)] for vid in videos]
    for name in names:
        of_videos = [[m[name] for m in frames if not np.isnan(m[name])] for frames in single]
        means = [np.mean(values) for values in of_videos if values]
        expected = np.mean(means) if means else np.nan
        assert averaged[f"per_video/{name}"] == pytest.approx(expected, nan_ok=True)


def test_lesions_found_their_delay_and_froc_by_hand():
    # 10 frames a second. Lesion 1 shows in frames 0-3 and is hit in 2 and 3; lesion 2 shows in 1-3 and is hit in 3.
    first = video(
        ([A], NONE, [], [1]),
        ([A, B], [FAR], [0.95], [1, 2]),
        ([A, B], [A], [0.9], [1, 2]),
        ([A, B], [A, B], [0.8, 0.3], [1, 2]),
        fps=10.0,
        name="first",
    )
    # The third is hit at once. 56 frames without anything, so that both videos last 6 seconds, a tenth of a minute.
    second = video(([A], [A], [0.7], [1]), *[([], NONE, [])] * 55, fps=10.0, name="second")
    metrics = all_metrics([first, second], score_threshold=0.5)
    assert metrics["lesion/sensitivity_any@0.5"] == pytest.approx(100 * 2 / 3)
    assert metrics["lesion/sensitivity_half@0.5"] == pytest.approx(100 * 2 / 3)  # 2 of 4 frames, 1 of 1
    assert metrics["lesion/delay_s@0.5"] == pytest.approx(0.2)  # 0.2, 0 and never
    assert metrics["lesion/FP@0.5"] == pytest.approx(1 / 0.1)
    # At 0.9, 0.7 and 0.3 one lesion more is found each time; FAR (0.95) is there always: 10 sequences a minute.
    assert metrics["lesion/FROC@8"] == 0
    shorter = all_metrics([first, second, video(*[([], NONE, [])] * 600, fps=10.0, name="long")])
    assert shorter["lesion/FROC@1"] == pytest.approx(100) and shorter["lesion/FROC@0.5"] == 0
    # Found in half of its frames, lesion 2 (1 of 3) is not, at any score.
    assert all_metrics([first], score_threshold=0.1)["lesion/sensitivity_half@0.1"] == 50
    assert all_metrics([first], score_threshold=0.1)["lesion/sensitivity_any@0.1"] == 100


def test_a_lesion_that_is_never_found_is_infinitely_late_and_boxes_of_a_frame_are_never_one_lesion():
    found, missed = video(([A], [A], [0.9], [1])), video(([A], NONE, [], [1]), name="w")
    assert np.isnan(all_metrics([found, missed], score_threshold=0.5)["lesion/delay_s@0.5"])
    unknown = video(([A, B], [A], [0.9]))
    assert all_metrics([unknown], score_threshold=0.5)["lesion/sensitivity_any@0.5"] == 50


def test_the_reason_for_an_undefined_metric_is_given():
    videos = [match_video(video(([A], [FAR], [0.9])))]
    reasons = why_undefined(all_metrics(videos), videos)
    assert reasons["Pr80"] == "the recall ends at 0.000" and "several" in reasons["multi_mAP"]
    nothing = [match_video(video(([], [FAR], [0.9]), ([], [], [])))]
    assert set(why_undefined(video_detection_metrics(nothing), nothing).values()) == {"there is no lesion"}


def test_strata_are_the_metrics_of_their_videos():
    videos = [
        video(([A], [A], [0.9]), name="a", metadata={"device": "x"}),
        video(([A], [FAR], [0.9]), name="b", metadata={"device": "y"}),
        video(([], NONE, []), name="c"),
    ]
    strata = stratum_metrics([match_video(v) for v in videos], ["device", "size"])
    assert {name: row["videos"] for name, row in strata.items()} == {
        "device=unknown": 1,
        "device=x": 1,
        "device=y": 1,
        "size=no lesion": 1,
        "size=small": 2,
    }
    assert strata["device=x"]["AP50"] == 100 and strata["device=y"]["AP50"] == 0
    assert strata["size=small"]["AP50"] == pytest.approx(100 * 1 / 2)


@pytest.mark.parametrize("seed", range(3))
def test_precision_and_recall_equal_pycocotools_if_both_match_alike(seed):
    # With one lesion per frame COCO's matching, which can take the second-best lesion, and VOC's are the same.
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(80):
        box = random_box(rng)
        boxes = [jitter(rng, box) for _ in range(rng.integers(0, 3))] + [random_box(rng)]
        frames.append(([box] if rng.random() < 0.8 else [], boxes, rng.random(len(boxes))))
    videos = [video(*frames[:30]), video(*frames[30:], name="w")]
    content, results = coco_content(videos)
    for row in content["annotations"]:
        row |= {"area": row["bbox"][2] * row["bbox"][3], "iscrowd": 0}
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = content
        truth.createIndex()
        coco = COCOeval(truth, truth.loadRes(results), "bbox")
        coco.params.maxDets = [16]
        coco.evaluate()
        coco.accumulate()
    pool = DetectionPool(videos)
    for i, threshold in enumerate(coco.params.iouThrs):
        recall, precision = recall_precision(pool, threshold)
        envelope = [precision[recall >= r].max(initial=0) for r in coco.params.recThrs]
        assert envelope == pytest.approx(coco.eval["precision"][i, :, 0, 0, 0].tolist(), abs=1e-6)
        assert recall[-1] == pytest.approx(coco.eval["recall"][i, 0, 0, 0])
    assert average_recall(pool, 16) == pytest.approx(coco.eval["recall"][:, 0, 0, 0].mean())
