"""Metrics per minute, delays and sequences follow the time of frames: gaps, offsets, pauses and unknown rates."""

import json
import logging
import re

import numpy as np
import pytest
import torch

from tests.conftest import load_tool
from ultravid.evaluation import FrameResult, VideoDetectionEvaluator, VideoResult, match_video
from ultravid.evaluation.lesion_metrics import lesion_tracks
from ultravid.evaluation.prediction_store import read_video, write_manifest, write_video
from ultravid.structures import Boxes, Instances
from ultravid.utils.errors import UserError
from ultravid.utils.tool import run_tool

LESION = [10, 10, 20, 20]  # x, y, width, height


def write_inputs(folder, places, found_from=0, same_box=False, **video):
    """A film of one lesion with one false box in each frame; ``places`` are (frame_id, time_s or None)."""
    images, boxes, results = [], [], []
    for k, (number, time_s) in enumerate(places):
        row = {"id": k + 1, "video_id": 1, "frame_id": number, "file_name": f"{k}.png", "height": 64, "width": 64}
        images.append(row | ({} if time_s is None else {"time_s": time_s}))
        boxes.append({"id": k + 1, "image_id": k + 1, "category_id": 1, "instance_id": 1, "bbox": LESION})
        false = [40, 40, 10, 10] if same_box else [20 * (k % 2), 40, 10, 10]
        results.append({"image_id": k + 1, "category_id": 1, "bbox": false, "score": 0.95})
        if k >= found_from:
            results.append({"image_id": k + 1, "category_id": 1, "bbox": LESION, "score": 0.9 - 0.001 * k})
    content = {"videos": [{"id": 1, "name": "v", **video}], "images": images, "annotations": boxes}
    (folder / "truth.json").write_text(json.dumps(content | {"categories": [{"id": 1, "name": "lesion"}]}))
    (folder / "found.json").write_text(json.dumps(results))


@pytest.fixture
def evaluate(tmp_path, capsys, caplog):
    """Runs the tool; returns its exit code, and what it warned of or refused."""
    return lambda: _evaluate(tmp_path, capsys, caplog)


def _evaluate(folder, capsys, caplog):
    caplog.clear()
    arguments = ["--annotations", folder / "truth.json", "--predictions", folder / "found.json"]
    code = run_tool(load_tool("evaluate").main, [*map(str, arguments), "--output-dir", str(folder / "out")])
    printed, errors = capsys.readouterr()
    notes = [line for line in printed.splitlines() if "frames per second for" in line]
    return code, "\n".join(notes) + caplog.text + errors


def metrics(folder):
    return json.loads((folder / "out/metrics.json").read_text())


@pytest.mark.parametrize("first", [0, 1000])
def test_every_tenth_frame_is_a_third_of_a_second_after_the_one_before(tmp_path, evaluate, first):
    # 60 frames of 20 s, a false box in each that nothing links: 180 a minute. The lesion is found in the fourth frame: 30 frames late.
    write_inputs(tmp_path, [(first + 10 * k, None) for k in range(60)], found_from=3, fps=30)
    assert evaluate() == (0, "")
    found = metrics(tmp_path)
    assert found["FP80"] == found["FP90"] == 180
    assert found["lesion/delay_s@R80"] == pytest.approx(1.0)
    assert found["legacy/FP@R0.8"] == 60  # that code takes the frames as 2 s, and links the boxes of every second one
    assert found["count/videos_of_assumed_rate"] == 0


def test_nothing_is_linked_across_a_pause_and_time_passes_in_it(tmp_path, evaluate):
    # 4 frames, a pause of 59.7 s, 6 frames; one interval of 0.1 s after the last: 60.6 s. The false box stays at its place.
    times = [0, 0.1, 0.2, 0.3, 60, 60.1, 60.2, 60.3, 60.4, 60.5]
    write_inputs(tmp_path, list(enumerate(times)), found_from=4, same_box=True, fps=10)
    assert evaluate() == (0, "")
    assert metrics(tmp_path)["FP70"] is None  # the lesion is found in 6 of 10 frames
    write_inputs(tmp_path, list(enumerate(times)), found_from=2, same_box=True)  # without a rate: that of the stamps
    assert evaluate() == (0, "")
    found = metrics(tmp_path)
    assert found["FP80"] == pytest.approx(2 / (60.6 / 60))
    assert found["lesion/delay_s@R80"] == pytest.approx(0.2)
    assert found["count/videos_of_assumed_rate"] == 0
    assert found["legacy/FP@R0.8"] == pytest.approx(1 / (10 / 30 / 60))


def test_the_delay_over_a_pause_is_in_seconds():
    box = np.array([[0, 0, 10, 10]], np.float32)
    none, one = np.zeros((0, 4), np.float32), np.ones(1, np.float32)
    stamps = [2.0, 2.5, 40.0]
    frames = [FrameResult(k, k, box, none, one[:0], time_s=t) for k, t in enumerate(stamps[:2])]
    frames.append(FrameResult(2, 2, box, box, one, time_s=stamps[2]))
    (track,) = lesion_tracks([match_video(VideoResult("v", frames, 25.0))])
    assert track.delay_s(0.5) == 38.0


def test_the_report_draws_time_and_names_an_assumed_rate(tmp_path):
    times = [0, 0.1, 0.2, 0.3, 60, 60.1, 60.2, 60.3, 60.4, 60.5]
    write_inputs(tmp_path, list(enumerate(times)), found_from=2, same_box=True)
    arguments = [tmp_path / "found.json", "--annotations", tmp_path / "truth.json", "--bootstrap", 20]
    assert run_tool(load_tool("report").main, [*map(str, arguments), "--output", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    bands = re.findall(r'<rect x="([\d.]+)" y="2" width="([\d.]+)"[^>]*><title>lesion 1, frames (\d+) to (\d+)<', page)
    assert [(float(x), frames) for x, _, *frames in bands] == [
        (150.0, ["0", "3"]),
        (1100.5, ["4", "9"]),
    ]  # 150 + 960 * 60 / 60.6
    assert [float(width) for _, width, *_ in bands] == [6.3, 9.5]  # 0.4 s and 0.6 s
    assert ">50 s</text>" in page and "10 frames, 60.6 s" in page
    assert "frames 4 to 9 (6 of them), 60.00 s to 60.50 s" in page and "<span>4 (60.00 s)</span>" in page
    assert "assume 30 frames" not in page
    write_inputs(tmp_path, [(10 * k, None) for k in range(10)], found_from=1)
    assert run_tool(load_tool("report").main, [*map(str, arguments), "--output", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    assert "In found.json, FP70, FP80, FP90 assume 30 frames per second for 1 of 1 videos" in page
    assert "10 frames, frame rate not known, usually 10 frames of the film apart" in page
    assert ">80</text>" in page and "<span>3 (number 30)</span>" in page


@pytest.mark.parametrize("rate", [{}, {"fps": 0}, {"fps": None}])
def test_an_assumed_rate_is_named_beside_the_metrics_that_used_it(tmp_path, evaluate, rate):
    write_inputs(tmp_path, [(k, None) for k in range(10)], **rate)
    code, said = evaluate()
    assert code == 0
    assert "FP70, FP80, FP90, lesion/delay_s@R80, lesion/FROC@0.5" in said
    assert "assume 30 frames per second for 1 of 1 videos" in said and "state fps" in said
    assert metrics(tmp_path)["count/videos_of_assumed_rate"] == 1
    assert json.loads((tmp_path / "out/record.json").read_text())["settings"]["videos_of_assumed_rate"] == 1


def test_a_rate_that_the_time_stamps_contradict_is_reported(tmp_path, evaluate):
    write_inputs(tmp_path, [(k, 40.0 * k) for k in range(10)], fps=25)  # milliseconds
    code, said = evaluate()
    assert (
        code == 0
        and "videos have an fps that contradicts the time stamps of their images (are these in seconds?)" in said
    )
    assert "video 'v': fps 25, time stamps 0.025 frames per second" in said
    write_inputs(tmp_path, [(k, 40.0 * k) for k in range(10)])
    assert "usually more than 5 s apart (are these in seconds?)" in evaluate()[1]


@pytest.mark.parametrize(
    ("places", "video", "message"),
    [
        ([(0, 0.0), (5, 0.2), (9, 0.2)], {}, "video 'v' frame 9: its time stamp is 0.2 s, not after 0.2 s of the frame before"),
        ([(0, 0.0), (5, None)], {}, "video 'v' frame 5: has no time stamp, but 1 other frames of the video have one"),
        ([(0, "0:01")], {}, "video 'v' frame 0: time_s is '0:01', not a time in seconds"),
        ([(0, True)], {}, "time_s is True, not a time"),
        ([(0, float("nan"))], {}, "time_s is nan, not a time"),
        ([(2**60, None)], {}, f"frame_id {2**60} is too large"),
        ([(0, None)], {"fps": 1e9}, "fps is 1000000000.0, not a number from 1e-05 to 100,000 (0: not known)"),
        ([(0, None)], {"fps": "25"}, "video 'v': fps is '25', not a number above 0"),
    ],
)  # fmt: skip
def test_times_that_cannot_be_are_refused_by_file_video_and_frame(tmp_path, evaluate, places, video, message):
    write_inputs(tmp_path, places, **video)
    code, said = evaluate()
    assert code == 2 and message in said and "truth.json" in said and "Traceback" not in said


def test_an_evaluator_takes_times_from_its_inputs_and_refuses_wrong_ones(tmp_path, caplog):
    def run(folder, *times, **more):
        evaluator = VideoDetectionEvaluator(tmp_path / folder)
        evaluator.begin(lambda: "")
        with caplog.at_level(logging.INFO, "ultravid"):
            for k, given in enumerate(times):
                found = Instances((8, 8), pred_boxes=Boxes([[0, 0, 4, 4]]), scores=torch.ones(1))
                truth = Instances((8, 8), gt_boxes=Boxes([[0, 0, 4, 4]]))
                image = {"image": torch.zeros(3, 8, 8), "height": 8, "width": 8, "instances": truth}
                evaluator.process(
                    [{"video_id": "v", "frame_index": k, "image_id": k, **image, **given, **more}],
                    [{"instances": found}],
                )
            evaluator.evaluate()
        return json.loads((tmp_path / folder / "predictions.json").read_text())

    rows = run("gaps", {"frame_number": 5}, {"frame_number": np.int64(50)}, fps=30)
    assert [(r["frame_index"], r["frame_number"], "time_s" in r) for r in rows] == [(0, 5, False), (1, 50, False)]
    rows = run("stamps", {"time_s": 0.5}, {"time_s": np.float32(2)})
    assert [(r["frame_number"], r["time_s"]) for r in rows] == [(0, 0.5), (1, 2.0)] and "assume" not in caplog.text
    assert "frame_number" not in run("plain", {}, {}, fps=0)[0]
    assert "FP80, FP90 assume 30 frames per second for 1 of 1 videos" in caplog.text
    for times, message in (
        ([{"time_s": 1.0}, {"time_s": 0.5}], "Video 'v' frame 1: its time stamp is 0.5 s, not after 1 s of the frame before it"),
        ([{"frame_number": 4}, {"frame_number": 4}], "Video 'v' frame 1: its number is 4, not above 4"),
        ([{"frame_number": "4"}], "Video 'v' frame 0: 'frame_number' is '4', not a whole number"),
        ([{"fps": -1}], "Video 'v' frame 0: 'fps' is -1, not a number above 0"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=re.escape(message)):
            run("wrong", *times)
        assert not list((tmp_path / "wrong/predictions").glob("*.npz"))


def test_runs_whose_times_differ_are_not_compared(tmp_path, capsys):
    box, score = np.array([[0, 0, 10, 10]], np.float32), np.ones(1, np.float32)
    ways = {
        "a": ({}, 30.0),
        "unknown": ({}, None),
        "gaps": ({"frame_number": [0, 10]}, 30.0),
        "stamps": ({"time_s": [0.0, 5.0]}, 30.0),
        "same": ({"frame_number": [0, 1]}, 30.0),
    }
    for name, (own, fps) in ways.items():
        frames = [FrameResult(k, k, box, box, score, **{n: v[k] for n, v in own.items()}) for k in (0, 1)]
        (folder := tmp_path / name / "inference/predictions").mkdir(parents=True)
        write_manifest(folder, {"v": write_video(folder, VideoResult("v", frames, fps))})
        arguments = [str(tmp_path / "a"), str(tmp_path / name), "--bootstrap", "2"]
        code = run_tool(load_tool("compare").main, arguments)
        refused = "Video 'v' has another frame rate or other times of its frames" in capsys.readouterr().err
        assert (code, refused) == ((0, False) if name in ("a", "same") else (2, True))


def test_prediction_files_keep_times_and_those_without_are_as_before(tmp_path):
    box, score = np.array([[0, 0, 10, 10]], np.float32), np.ones(1, np.float32)

    def video(**own):
        return VideoResult(
            "v", [FrameResult(k, k, box, box, score, **{n: v[k] for n, v in own.items()}) for k in (0, 1)]
        )

    kept = read_video(write_video(tmp_path, video(frame_number=[7, 70], time_s=[0.5, 4.0]))).video
    assert [(f.frame_number, f.time_s) for f in kept.frames] == [(7, 0.5), (70, 4.0)]
    plain = write_video(tmp_path, video()).read_bytes()
    assert plain == write_video(tmp_path, video(frame_number=[0, 1])).read_bytes()
    assert b"frame_number" not in plain and b"time_s" not in plain
