import hashlib
import json

import av
import numpy as np

from tests.conftest import load_tool
from ultravid.data.mapper import read_frame
from ultravid.datasets.formats import load_recordings
from ultravid.datasets.phantom import make_phantom_video
from ultravid.engine import run_tool


def digest(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return [(str(p.relative_to(folder)), hashlib.sha256(p.read_bytes()).hexdigest()) for p in files]


def test_the_same_arguments_give_the_same_bytes(tmp_path, capsys):
    tool = load_tool("make_phantom")
    arguments = [
        "--videos",
        "4",
        "--frames",
        "5",
        "--size",
        "64",
        "--seed",
        "7",
        "--test-fraction",
        "0.25",
    ]
    for name, workers in (("a", "1"), ("b", "2")):
        assert run_tool(tool.main, ["--output", str(tmp_path / name), *arguments, "--workers", workers]) == 0
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert run_tool(tool.main, ["--output", str(tmp_path / "a"), *arguments]) == 0
    assert "already holds" in capsys.readouterr().out
    assert run_tool(tool.main, ["--output", str(tmp_path / "a"), *arguments[:-1], "0.5"]) == 2
    assert "not empty" in capsys.readouterr().err
    content = json.loads((tmp_path / "a" / "trainval.json").read_text())
    assert len(content["videos"]) == 3 and len(content["images"]) == 15


def test_too_few_videos_are_refused_in_one_message(tmp_path, capsys):
    tool = load_tool("make_phantom")
    assert run_tool(tool.main, ["--output", str(tmp_path / "x"), "--videos", "0"]) == 2
    assert "at least 1 video" in capsys.readouterr().err
    assert run_tool(tool.main, ["--output", str(tmp_path / "x"), "--videos", "2", "--size", "8"]) == 2
    assert "got 64 frames of 8 px" in capsys.readouterr().err


def test_lesions_are_dark_boxed_and_inside_and_a_distractor_opens_into_a_stripe():
    inside, around, widths = [], [], []
    for seed in range(4):
        video = make_phantom_video(64, 128, np.random.default_rng(seed))
        assert video.frames.shape == (64, 128, 128) and video.frames.dtype == np.uint8
        for frame, boxes in zip(video.frames, video.boxes, strict=True):
            for x1, y1, x2, y2 in boxes:
                assert 0 <= x1 < x2 <= 128 and 0 <= y1 < y2 <= 128
                cx, cy, w, h = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
                inside.append(
                    frame[int(cy - h / 4) : int(cy + h / 4) + 1, int(cx - w / 4) : int(cx + w / 4) + 1].mean()
                )
                around.append(frame.mean())
        widths.append(max((b[:, 2] - b[:, 0]).max() for b in video.distractor_boxes if len(b)))
    assert len(inside) > 50
    assert np.mean(around) - np.mean(inside) > 20
    assert min(widths) > 60


def test_movies_show_the_videos_of_the_dataset_below_a_band_of_text(tmp_path, capsys):
    arguments = ["--output", str(tmp_path), "--movies", "--videos", "1", "--frames", "4", "--size", "65", "--seed", "7"]
    for said in ("Wrote 1 movie of 4 frames", "already holds"):
        assert run_tool(load_tool("make_phantom").main, [*arguments, "--workers", "1"]) == 0
        assert said in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["phantom.json", "phantom_00000.mp4"]
    with av.open(str(tmp_path / "phantom_00000.mp4")) as container:
        assert container.streams.video[0].average_rate == 30
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    made = make_phantom_video(4, 65, np.random.default_rng((7, 0))).frames
    assert len(frames) == 4 and frames[0].shape == (74, 66)  # 8 rows of text; both sides are made even
    assert all(
        abs(f[8:73, :65].astype(int) - m).mean() < 8 and f[:8].max() > 120 for f, m in zip(frames, made, strict=True)
    )


def test_dicom_files_show_the_same_picture_and_state_which_part_is_the_scan(tmp_path, capsys):
    arguments = ["--output", str(tmp_path), "--dicom", "--videos", "1", "--frames", "4", "--size", "65", "--seed", "7"]
    assert run_tool(load_tool("make_phantom").main, [*arguments, "--workers", "1"]) == 0
    assert "Wrote 1 DICOM file of 4 frames, 65 px" in capsys.readouterr().out
    path = tmp_path / "phantom_00000.dcm"
    before = path.read_bytes()
    made = make_phantom_video(4, 65, np.random.default_rng((7, 0))).frames
    (video,) = load_recordings(path=path)
    assert (len(video), video.fps, video.patient_known, video.may_show_text) == (4, 30, True, False)
    assert np.array_equal(read_frame(video, 3).numpy(), np.repeat(made[3][None], 3, axis=0))
    (tmp_path / "phantom.json").unlink()
    path.unlink()
    assert run_tool(load_tool("make_phantom").main, [*arguments, "--workers", "1"]) == 0
    assert path.read_bytes() == before
