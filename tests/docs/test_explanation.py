"""Examples on the pages of docs/explanation/ print what stands below them, and numbers in their text are those of the code."""

import doctest
import re

import numpy as np
import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "docs/explanation"
PAGES = sorted(path.stem for path in FOLDER.glob("*.md") if "```pycon" in path.read_text(encoding="utf-8"))


def names_after_examples(page):
    """Run the examples of a page as one session; the names that it defined."""
    text = (FOLDER / f"{page}.md").read_text(encoding="utf-8")
    # What is not an example becomes an empty line, so that a failure is reported with its line on the page.
    lines, inside = [], False
    for line in text.splitlines():
        inside = line == "```pycon" or (inside and line != "```")
        lines.append(line if inside and line != "```pycon" else "")
    test = doctest.DocTestParser().get_doctest("\n".join(lines), {}, page, f"docs/explanation/{page}.md", 0)
    report = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert runner.run(test, out=report.append, clear_globs=False).failed == 0, "".join(report)
    return test.globs, text


@pytest.mark.parametrize("page", [page for page in PAGES if page != "metrics"])
def test_examples_print_what_stands_below_them(page):
    names_after_examples(page)


def coco_box(box):
    left, top, right, bottom = map(float, box)
    return {"bbox": [left, top, right - left, bottom - top], "area": (right - left) * (bottom - top)}


def coco_ap50(videos):
    """AP at IoU 0.5 by pycocotools."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "lesion"}]}
    found = []
    for video in videos:
        for each in video.frames:
            image = len(truth["images"]) + 1
            truth["images"].append({"id": image, "width": 1000, "height": 1000})
            for box in each.gt_boxes:
                row = {"id": len(truth["annotations"]) + 1, "image_id": image, "category_id": 1, "iscrowd": 0}
                truth["annotations"].append(row | coco_box(box))
            for box, score in zip(each.boxes, each.scores, strict=True):
                found.append({"image_id": image, "category_id": 1, "score": float(score)} | coco_box(box))
    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    judge = COCOeval(coco, coco.loadRes(found), "bbox")
    judge.evaluate()
    judge.accumulate()
    precision = judge.eval["precision"][0, :, 0, 0, 2]  # IoU 0.5, all recalls, the class, all sizes, 100 detections
    return 100 * float(np.mean(precision))


def test_the_page_on_metrics_computes_what_it_says_and_names_cocos_values(capsys):
    names, text = names_after_examples("metrics")
    pool = names["match_videos"]([names["video_a"], names["video_b"]])
    assert f"COCO's AP at IoU 0.5 is {coco_ap50([names['video_a'], names['video_b']]):.1f}" in text
    assert f"and AP50 is {coco_ap50([names['overlapping']]):.0f}. Here" in text
    rows = re.findall(r"^\| (0\.\d+) \| ([AB]) (\d) \| (.+?) \| (true|false)", text, re.MULTILINE)
    by_place = {
        (v.video_id, int(v.frame[i]), round(float(s), 2)): v.best_iou[i] for v in pool for i, s in enumerate(v.scores)
    }
    assert len(rows) == len(by_place) == 9
    for score, video, place, iou, _ in rows:
        best = by_place[video, int(place), float(score)]
        assert iou == ("no lesion" if best == 0 else f"{best:.2f}")


def test_tests_that_a_page_names_are_there():
    named = {
        n for path in FOLDER.glob("*.md") for n in re.findall(r"`(tests/\S+::\w+)`", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 10
    missing = []
    for each in sorted(named):
        file, _, test = each.partition("::")
        code = ROOT / file
        if not code.is_file() or f"def {test}(" not in code.read_text(encoding="utf-8"):
            missing.append(each)
    assert missing == []
