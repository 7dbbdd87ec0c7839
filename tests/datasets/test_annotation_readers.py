import csv
import json
import os
import pickle

import cv2
import numpy as np
import pytest

from tests.datasets.recordings import HEIGHT, HOSPITAL_COLUMNS, WIDTH, number_of, numbered, write_movie
from ultravid.datasets import DataError, load_coco_video, load_cvat_video, load_hospital_csv, load_labelme
from ultravid.datasets.faults import FaultSink
from ultravid.datasets.readers import read_frame_image


def pictures(folder, count, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for t in range(count):
        cv2.imwrite(str(folder / f"{t}{suffix}"), numbered(t))


def boxes(video):
    return [frame.boxes.tolist() for frame in video.frames]


# --- CVAT ---------------------------------------------------------------------------------------------------------------------


def cvat(tracks, meta="", head=""):
    size = f"<original_size><width>{WIDTH}</width><height>{HEIGHT}</height></original_size>"
    return (
        f'<?xml version="1.0" encoding="utf-8"?>{head}<annotations><version>1.1</version>'
        f"<meta><task><labels><label><name>nodule</name></label><label><name>cyst</name></label></labels>{meta}{size}</task>"
        f"<source>scan.mp4</source></meta>{tracks}</annotations>"
    )


def box(frame, x, outside=0, keyframe=1, occluded=0):
    return (
        f'<box frame="{frame}" outside="{outside}" occluded="{occluded}" keyframe="{keyframe}" '
        f'xtl="{x}" ytl="20" xbr="{x + 10}" ybr="30" z_order="0"></box>'
    )


@pytest.fixture
def scan(tmp_path):
    write_movie(tmp_path / "scan.mp4", range(12), rate=20)
    return tmp_path


def test_cvat_tracks_are_read_as_cvat_exports_them(scan):
    """Every frame has its box; the lesion leaves at 3, comes back at 5."""
    first = "".join(
        [box(0, 10), box(1, 12, keyframe=0), box(2, 14), box(3, 14, outside=1), box(5, 40), box(6, 40, outside=1)]
    )
    second = box(5, 60, occluded=1) + box(6, 60, outside=1)
    tracks = f'<track id="0" label="cyst">{first}</track><track id="3" label="nodule">{second}</track>'
    (scan / "scan.xml").write_text(cvat(tracks))
    (video,) = load_cvat_video(xml=scan / "scan.xml", class_agnostic=False)
    assert (video.video_id, video.fps, len(video), video.class_names) == ("scan", 20.0, 12, ("nodule", "cyst"))
    assert [len(b) for b in boxes(video)] == [1, 1, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0]
    assert boxes(video)[1] == [[12, 20, 22, 30]]
    assert video.frames[5].track_ids.tolist() == [0, 3] and video.frames[5].classes.tolist() == [1, 0]
    assert number_of(read_frame_image(video, 5)) == 5
    (visible,) = load_cvat_video(xml=scan, keep_occluded=False)
    assert visible.frames[5].track_ids.tolist() == [0] and visible.class_names == ("lesion",)


def test_cvat_key_frames_alone_are_filled_as_cvat_shows_them(scan):
    track = f'<track id="0" label="cyst">{box(2, 10) + box(6, 30) + box(8, 30, outside=1) + box(9, 50)}</track>'
    (scan / "scan.xml").write_text(cvat(track, meta="<size>12</size>"))
    (video,) = load_cvat_video(xml=scan / "scan.xml")
    left = [b[0][0] if b else None for b in boxes(video)]
    assert left == [None, None, 10, 15, 20, 25, 30, 30, None, 50, 50, 50]


BOMB = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;">]>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (cvat("", head=BOMB), "declares a document type or an entity"),
        (cvat("", head='<!DOCTYPE a SYSTEM "file:///etc/passwd">'), "declares a document type or an entity"),
        ("<annotations><track>", r"scan\.xml: is not XML"),
        ("<annotations><image id='0'/></annotations>", "choose 'CVAT for video 1.1'"),
        (
            cvat(f'<track id="0" label="cyst">{box(12, 10)}</track>'),
            r"video 'scan' frame 12: has a box, but .*12 frames",
        ),
        (
            cvat(f'<track id="0" label="cyst">{box(1, 200)}</track>'),
            r"video 'scan' frame 1 track 0: box .* outside the frame",
        ),
        (
            cvat('<track id="0" label="cyst"><box frame="1" xtl="a"/></track>'),
            "frame 1: its frame or a corner is not a number",
        ),
        (
            cvat('<track id="0" label="cyst"><points frame="1" points="1,2"/></track>'),
            "is a <points>; boxes and polygons",
        ),
        (cvat("", meta="<size>many</size>"), "<size> is 'many', not a whole number"),
    ],
)
def test_bad_cvat_files_are_refused(scan, text, message):
    (scan / "scan.xml").write_text(text)
    with pytest.raises(DataError, match=message):
        load_cvat_video(xml=scan / "scan.xml")


def test_a_cvat_file_whose_movie_is_missing_or_of_another_size_is_refused(scan):
    (scan / "scan.xml").write_text(cvat("").replace(f"<width>{WIDTH}<", "<width>640<"))
    with pytest.raises(DataError, match=r"drawn on an image of 640x96 px, .*scan\.mp4 is 128x96"):
        load_cvat_video(xml=scan / "scan.xml")
    (scan / "scan.mp4").unlink()
    with pytest.raises(DataError, match=r"'scan\.mp4', which it names, is not in its folder"):
        load_cvat_video(xml=scan / "scan.xml")


# --- LabelMe ------------------------------------------------------------------------------------------------------------------


def labelme(path, shapes, size=(HEIGHT, WIDTH)):
    content = {"version": "5.4", "shapes": shapes, "imagePath": "x", "imageData": None}
    path.write_text(json.dumps({**content, "imageHeight": size[0], "imageWidth": size[1]}))


def shape(points, kind="rectangle", label="nodule", group=7):
    return {"label": label, "points": points, "group_id": group, "shape_type": kind, "flags": {}}


def test_labelme_folders_are_videos_and_groups_are_tracks(tmp_path, caplog):
    pictures(tmp_path / "p1-1-l", 11)
    pictures(tmp_path / "b", 2, ".jpg")
    labelme(
        tmp_path / "p1-1-l" / "10.json",
        [shape([[30, 40], [10, 20]]), shape([[1, 2], [9, 2], [5, 8]], "polygon", "cyst", 2)],
    )
    labelme(tmp_path / "b" / "1.json", [shape([[20, 20], [20, 25]], "circle", group=None)])
    b, a = load_labelme(root=tmp_path, class_agnostic=False, patients="stem_without_side")
    assert (a.video_id, a.patient, len(a), a.class_names) == ("p1-1-l", "p1", 11, ("cyst", "nodule"))
    assert boxes(a)[:10] == [[]] * 10  # 10.png is the last, not the third
    assert boxes(a)[10] == [[10, 20, 30, 40], [1, 2, 9, 8]]
    assert a.frames[10].track_ids.tolist() == [7, 2] and a.frames[10].classes.tolist() == [1, 0]
    assert boxes(b) == [[], [[15, 15, 25, 25]]] and b.frames[0].width == WIDTH
    assert "videos have boxes without the id of a lesion, at most one per frame" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: labelme(f / "0.json", [shape([[1, 2], ["3", 4]])]),
            r"video 'v' frame 0 shape 0: is a 'rectangle' whose corners",
        ),
        (lambda f: labelme(f / "0.json", [shape([[1, 2]], "point")]), "is a 'point'"),
        (lambda f: labelme(f / "0.json", [], size=(5, 6)), "its annotation says 6x5"),
        (lambda f: labelme(f / "9.json", []), r"9\.json has no image 9\.png or \.jpg"),
        (lambda f: (f / "1.json").write_text("{"), r"frame 1: .*1\.json: is not JSON"),
        (lambda f: (f / "1.json").write_text("[]"), "is not a LabelMe file"),
        (lambda f: (f / "2.png").write_bytes((f / "2.png").read_bytes()[:-9]), r"frame 2: .*2\.png is a truncated PNG"),
    ],
)
def test_bad_labelme_files_are_refused_by_video_and_frame(tmp_path, change, message):
    pictures(tmp_path / "v", 3)
    change(tmp_path / "v")
    with pytest.raises(DataError, match=message):
        load_labelme(root=tmp_path, class_agnostic=True)


# --- tables of hospitals --------------------------------------------------------------------------------------------------------

ROWS = [
    ("v0.pkl", "v0", "False", "movies/p0-1-l.avi", "hospitalA", "json", "False", "k", "dev1"),
    ("", "v1", "True", "movies/p1.avi", "hospitalB", "xml", "False", "k", "dev2"),
    ("v2.pkl", "v2", "0", "movies/p2.avi", "hospitalB", "xml", "1", "k", "dev3"),
    ("v3.pkl", "v3", "0", "movies/p3.avi", "hospitalB", "xml", "0", "k", "dev3"),
]
NAME = "breast_ALL@20230102-030405"


@pytest.fixture
def hospital(tmp_path):
    base = tmp_path / "breast"
    for k, row in enumerate(ROWS):
        pictures(base / row[1], 3, ".jpg")
        info = {
            "num_frames": 3,
            "bbox": [5, 5, 100, 100],
            "cropped_shape": [HEIGHT, WIDTH],
            "height_resize_ratio": 1.0,
            "static_frames": [[1, 2]] if k == 0 else [],
            "empty_flag": k == 3,
        }
        (base / row[1] / "info.json").write_text(json.dumps(info))
        lesion = {"box": [10, 20, 30.5, 40], "class": "Lymph-node", "track_id": 4}
        (base / f"v{k}.pkl").write_bytes(pickle.dumps({"frames": {1: [lesion]}}))
    with (base / "20230102-030405.csv").open("w", newline="") as file:
        csv.writer(file).writerows([HOSPITAL_COLUMNS, *ROWS])
    return tmp_path


def test_a_hospitals_table_is_read_by_hospital_and_device(hospital, caplog):
    v0, v1 = load_hospital_csv(root=hospital, datasets=[NAME], class_agnostic=False, patients="stem_without_side")
    assert (v0.video_id, v0.patient, v0.static_frames) == ("breast/v0", "p0", ((1, 2),))
    assert v0.metadata == {"organ": "breast", "hospital": "hospitalA", "device": "dev1"}
    assert boxes(v0) == [[], [[10, 20, 30.5, 40]], []]
    assert v0.class_names[v0.frames[1].classes[0]] == "Lymph-node" and v0.frames[1].track_ids.tolist() == [4]
    assert boxes(v1) == [[], [], []]
    assert "1 video with a polyline_error skipped" in caplog.text and "1 video with an empty_flag" in caplog.text

    def ids(name, **more):
        return [v.video_id for v in load_hospital_csv(root=hospital, datasets=[name], **more)]

    assert ids("breast_hospitalA@20230102-030405") == ["breast/v0"]
    assert ids(NAME + "@dev2") == ["breast/v1"]
    assert ids(NAME + "@rare", device_groups={"rare": ["dev1", "dev2"]}) == ["breast/v0", "breast/v1"]


def test_boxes_of_a_frame_without_track_id_are_several_lesions(hospital, caplog):
    lesion = {"box": [10, 20, 30, 40], "class": "Mass"}
    put(hospital, {"frames": {1: [lesion, {**lesion, "box": [50, 20, 70, 40]}], 2: [lesion]}})
    v0, _ = load_hospital_csv(root=hospital, datasets=[NAME])
    assert [frame.track_ids.tolist() for frame in v0.frames] == [[], [0, -1], [0]]
    assert (
        "several per frame, which are linked by their order in the frame (1): video 'breast/v0': 3 boxes" in caplog.text
    )


class _Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def put(hospital, content, name="v0.pkl"):
    data = content if isinstance(content, bytes) else pickle.dumps(content)
    (hospital / "breast" / name).write_bytes(data)


def test_code_in_a_pickle_is_refused_and_not_run(hospital, tmp_path):
    for content in (_Evil(str(tmp_path / "made")), {"frames": {0: [_Evil(str(tmp_path / "made"))]}}):
        put(hospital, content)
        with pytest.raises(
            DataError, match=r"video 'breast/v0': .*v0\.pkl: the pickle wants \w+\.mkdir, which is code.*not run"
        ):
            load_hospital_csv(root=hospital, datasets=[NAME])
    assert not (tmp_path / "made").exists()
    pickle.loads((hospital / "breast" / "v0.pkl").read_bytes())  # it is a real one
    assert (tmp_path / "made").exists()
    put(hospital, np.zeros(3))
    with pytest.raises(DataError, match="the pickle wants numpy"):
        load_hospital_csv(root=hospital, datasets=[NAME])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"frames": {1: [{"box": ["1", 2, 3, 4], "class": "Mass"}]}},
            r"video 'breast/v0' frame 1 box 0: box .* is not four numbers",
        ),
        ({"frames": {1: [{"box": [1, 2, 3, 4], "class": "mass"}]}}, "unknown class 'mass' .did you mean 'Mass'"),
        ({"frames": {5: [{"box": [1, 2, 3, 4], "class": "Mass"}]}}, "frame 5: has boxes, but there are 3 frames"),
        ({"frames": {"1": []}}, "frame number '1' is not a whole number"),
        ({"boxes": []}, "must hold {'frames'"),
        (b"\x80\x04]", r"v0\.pkl: is not a pickle that can be read"),
        (b"", r"v0\.pkl: is not a pickle that can be read"),
    ],
)
def test_bad_pickles_are_refused_by_video_and_frame(hospital, content, message):
    put(hospital, content)
    with pytest.raises(DataError, match=message):
        load_hospital_csv(root=hospital, datasets=[NAME])


def test_what_else_can_be_wrong_with_a_hospitals_table_is_reported(hospital):
    def refused(name, message, **more):
        with pytest.raises(DataError, match=message):
            load_hospital_csv(root=hospital, datasets=[name], **more)

    refused("breast@2023", "is not the name of a dataset: write organ_hospital@YYYYMMDD-HHMMSS")
    refused("breast_ALL@20230102-030406", r"tables in its folder: 20230102-030405\.csv")
    refused("breast_hospitalZ@20230102-030405", "has the hospital hospitalZ; there are hospitalA, hospitalB")
    table = hospital / "breast" / "20230102-030405.csv"
    before = table.read_text()
    table.write_text(before.replace("v1,True", "v1,perhaps"))
    refused(NAME, "neg is 'perhaps' in the CSV, not True or False")
    table.write_text(before.replace("v0.pkl,v0,False", "v0.pkl,v0,True"))
    refused(NAME, "holds boxes, but the CSV says that the video is negative")
    table.write_text(before.replace("jpg_folder", "folder"))
    refused(NAME, "has no column 'jpg_folder'")
    table.write_text(before + before.splitlines()[1] + "\n")
    refused(NAME, "video 'breast/v0' is listed twice")
    table.write_text(before)
    cv2.imwrite(str(hospital / "breast" / "v0" / "1.jpg"), numbered(1)[:50])
    refused(NAME, r"video 'breast/v0' frame 1: .*1\.jpg is 128x50 px, its annotation says 128x96")
    (hospital / "breast" / "v0" / "2.jpg").unlink()
    refused(NAME, "holds 2 images, its info.json says 3 frames")


# --- COCO-VID in general, and faults that are gathered ----------------------------------------------------------------------------


def coco(folder, **video):
    pictures(folder / "v", 3)
    image = {"video_id": 1, "height": HEIGHT, "width": WIDTH}
    content = {
        "categories": [{"id": 3, "name": "cyst"}, {"id": 9, "name": "mass"}],
        "videos": [{"id": 1, "name": "v", **video}],
        "images": [{**image, "id": t, "frame_id": t, "file_name": f"v/{t}.png"} for t in range(3)],
        "annotations": [
            {"id": 1, "image_id": 0, "bbox": [1, 2, 3, 4], "category_id": 9, "track_id": 5},
            {"id": 2, "image_id": 1, "bbox": [1, 2, 0, 4], "category_id": 3, "track_id": 5},
            {"id": 3, "image_id": 2, "bbox": [9, 2, -5, 4], "category_id": 3, "track_id": 5},
        ],
    }
    (folder / "a.json").write_text(json.dumps(content))
    return folder / "a.json"


def test_coco_vid_says_rate_patient_metadata_and_classes(tmp_path):
    path = coco(tmp_path, fps=24, patient=8, device="d", metadata={"spacing_mm": 0.1}, static_frames=[[0, 2]])
    content = json.loads(path.read_text())
    del content["annotations"][1]
    path.write_text(json.dumps(content))
    (video,) = load_coco_video(json_file=path, class_agnostic=False)
    assert (video.fps, video.patient, video.metadata) == (24.0, "8", {"device": "d", "spacing_mm": 0.1})
    assert (video.class_names, video.static_frames) == (("cyst", "mass"), ((0, 2),))
    assert video.frames[0].classes.tolist() == [1] and video.frames[0].track_ids.tolist() == [5]


def test_a_fault_sink_collects_all_faults_and_what_is_sound_is_read(tmp_path):
    path = coco(tmp_path, fps=-1)
    (tmp_path / "v" / "2.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"annotation 2: box \[1, 2, 0, 4\] is empty .*\(2 more faults in this file\)"):
        load_coco_video(json_file=path)
    sink = FaultSink()
    (video,) = load_coco_video(json_file=path, faults=sink)
    rejected = [f.kind for f in sink.faults if not f.repaired]
    assert rejected == ["box is empty", "bad frame rate", "frame is truncated"]
    assert [f.kind for f in sink.faults if f.repaired] == [
        "boxes had a negative width or height and were corrected",
        "lesions have boxes of several classes, and each box keeps its own",
    ]
    assert len(video) == 2 and boxes(video) == [[[1, 2, 4, 6]], []]
