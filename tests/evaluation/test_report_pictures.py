"""Pictures in the report show what the model saw: cropped, blacked out, of one scale, out of movies and DICOM files too."""

import base64
import json
import re

import cv2
import numpy as np
import torch

from tests.conftest import load_tool
from tests.datasets.recordings import numbered, write_dicom, write_movie
from ultravid.data.mapper import FrameDataset
from ultravid.datasets import load_recordings
from ultravid.evaluation import VideoDetectionEvaluator
from ultravid.evaluation.prediction_store import read_video, write_video
from ultravid.structures import Boxes, Instances
from ultravid.utils.tool import run_tool

BAND = 16  # px, of 96


def evaluated(videos, folder):
    """The run of a model that finds one false lesion in every frame."""
    evaluator = VideoDetectionEvaluator(folder / "inference")
    evaluator.begin(lambda: "model")
    box, score = Boxes(torch.tensor([[70.0, 70, 80, 80]])), torch.tensor([0.9])
    for item in FrameDataset(videos):
        found = Instances((96, 128), pred_boxes=box, scores=score, pred_classes=torch.zeros(1, dtype=torch.int64))
        evaluator.process([item], [{"instances": found}])
    evaluator.evaluate()
    return folder


def pictures(run, *arguments):
    """The page, and the pictures of each figure in it."""
    page = run / "report.html"
    command = [run, "--bootstrap", 0, "--score-threshold", 0.5, "--output", page, *arguments]
    assert run_tool(load_tool("report").main, [str(a) for a in command]) == 0
    text = page.read_text()
    found = {}
    for figure in re.findall(r"<figure.*?</figure>", text, re.DOTALL):
        jpegs = re.findall(r'base64,([^"]*)"', figure)
        if (name := re.search(r"<figcaption>(?:\d+\. )?([\w.]+)", figure)) and jpegs:
            found[name[1]] = [cv2.imdecode(np.frombuffer(base64.b64decode(j), np.uint8), 1) for j in jpegs]
    return text, found


def test_what_a_mask_hides_stays_black_in_the_report_and_movies_and_dicom_files_are_shown(tmp_path, caplog):
    data, masks = tmp_path / "data", tmp_path / "masks.json"
    (data / "images").mkdir(parents=True)
    for t, brightness in enumerate((1.0, 0.5)):
        cv2.imwrite(str(data / f"images/{t}.png"), (numbered(t) * (brightness * 16)).astype(np.uint16))  # 12 bits
    (data / "images.video.json").write_text(json.dumps({"device": "Scanner 9"}))
    write_movie(data / "movie.mp4", range(4))
    for name, region in (("region.dcm", (20, 20, 127, 95)), ("bare.dcm", None)):
        grey = np.stack([numbered(t)[..., 0] for t in range(2)])
        write_dicom(data / name, grey, region=region, ManufacturerModelName="Other")
    masks.write_text(json.dumps({"Scanner 9": {"128x96": [[0, 0, 128, BAND]]}}))
    run = evaluated(load_recordings(path=data, masks=masks), tmp_path / "run")

    text, shown = pictures(run)
    assert "image not found" not in text and set(shown) == {"images", "movie.mp4", "region.dcm"}
    for image in shown["images"]:
        assert image[: BAND - 4].max() < 10
    bright, half = (image[BAND + 4 :].mean() for image in shown["images"])
    assert abs(half / bright - 0.5) < 0.05  # one scale, though the second alone has 11 bits
    assert shown["region.dcm"][0].shape[:2] == (75, 107)  # of DICOM's region
    assert np.abs(shown["movie.mp4"][3].astype(int) - numbered(3)).mean() < 10  # the fourth frame, not the first
    assert "not shown: may hold text" in text and "2 of 10 pictures are of DICOM files" in caplog.text
    assert "bare.dcm" in pictures(run, "--allow-burned-in-text")[1]


def test_predictions_that_do_not_say_what_frames_show_draw_images_alone(tmp_path):
    write_dicom(tmp_path / "a.dcm", np.stack([numbered(t)[..., 0] for t in range(2)]), region=(20, 20, 127, 95))
    run = evaluated(load_recordings(path=tmp_path / "a.dcm"), tmp_path / "run")
    (path,) = (run / "inference/predictions").glob("*.npz")
    with np.load(path) as content:
        arrays = dict(content)
    header = json.loads(str(arrays.pop("header")))
    del header["views"], arrays["view"], arrays["index_in_file"]
    np.savez(path, header=np.array(json.dumps(header)), **arrays)
    manifest = path.parent / "manifest.json"
    manifest.write_text(re.sub(r', *\s*"sha256": "[^"]*"', "", manifest.read_text()))
    text, shown = pictures(run)
    assert not shown and "image not found" in text
    kept = write_video(tmp_path, read_video(path).video)
    assert read_video(kept).video.frames[1].view is None
