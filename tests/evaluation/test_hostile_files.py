"""Crafted and broken predictions, given to the tools: one message and exit code 2, soon and without a traceback."""

import io
import json
import os
import zipfile

import cv2
import numpy as np
import pytest

from tests.conftest import load_tool
from ultravid.evaluation.prediction_store import write_manifest, write_video
from ultravid.evaluation.records import write_record
from ultravid.evaluation.results import FrameResult, VideoResult
from ultravid.utils.run_folder import InferenceFolder
from ultravid.utils.tool import run_tool

BOX = np.array([[4, 5, 14, 17]], np.float32)


def run(tool, *arguments):
    return run_tool(load_tool(tool).main, [str(a) for a in arguments])


def write_truth(path, name="0.png"):
    image = {"id": 1, "video_id": 1, "frame_id": 0, "file_name": name, "height": 32, "width": 40}
    box = {"id": 1, "image_id": 1, "bbox": [4, 5, 10, 12], "category_id": 1, "instance_id": 1}
    content = {"videos": [{"id": 1, "name": "v"}], "images": [image], "annotations": [box], "categories": []}
    path.write_text(json.dumps(content))
    return path


def found(**values):
    return json.dumps([{"image_id": 1, "category_id": 1, "bbox": [4, 5, 10, 12], "score": 0.5, **values}])


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (found(score=float("nan")), "score nan is not a finite number"),
        (found().replace("0.5", "1e999"), "score inf is not a finite number"),
        (found().replace("0.5", "9" * 400), "is not a finite number"),
        (found().replace("0.5", "9" * 5000), "4,300 digits"),
        (found(bbox=[1e38] * 4), "huge number"),
        (found(category_id=2**70), "category_id 1180591620717411303424 is not"),
        (found(image_id=[[1]]), "image [[1]] is not in"),
        (found(image_id=2**70), "is not in"),
        ("[" * 10**5, "nested too deeply"),
        (f"[{found(x=['y' * 10**5] * 99)}]", "entry 0 is [{"),
        ('[{"image_id": 1, "image_id": 2}]', "'image_id' twice"),
        ("\xff", "not JSON"),
        (None, "named pipe"),
    ],
)
def test_bad_results_are_one_short_message(tmp_path, capsys, predictions, message):
    truth, path = write_truth(tmp_path / "truth.json"), tmp_path / "p.json"
    os.mkfifo(path) if predictions is None else path.write_text(predictions)
    assert run("evaluate", "--annotations", truth, "--predictions", path, "--output-dir", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert message in error and len(error) < 2000 and not (tmp_path / "out").exists()


def write_run(folder, file_name=None):
    (folder / "inference/predictions").mkdir(parents=True)
    frame = FrameResult(0, 1, BOX, BOX + 20, np.array([0.9], np.float32), file_name=file_name)
    file = write_video(folder / "inference/predictions", VideoResult("v", [frame]))
    write_manifest(file.parent, {"v": file})
    return file


def repacked(file, **arrays):
    """The file with other arrays, and its manifest without hashes."""
    content = {**np.load(file), **arrays}
    np.savez(file, **content)
    return file


def with_header(file, **values):
    return repacked(file, header=np.array(json.dumps({**json.loads(str(np.load(file)["header"])), **values})))


def bomb(file):
    """An archive of a few kB that unpacks to 10 GB of scores."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10 * 2**28,)})
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", b"")
    content = dict(np.load(file))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in content.items():
            if name == "scores":
                archive.writestr("scores.npy", header.getvalue())
            elif name != "x":
                with archive.open(f"{name}.npy", "w") as opened:
                    np.lib.format.write_array(opened, array)


RUNS = [
    (bomb, "would take 10,737,418,240 bytes"),
    (lambda f: f.write_bytes(b"\x93NUMPY\x01\x00"), "it is no archive"),
    (lambda f: (f.unlink(), os.mkfifo(f)), "named pipe"),
    (lambda f: with_header(f, metadata={"a": [[]] * 9}), "metadata are not all text"),
    (lambda f: with_header(f, fps=10**400), "its fps is 1000"),
    (lambda f: with_header(f, image_ids=[[1]]), "image_ids are not all"),
    (lambda f: repacked(f, header=np.array("[" * 10**5)), "nested too deeply"),
    (lambda f: repacked(f, frame_index=np.array([2**62])), "frame numbers are not from 0"),
    (lambda f: repacked(f, num_boxes=np.array([2**62])), "the sum of 'num_boxes'"),
    (lambda f: repacked(f, boxes=np.array([[0, 0, np.inf, 1]], np.float32)), "nan, infinity or a huge number"),
    (lambda f: repacked(f, boxes=np.array([[{}] * 4])), "can't be read"),
]


@pytest.mark.parametrize(("spoil", "message"), RUNS)
def test_a_bad_run_is_one_message_of_every_tool(tmp_path, capsys, spoil, message):
    spoil(write_run(tmp_path / "run"))
    calls = [
        ("evaluate", "--predictions", tmp_path / "run", "--output-dir", tmp_path / "out"),
        ("report", tmp_path / "run", "--output", tmp_path / "r.html"),
        ("mine_false_positives", "--predictions", tmp_path / "run", "--output", tmp_path / "m.json"),
    ]
    for call in calls[: 3 if spoil is bomb else 1]:
        assert run(*call) == 2
        error = capsys.readouterr().err
        assert message in error and len(error) < 2000


def test_a_crafted_record_is_one_message(tmp_path, capsys):
    write_run(tmp_path / "run")
    for part in ({"weights": 1}, {"judged": [1]}, {"evaluators": 5}, {"evaluators": ["x"]}, {"weights": {"path": 5}}):
        write_record(InferenceFolder(tmp_path / "run/inference"), {"how": "finished", "by": "command", **part})
        assert run("report", tmp_path / "run", "--output", tmp_path / "r.html") == 2
        assert "is not the record of an evaluation: " in capsys.readouterr().err


def test_pictures_outside_of_the_annotations_folder_are_not_put_into_a_report(tmp_path, monkeypatch):
    image = np.random.default_rng(0).integers(0, 255, (32, 40), np.uint8)
    (tmp_path / "data/sub").mkdir(parents=True)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    for name in ("secret.png", "data/0.png"):
        cv2.imwrite(str(tmp_path / name), image)
    (tmp_path / "data/link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "p.json").write_text(found(bbox=[20, 20, 5, 5]))

    def pictures(name, *more):
        truth = write_truth(tmp_path / "data/truth.json", name)
        arguments = (
            "--annotations",
            truth,
            "--output",
            tmp_path / "r.html",
            "--bootstrap",
            0,
            "--score-threshold",
            0.1,
        )
        assert run("report", tmp_path / "p.json", *arguments, *more) == 0
        return (tmp_path / "r.html").read_text().count("data:image/jpeg")

    assert pictures("0.png") > 0 and pictures(str(tmp_path / "data/0.png")) > 0
    for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png", "../../secret.png"):
        assert pictures(name) == 0, name
    assert pictures(str(tmp_path / "secret.png"), "--images", tmp_path) > 0


def test_outputs_that_cannot_be_written_are_one_message_of_every_tool(tmp_path, capsys):
    write_run(tmp_path / "run")
    (tmp_path / "file").touch()
    for output in (tmp_path / "file/x", "/dev/full"):
        for call in (
            ("evaluate", "--predictions", tmp_path / "run", "--output-dir", output),
            ("report", tmp_path / "run", "--bootstrap", 0, "--output", output),
            ("compare", tmp_path / "run", tmp_path / "run", "--bootstrap", 2, "--output", output),
            ("mine_false_positives", "--predictions", tmp_path / "run", "--score-threshold", 0.1, "--output", output),
        ):
            assert run(*call) == 2
            assert str(output) in capsys.readouterr().err


def test_names_that_are_not_utf8_are_evaluated_and_reported(tmp_path):
    name = os.fsdecode(b"\xe9\xff")
    folder = tmp_path / "run/inference/predictions"
    folder.mkdir(parents=True)
    frame = FrameResult(0, 1, BOX, BOX + 20, np.array([0.9], np.float32), file_name=f"{name}.png")
    file = write_video(folder, VideoResult(name, [frame], patient=name))
    write_manifest(folder, {name: file})
    assert run("evaluate", "--predictions", tmp_path / "run", "--output-dir", tmp_path / "out", "--bootstrap", 2) == 0
    assert run("report", tmp_path / "run", "--output", tmp_path / "r.html", "--bootstrap", 0) == 0
    assert "\\udcff" in (tmp_path / "r.html").read_text()
