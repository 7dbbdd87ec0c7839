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


def test_a_rate_under_another_name_and_boxes_in_other_units_are_said(tmp_path, caplog):
    def rewrite(boxes):
        def change(content):
            content["videos"][1]["frame_rate"] = 25
            for row, box in zip(content["annotations"], boxes, strict=True):
                row["bbox"] = box

        return change

    load_coco_video(json_file=save(tmp_path, rewrite([[0.1, 0.2, 0.3, 0.4]] * 3)))
    assert "it must be called fps (1): video 'w': 'frame_rate' is 25" in caplog.text
    assert "3 boxes lie between 0 and 1, all of them" in caplog.text
    load_coco_video(json_file=save(tmp_path, rewrite([[2, 3, 12, 8], [15, 9, 25, 15], [20, 15, 29, 19]])))
    assert "2 boxes go past the frame as [x, y, width, height], which COCO has, but fit it as corners" in caplog.text


def test_what_is_given_in_place_of_a_json_file_or_of_predictions_is_recognised(tmp_path):
    path = save(tmp_path, lambda content: content.pop("videos"))
    with pytest.raises(DataError, match=r"Without videos it is read as stills, .* or the format coco-stills"):
        load_coco_video(json_file=path)
    with pytest.raises(DataError, match=r"it is a folder, not a file\); it holds x\.json\."):
        load_coco_video(json_file=tmp_path)
    with pytest.raises(
        DataError, match=r"xx\.json does not exist; JSON files in its folder: x\.json\. Did you mean 'x\.json'\?$"
    ):
        load_coco_video(json_file=tmp_path / "xx.json")
    path = save(tmp_path)
    with pytest.raises(UserError, match="holds annotations, not predictions; give it by --annotations"):
        list(load_videos(path, path))
    (tmp_path / "p.json").write_text(json.dumps({"annotations": []}))
    with pytest.raises(UserError, match="COCO's results are a plain list"):
        list(load_videos(tmp_path / "p.json", path))
    manifest = tmp_path / "run" / "quick" / "inference" / "predictions" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("[]")
    with pytest.raises(UserError, match=r"run has no predictions; give one of .*run/quick\."):
        list(load_videos(tmp_path / "run"))


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
        (put("annotations", 0, "iscrowd", value="0"), "frame 9 annotation 1: iscrowd is '0', not 0 or 1"),
        (put("annotations", 0, "category_id", value=[1]), r"or category_id \[1\] is not a whole number or text"),
        (put("annotations", 0, "track_id", value=4.5), "instance_id 4.5 or"),
        (put("annotations", 0, "image_id", value=2**63), f"belongs to image {2**63}, which is not listed"),
        (put("images", 0, "id", value=2**63), f"has the id {2**63}, not a whole number or text"),
        (put("images", 0, "id", value=1.5), "has the id 1.5, not a whole number or text"),
        (put("categories", 0, "id", value=None), "category .* has no id that is a whole number or text"),
        (put("categories", value=7), "categories is 7, not a list"),
        (
            lambda c: c["images"][0].update(frame_id=None, file_name="v/000012.png"),
            "has no 'frame_id', the frame's number in its video, which is not guessed; its file's name suggests 12",
        ),
        (lambda c: c["images"][0].update(frame_id=None, frame_index=4), "has no 'frame_id'.*its 'frame_index' is 4"),
        (
            put("images", 0, "video_id", value=None),
            "has no 'video_id'; stills are read from a file without 'videos', by load_coco_s",
        ),
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


def test_what_an_ambiguous_id_names_is_not_read_at_all(tmp_path):
    """With a sink too, the boxes of one image never come to lie on another, nor the frames of a video in another."""
    path, sink = save(tmp_path, put("images", 1, "id", value=1)), FaultSink()
    assert [lesions(v) for v in load_coco_video(json_file=path, faults=sink)] == [
        [(3, [[2, 9, 12, 14], [20, 15, 30, 20]], [2, 0])]
    ]
    assert [f.kind for f in sink.faults if not f.repaired] == ["an id is used twice", "bad annotation row"]
    path = save(tmp_path, put("videos", 1, "id", value=5))
    assert load_coco_video(json_file=path, faults=FaultSink()) == []


def rows(*ids, image=1, key="instance_id"):
    """Boxes side by side, each of the lesion that is named; "" names none."""
    named = [{} if i == "" else {key: i} for i in ids]
    return [{"image_id": image, "bbox": [1 + 9 * n, 1, 5, 5], **name} for n, name in enumerate(named)]


@pytest.mark.parametrize(
    ("first", "second", "tracks", "said"),
    [
        (rows("", ""), rows("", image=2), [[0, -1], [0]], "several per frame, which are linked by their order"),
        (rows(""), rows("", image=2), [[0], [0]], "at most one per frame, which are read as one lesion"),
        (rows(0, ""), rows("", 0, image=2), [[0, -1], [-1, 0]], "video 'v': 2 boxes"),
        (rows(None, 7), rows(7.0, image=2), [[0, 7], [7]], "video 'v': 1 boxes"),
        (rows("a", 1), rows("b", "a", image=2), [[3, 1], [2, 3]], None),
        (rows(-3, 2**62, key="track_id"), [], [[-3, 2**62], []], None),
        (rows({"track_id": 3.0}, {}, key="attributes"), [], [[3, 0], []], "video 'v': 1 boxes"),  # as CVAT writes it
        (rows(1, 2, 3), rows(4, 5, image=2), [[1, 2, 3], [4, 5]], "no id twice (are they ids of boxes?)"),
        (rows(5), [{**rows(5, image=2)[0], "category_id": 7}], [[5], [5]], "lesions have boxes of several classes"),
        (rows(5, 5), [], [[5, 5], []], "boxes share their frame and the id of their lesion"),
        (rows(5) * 2, [], [[5], []], "boxes repeat another of their image"),
    ],
)
def test_boxes_of_which_the_lesion_is_not_named_are_never_one_lesion_in_a_frame(
    tmp_path, caplog, first, second, tracks, said
):
    path = save(tmp_path, put("annotations", value=first + second))
    trained, *_ = load_coco_video(json_file=path)
    evaluated, *_ = join_detections(read_annotations(path), {})
    by_image = {image_id: track_ids for image_id, _, track_ids in lesions(trained)}
    assert [by_image[1], by_image[2]] == tracks and lesions(trained) == lesions(evaluated)
    assert (said in caplog.text) if said else "id of" not in caplog.text


def test_each_box_of_a_still_is_a_lesion_unless_ids_say_otherwise(tmp_path, caplog):
    path = save(tmp_path, put("annotations", value=rows("", "") + rows("x", "x", image=2)))
    a, b, _ = load_coco_stills(json_file=path)
    assert [lesions(v)[0][2] for v in (a, b)] == [[0, -1], [1, 1]]
    assert "tracked" not in caplog.text and "boxes share their frame" in caplog.text


ODD_IDS = [0, 1, -1, 2.0, 2**63 - 1, 2**63, "", "1", "a", None, True, 0.5, float("nan"), [], "missing"]


@pytest.mark.parametrize("seed", range(40))
def test_training_and_evaluation_agree_on_files_with_odd_ids(tmp_path, seed):
    """The same boxes, tracks and classes, or the same refusal."""
    rng = np.random.default_rng(seed)

    def change(content):
        for _ in range(rng.integers(1, 4)):
            of = content[("videos", "images", "annotations", "categories")[rng.integers(4)]]
            row = of[rng.integers(len(of))]
            ids = sorted({k for k in row if k.endswith("id")} | {"track_id", "instance_id", "category_id"})
            row[ids[rng.integers(len(ids))]] = ODD_IDS[rng.integers(len(ODD_IDS))]
            if rng.random() < 0.5:
                of.append({**row, "id": ODD_IDS[rng.integers(len(ODD_IDS))], "name": f"x{len(of)}"})

    path = save(tmp_path, change)
    results = []
    for read in (
        lambda: load_coco_video(json_file=path, class_agnostic=False),
        lambda: join_detections(read_annotations(path), {}),
    ):
        try:
            videos = read()
        except DataError as error:
            results.append(str(error))
        else:
            classes = [[c.tolist() for f in v.frames for c in (getattr(f, "gt_classes", f.classes),)] for v in videos]
            results.append(([lesions(v) for v in videos], classes))
    assert results[0] == results[1]


def test_a_sink_takes_every_fault_of_the_annotations(tmp_path):
    path = save(tmp_path, put("images", 1, "width", value=0))
    sink = FaultSink()
    faults = FileFaults(path, sink)
    annotations = read_coco_annotations(path, faults)
    assert list(annotations.images) == [1, 3] and faults.close() == []
    assert sum(not f.repaired for f in sink.faults) == 1
    assert {"boxes went past the frame's edge and were clipped to it"} <= {f.kind for f in sink.faults if f.repaired}


def test_frames_of_a_video_are_read_as_stills_only_if_asked_for_and_keep_its_patient(tmp_path, caplog):
    path = save(tmp_path, put("videos", 0, "patient", value="P1"))
    stills = load_coco_stills(json_file=path)
    assert [v.video_id for v in stills] == ["a.png", "b.png", "c.png"]
    assert [v.patient if v.patient_known else None for v in stills] == ["P1", "P1", "7"]
    assert "images have the video_id of an earlier one and are read as stills all the same" in caplog.text
    with pytest.raises(DataError, match=r"'a\.png' and 'b\.png' have one video_id, 5, but no 'videos' are listed"):
        read_annotations(save(tmp_path, lambda content: content.pop("videos")))
    with pytest.raises(DataError, match="no 'videos' are listed"):
        read_annotations(save(tmp_path, put("videos", value=[])))


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
