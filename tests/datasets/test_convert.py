import json
import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from tests.conftest import ROOT, load_tool
from tests.datasets.recordings import number_of, write_dicom, write_movie
from ultravid.datasets import DataError, load_coco_video, load_cva_bus, load_recordings
from ultravid.datasets.readers import read_frame_image
from ultravid.utils.tool import run_tool

TOOL = ROOT / "tools" / "convert_dataset.py"


def convert(*arguments):
    return run_tool(load_tool("convert_dataset").main, [str(a) for a in arguments])


@pytest.fixture
def recordings(tmp_path):
    folder = tmp_path / "recordings"
    (folder / "ward").mkdir(parents=True)
    for k in range(5):
        write_movie(folder / "ward" / f"{k}.mp4", range(k, k + 40), rate=24)
    write_dicom(
        folder / "scan.dcm", np.random.default_rng(0).integers(0, 255, (4, 60, 80), np.uint8), region=(8, 4, 70, 50)
    )
    (folder / "ward" / "3.video.json").write_text('{"patient": "p3", "device": "d"}')
    return folder


def tree(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_recordings_become_coco_vid_that_reads_the_same(recordings, tmp_path):
    assert convert("--format", "recordings", "--path", recordings, "--output", tmp_path / "out", "--split", "test") == 0
    before = load_recordings(path=recordings)
    after = load_cva_bus(root=tmp_path / "out", splits=["test"])
    assert [(v.video_id, v.patient, v.fps, v.metadata, len(v)) for v in after] == [
        (v.video_id, v.patient, v.fps, v.metadata, len(v)) for v in before
    ]
    for a, b in zip(before, after, strict=True):
        assert all(np.array_equal(read_frame_image(a, t), read_frame_image(b, t)) for t in (0, len(a) - 1))
    assert number_of(read_frame_image(after[4], 39)) == 42
    manifest = json.loads((tmp_path / "out" / "manifest_test.json").read_text())
    assert manifest["converter_version"] == 2 and manifest["format"] == "recordings"
    row = next(r for r in manifest["videos"] if r["video"] == "ward/3.mp4")
    assert (row["source"]["file"], row["num_frames"], row["fps"]) == ("ward/3.mp4", 40, 24.0)
    written = b"".join([*tree(tmp_path / "out").values(), *(name.encode() for name in tree(tmp_path / "out"))])
    assert not any(secret in written for secret in (b"Doe^Jane", b"MRN-4711", b"19700101"))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["manifest_test.json", "rawframes", "test.json"]


def test_boxes_classes_and_tracks_survive(phantom, tmp_path):
    options = ["--option", "class_agnostic=false", "--option", "splits=trainval,test"]
    assert convert("--format", "cva-bus", "--path", phantom, "--output", tmp_path / "out", *options) == 0
    before = load_cva_bus(root=phantom, splits=["trainval", "test"], class_agnostic=False)
    after = load_coco_video(
        json_file=tmp_path / "out/trainval.json", image_root=tmp_path / "out/rawframes", class_agnostic=False
    )
    assert len(after) == 8 and any(f.classes.any() for v in after for f in v.frames)
    for a, b in zip(before, after, strict=True):
        assert (a.video_id, a.class_names) == (b.video_id, b.class_names)
        for f, g in zip(a.frames, b.frames, strict=True):
            np.testing.assert_allclose(f.boxes, g.boxes, atol=1e-4)
            assert f.classes.tolist() == g.classes.tolist() and f.track_ids.tolist() == g.track_ids.tolist()


def test_gaps_and_time_stamps_survive_and_a_second_conversion_finds_the_first(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    rows = [
        ("gaps", [{"frame_id": n} for n in (100, 110, 130)]),
        ("stamps", [{"frame_id": 0, "time_s": 0.1}, {"frame_id": 1, "time_s": 7.3}]),
    ]
    videos = [{"id": v, "name": name, "fps": 30} for v, (name, _) in enumerate(rows)]
    images = [{"video_id": v, "height": 8, "width": 9, **image} for v, (_, own) in enumerate(rows) for image in own]
    for k, image in enumerate(images):
        image |= {"id": k, "file_name": f"{k}.png"}
        cv2.imwrite(str(tmp_path / "in" / f"{k}.png"), np.full((8, 9), k, np.uint8))
    (tmp_path / "in/a.json").write_text(json.dumps({"videos": videos, "images": images, "annotations": []}))
    command = [
        "--format",
        "coco-video",
        "--path",
        tmp_path / "in/a.json",
        "--output",
        tmp_path / "out",
        "--split",
        "test",
    ]
    assert convert(*command) == 0
    first = tree(tmp_path / "out")
    assert convert(*command) == 0 and tree(tmp_path / "out") == first
    assert "(2 already there)" in capsys.readouterr().out
    before = load_coco_video(json_file=tmp_path / "in/a.json")
    for videos in (before, load_cva_bus(root=tmp_path / "out", splits=["test"])):
        assert [(f.number, f.time_s) for v in videos for f in v.frames] == [
            *((100, None), (110, None), (130, None), (0, 0.1), (1, 7.3))
        ]
        assert videos[0].times.times_s.tolist() == [100 / 30, 110 / 30, 130 / 30]
        assert videos[0].times.duration_s == pytest.approx(45 / 30)  # the usual distance is 15 frames
        assert videos[1].times.ticks.tolist() == [0.1 * 30, 7.3 * 30]
    assert sorted(p.name for p in (tmp_path / "out/rawframes/gaps").iterdir()) == [f"{n:06d}.png" for n in range(3)]


@pytest.mark.slow
def test_a_conversion_that_was_killed_ends_as_if_it_had_not_been(recordings, tmp_path, capsys):
    for k in range(5, 21):
        write_movie(recordings / "ward" / f"{k}.mp4", range(k, k + 30), rate=24)
    arguments = ["--format", "recordings", "--path", str(recordings), "--output"]
    assert convert(*arguments, tmp_path / "whole") == 0
    journal = tmp_path / "killed" / "journal_trainval.jsonl"
    command = [sys.executable, str(TOOL), *arguments, str(tmp_path / "killed")]
    killed = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL)
    while not (journal.exists() and journal.read_bytes().count(b"\n") >= 4):
        assert killed.poll() is None, "it had ended before it could be killed"
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    done = [json.loads(line)["video"] for line in journal.read_text().splitlines()[1:]]
    assert not (tmp_path / "killed" / "trainval.json").exists()
    # Of what was done, one video loses a frame, and the journal's last line is cut.
    (tmp_path / "killed" / "rawframes" / done[0] / "000002.png").unlink()
    with journal.open("ab") as file:
        file.write(b'{"video": "war')
    capsys.readouterr()
    assert convert(*arguments, tmp_path / "killed") == 0
    assert f"({len(done) - 1} already there)" in capsys.readouterr().out
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")


def test_a_changed_source_is_converted_again_and_a_removed_one_is_removed(recordings, tmp_path, capsys):
    arguments = ("--format", "recordings", "--path", recordings, "--output", tmp_path / "out")
    assert convert(*arguments) == 0
    write_movie(recordings / "ward" / "1.mp4", range(9, 29))
    (recordings / "ward" / "2.mp4").unlink()
    capsys.readouterr()
    assert convert(*arguments) == 0
    assert "5 videos, 144 frames (4 already there)" in capsys.readouterr().out
    assert convert("--format", "recordings", "--path", recordings, "--output", tmp_path / "fresh") == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_a_users_mistakes_are_reported_before_anything_is_written(recordings, tmp_path, capsys):
    def error_of(*arguments, output=tmp_path / "out"):
        assert convert(*arguments, "--output", output) == 2
        return capsys.readouterr().err

    here = ("--format", "recordings", "--path", recordings)
    assert "Did you mean 'recordings'" in error_of("--format", "recording", "--path", recordings)
    for option in ("root=a", "image_root=a"):
        assert "--path PATH, or --data labelme:PATH" in error_of(
            "--format", "labelme", "--path", recordings, "--option", option
        )
    assert "has no option 'corp'. Did you mean 'crop'" in error_of(*here, "--option", "corp=false")
    assert "the reader needs bool" in error_of(*here, "--option", "crop=perhaps")
    assert "needs the option 'datasets'" in error_of("--format", "hospital-csv", "--path", recordings)
    assert "it becomes a file's name" in error_of(*here, "--split", "../x")
    assert "does not exist" in error_of("--format", "recordings", "--path", tmp_path / "gone")
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").touch()
    assert "is not empty and holds no conversion" in error_of(*here, output=tmp_path / "full")
    assert convert(*here, "--output", tmp_path / "out") == 0
    with pytest.raises(DataError, match=r"JSON files in its folder: trainval\.json\. .*data\.test_splits=\[trainval\]"):
        load_cva_bus(root=tmp_path / "out", splits=["test"])
    assert "is of another conversion (options.crop was not given, is now False)" in error_of(
        *here, "--option", "crop=false", "--allow-burned-in-text"
    )
    assert "already holds video 'scan.dcm'" in error_of(*here, "--split", "test")


def test_a_frame_that_cannot_be_decoded_is_reported_with_its_video(recordings, tmp_path, capsys):
    data = bytearray((recordings / "scan.dcm").read_bytes())
    (recordings / "scan.dcm").write_bytes(data[: -60 * 80])
    assert convert("--format", "recordings", "--path", recordings, "--output", tmp_path / "out") == 2
    assert (
        "scan.dcm: is truncated: 14400 of 19200 bytes of its pixels are there; frame 3 is incomplete"
        in capsys.readouterr().err
    )
