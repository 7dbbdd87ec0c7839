import copy
import json
import logging

import cv2
import numpy as np
import pytest

from ultravid.datasets import DataError, load_coco_stills, load_cva_bus


def png(path, height=20, width=30):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width), 90, np.uint8))


CONTENT = {
    "videos": [{"id": 5, "name": "benign/v-1-l"}, {"id": 6, "name": "malignant/w"}],
    "images": [
        {
            "id": 1,
            "video_id": 5,
            "frame_id": 9,
            "file_name": "benign/v-1-l/000009.png",
            "height": 20,
            "width": 30,
        },
        {
            "id": 2,
            "video_id": 5,
            "frame_id": 3,
            "file_name": "benign/v-1-l/000003.png",
            "height": 20,
            "width": 30,
        },
        {
            "id": 3,
            "video_id": 6,
            "frame_id": 0,
            "file_name": "malignant/w/000000.png",
            "height": 20,
            "width": 30,
        },
    ],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "video_id": 5,
            "bbox": [2, 3, 10, 5],
            "instance_id": 0,
            "category_id": 1,
        },
        {
            "id": 2,
            "image_id": 3,
            "video_id": 6,
            "bbox": [12, 9, -10, 5],
            "instance_id": 0,
            "category_id": 2,
        },
        {
            "id": 3,
            "image_id": 3,
            "video_id": 6,
            "bbox": [20, 15, 50, 50],
            "instance_id": 1,
            "category_id": 2,
        },
    ],
}


@pytest.fixture
def root(tmp_path):
    for image in CONTENT["images"]:
        png(tmp_path / "rawframes" / image["file_name"])
    return tmp_path


def save(root, change=lambda content: None):
    content = copy.deepcopy(CONTENT)
    change(content)
    (root / "trainval.json").write_text(json.dumps(content))
    return root


def test_what_the_public_files_hold_is_read_and_repairs_are_reported(root, caplog):
    with caplog.at_level(logging.WARNING):
        v, w = load_cva_bus(root=save(root))
    assert [f.image_id for f in v.frames] == [2, 1]  # by frame_id, which does not run from 0
    assert v.frames[0].boxes.shape == (0, 4)
    assert (v.patient, v.patient_known) == (v.video_id, False)
    assert w.frames[0].boxes.tolist() == [[2, 9, 12, 14], [20, 15, 30, 20]]
    assert w.frames[0].track_ids.tolist() == [0, 1]
    assert (
        "boxes had a negative width" in caplog.text
        and "boxes went past the frame's edge and were clipped to it (1)" in caplog.text
    )


def set_box(box):
    return lambda c: c["annotations"][0].update(bbox=box)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            set_box([1, 2, float("nan"), 4]),
            r"video 'benign/v-1-l' frame 9 annotation 1: box .* nan",
        ),
        (set_box([1, 2, "3", 4]), "is not four numbers"),
        (set_box([1, 2, 0, 4]), "is empty"),
        (set_box([100, 2, 5, 4]), "lies outside the frame"),
        (lambda c: c["videos"].append({"id": 5, "name": "x"}), "two videos have the id 5"),
        (
            lambda c: c["annotations"][0].update(image_id=99),
            "belongs to image 99, which is not listed",
        ),
        (lambda c: c["images"][0].update(frame_id=3), "is listed twice"),
        (lambda c: c["images"][0].pop("height"), "has no 'height'"),
        (lambda c: c.pop("images"), "holds no list 'images'"),
        (lambda c: c["images"][0].update(height=21), "its annotation says 30x21"),
        (
            lambda c: [i.update(file_name=f"benign/gone/{i['id']}.png") for i in c["images"][:2]],
            r"video 'benign/v-1-l' frame 9: .*gone/1\.png does not exist; 2 of 3 pictures are missing: 2 in .*gone\.",
        ),
    ],
)
def test_bad_annotations_are_refused_by_video_and_frame(root, change, message):
    with pytest.raises(DataError, match=message):
        load_cva_bus(root=save(root, change))


def test_bad_files_are_refused(root, tmp_path):
    with pytest.raises(DataError, match=r"trainval\.json does not exist"):
        load_cva_bus(root=root)
    with pytest.raises(DataError, match="ULTRAVID_DATASETS"):
        load_cva_bus(root=tmp_path / "nowhere")
    save(root)
    frame = root / "rawframes/benign/v-1-l/000003.png"
    frame.write_bytes(frame.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"frame 3: .*000003\.png is a truncated PNG"):
        load_cva_bus(root=root)
    (root / "trainval.json").write_text('{"videos": [')
    with pytest.raises(DataError, match="is not JSON"):
        load_cva_bus(root=root)


def test_a_table_of_patients_names_some_and_the_others_stay_unknown(root, tmp_path):
    (tmp_path / "patients.json").write_text(json.dumps({"malignant/w": "v"}))
    v, w = load_cva_bus(root=save(root), patients=tmp_path / "patients.json")
    assert (v.patient_known, w.patient, w.patient_known) == (False, "v", True)


def test_stills_are_videos_of_one_frame(tmp_path):
    png(tmp_path / "pictures" / "a.png")
    images = [{"id": 1, "file_name": "a.png", "height": 20, "width": 30, "patient": 7}]
    annotations = [{"id": 1, "image_id": 1, "bbox": [2, 3, 10, 5], "category_id": 2, "iscrowd": 0}]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    (video,) = load_coco_stills(json_file=tmp_path / "a.json", image_root=tmp_path / "pictures")
    assert (video.video_id, video.patient, len(video)) == ("a.png", "7", 1)
    assert video.frames[0].boxes.tolist() == [[2, 3, 12, 8]] and video.frames[0].classes.tolist() == [0]
    with pytest.raises(DataError, match="does not exist"):
        load_coco_stills(json_file=tmp_path / "a.json")
