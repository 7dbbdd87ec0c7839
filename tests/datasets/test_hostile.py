"""Crafted and broken files, given to the tools: one message, exit code 2, nothing outside the folder is read or changed."""

import json
import os
import pickle
import struct
import zlib
from html import escape
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import load_tool
from tests.datasets.recordings import HOSPITAL_COLUMNS, write_dicom
from ultravid.utils.tool import run_tool


def run(tool, *arguments):
    return run_tool(load_tool(tool).main, [str(a) for a in arguments])


def convert(form, path, output, *options):
    return run(
        "convert_dataset", "--format", form, "--path", path, "--output", output, *(f"--option={o}" for o in options)
    )


def write_png(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(20, 235, (32, 40), np.uint8)
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())


def write_coco(folder, videos=("a", "b"), change=lambda content: None):
    """A COCO-VID file of videos of two frames, with a box in each."""
    content = {"videos": [], "images": [], "annotations": [], "categories": [{"id": 1, "name": "lesion"}]}
    for v, name in enumerate(videos):
        content["videos"].append({"id": v, "name": name})
        for t in range(2):
            number = len(content["images"])
            write_png(folder / name / f"{t}.png", seed=number)
            content["images"].append(
                {"id": number, "video_id": v, "frame_id": t, "file_name": f"{name}/{t}.png", "height": 32, "width": 40}
            )
            box = {"id": number, "image_id": number, "bbox": [4, 5, 10, 12], "category_id": 1, "instance_id": 1}
            content["annotations"].append(box)
    change(content)
    path = folder / "a.json"
    path.write_text(json.dumps(content))
    return path


def test_a_crafted_manifest_removes_nothing_outside_of_rawframes(tmp_path, capsys):
    annotations = write_coco(tmp_path / "in")
    assert convert("coco-video", annotations, tmp_path / "out") == 0
    sound = json.loads((tmp_path / "out/manifest_trainval.json").read_text())
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/scan.png").touch()
    (tmp_path / "out/rawframes/link").symlink_to(tmp_path)
    names = ["../../precious", str(tmp_path / "precious"), ".", "", "a/..", "link/precious", ["a"], None, "x\0"]
    for name in names:
        record = {**sound["videos"][0], "video": name}
        crafted = json.dumps({**sound, "videos": [record, *sound["videos"]]})
        for path, text in (
            ("manifest_trainval.json", crafted),
            ("manifest_other.json", crafted),
            (
                "journal_trainval.jsonl",
                f"{json.dumps({k: v for k, v in sound.items() if k != 'videos'})}\n{json.dumps(record)}\n",
            ),
        ):
            (tmp_path / "out" / path).write_text(text)
            code = convert("coco-video", annotations, tmp_path / "out")
            error = capsys.readouterr().err
            assert code == 2 and (
                "is damaged" in error or "Remove the link" in error or path == "manifest_other.json"
            ), name
            (tmp_path / "out" / path).unlink(missing_ok=True)
            assert (tmp_path / "precious/scan.png").exists() and (tmp_path / "out/rawframes/a/000001.png").exists()
            (tmp_path / "out/manifest_trainval.json").write_text(json.dumps(sound))


def outside(name):
    def change(content):
        content["images"][0]["file_name"] = name

    return change


def test_pictures_outside_of_the_root_are_read_only_if_the_user_says_so(tmp_path, capsys):
    write_png(tmp_path / "secret.png")
    (tmp_path / "in/a").mkdir(parents=True)
    (tmp_path / "in/a/link.png").symlink_to(tmp_path / "secret.png")
    for n, name in enumerate(("../secret.png", str(tmp_path / "secret.png"), "a/../../secret.png", "a/link.png")):
        annotations = write_coco(tmp_path / "in", change=outside(name))
        assert convert("coco-video", annotations, tmp_path / f"out{n}") == 2
        error = capsys.readouterr().err
        assert f"video 'a' frame 0: {name!r} is outside of" in error and "--option allow_outside_root=true" in error
        written = json.loads((tmp_path / f"out{n}/trainval.json").read_text())
        assert [v["name"] for v in written["videos"]] == ["b"]
        assert convert("coco-video", annotations, tmp_path / f"allowed{n}", "allow_outside_root=true") == 0


def test_rawframes_may_be_a_link_to_another_disk(tmp_path):
    (tmp_path / "in").mkdir()
    write_coco(tmp_path / "disk").rename(tmp_path / "in/trainval.json")
    (tmp_path / "in/rawframes").symlink_to(tmp_path / "disk")
    assert convert("cva-bus", tmp_path / "in", tmp_path / "out") == 0
    content = json.loads((tmp_path / "in/trainval.json").read_text())
    for image in content["images"]:
        image["file_name"] = f"rawframes/{image['file_name']}"
    (tmp_path / "in/trainval.json").write_text(json.dumps(content))
    (tmp_path / "disk/a/0.png").rename(tmp_path / "in/kept.png")
    (tmp_path / "disk/a/0.png").symlink_to(tmp_path / "in/kept.png")  # as git-annex and DVC do
    assert convert("cva-bus", tmp_path / "in", tmp_path / "again") == 0


def write_hospital(folder, pickled=None, **row):
    """A table of two videos; what is given of row and pickle is of the first."""
    base = folder / "breast"
    lines = [",".join(HOSPITAL_COLUMNS)]
    for n in range(2):
        values = {"pkl_file": f"v{n}.pkl", "jpg_folder": f"v{n}", "neg": "False", "anno_format": "json"}
        lines.append(",".join({**values, **(row if n == 0 else {})}.get(c, "") for c in HOSPITAL_COLUMNS))
        write_png(base / f"v{n}/0.png", seed=n)
        (base / f"v{n}/info.json").write_text(
            json.dumps({"num_frames": 1, "cropped_shape": [32, 40], "empty_flag": False})
        )
        box = {"frames": {0: [{"box": [4, 5, 14, 17], "class": "Mass", "track_id": 0}]}}
        (base / f"v{n}.pkl").write_bytes(pickled if pickled is not None and n == 0 else pickle.dumps(box))
    (base / "20230101-120000.csv").write_text("\n".join(lines))


def doubled(kind=list):
    value = "x"
    for _ in range(60):
        value = kind([value, value])
    return value


def put(**values):
    return {"frames": {0: [{"box": [4, 5, 14, 17], "class": "Mass", "track_id": 0, **values}]}}


HOSPITAL = [
    ({"jpg_folder": "../../secret"}, "is outside of"),
    ({"pkl_file": "/etc/passwd"}, "is outside of"),
    ({"jpg_folder": ""}, "not the name of a file"),
    ({"pickled": pickle.dumps({"frames": doubled()})}, "unpacks to more than"),
    ({"pickled": pickle.dumps(put(box=[doubled()] * 4))}, "unpacks to more than"),
    ({"pickled": pickle.dumps(doubled(tuple))}, "unpacks to more than"),
    ({"pickled": b"\x80\x02}K\x00)" + b"q\x00h\x00\x86" * 60 + b"K\x01s."}, "unpacks to more than"),
    ({"pickled": pickle.dumps(put(track_id=10**5000))}, "more than 64 bits"),
    ({"pickled": b"\x80\x02Nr\xff\xff\xff\x7f."}, "numbers an object"),
    ({"pickled": pickle.dumps(put(**{"class": ["x"]}))}, "unknown class"),
    ({"pickled": b"\x80\x02" + b"(" * 10**4}, "not a pickle"),
]


@pytest.mark.parametrize(("bad", "message"), HOSPITAL)
def test_a_bad_row_of_a_hospitals_table_is_one_line_and_the_others_are_converted(tmp_path, capsys, bad, message):
    write_hospital(tmp_path / "in", **bad)
    assert convert("hospital-csv", tmp_path / "in", tmp_path / "out", "datasets=breast_ALL@20230101-120000") == 2
    error = capsys.readouterr().err
    assert message in error and len(error) < 2000
    assert [v["name"] for v in json.loads((tmp_path / "out/trainval.json").read_text())["videos"]] == ["breast/v1"]


def huge(number):
    return f'{{"fps": {number}}}'


SIDECARS = [
    (huge("9" * 400), "not a number from 1e-05"),
    (huge("9" * 5000), "4,300 digits"),
    (huge("1e999"), "not a number from 1e-05"),
    (huge("1e-300"), "not a number from 1e-05"),
    ("[" * 10**5, "nested too deeply"),
    ('{"fps": 9, "fps": 8}', "the key 'fps' twice"),
    ("x" * 2**21, "at most 1,048,576 are read"),
    (None, "named pipe"),
]


def test_each_bad_recording_is_one_line_and_the_others_are_converted(tmp_path, capsys):
    write_png(tmp_path / "in/good/0.png")
    sidecars = [tmp_path / f"in/bad{n}.video.json" for n in range(len(SIDECARS))]
    for n, (path, (sidecar, _)) in enumerate(zip(sidecars, SIDECARS, strict=True)):
        write_png(tmp_path / f"in/bad{n}/0.png", n + 1)
        if sidecar is None:
            os.mkfifo(path)
        else:
            path.write_text(sidecar)
    assert convert("recordings", tmp_path / "in", tmp_path / "out") == 2
    lines = capsys.readouterr().err.splitlines()
    page = tmp_path / "audit.html"
    assert run("audit_dataset", "--data", f"recordings:{tmp_path / 'in'}", "--output", page) == 0
    manifest = json.loads((tmp_path / "out/manifest_trainval.json").read_text())
    assert [v["video"] for v in manifest["videos"]] == ["good"]
    assert "<td>videos</td><td>1</td>" in page.read_text()
    for path, (_, message) in zip(sidecars, SIDECARS, strict=True):
        (line,) = [line for line in lines if path.name in line]
        assert message in line and len(line) < 2000
        assert any(path.name in skipped and message in skipped for skipped in manifest["skipped"])
        assert path.name in page.read_text() and escape(message) in page.read_text()
        path.unlink()
    capsys.readouterr()
    assert convert("recordings", tmp_path / "in", tmp_path / "out") == 0
    number = len(SIDECARS) + 1
    assert f"{number} videos, {number} frames (1 already there)" in capsys.readouterr().out


def test_a_files_name_does_not_command_the_terminal(tmp_path, capsys):
    write_png(tmp_path / "in/good/0.png")
    (tmp_path / "in/\x1b[2J\nerror: all is lost\u202e.mp4").write_bytes(b"no movie" * 9)
    (tmp_path / "in/\x1b]0;x\x07.xyz").write_bytes(b"no movie" * 9)
    assert convert("recordings", tmp_path / "in", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert (
        r"\x1b[2J\nerror: all is lost\u202e.mp4: can't be opened" in error and r"out: \x1b]0;x\x07.xyz is no" in error
    )
    assert not {"\x1b", "\x07", "\u202e"} & set(error)


def test_an_exception_that_no_reader_foresaw_names_the_file_and_quotes_none_of_it(tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise KeyError("Doe^Jane")

    (tmp_path / "in").mkdir()
    for name in ("a.dcm", "b.dcm"):
        write_dicom(tmp_path / "in" / name, np.zeros((1, 8, 8), np.uint8))
    monkeypatch.setattr("ultravid.datasets.formats.films.read_sidecar", fail)
    assert convert("recordings", tmp_path / "in", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "a.dcm: can't be read (KeyError in test_hostile.py:" in error and "b.dcm" in error and "Jane" not in error


def test_an_output_in_or_around_the_input_is_refused(tmp_path, capsys):
    write_png(tmp_path / "in/v/0.png")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for output in ("in", "in/out", "in/v/out", "link/out"):
        assert convert("recordings", tmp_path / "in", tmp_path / output) == 2
        assert "lies inside of" in capsys.readouterr().err
    assert convert("recordings", tmp_path / "in", tmp_path) == 2
    assert "Choose an output beside it" in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "in").rglob("*")) == ["0.png", "v"]


def test_an_output_that_cannot_be_written_is_one_message(tmp_path, capsys):
    write_png(tmp_path / "in/v/0.png")
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file/out", "/proc/out"):
        assert convert("recordings", tmp_path / "in", output) == 2
        assert str(output).split("/out")[0] in capsys.readouterr().err
    for output, message in (
        (tmp_path / "file/a.html", "can't be written"),
        ("/dev/full", "No space left"),
        (tmp_path / "in", "Is a directory"),
    ):
        assert run("audit_dataset", "--data", f"recordings:{tmp_path / 'in'}", "--output", output) == 2
        assert message in capsys.readouterr().err
    assert Path("/dev/full").is_char_device()


def test_names_that_are_not_utf8_are_converted_and_audited(tmp_path):
    write_png(tmp_path / os.fsdecode(b"in/\xe9\xff/0.png"))
    write_png(tmp_path / "in/\u202ev\n/0.png", 1)
    assert convert("recordings", tmp_path / "in", tmp_path / "out") == 0
    assert len(json.loads((tmp_path / "out/trainval.json").read_text())["videos"]) == 2
    for data in (f"recordings:{tmp_path / 'in'}", f"cva-bus:{tmp_path / 'out'}"):
        assert run("audit_dataset", "--data", data, "--output", tmp_path / "a.html") == 0
        assert "\\udcff" in (tmp_path / "a.html").read_text()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def spoil(path, how):
    """Put something in the place of a file that isn't to be opened, or not to be decoded."""
    path.unlink()
    if how == "pipe":
        os.mkfifo(path)
    elif how == "bomb":
        size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    else:
        path.symlink_to("/dev/zero" if how == "zero" else path)


def write_labelme(folder):
    shape = {"label": "l", "points": [[1, 1], [20, 20]], "group_id": 1, "shape_type": "rectangle"}
    for name in "ab":
        write_png(folder / name / "0.png", ord(name))
        content = {"shapes": [shape], "imagePath": "0.png", "imageData": None, "imageHeight": 32, "imageWidth": 40}
        (folder / name / "0.json").write_text(json.dumps(content))


@pytest.mark.parametrize("how", ["pipe", "zero", "bomb", "loop"])
def test_what_is_no_picture_is_one_line_and_the_others_are_converted(tmp_path, capsys, how):
    coco = write_coco(tmp_path / "coco")
    write_labelme(tmp_path / "labelme")
    write_labelme(tmp_path / "annotations")
    write_hospital(tmp_path / "hospital")
    for name in "ab":
        write_png(tmp_path / f"recordings/{name}/0.png", ord(name))
    cases = [
        ("coco-video", coco, "coco/a/0.png", "b"),
        ("labelme", tmp_path / "labelme", "labelme/a/0.png", "b"),
        ("labelme", tmp_path / "annotations", "annotations/a/0.json", "b"),
        ("recordings", tmp_path / "recordings", "recordings/a/0.png", "b"),
        ("hospital-csv", tmp_path / "hospital", "hospital/breast/v0/0.png", "breast/v1"),
        ("hospital-csv", tmp_path / "hospital", "hospital/breast/v0.pkl", "breast/v1"),
    ]
    for number, (form, path, spoiled, left) in enumerate(cases):
        spoil(tmp_path / spoiled, how)
        options = ["datasets=breast_ALL@20230101-120000"] if form == "hospital-csv" else []
        assert convert(form, path, tmp_path / f"out{number}", *options) == 2, spoiled
        error = capsys.readouterr().err
        assert error.startswith("error: ") and spoiled.rpartition("/")[2] in error, error
        content = json.loads((tmp_path / f"out{number}/trainval.json").read_text())
        assert [video["name"] for video in content["videos"]] == [left], spoiled


def test_an_annotation_file_that_is_a_pipe_does_not_block(tmp_path, capsys):
    os.mkfifo(tmp_path / "a.json")
    os.mkfifo(tmp_path / "a.csv")
    write_png(tmp_path / "in/v/0.png")
    pipe = tmp_path / "a.json"
    assert convert("coco-video", pipe, tmp_path / "out") == 2
    assert convert("recordings", tmp_path / "in", tmp_path / "out", f"patients={pipe}") == 2
    split = ("--data", f"recordings:{tmp_path / 'in'}", "--split-table", tmp_path / "a.csv")
    assert run("audit_dataset", *split, "--output", tmp_path / "a.html") == 2
    assert capsys.readouterr().err.count("named pipe") == 3


def test_a_conversion_that_lies_among_recordings_is_not_read_as_more_of_them(tmp_path, capsys, caplog):
    write_png(tmp_path / "in/v/0.png")
    assert convert("recordings", tmp_path / "in", tmp_path / "out") == 0
    (tmp_path / "out").rename(tmp_path / "in/out")
    caplog.clear()
    assert convert("recordings", tmp_path / "in", tmp_path / "again") == 0
    assert "out is the output of a conversion (manifest_trainval.json)" in caplog.text
    assert [v["name"] for v in json.loads((tmp_path / "again/trainval.json").read_text())["videos"]] == ["v"]
    assert convert("labelme", tmp_path / "in", tmp_path / "third") == 0
    assert [v["name"] for v in json.loads((tmp_path / "third/trainval.json").read_text())["videos"]] == ["v"]
