"""The tracker and its parts against explicit matrices and cases worked by hand."""

import copy

import numpy as np
import pytest
import torch
from torchvision.ops import complete_box_iou

from ultravid.modeling import KalmanTracker
from ultravid.modeling.track.association import best_pairs, complete_iou
from ultravid.modeling.track.kalman import BoxFilter
from ultravid.modeling.types import Detections


def detections(*rows):
    """Of rows (x1, y1, x2, y2, score) or (..., score, class)."""
    table = torch.tensor([[*r, 0] if len(r) == 5 else r for r in rows]).reshape(-1, 6).float()
    valid = torch.ones(len(table), dtype=torch.bool)
    return Detections.of(table[:, :4], table[:, 4], table[:, 5].long(), valid)


def run(tracker, frames):
    state, ids = tracker.initial_state(), []
    for frame in frames:
        found, state = tracker.update(detections(*frame), state)
        assert found.valid.all()
        ids.append(found.track_ids.tolist())
    return ids, state


def test_the_filter_agrees_with_its_equations_for_one_box_at_a_time():
    rng = np.random.default_rng(0)
    boxes = rng.uniform(0, 50, (3, 4))
    box_filter = BoxFilter()
    state = box_filter.start(boxes)
    step, seen = np.eye(8), np.eye(4, 8)
    for i in range(4):
        step[i, i + 4] = 1.0
    single = [(np.r_[b, np.zeros(4)], 10 * np.eye(8), np.diag(np.r_[b / 20, b / 160] ** 2)) for b in boxes]
    for _ in range(5):
        measured = rng.uniform(0, 50, (3, 4))
        state = box_filter.correct(box_filter.predict(state), measured)
        for i, (x, p, q) in enumerate(single):
            x, p = step @ x, step @ p @ step.T + q
            gain = p @ seen.T @ np.linalg.inv(seen @ p @ seen.T + np.eye(4))
            single[i] = (x + gain @ (measured[i] - seen @ x), (np.eye(8) - gain @ seen) @ p, q)
            assert np.allclose(state.mean[i], single[i][0]) and np.allclose(state.covariance[i], single[i][1])


def test_one_correction_by_hand():
    box_filter = BoxFilter()
    state = box_filter.predict(box_filter.start(np.zeros((1, 4))))  # at 0 there is no process noise
    assert state.covariance[0, 0, 0] == 20 and state.covariance[0, 0, 4] == 10
    state = box_filter.correct(state, np.array([[0.0, 0.0, 21.0, 42.0]]))
    assert np.allclose(state.mean, [[0, 0, 20, 40, 0, 0, 10, 20]])
    assert state.covariance[0, 0, 0] == pytest.approx(20 / 21)


def test_complete_iou_is_torchvisions_and_pairs_below_the_threshold_are_dropped():
    boxes = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)) * 20
    boxes[:, 2:] += boxes[:, :2] + 1
    value = complete_iou(boxes[:2].double().numpy(), boxes[2:].double().numpy())
    assert np.allclose(value, complete_box_iou(boxes[:2], boxes[2:]).numpy(), atol=1e-4)
    row, column = best_pairs(np.array([[0.9, 0.8], [0.8, 0.1]]), 0.5)  # 0.8 + 0.8 is more than 0.9 + 0.1
    assert (row.tolist(), column.tolist()) == ([0, 1], [1, 0])
    row, column = best_pairs(np.array([[0.9, 0.4], [0.7, 0.5]]), 0.5)
    assert (row.tolist(), column.tolist()) == ([0], [0])
    assert best_pairs(np.zeros((0, 3)), 0.5)[0].tolist() == []


A, B = (10.0, 10.0, 30.0, 30.0), (60.0, 10.0, 90.0, 40.0)


def test_tracks_go_on_start_and_are_dropped_by_their_scores():
    moved = tuple(c + 2 for c in A)
    frames = [
        [(*A, 0.9), (*B, 0.15)],  # too low to start a track
        [(*B, 0.8), (*moved, 0.1), (*moved, 0.04)],  # low, but it continues one; below min_score
        [(*B, 0.3), (11.0, 11.0, 31.0, 31.0, 0.25), (*moved, 0.2)],  # the last overlaps the one before it
    ]
    assert run(KalmanTracker(), frames)[0] == [[0], [1, 0], [1, 0]]
    assert run(KalmanTracker(new_tracks_first=True), [[(*A, 0.5)], [(*A, 0.9), (*B, 0.8)]])[0] == [[0], [1, 0]]
    assert run(KalmanTracker(), [[(*A, 0.5, 0)], [(*A, 0.5, 1), (*A, 0.4, 0)]])[0] == [[0], [1, 0]]  # of another class


def test_a_lost_track_is_found_again_within_its_buffer_unless_it_is_forgotten():
    away = [[(*A, 0.9)], *([] for _ in range(3)), [(*A, 0.9)]]
    assert run(KalmanTracker(buffer=3), away)[0] == [[0], [], [], [], [0]]
    assert run(KalmanTracker(buffer=2), away)[0] == [[0], [], [], [], [1]]
    assert run(KalmanTracker(forget_lost=True), [away[0], [], away[0]])[0] == [[0], [], [1]]
    tracker = KalmanTracker()
    covariances, state = [], tracker.initial_state()
    for frame in away[:4]:
        _, state = tracker.update(detections(*frame), state)
        covariances.append(state["covariance"][0, 0, 0].item())
    assert covariances == sorted(covariances) and covariances[0] < covariances[3]


def test_streams_do_not_meet_and_a_state_is_not_written_to():
    tracker = KalmanTracker()
    frames = [[(*A, 0.9), (*B, 0.8)], [(*A, 0.9)], [(*B, 0.7)]]
    alone, other = run(tracker, frames)[0], run(tracker, frames[::-1])[0]
    states, seen = [tracker.initial_state(), tracker.initial_state()], [[], []]
    for turn in range(3):
        for i, order in enumerate((frames, frames[::-1])):
            before = copy.deepcopy(states[i])
            found, after = tracker.update(detections(*order[turn]), states[i])
            assert all(torch.equal(before[k], states[i][k]) for k in before)
            seen[i].append(found.track_ids.tolist())
            states[i] = after
    assert seen == [alone, other]


def test_a_long_stream_keeps_few_tracks_and_rows_that_are_not_valid_do_not_count():
    rng = np.random.default_rng(0)
    frames = [[(x, x, x + 9, x + 9, 0.9) for x in rng.uniform(0, 900, 3)] for _ in range(120)]
    ids, state = run(KalmanTracker(buffer=5), frames)
    assert len(state["ids"]) <= 18 and max(map(max, ids)) > 100
    assert {k: v.dtype for k, v in state.items()} == {k: v.dtype for k, v in KalmanTracker().initial_state().items()}
    masked = detections((*A, 0.9), (*B, 0.8))._replace(valid=torch.tensor([True, False]))
    tracker = KalmanTracker()
    found, _ = tracker.update(masked, tracker.initial_state())
    assert found.track_ids.tolist() == [0]
