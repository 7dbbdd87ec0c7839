"""COCO annotations: one reader for training and evaluation."""

import json

import cv2
import numpy as np
import pytest
from iopath.common.file_io import PathHandler

from ultravid.datasets import DataError, load_coco_stills, load_coco_video, load_cva_bus, load_recordings
from ultravid.datasets.faults import FaultSink, FileFaults
from ultravid.datasets.formats.coco_annotations import read_coco_annotations
from ultravid.evaluation.coco_files import join_detections, read_annotations
from ultravid.evaluation.runs import load_videos
from ultravid.utils import file_io
from ultravid.utils.errors import UserError


def content():
    return {
        "videos": [{"id": 5, "name": "v", "fps": 0, "device": "d", "spacing_mm": 0.1}, {"id": "w", "patient": 7}],
        "images": [
            {"id": 1, "video_id": 5, "frame_id": 9, "file_name": "a.png", "height": 20, "width": 30},
            {"id": 2, "video_id": 5, "frame_id": 3, "file_name": "b.png", "height": 20, "width": 30},
            {"id": 3, "video_id": "w", "frame_id": 0, "file_name": "c.png", "height": 20, "width": 30},
        ],
        "annotations": [
            {"id": 1, "image_id": 1, "video_id": 5, "bbox": [2, 3, 10, 5], "instance_id": None, "track_id": 4},
            {"id": 2, "image_id": 3, "bbox": [12, 9, -10, 5], "instance_id": 2, "category_id": 7},
            {"id": 3, "image_id": 3, "bbox": [20, 15, 50, 50], "category_id": 3},
        ],
        "categories": [{"id": 3, "name": "cyst"}],
    }


def save(folder, change=lambda content: None):
    """The JSON file, with its images beside it."""
    for name in "abc":
        cv2.imwrite(str(folder / f"{name}.png"), np.full((20, 30), 90, np.uint8))
    changed = content()
    change(changed)
    path = folder / "x.json"
    path.write_text(json.dumps(changed))
    return path


def lesions(video):
    """(boxes, track ids) by image id of a video for training, or of one that was evaluated."""
    frames = [(f.image_id, getattr(f, "gt_boxes", None), getattr(f, "gt_track_ids", None), f) for f in video.frames]
    return [
        (i, (f.boxes if b is None else b).tolist(), (f.track_ids if t is None else t).tolist()) for i, b, t, f in frames
    ]


def test_training_and_evaluation_read_the_same_videos(tmp_path):
    path = save(tmp_path)
    trained = load_coco_video(json_file=path, class_agnostic=False)
    evaluated = join_detections(read_annotations(path, {}), {})
    assert [lesions(v) for v in trained] == [lesions(v) for v in evaluated]
    assert lesions(trained[0]) == [(2, [], []), (1, [[2, 3, 12, 8]], [4])]
    assert lesions(trained[1]) == [(3, [[2, 9, 12, 14], [20, 15, 30, 20]], [2, 0])]
    assert [(v.video_id, v.fps) for v in trained] == [("v", None), ("w", None)]
    assert [(v.video_id, v.fps) for v in evaluated] == [("v", None), ("w", None)]
    assert trained[0].metadata == {"device": "d", "spacing_mm": 0.1}
    assert evaluated[0].metadata == {"device": "d", "spacing_mm": "0.1"}
    assert [v.patient for v in trained] == ["v", "7"] and [v.patient for v in evaluated] == [None, "7"]
    assert trained[0].class_names == ("1", "cyst", "7")


def put(*keys, value):
    def change(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("videos", 1, "id", value=5), "two videos have the id 5: 'v' and '5'"),
        (put("videos", 1, "name", value="v"), "two videos have the name 'v'"),
        (put("videos", 0, "id", value=True), "video 'v' has the id True, not a whole number or text"),
        (put("videos", 0, "fps", value=-1), "video 'v': fps is -1, not a number above 0"),
        (put("videos", 0, "metadata", value="x"), "video 'v': metadata is 'x', not an object"),
        (put("videos", 0, "static_frames", value=[[1, 2]]), r"video 'v': static_frames holds \[1, 2\]"),
        (
            put("images", 1, "id", value=1),
            "video 'v' frame 3: two images have the id 1; the other is video 'v' frame 9",
        ),
        (put("images", 1, "frame_id", value=9), "video 'v' frame 9 is listed twice"),
        (put("images", 1, "width", value=0), "frame 3: height 20 and width 0 are not whole numbers above 0"),
        (put("annotations", 0, "video_id", value="w"), "annotation 1: belongs to video 'w', but its image to video 5"),
        (put("annotations", 0, "category_id", value=True), "or category_id True is not a whole number"),
        (put("annotations", 0, "track_id", value=2**63), f"instance_id {2**63} or"),
        (put("annotations", 0, "iscrowd", value=1), "is a crowd region"),
        (put("annotations", 0, "bbox", value=[1, 1, 0, 5]), r"frame 9 annotation 1: box \[1, 1, 0, 5\] is empty"),
        (put("annotations", 0, "bbox", 3, value=10**400), "holds a nan, an infinite or a huge number"),
        (put("annotations", 0, "bbox", 3, value=True), "is not four numbers"),
    ],
)
def test_training_and_evaluation_reject_the_same_files_in_the_same_words(tmp_path, change, message):
    path = save(tmp_path, change)
    with pytest.raises(DataError, match=message) as trained:
        load_coco_video(json_file=path)
    with pytest.raises(DataError) as evaluated:
        read_annotations(path)
    assert str(trained.value) == str(evaluated.value)


def test_a_sink_takes_every_fault_of_the_annotations(tmp_path):
    path = save(tmp_path, put("images", 1, "width", value=0))
    sink = FaultSink()
    faults = FileFaults(path, sink)
    annotations = read_coco_annotations(path, faults)
    assert list(annotations.images) == [1, 3] and faults.close() == []
    assert [f.repaired for f in sink.faults] == [False, True, True]


def test_the_annotations_of_stills_may_name_videos_that_are_not_read(tmp_path):
    path = save(tmp_path)
    assert [v.video_id for v in load_coco_stills(json_file=path)] == ["a.png", "b.png", "c.png"]


class FolderHandler(PathHandler):
    """``shelf://`` is a folder."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def _get_supported_prefixes(self):
        return ["shelf://"]

    def _get_local_path(self, path, force=False, **kwargs):
        return str(self.folder / path.removeprefix("shelf://"))


def test_annotations_are_read_from_any_address_and_images_from_a_folder(tmp_path, monkeypatch):
    save(tmp_path)
    (tmp_path / "patients.json").write_text('{"v": "p"}')
    monkeypatch.setattr(file_io.PathManager, "_path_handlers", {"shelf://": FolderHandler(tmp_path)})
    arguments = {"json_file": "shelf://x.json", "patients": "shelf://patients.json"}
    videos = load_coco_video(**arguments, image_root=tmp_path)
    assert [v.patient for v in videos] == ["p", "7"] and videos[0].frames[0].path == str(tmp_path / "b.png")
    assert len(load_coco_video(**arguments, image_root=tmp_path)) == 2  # from the index
    assert len(read_annotations("shelf://x.json").videos) == 2
    (tmp_path / "found.json").write_text('[{"image_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}]')
    v, _ = load_videos("shelf://found.json", "shelf://x.json")
    assert v.frames[0].boxes.tolist() == [[1, 2, 4, 6]]
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="a run's own predictions must be in a local folder"):
        next(load_videos("shelf://manifest.json"))
    with pytest.raises(DataError, match=r"shelf://x\.json: name the local folder of its images as image_root"):
        load_coco_video(**arguments)
    with pytest.raises(DataError, match=r"shelf://y\.json does not exist"):
        load_coco_video(json_file="shelf://y.json", image_root=tmp_path)
    for load in (lambda: load_cva_bus(root="shelf://data"), lambda: load_recordings(path="shelf://data")):
        with pytest.raises(DataError, match=r"shelf://data: is not a local folder.*mount it or copy it"):
            load()
