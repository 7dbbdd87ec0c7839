"""LabelMe: which image a JSON file is about."""

import json
import shutil

import pytest

from tests.datasets.test_annotation_readers import boxes, pictures, shape
from ultravid.datasets import DataError, load_labelme
from ultravid.datasets.faults import FaultSink


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelme")
    pictures(folder, 2)
    return folder


@pytest.fixture
def root(tmp_path, monkeypatch, drawn):
    monkeypatch.setenv("ULTRAVID_CACHE", "off")
    shutil.copytree(drawn, tmp_path / "data" / "img")
    (tmp_path / "data" / "ann").mkdir()
    return tmp_path / "data"


BOX = shape([[1, 2], [20, 30]])


def save(path, image_path, shapes=(BOX,), mark=b"", **more):
    path.parent.mkdir(exist_ok=True)
    content = {"version": "5.5.0", "shapes": list(shapes), "imagePath": image_path, "imageData": None, **more}
    path.write_bytes(mark + json.dumps(content).encode())


@pytest.mark.parametrize(
    "image_path", ["../img/0.png", "..\\img\\0.png", "../img/0.PNG", "C:\\scans\\0.png", "0.png", None]
)
@pytest.mark.parametrize("name", ["ann/0.json", "ann/0.JSON", "0.Json", "img/0.JSON"])
def test_every_json_file_in_the_data_set_finds_its_image(root, caplog, image_path, name):
    save(root / name, image_path, mark=b"\xef\xbb\xbf")
    (video,) = load_labelme(root=root)
    assert (video.video_id, boxes(video)) == ("img", [[[1, 2, 20, 30]], []])
    leads = (root / name).parent.joinpath(str(image_path).lower().replace("\\", "/")).exists()
    assert ("annotation files were matched to an image by name" in caplog.text) is not leads
    assert "video 'img': 1 of 2 images" in caplog.text  # have no annotation file


def test_no_annotation_at_all_is_said(root, caplog):
    (root / "ann" / "coco.json").write_text('{"images": []}')
    save(root / "ann" / "1.json", "../img/1.png", [])
    assert [boxes(v) for v in load_labelme(root=root)] == [[[], []]]
    assert (
        "data sets have no annotated box (1): " in caplog.text
        and "1 of 2 JSON files belong to one of them" in caplog.text
    )
    assert "JSON files are not LabelMe's and are not read" in caplog.text


def test_stills_are_videos_of_one_frame_with_sidecars_of_their_own(root, caplog):
    save(root / "img" / "0.json", "0.png", [{**s, "group_id": None} for s in (BOX, shape([[30, 2], [40, 30]]))])
    (root / "img" / "0.video.json").write_text('{"patient": "P1"}')
    a, b = load_labelme(root=root, stills=True)
    assert [(v.video_id, len(v), v.patient_known) for v in (a, b)] == [("img/0.png", 1, True), ("img/1.png", 1, False)]
    assert (a.patient, boxes(a)) == ("P1", [[[1, 2, 20, 30], [30, 2, 40, 30]]]) and "id of a lesion" not in caplog.text
    assert len({*a.frames[0].track_ids.tolist()}) == 2


def test_a_fault_names_the_videos_that_may_lack_a_box(root):
    shutil.copy(root / "img" / "1.png", root / "img" / "2.png")
    shutil.copy(root / "img" / "1.png", root / "img" / "1.bmp")
    save(root / "img" / "1.json", "nowhere.png")
    for stills, videos in ((False, {"img"}), (True, {"img/1.png", "img/1.bmp"})):
        sink = FaultSink()
        read = load_labelme(root=root, stills=stills, faults=sink)
        (fault,) = [fault for fault in sink.faults if not fault.repaired]
        assert {*fault.videos} == videos <= {video.video_id for video in read}


def test_two_folders_of_the_same_names_are_told_apart_by_the_folders_name(root):
    for video in "ab":
        shutil.copytree(root / "img", root / "images" / video)
        (root / "labels" / video).mkdir(parents=True)
    shutil.rmtree(root / "img")
    save(root / "labels" / "b" / "1.json", "1.png")
    a, b = load_labelme(root=root)
    assert (boxes(a), boxes(b)) == ([[], []], [[], [[1, 2, 20, 30]]])
    save(root / "ann" / "1.json", "1.png")
    with pytest.raises(
        DataError, match=r"video 'ann': several images have the name of .*1\.json: .*a/1\.png, .*b/1\.png"
    ):
        load_labelme(root=root)


def test_the_shapes_that_have_a_box_are_read(root, caplog):
    shapes = [
        shape([[5, 6], [9, 12]], "mask", group=1),
        shape([[30, 10], [40, 20], [30, 30], [20, 20]], "oriented_rectangle", group=2),
        {**shape([[5, 6], [9, 12]], group=2), "difficult": True},
    ]
    save(root / "img" / "1.json", "1.png", shapes, flags={"blurred": True, "other": False})
    (video,) = load_labelme(root=root)
    assert boxes(video)[1] == [[5, 6, 10, 13], [20, 10, 40, 30], [5, 6, 9, 12]]
    said = [
        "boxes share their frame and the id of their lesion",
        "shapes are marked as difficult",
        "have flags set",
    ]
    assert all(text in caplog.text for text in said)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda r: save(r / "ann" / "9.json", "../img/9.png"),
            r"video 'ann': .*9\.json has no image 9\.png or \.jpg, and its imag",
        ),
        (
            lambda r: save(r / "img" / "9.json", "9.png", imageData="abc"),
            "the picture inside it .imageData. is not read",
        ),
        (lambda r: save(r / "img" / "9.json", "../../x.png"), "leads to none: imagePath '../../x.png' is outside of"),
        (
            lambda r: save(r / "img" / "0.json", "1.png"),
            r"img/0\.json: its imagePath is '1\.png', but .*0\.png has its name",
        ),
        (
            lambda r: save(r / "ann" / "0.json", "../img/1.png"),
            r"its imagePath is '../img/1\.png', but .*img/0\.png has its name",
        ),
        (
            lambda r: [save(r / f / "0.json", "../img/0.png") for f in ("ann", "img")],
            r"video 'img' frame 0: .*0\.png is annotated by 2 files: .*ann/0\.json, .*img/0\.json",
        ),
        (lambda r: (r / "ann" / "9.json").write_text("{"), r"video 'ann': .*9\.json: is not JSON"),
        (
            lambda r: save(r / "img" / "0.json", "0.png", imageHeight=True, imageWidth=9),
            "imageHeight True or imageWidth 9 is not",
        ),
        (lambda r: save(r / "img" / "0.json", "0.png", imageHeight=10**30, imageWidth=9), "imageHeight 10+ or"),
        (
            lambda r: save(r / "img" / "0.json", "0.png", [shape([[1, 2], [3, 4]], "line")]),
            "is a 'line', which has no box",
        ),
        (lambda r: save(r / "img" / "0.json", "0.png", [shape([[1, 2], [3, 10**400]])]), "whose corners can't be read"),
        (
            lambda r: save(r / "img" / "0.json", "0.png", [shape([[1, 2], [3, 4]], group=2**63)]),
            "group_id 9223372036854775808 is not a whole number",
        ),
        (lambda r: save(r / "img" / "0.json", "0.png", [7]), "shape 0: is 7, not an object"),
    ],
)
def test_what_can_not_be_matched_or_read_is_one_fault(root, change, message):
    change(root)
    with pytest.raises(DataError, match=message) as caught:
        load_labelme(root=root)
    assert "more fault" not in str(caught.value)
    sink = FaultSink()
    load_labelme(root=root, faults=sink)
    assert sum(not fault.repaired for fault in sink.faults) == 1
