"""tools/evaluate.py on COCO files: what counts as a lesion, and as a detection of one."""

import json

import pytest

from tests.conftest import load_tool
from ultravid.utils.tool import run_tool

evaluate = load_tool("evaluate")


@pytest.fixture
def judge(tmp_path, capsys):
    """Evaluates boxes [x, y, width, height] of one image each; the metrics, or the error."""

    def run(lesions, found, categories=None):
        annotations = {
            "videos": [{"id": 1, "name": "v", "fps": 0}, {"id": 2, "name": "empty"}],
            "images": [{"id": n, "video_id": 1, "frame_id": n, "height": 64, "width": 64} for n in range(len(lesions))],
            "annotations": [{"image_id": n, **row} for n, rows in enumerate(lesions) for row in rows],
        }
        if categories:
            annotations["categories"] = [{"id": i, "name": name} for i, name in categories.items()]
        detections = [{"image_id": n, "score": 0.9, **row} for n, rows in enumerate(found) for row in rows]
        for name, content in (("a", annotations), ("p", detections)):
            (tmp_path / f"{name}.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(content).encode())
        arguments = ["--annotations", str(tmp_path / "a.json"), "--predictions", str(tmp_path / "p.json")]
        code = run_tool(evaluate.main, [*arguments, "--output-dir", str(tmp_path / "out")])
        error = capsys.readouterr().err
        return json.loads((tmp_path / "out" / "metrics.json").read_text()) if code == 0 else error

    return run


A, B = {"bbox": [1, 1, 20, 20]}, {"bbox": [30, 30, 20, 20]}


@pytest.mark.parametrize("mark", ["iscrowd", "ignore", "difficult"])
def test_an_ignored_region_is_no_lesion_and_a_detection_on_it_is_neither_right_nor_wrong(judge, caplog, mark):
    small = {"bbox": [30, 30, 5, 5]}  # inside the region: that counts for a crowd alone
    metrics = judge([[A, {**B, mark: 1}]], [[A, {**B, "score": 0.95}]])
    assert (metrics["AP50"], metrics["count/lesion_boxes"]) == (100, 1)
    assert "boxes are marked iscrowd, ignore or difficult" in caplog.text
    assert "1 detections lie on regions that the annotations mark" in caplog.text
    assert judge([[A, {**B, mark: 1}]], [[A, {**small, "score": 0.95}]])["AP50"] == (100 if mark == "iscrowd" else 50)


def test_two_boxes_of_a_frame_without_ids_are_two_lesions(judge, caplog):
    metrics = judge([[A, B], [A, B]], [[A], [A]])
    assert "1 of 2 videos have no image and are not evaluated; the first: 'empty'" in caplog.text
    assert metrics["count/lesions"] == 2
    assert "linked by their order" in caplog.text


def test_detections_of_a_category_that_the_annotations_do_not_have_are_refused_by_name(judge, caplog):
    lesion = {**A, "category_id": 1}
    error = judge([[lesion]], [[{**A, "category_id": 2}, {**A, "category_id": 2}]], {1: "benign"})
    assert "video 'v' frame 0: entry 0: category_id 2 is not a category of" in error
    assert "which has 1 (benign) (2 of 2 entries are of such categories)" in error
    assert "category_id 2.5 is not a whole number" in judge([[lesion]], [[{**A, "category_id": 2.5}]], {1: "benign"})
    assert judge([[lesion]], [[{**A, "category_id": 1.0}]], {1: "benign"})["AP50"] == 100
    assert judge([[A]], [[{**A, "category_id": 7}]])["AP50"] == 100  # the annotations have no categories
    caplog.clear()
    judge([[lesion]], [[{**A, "category_id": 2}]], {1: "benign", 2: "malignant"})
    assert "lesion boxes are benign (1); detections malignant (1)" in caplog.text
