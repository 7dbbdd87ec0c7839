"""Exports of CVAT: whose frame a box is on."""

import json
import shutil

import pytest

from tests.datasets.recordings import HEIGHT, WIDTH, number_of, write_movie
from tests.datasets.test_annotation_readers import box, cvat, pictures
from ultravid.datasets import DataError, load_coco_video, load_cvat_video
from ultravid.datasets.faults import FaultSink
from ultravid.datasets.readers import read_frame_image


@pytest.fixture(scope="module")
def movie(tmp_path_factory):
    path = tmp_path_factory.mktemp("cvat") / "scan.mp4"
    write_movie(path, range(12), rate=20)
    return path


@pytest.fixture
def scan(tmp_path, monkeypatch, movie):
    monkeypatch.setenv("ULTRAVID_CACHE", "off")
    shutil.copy(movie, tmp_path)
    return tmp_path


def track(content, track_id=0, task=None):
    of = "" if task is None else f' task_id="{task}"'
    return f'<track id="{track_id}" label="cyst"{of}>{content}</track>'


def read(folder, content, meta="", **more):
    (folder / "scan.xml").write_text(cvat(content, meta))
    (video,) = load_cvat_video(xml=folder / "scan.xml", **more)
    return video


def boxed(video):
    """Left edges by the film's frame number."""
    return {frame.number: [b[0] for b in frame.boxes.tolist()] for frame in video.frames if len(frame.boxes)}


def test_frame_numbers_are_those_of_the_film(scan, caplog):
    meta = "<start_frame>2</start_frame><stop_frame>10</stop_frame><frame_filter>step=4</frame_filter><size>3</size>"
    video = read(scan, track(box(6, 10) + box(10, 10, outside=1)), meta)
    assert [number_of(read_frame_image(video, t)) for t in range(3)] == [2, 6, 10]
    assert [f.number for f in video.frames] == [2, 6, 10] and video.fps == 20.0
    assert boxed(video) == {6: [10]}
    assert boxed(read(scan, track(box(2, 10) + box(10, 30)), meta)) == {2: [10], 6: [20], 10: [30]}  # key frames alone
    assert "video 'scan' track 0: 1 from 2 key frames" in caplog.text
    read(scan, track(box(2, 10) + box(10, 30)) + track(box(0, 5) + box(11, 9), 1))
    assert "18 boxes between and after key frames were filled in" in caplog.text  # 8 of one track, 10 of the other
    job = cvat(track(box(4, 10) + box(5, 10, outside=1)), "<size>3</size><start_frame>4</start_frame>")
    (scan / "scan.xml").write_text(job.replace("task>", "job>"))
    (video,) = load_cvat_video(xml=scan)
    assert boxed(video) == {4: [10]} and [f.number for f in video.frames] == [4, 5, 6]


def test_images_that_cvat_wrote_are_found_by_the_number_in_their_name(tmp_path, caplog):
    pictures(tmp_path / "scan", 12)
    for n in range(12):
        (tmp_path / "scan" / f"{n}.png").rename(tmp_path / "scan" / f"frame_{n + 100:06d}.png")
    video = read(
        tmp_path,
        track(box(105, 10) + box(110, 10, outside=1)),
        "<start_frame>100</start_frame><frame_filter>step=5</frame_filter>",
    )
    assert [(f.number, number_of(read_frame_image(video, t))) for t, f in enumerate(video.frames)] == [
        (100, 0),
        (105, 5),
        (110, 10),
    ]
    assert boxed(video) == {105: [10]} and "natural order" not in caplog.text


def test_deleted_frames_are_left_out_and_counted(scan, caplog):
    meta = "<deleted_frames>3, 5</deleted_frames>"
    keys = box(2, 10) + box(5, 90) + box(6, 30) + box(7, 30, outside=1)
    video = read(scan, track(keys), meta)
    assert boxed(video) == {2: [10], 4: [20], 6: [30]} and len(video) == 10  # the key frame on 5 counts for nothing
    assert "2 frames were deleted in CVAT and are left out; the first: " in caplog.text
    assert "boxes were on frames that were deleted in CVAT and are left out (1): " in caplog.text
    begin = "<start_frame>4</start_frame><deleted_frames><frame>1</frame></deleted_frames>"
    assert [f.number for f in read(scan, "", begin).frames] == [4, 6, 7, 8, 9, 10, 11]
    assert "lists of deleted frames count the task's frames" in caplog.text
    # Real exports do not list them: of a track that CVAT filled in, only the boxes on deleted frames are missing.
    caplog.clear()
    exported = box(2, 10) + box(3, 12, keyframe=0) + box(6, 18, keyframe=0) + box(7, 30, outside=1)
    video = read(scan, track(exported))
    assert boxed(video) == {2: [10], 3: [12], 6: [18]} and {4, 5} & {f.number for f in video.frames} == set()
    assert "2 frames are left out: a visible lesion has no box in them" in caplog.text
    with pytest.raises(DataError, match="track 0 frame 4: its lesion is visible before and after, but has no box"):
        read(scan, track(exported) + track(box(4, 50) + box(5, 50, outside=1), 1))


def test_a_source_that_is_not_there_says_where_it_was_looked_for(scan, tmp_path, monkeypatch):
    (scan / "scan.mp4").rename(scan / "film.mp4")
    with pytest.raises(DataError, match="Name the movie: --option source=FILE, or source in a config"):
        read(scan, track(box(2, 10)))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(DataError) as caught:
        read(scan, track(box(2, 10)), source="film.mp4")
    where = f"in the working folder, {tmp_path / 'elsewhere'}; {scan / 'film.mp4'} exists"
    assert f"The source film.mp4 does not exist {where}." in str(caught.value)
    assert len(read(scan, track(box(2, 10)), source=scan / "film.mp4")) == 12


def project(folder, tracks, tasks, sizes=(6, 8)):
    size = f"<original_size><width>{WIDTH}</width><height>{HEIGHT}</height></original_size>"
    rows = "".join(
        f"<task><id>{i}</id><name>{name}</name><size>{n}</size><start_frame>{start}</start_frame><source>{source}</source>{size}</task>"
        for (i, name, source, start), n in zip(tasks, sizes, strict=True)
    )
    path = folder / "p.xml"
    path.write_text(f"<annotations><meta><project><tasks>{rows}</tasks></project></meta>{tracks}</annotations>")
    return path


TASKS = ((7, "left", "scan.mp4", 2), (9, "right", "b.mp4", 1))


def test_each_task_of_a_project_is_a_video_of_its_own_film(scan, caplog):
    write_movie(scan / "b.mp4", range(40, 52), rate=10)
    first = track(box(3, 10) + box(4, 10, outside=1), 0, 7)
    path = project(
        scan, first + track(box(9, 50) + box(10, 50, outside=1), 1, 9), TASKS
    )  # 2 + 6 numbers before b's own
    left, right = load_cvat_video(xml=path)
    assert [(v.video_id, v.fps, len(v)) for v in (left, right)] == [("p/left", 20.0, 6), ("p/right", 10.0, 8)]
    assert (boxed(left), boxed(right)) == ({3: [10]}, {1: [50]})
    assert [number_of(read_frame_image(v, 0)) for v in (left, right)] == [2, 41]
    assert caplog.text == ""
    project(scan, first + track(box(2, 50) + box(3, 50, outside=1), 1, 9), TASKS)  # not CVAT's numbers: they begin anew
    assert [boxed(v) for v in load_cvat_video(xml=path)] == [{3: [10]}, {2: [50]}]
    assert "projects give each task's own frame numbers" in caplog.text
    with pytest.raises(DataError, match="video 'p' track '0': is of task '8'; the file's tasks are 7, 9"):
        load_cvat_video(xml=project(scan, track(box(3, 10), 0, 8), TASKS))
    with pytest.raises(DataError, match="video 'p' track '0': is of task None"):
        load_cvat_video(xml=project(scan, track(box(3, 10)), TASKS))


def test_the_film_of_a_task_that_does_not_name_one_is_stated_by_a_table(scan):
    write_movie(scan / "other.mp4", range(40, 52), rate=10)
    path = project(scan, "", ((7, "left", "scan.mp4", 0), (9, "right", "", 0)))
    with pytest.raises(DataError, match=r"task '9' \(right\): it names no movie, and 0 files have the task's name"):
        load_cvat_video(xml=path)
    with pytest.raises(DataError, match="one source was named for all of them"):
        load_cvat_video(xml=path, source=scan / "scan.mp4")
    sink = FaultSink()
    assert [v.video_id for v in load_cvat_video(xml=path, faults=sink)] == ["p/left"] and len(sink.faults) == 1
    (scan / "films.json").write_text(json.dumps({"9": "other.mp4"}))
    _, right = load_cvat_video(xml=path, source=scan / "films.json")
    assert number_of(read_frame_image(right, 0)) == 40
    with pytest.raises(DataError, match="source: names 'rihgt', which is no task of"):
        load_cvat_video(xml=path, source={"rihgt": "other.mp4"})
    with pytest.raises(DataError, match=r"1{300}.* does not exist"):
        load_cvat_video(xml=path, source={"7": "1" * 300, "9": "other.mp4"})
    # A task is never given another's film, though it has the film's name.
    path = project(scan, "", ((7, "left", "scan.mp4", 0), (9, "scan", "gone.mp4", 0)))
    with pytest.raises(
        DataError, match=r"task '9' \(scan\): 'gone\.mp4', which it names, is not in its folder, and 0 files"
    ):
        load_cvat_video(xml=path)


@pytest.mark.parametrize("rotation", ["360", "0.0", "-360", "1e-9", "720.00"])
def test_a_box_after_whole_turns_is_upright(scan, rotation):
    assert boxed(read(scan, track(box(1, 10).replace("<box", f'<box rotation="{rotation}"')))) == {1: [10]}


@pytest.mark.parametrize(
    ("content", "meta", "message"),
    [
        (track(box(1, 10).replace("<box", '<box rotation="30"')), "", "frame 1: the box is rotated by '30' degrees"),
        (track(box(1, 10).replace("<box", '<box rotation="abc"')), "", "frame 1: the box is rotated by 'abc' degrees"),
        (track(box(1, 10).replace("<box", '<box rotation="inf"')), "", "is rotated by 'inf' degrees"),
        (track(box(0, 10) + box(10**9, 10)), "", "frame 1000000000: has a box, but"),
        (track(box("9" * 5000, 10)), "", "its frame or a corner is not a number"),
        (track(box(-1, 10)), "", "frame -1: there is no frame of that number"),
        (track(box(1, 10) + box(1, 20)), "", "track '0' frame 1: has two boxes"),
        (track(box(1, 10)) * 2, "", "track '0': another track has the same id"),
        (track("") + track(box(1, 10)), "", "track '0': another track has the same id"),
        (track(box(1, 10), "9" * 30), "", "its id is not a whole number"),
        (
            track(box(3, 10)),
            "<start_frame>4</start_frame>",
            "frame 3: has a box, but .* gives 8 frames.* 4 to 11",
        ),
        (
            track(box(3, 10)),
            "<frame_filter>step=2</frame_filter>",
            "frame 3: has a box, but .* 6 frames to the task: frames 0 to 10, step 2",
        ),
        (track(box(1, 10, outside="maybe")), "", "outside is 'maybe', not 0 or 1"),
        (track('<ellipse frame="1" cx="9" cy="9" rx="2" ry="2"/>'), "", "frame 1: is a <ellipse>"),
        (track('<skeleton frame="1"><points frame="1" points="1,2"/></skeleton>'), "", "frame 1: is a <skeleton>"),
        ("", "<frame_filter>odd ones</frame_filter>", "<frame_filter> is 'odd ones', not step=N"),
        ("", "<start_frame>-1</start_frame>", "<start_frame> is '-1', not a whole number"),
        ("", "<start_frame>12</start_frame>", "starts at frame 12, but .* has 12 frames"),
        ("", "<start_frame>5</start_frame><stop_frame>4</stop_frame>", "<stop_frame> is 4, before"),
        (
            "",
            "<deleted_frames>99</deleted_frames>",
            "deleted_frames holds 99, which is not one of the task's frames 0 to 11",
        ),
    ],
)
def test_what_cvat_never_writes_is_one_fault(scan, content, meta, message):
    with pytest.raises(DataError, match=message) as caught:
        read(scan, content, meta)
    assert "more fault" not in str(caught.value)


def test_boxes_are_filled_in_for_frames_of_the_film_alone(scan):
    assert len(boxed(read(scan, track(box(0, 10) + box(4, 10)), f"<size>{10**9}</size>"))) == 12


def test_a_track_is_built_once(scan):
    many = "".join(box(n, 10) for n in range(25_000))  # a sort after each box would take minutes
    sink = FaultSink()
    read(scan, track(many), faults=sink)
    assert len([f for f in sink.faults if f.kind == "box in no frame"]) == 25_000 - 12


def test_a_relative_name_with_a_colon_is_no_address(scan, monkeypatch):
    monkeypatch.chdir(scan)
    (scan / "scan.mp4").rename("a:b.mp4")
    (scan / "c:d.xml").write_text(cvat(track(box(1, 10))).replace("scan.mp4", "a:b.mp4"))
    (video,) = load_cvat_video(xml="c:d.xml")
    assert (video.video_id, boxed(video), number_of(read_frame_image(video, 1))) == ("c:d", {1: [10]}, 1)
    pictures(scan / "p:q", 2)
    image = {"video_id": 1, "height": HEIGHT, "width": WIDTH}
    images = [{**image, "id": t, "frame_id": t, "file_name": f"p:q/{t}.png"} for t in range(2)]
    (scan / "e:f.json").write_text(json.dumps({"videos": [{"id": 1}], "images": images, "annotations": []}))
    (video,) = load_coco_video(json_file="e:f.json", image_root="./")
    assert len(video) == 2
