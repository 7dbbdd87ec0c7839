"""tools/evaluate.py and tools/compare.py as a user meets them."""

import contextlib
import io
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import ROOT, load_tool
from tests.evaluation.cases import FAR, A, B, random_videos, reference_set, video, write_coco, xywh
from ultravid.datasets.formats import load_coco_video
from ultravid.datasets.patients import num_patients, num_unknown_patients
from ultravid.evaluation import all_metrics
from ultravid.evaluation.folds import notes_on_patients
from ultravid.evaluation.matching import match_videos
from ultravid.evaluation.prediction_store import (
    read_manifest,
    read_videos,
    video_file_name,
    write_manifest,
    write_video,
)
from ultravid.evaluation.runs import load_videos
from ultravid.utils.tool import run_tool


def run(name, *arguments):
    """A tool, called in this process."""
    command, out, err = [str(argument) for argument in arguments], io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_tool(load_tool(name).main, command)
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


def write_run(folder, videos):
    """A run's own files, in the folder of a run."""
    predictions = folder / "inference/predictions"
    predictions.mkdir(parents=True)
    write_manifest(predictions, {v.video_id: write_video(predictions, v) for v in videos})
    return folder


def metrics(folder):
    return json.loads((folder / "metrics.json").read_text())


VIDEOS = [
    video(([A], [A], [0.9], [1]), ([A, B], [FAR, A], [0.8, 0.7], [1, 2]), name="benign/a", fps=25.0, patient="p"),
    video(([A], [A], [0.6], [1]), name="b", patient="q", metadata={"device": "x"}),
]


@pytest.mark.parametrize("number", [1, 5])
def test_coco_files_of_any_detector_give_the_legacy_figures_to_1e_6(tmp_path, number):
    videos, expected = reference_set(number)
    annotations, detections = write_coco(tmp_path, videos)
    done = run("evaluate", "--annotations", annotations, "--predictions", detections, "--output-dir", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    written = metrics(tmp_path / "out")
    assert {name: written[f"legacy/{name}"] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert written["count/frames"] == sum(len(v.frames) for v in videos)
    for name, value in all_metrics(videos).items():
        if name.startswith("lesion/"):
            continue  # the file gives all boxes the id 0
        assert written[name] == (None if math.isnan(value) else pytest.approx(value))
    assert "| legacy/AP50" in done.stdout and "Undefined" in done.stdout


def test_a_runs_own_files_need_no_annotations_and_give_the_same_with_them(tmp_path):
    annotations, detections = write_coco(tmp_path, VIDEOS)
    own = write_run(tmp_path / "run", VIDEOS)
    ways = {
        "coco": ["--annotations", annotations, "--predictions", detections],
        "folder": ["--predictions", own],
        "manifest": ["--predictions", own / "inference/predictions/manifest.json"],
    }
    for name, arguments in ways.items():
        assert run("evaluate", *arguments, "--output-dir", tmp_path / name).returncode == 0
        assert metrics(tmp_path / name) == metrics(tmp_path / "coco")
    # Annotations made with other image ids are of something else.
    done = run("evaluate", "--annotations", annotations, "--predictions", own, "--output-dir", tmp_path / "x")
    assert done.returncode == 2 and "image 0 is not in" in done.stderr


def test_intervals_and_strata_are_in_the_table_and_in_the_file(tmp_path):
    write_run(tmp_path / "run", VIDEOS)
    (tmp_path / "patients.json").write_text(json.dumps({"b": "p"}))
    arguments = ["--predictions", tmp_path / "run", "--output-dir", tmp_path, "--bootstrap", 20]
    done = run("evaluate", *arguments, "--strata", "device,size", "--patients", tmp_path / "patients.json")
    assert done.returncode == 0, done.stderr
    written = metrics(tmp_path)
    assert written["count/patients"] == 1 and written["ci/AP50/low"] is written["ci/AP50/high"] is None
    assert "There is one patient, so there are no intervals" in done.stdout
    (tmp_path / "patients.json").write_text(json.dumps({"b": "other"}))
    given = [*map(str, arguments), "--patients", str(tmp_path / "patients.json")]
    assert run_tool(load_tool("evaluate").main, given) == 0
    assert metrics(tmp_path)["count/patients"] == 2 and 0 < metrics(tmp_path)["ci/R@16/low"] <= 100
    done = run("evaluate", *arguments, "--strata", "device,size", "--patients", "regex:(.)$")
    assert done.returncode == 0, done.stderr
    written = metrics(tmp_path)
    assert "There are only 2 patients: with fewer than 10, intervals are too narrow" in done.stdout
    assert written["strata/device=x/AP50"] == 100 and "device=unknown" in done.stdout
    done = run("evaluate", *arguments, "--strata", "devise")
    assert done.returncode == 2 and "the fields are: device, size" in done.stderr


def test_annotated_boxes_as_cva_bus_has_them_are_repaired_and_reported(tmp_path, caplog):
    annotations, detections = write_coco(tmp_path, VIDEOS)
    content = json.loads(annotations.read_text())
    boxes = [a["bbox"] for a in content["annotations"]]
    boxes[0][:] = [10, 0, -10, 10]
    boxes[1][:] = [-5, 0, 15, 10]
    annotations.write_text(json.dumps(content))
    done = run("evaluate", "--annotations", annotations, "--predictions", detections, "--output-dir", tmp_path)
    assert done.returncode == 0 and metrics(tmp_path)["AP50"] == pytest.approx(all_metrics(VIDEOS)["AP50"])
    assert "boxes had a negative width" in caplog.text and "boxes went past" in caplog.text


def faulty(change_annotations=None, change_detections=None):
    def write(folder):
        paths = write_coco(folder, VIDEOS)
        for path, change in zip(paths, (change_annotations, change_detections), strict=True):
            content = json.loads(path.read_text())
            changed = change(content) if change else None
            path.write_text(changed if isinstance(changed, str) else json.dumps(content))
        return ["--annotations", paths[0], "--predictions", paths[1]]

    return write


def put(*keys, value):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


FAULTS = {
    "not JSON": (faulty(None, lambda c: '[{"image_id": 1'), "detections.json: is not JSON"),
    "an object": (faulty(None, lambda c: "{}"), "detections.json: is not a manifest"),
    "text for a box": (faulty(None, put(1, "bbox", value=[1, "2", 3, 4])), "video 'benign/a' frame 1: entry 1: box"),
    "a nan": (faulty(None, put(2, "bbox", 2, value=math.nan)), "frame 1: entry 2: box [0.0, 0.0, nan"),
    "no finite score": (faulty(None, put(0, "score", value=math.inf)), "frame 0: entry 0: score inf"),
    "a score as text": (faulty(None, put(0, "score", value="0.9")), "score '0.9' is not a finite number"),
    "a negative size": (faulty(None, put(0, "bbox", 3, value=-1)), "negative width or height"),
    "a huge number": (faulty(None, put(0, "bbox", 3, value=10**400)), "huge number"),
    "an unknown image": (faulty(None, put(3, "image_id", value=77)), "entry 3: image 77 is not in"),
    "a video of another set": (faulty(None, put(0, "video_id", value="other")), "is of video 'other'"),
    "an image twice": (faulty(put("images", 1, "id", value=10_000)), "two images have the id 10000"),
    "a frame twice": (faulty(put("images", 1, "frame_id", value=0)), "video 'benign/a' frame 0 is listed twice"),
    "a video's id twice": (faulty(put("videos", 1, "id", value=1)), "two videos have the id 1: 'benign/a' and 'b'"),
    "an unlisted video": (faulty(put("images", 0, "video_id", value=9)), "belongs to video 9, which is not listed"),
    "an annotation of nothing": (faulty(put("annotations", 0, "image_id", value=9)), "belongs to image 9"),
    "an empty lesion": (faulty(put("annotations", 0, "bbox", value=[1, 1, 0, 5])), "frame 0 annotation 1: box"),
    "no list of images": (faulty(put("images", value=None)), "annotations.json: holds no list 'images'"),
    "nothing there": (lambda folder: ["--predictions", folder / "gone"], "gone does not exist"),
    "a manifest wanted": (lambda folder: ["--predictions", folder], "has no predictions"),
    "no annotations": (lambda folder: faulty()(folder)[2:], "give the annotations"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_input_is_one_message_that_names_the_place(tmp_path, fault):
    write, message = FAULTS[fault]
    done = run("evaluate", *write(tmp_path), "--output-dir", tmp_path / "out")
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
    assert not (tmp_path / "out").exists()


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def resave(**changes):
    def change(path):
        with np.load(path) as content:
            arrays = dict(content)
        for name, edit in changes.items():
            arrays[name] = edit(arrays[name])
        np.savez(path, **arrays)

    return change


def with_nan(array):
    array[1] = np.nan
    return array


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (cut, "can't be read"),
        (lambda path: path.write_bytes(b""), "can't be read"),
        (lambda path: path.unlink(), "does not exist"),
        (resave(boxes=lambda a: a.astype(object)), "Object arrays cannot be loaded"),
        (resave(boxes=lambda a: a.astype("U8")), "video 'benign/a': 'boxes' is <U8"),
        (resave(boxes=with_nan), "video 'benign/a' frame 1: 'boxes' 1: box [nan"),
        (resave(scores=with_nan), "video 'benign/a' frame 1: 'boxes' 1: the score nan"),
        (resave(boxes=lambda a: a[:, ::-1]), "negative width or height"),
        (resave(scores=lambda a: a[:-1]), "the sum of 'num_boxes' is 3, but 'scores' has 2 rows"),
        (resave(frame_index=lambda a: a * 0), "frame 0 is repeated"),
        (resave(header=lambda a: np.array("{}")), "header does not name the format"),
        (resave(header=lambda a: np.array(str(a).replace("benign/a", "other"))), "holds video 'other'"),
    ],
)
def test_a_damaged_file_of_a_run_is_refused(tmp_path, capsys, change, message):
    own = write_run(tmp_path / "run", VIDEOS)
    change(own / "inference/predictions" / video_file_name("benign/a"))
    arguments = ["--predictions", str(own), "--output-dir", str(tmp_path / "out")]
    assert run_tool(load_tool("evaluate").main, arguments) == 2
    error = capsys.readouterr().err
    assert message in error and video_file_name("benign/a") in error and error.count("\n") == 1


def test_an_unfinished_evaluation_is_not_judged(tmp_path):
    own = write_run(tmp_path / "run", VIDEOS)
    (own / "inference/predictions/manifest.json").unlink()
    done = run("evaluate", "--predictions", own, "--output-dir", tmp_path / "out")
    assert done.returncode == 2 and "the files of 2 videos but no manifest.json" in done.stderr


def test_files_keep_all_that_a_video_says(tmp_path):
    own = write_run(tmp_path / "run", VIDEOS)
    for video_before, after in zip(VIDEOS, read_videos(own / "inference/predictions/manifest.json"), strict=True):
        for field in ("video_id", "fps", "patient", "metadata"):
            assert getattr(after, field) == getattr(video_before, field)
        for before, frame in zip(video_before.frames, after.frames, strict=True):
            assert (frame.frame_index, frame.image_id) == (before.frame_index, before.image_id)
            for field in ("boxes", "scores", "gt_boxes", "gt_track_ids"):
                assert np.array_equal(getattr(frame, field), getattr(before, field))


def test_two_runs_are_compared_over_the_same_patients(tmp_path):
    videos = random_videos(np.random.default_rng(0), num_videos=8)
    worse = [
        type(v)(
            v.video_id, [type(f)(f.frame_index, f.image_id, f.gt_boxes, f.boxes + 4, f.scores) for f in v.frames], v.fps
        )
        for v in videos
    ]
    a, b = write_run(tmp_path / "a", videos), write_run(tmp_path / "b", worse)
    done = run("compare", a, b, "--bootstrap", 300, "--output", tmp_path / "out.json")
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "out.json").read_text())
    expected = all_metrics(worse)["AP50"] - all_metrics(videos)["AP50"]
    assert written["AP50/difference"] == pytest.approx(expected)
    assert written["AP50/low"] < expected < written["AP50/high"] < 0 and written["AP50/p"] < 0.02
    assert written["count/patients"] == written["count/videos_of_unknown_patient"] == 8
    for said in ("There are only 8 patients", "The patients of 8 videos (of 8) are not known"):
        assert said in done.stdout
    same = run("compare", a, a, "--bootstrap", 50, "--output", tmp_path / "same.json")
    assert same.returncode == 0
    written = json.loads((tmp_path / "same.json").read_text())
    assert written["AP50/difference"] == written["AP50/low"] == written["AP50/high"] == 0 and written["AP50/p"] == 1


def test_evaluate_counts_the_patients_that_the_folds_have(tmp_path, capsys):
    """By any rule, of COCO results and of a run's own files, which keep the patients that the reader found."""
    names = {"patA/scan1": None, "patA/scan2": None, "patB/scan1": None, "x": "Anna", "y": "anna ", "z": None}
    videos = [video(([A], [A], [0.5]), name=name, patient=patient) for name, patient in names.items()]
    annotations, detections = write_coco(tmp_path, videos)
    content = json.loads(annotations.read_text())
    for image in content["images"]:
        image |= {"file_name": "0.png", "height": 20, "width": 20}
    annotations.write_text(json.dumps(content))
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((20, 20), np.uint8))
    (tmp_path / "table.json").write_text(json.dumps({"z": "x"}))
    for rule in (None, "folder", "regex:(pat[AB])", "stem", tmp_path / "table.json"):
        folder = tmp_path / f"run-{Path(str(rule)).name}"
        read = load_coco_video(json_file=annotations, image_root=tmp_path, patients=rule)
        found = num_patients(read), num_unknown_patients(read)
        stored = [replace(v, patient=r.patient if r.patient_known else None) for v, r in zip(videos, read, strict=True)]
        own = write_run(folder, stored)
        flag = [] if rule is None else ["--patients", rule]
        for source in (["--annotations", annotations, "--predictions", detections, *flag], ["--predictions", own]):
            arguments = [*source, "--output-dir", tmp_path / "out"]
            assert run_tool(load_tool("evaluate").main, list(map(str, arguments))) == 0
            counts = metrics(tmp_path / "out")
            assert (counts["count/patients"], counts["count/videos_of_unknown_patient"]) == found
    wrong = [
        "--annotations",
        annotations,
        "--predictions",
        detections,
        "--output-dir",
        tmp_path,
        "--patients",
        "regex:(Q)",
    ]
    assert run_tool(load_tool("evaluate").main, list(map(str, wrong))) == 2
    assert "finds no patient in any of 4 names, such as 'patA/scan1'" in capsys.readouterr().err


def test_patients_of_files_of_an_earlier_version_are_said_to_be_perhaps_guessed(tmp_path, capsys):
    own = write_run(tmp_path / "run", VIDEOS)
    manifest = own / "inference/predictions/manifest.json"
    for _, path in read_manifest(manifest):
        arrays = dict(np.load(path))
        header = json.loads(str(arrays["header"]))
        del header["patient_known"]
        np.savez(path, **{**arrays, "header": np.array(json.dumps(header))})
    write_manifest(manifest.parent, dict(read_manifest(manifest)))
    arguments = ["--predictions", str(own), "--output-dir", str(tmp_path), "--bootstrap", "20"]
    assert run_tool(load_tool("evaluate").main, arguments) == 0
    assert "The patients of 2 videos (of 2) are as an earlier version stored them" in capsys.readouterr().out
    assert metrics(tmp_path)["count/videos_of_guessed_patient"] == 2
    new, page = write_run(tmp_path / "new", VIDEOS), tmp_path / "report.html"
    for pair in ([own, new], [new, own]):  # of which only one counts guessed patients
        assert run_tool(load_tool("report").main, [*map(str, pair), "--output", str(page), "--bootstrap", "20"]) == 0
        assert "count/videos_of_guessed_patient" in page.read_text()
    assert run_tool(load_tool("evaluate").main, [*arguments, "--patients", "stem"]) == 0
    assert "count/videos_of_guessed_patient" not in metrics(tmp_path)


def test_a_rule_is_for_videos_of_unknown_patients_and_a_table_for_all_with_and_without_annotations(tmp_path, caplog):
    stored = [video(([A], [A], [0.5]), name=f"site{n}/v{n}", patient=p) for n, p in enumerate(("p", "q", None))]
    stored = [
        replace(v, frames=[replace(f, image_id=10_000 * (n + 1)) for f in v.frames]) for n, v in enumerate(stored)
    ]
    own = write_run(tmp_path / "run", stored)
    annotations, _ = write_coco(
        tmp_path, [replace(stored[0], patient="r"), *(replace(v, patient=None) for v in stored[1:])]
    )
    (tmp_path / "table.json").write_text(json.dumps({"site0/v0": "t", "site1/v1": "t"}))

    def patients(rule, *annotations):
        return [video.patient for video in load_videos(own, *annotations, patients=rule)]

    assert patients("folder") == ["p", "q", "site2"] and "states the patients of 2 of 3 videos" in caplog.text
    caplog.clear()
    assert (
        patients("folder", annotations) == ["r", "q", "site2"] and "states the patients of 2 of 3 videos" in caplog.text
    )
    table = f"{tmp_path / 'table.json'} else folder"
    assert patients(table) == patients(table, annotations) == ["t", "t", "site2"]
    assert patients(None) == ["p", "q", None] and patients(None, annotations) == ["r", "q", None]


def test_runs_of_different_patients_are_not_compared_and_other_spellings_are_no_difference(tmp_path, capsys):
    a = write_run(tmp_path / "a", VIDEOS)
    spelled = write_run(tmp_path / "spelled", [VIDEOS[0], replace(VIDEOS[1], patient=" Q")])
    unknown = write_run(tmp_path / "unknown", [VIDEOS[0], replace(VIDEOS[1], patient=None)])
    compare = load_tool("compare").main
    assert run_tool(compare, [str(a), str(spelled), "--bootstrap", "20"]) == 0
    assert run_tool(compare, [str(a), str(unknown), "--bootstrap", "20"]) == 2
    said = "Video 'b' is of patient 'q' in A and of an unknown patient in B; state the patients with --patients."
    assert said in capsys.readouterr().err
    (tmp_path / "table.json").write_text(json.dumps({"b": "q"}))  # what the message says to type works
    assert (
        run_tool(compare, [str(a), str(unknown), "--patients", str(tmp_path / "table.json"), "--bootstrap", "20"]) == 0
    )


def test_folds_say_how_many_patients_they_hold_out_and_who_is_in_two_of_them():
    parts = {
        0: [video(([A], [A], [0.5]), name=f"a{i}", patient=f"p{i}") for i in range(10)],
        1: [video(([A], [A], [0.5]), name="b", patient="P3 "), video(([A], [A], [0.5]), name="c")],
    }
    assert notes_on_patients({fold: match_videos(videos) for fold, videos in parts.items()}) == [
        "Held out: 11 patients (fold 0: 10, fold 1: 2).",
        "Fewer than 10 patients in fold 1: its metrics say little about other patients.",
        "Patient 'P3 ' is held out in folds 0, 1: a model was tested on a patient it was trained on.",
        "The patient of 1 video (of 12) is not known: it counts as a separate patient, although others may show the same person. "
        "State patients with the flag --patients, or add them to your table of patients.",
    ]


def test_runs_over_other_videos_or_lesions_are_not_compared(tmp_path):
    a = write_run(tmp_path / "a", VIDEOS)
    fewer = write_run(tmp_path / "fewer", VIDEOS[:1])
    moved = write_run(tmp_path / "moved", [VIDEOS[0], video(([B], [A], [0.6], [1]), name="b", patient="q")])
    done = run("compare", a, fewer)
    assert done.returncode == 2 and "has video 'b'" in done.stderr and done.stderr.count("\n") == 1
    done = run("compare", a, moved)
    assert done.returncode == 2 and "Video 'b' has other frames or other lesions" in done.stderr


def test_the_tools_start_without_torch():
    code = "import sys, runpy; [runpy.run_path(path, run_name='x') for path in sys.argv[1:]]; sys.exit('torch' in sys.modules)"
    tools = [str(ROOT / f"tools/{tool}.py") for tool in ("evaluate", "compare", "report", "cross_validate")]
    assert subprocess.run([sys.executable, "-c", code, *tools], check=False).returncode == 0


def test_xywh_of_float32_boxes_comes_back_exactly(tmp_path):
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(0, 900, (50, 2, 2)).astype(np.float32), axis=1).reshape(50, 4)
    annotations, detections = write_coco(tmp_path, [video(([], corners, rng.random(50)))])
    rows = json.loads(detections.read_text())
    assert [r["bbox"] for r in rows] == [xywh(box) for box in corners.tolist()] and annotations.exists()
    back = np.array([[x, y, x + w, y + h] for x, y, w, h in (r["bbox"] for r in rows)], np.float32)
    assert np.array_equal(back, corners)
