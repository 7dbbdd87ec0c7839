"""Tracks on top of detections."""

import numpy as np
import pytest
import torch

from ultravid.modeling.types import Detections
from ultravid.serving import Detection, FrameDetections, default_tracker, summarize_tracks
from ultravid.serving.tracking import LesionFilter, smoothed_boxes


def detections(boxes, scores, classes=None):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    count = len(boxes)
    classes = torch.zeros(count, dtype=torch.int64) if classes is None else torch.tensor(classes)
    return Detections.of(boxes, torch.tensor(scores), classes, torch.ones(count, dtype=torch.bool))


def test_the_default_tracker_loses_no_detection_and_keeps_ids_through_gaps():
    tracker = default_tracker()
    state = tracker.initial_state()
    ids = []
    for t in range(12):
        lesion = [100 + 3 * t, 50, 160 + 3 * t, 90]
        boxes, scores = [lesion, [300, 300, 320, 330], [302, 300, 322, 330]], [0.9 if t < 2 else 0.1, 0.05, 0.04]
        if 4 <= t < 8:
            boxes, scores = boxes[1:], scores[1:]
        given = detections(boxes, scores)
        found, state = tracker.update(given, state)
        assert torch.equal(found.boxes, given.boxes) and torch.equal(found.scores, given.scores)
        ids.append(found.track_ids.tolist())
    assert ids == [[0, -1, -1]] * 4 + [[-1, -1]] * 4 + [[0, -1, -1]] * 4
    found, state = tracker.update(detections([], []), state)
    assert len(found.boxes) == 0 and state["ids"].tolist() == [0]


def test_a_detection_that_is_shown_starts_a_track_unless_it_is_very_uncertain():
    for threshold, expected in ((None, [0, -1, -1]), (0.15, [0, 1, -1]), (0.0, [0, 1, -1])):
        tracker = default_tracker(threshold)
        given = detections([[0, 0, 20, 20], [50, 50, 70, 70], [90, 0, 99, 9]], [0.4, 0.2, 0.08])
        assert tracker.update(given, tracker.initial_state())[0].track_ids.tolist() == expected


def test_a_track_is_followed_at_any_place_and_size_and_its_boxes_are_smoothed_without_drift():
    rng = np.random.default_rng(0)
    for scale, corner in ((1.0, 0.0), (8.0, 0.0), (1.0, 700.0)):
        tracker = default_tracker()
        state = tracker.initial_state()
        errors = []
        for t in range(60):
            truth = corner + scale * np.array([2.0 * t, t, 2.0 * t + 40, t + 30])
            box = truth + scale * rng.normal(0, 2, 4)
            found, state = tracker.update(detections([box.tolist()], [0.8]), state)
            assert found.track_ids.tolist() == [0]
            smooth = smoothed_boxes(found.boxes, found.track_ids, state, (10_000, 10_000))[0].numpy()
            errors.append((np.abs(found.boxes[0].numpy() - truth), np.abs(smooth - truth)))
        raw, smoothed = np.mean(errors[10:], axis=(0, 2)) / scale
        assert smoothed < 0.8 * raw
    inside = smoothed_boxes(found.boxes, found.track_ids, state, (770, 840))
    assert inside[0, 2] == 840 and inside[0, 3] == 770


def test_the_filter_gives_the_weighted_mean_of_prediction_and_detection():
    kalman = LesionFilter(detection_share=0.1, position_share=0.1, velocity_share=0.0)
    state = kalman.start(np.array([[0.0, 0.0, 10.0, 20.0]]))
    predicted = kalman.predict(state)
    # Variance of x1: 1 of the first detection and 1 of the frame, against 1 of the new detection.
    corrected = kalman.correct(predicted, np.array([[3.0, 0.0, 10.0, 26.0]]))
    np.testing.assert_allclose(corrected.mean[0, :4], [2.0, 0.0, 10.0, 24.0])


def test_tracks_are_summarized_by_their_frames_times_class_and_best_detection():
    def frame(index, pts_s, *found):
        return FrameDetections(index, pts_s, tuple(Detection((0, 0, 9, index), *row) for row in found))

    given = [
        frame(0, 10.0),
        frame(1, 10.1, (0.5, 0, 7), (0.2, 0, None)),
        frame(3, 10.2, (0.9, 1, 2), (0.6, 0, 7)),
        frame(4, 10.5, (0.9, 1, 2), (0.7, 1, 7)),
    ]
    first, second = summarize_tracks(iter(given))
    assert (first.track_id, first.class_id, first.best_index, first.best_pts_s, first.best_score) == (
        2,
        1,
        3,
        10.2,
        0.9,
    )
    assert (second.first_index, second.last_index, second.num_frames, second.num_detections) == (1, 4, 4, 3)
    assert second.class_id == 0 and second.length_s == pytest.approx(0.4) and second.best.box == (0, 0, 9, 4)
    assert second.as_json(["benign", "malignant"])["class"] == "benign" and summarize_tracks([]) == []
