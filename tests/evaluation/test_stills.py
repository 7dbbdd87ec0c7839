"""Stills have no duration: metrics are per image, and no number per minute is given."""

import json
import logging
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest

from tests.conftest import load_tool
from tests.evaluation.cases import FAR, A, video, write_coco
from ultravid.evaluation.metrics import IMAGE_METRICS, TRAINING_METRICS, video_detection_metrics
from ultravid.utils.tool import run_tool

# By falling score: found, found, false, found (recall 0.75), found (recall 1), false, false. Recall 0.8 is reached at the score 0.68,
# recall 0.9 at 0.64, and recall 0.7 at 0.71: one false positive in four images each time.
STILLS = [
    video(([A], [A, FAR], [0.9, 0.5], [1]), name="a", patient="p"),
    video(([A], [A], [0.8], [1]), name="b", patient="q"),
    video(([A], [A, FAR], [0.7, 0.75], [1]), name="c", patient="r"),
    video(([A], [A, FAR], [0.6, 0.3], [1]), name="d", patient="r"),
]
PER_MINUTE = ("FP70", "FP80", "FP90", "lesion/FP@0.4", "lesion/delay_s@R80", "lesion/FROC@1", "legacy/FP@R0.8")


def evaluate(folder, videos, *arguments):
    annotations, detections = write_coco(folder, videos)
    command = ["--annotations", annotations, "--predictions", detections, "--output-dir", folder / "out"]
    command += ["--score-threshold", "0.4", *arguments]
    assert run_tool(load_tool("evaluate").main, list(map(str, command))) == 0
    return json.loads((folder / "out" / "metrics.json").read_text())


def test_metrics_of_stills_are_per_image(tmp_path, capsys):
    written = evaluate(tmp_path, STILLS, "--bootstrap", "50")
    assert [written[name] for name in PER_MINUTE] == [None] * len(PER_MINUTE)
    assert [written[f"FP/image@R{level}"] for level in (70, 80, 90)] == [0.25, 0.25, 0.25]
    assert (written["FP/image@0.4"], written["FROC/image@0.125"], written["FROC/image@0.25"]) == (0.5, 50, 100)
    assert (written["AP50"], written["count/stills"]) == (pytest.approx(100 * (2 + 0.8 * 2) / 4), 4)
    assert written["ci/FP80/low"] is None and 0 <= written["ci/FP/image@R80/low"] <= 0.25
    printed = capsys.readouterr().out
    assert "All 4 videos are stills of one frame" in printed
    assert "FP70, FP80, FP90, lesion/delay_s@R80, lesion/delay_s@0.4, lesion/FP@0.4" in printed
    assert "stills have no duration, see the metrics per image" in printed
    assert list(video_detection_metrics(STILLS)) == [*TRAINING_METRICS, *IMAGE_METRICS]


def test_minutes_are_those_of_films_if_a_data_set_has_both(tmp_path, capsys):
    film = video(*[([A], [A, FAR], [0.9, 0.95], [1])] * 50, name="film", fps=25.0)
    written = evaluate(tmp_path, [film, *STILLS])
    assert written["FP80"] == pytest.approx(30) and written["count/stills"] == 4
    assert written["lesion/delay_s@R80"] == 0 and list(video_detection_metrics([film])) == list(TRAINING_METRICS)
    unknown = replace(film, fps=None)  # a rate a minute is then assumed, one per image is not
    assert list(video_detection_metrics([unknown])) == [*TRAINING_METRICS, *IMAGE_METRICS]
    assert "4 of 5 videos are stills of one frame: metrics per minute and delays are those of the other 1" in (
        capsys.readouterr().out
    )


def test_the_report_draws_a_grid_of_stills_worst_first(tmp_path, caplog, capsys):
    annotations, detections = write_coco(tmp_path, STILLS)
    content = json.loads(annotations.read_text())
    names = {v["id"]: v["name"] for v in content["videos"]}
    for image in content["images"]:
        image["file_name"] = f"{names[image['video_id']]}.png"
        cv2.imwrite(str(tmp_path / image["file_name"]), np.full((64, 64), 99, np.uint8))
    annotations.write_text(json.dumps(content))
    page = tmp_path / "report.html"
    command = [detections, "--annotations", annotations, "--output", page, "--bootstrap", 0, "--score-threshold", 0.65]
    assert run_tool(load_tool("report").main, list(map(str, command))) == 0
    text = page.read_text()
    assert [name for name in ("timelines", "missed", "false-positives", "stills") if f'id="{name}"' in text] == [
        "stills"
    ]
    grid = text.partition('<div class="grid">')[2]
    titles = re.findall(r"<figcaption>([^<]*)</figcaption>", grid.partition("</section>")[0])
    assert titles == ["c: false positive 0.750", "d: 1 missed lesion", "a: no failure", "b: no failure"]
    assert grid.count("data:image/jpeg") == 4 and "false positives per image" in text and not caplog.records

    (tmp_path / "b.png").unlink()
    with caplog.at_level(logging.WARNING):
        assert run_tool(load_tool("report").main, list(map(str, command))) == 0
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.endswith(
        "1 of 4 pictures are not found where the predictions say: give the folder that holds them now with --images DIR."
    )
