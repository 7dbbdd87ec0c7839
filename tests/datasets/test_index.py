import json
import logging
import multiprocessing
import os

import cv2
import numpy as np
import pytest

import ultravid.datasets.formats.coco_video as reader
from tests.datasets.recordings import write_movie
from ultravid.datasets import DataError, load_coco_video, load_cva_bus, load_recordings


@pytest.fixture
def root(phantom, tmp_path):
    """A copy of the phantom that a test may change."""
    for path in sorted(phantom.rglob("*")):
        if path.is_file():
            to = tmp_path / "data" / path.relative_to(phantom)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(path.read_bytes())
    return tmp_path / "data"


@pytest.fixture
def looked_at(monkeypatch):
    """Images whose headers were checked."""
    seen = []
    check = reader.check_image
    monkeypatch.setattr(reader, "check_image", lambda path, *size: seen.append(str(path)) or check(path, *size))
    return seen


def load(root):
    return load_cva_bus(root=root, splits=["trainval", "test"], class_agnostic=False)


def content(videos):
    """All that a video says, types included."""
    found = []
    for v in videos:
        found.append([v.video_id, v.patient, v.fps, dict(v.metadata), v.class_names, v.static_frames])
        for f in v.frames:
            arrays = [(a.tolist(), a.dtype, a.shape) for a in (f.boxes, f.classes, f.track_ids)]
            found.append([f.path, f.image_id, f.height, f.width, f.crop, f.index_in_file, *arrays])
    return found


def test_a_data_set_is_indexed_once(root, looked_at, own_cache):
    first = load(root)
    assert len(looked_at) == 96
    assert content(load(root)) == content(first) and len(looked_at) == 96
    (kept,) = own_cache.iterdir()
    assert kept.stat().st_mode & 0o077 == 0  # a dataset's patients are its owner's business
    load_cva_bus(root=root, splits=["test"])
    assert len(looked_at) == 96 + 24  # other arguments, another index


def change_annotation(root):
    path = root / "trainval.json"
    data = json.loads(path.read_text())
    data["annotations"][0]["bbox"] = [1, 2, 3, 4]
    path.write_text(json.dumps(data))


def change_a_picture(root):
    path = min(root.rglob("000003.png"))
    cv2.imwrite(str(path), np.zeros((64, 64), np.uint8))


def change_only_the_time_of_a_picture(root):
    os.utime(min(root.rglob("000003.png")), ns=(1, 1))


def test_a_new_recording_is_seen_beside_a_link_to_nothing(tmp_path, own_cache):
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "gone.txt").symlink_to(tmp_path / "nothing")
    for n in range(2):
        write_movie(tmp_path / "scans" / f"{n}.mp4", range(2))
        assert len(load_recordings(path=tmp_path / "scans")) == n + 1


@pytest.mark.parametrize("change", [change_annotation, change_a_picture, change_only_the_time_of_a_picture])
def test_a_changed_dataset_is_indexed_again(root, looked_at, change):
    load(root)
    change(root)
    looked_at.clear()
    load(root)
    assert len(looked_at) == 96
    load(root)
    assert len(looked_at) == 96


def test_a_removed_or_truncated_image_is_refused_although_it_was_indexed(root):
    load(root)
    picture = min(root.rglob("000003.png"))
    picture.write_bytes(picture.read_bytes()[:-5])
    with pytest.raises(DataError, match="truncated PNG"):
        load(root)
    picture.unlink()
    with pytest.raises(DataError, match="does not exist"):
        load(root)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data.replace(b'"patient": "', b'"patient": "x', 1),
        lambda data: b"{}\n{}",
        lambda data: b"[1]\n\xff",
        lambda data: data.split(b"\n")[0].replace(b'"code": "', b'"code": "0') + b"\n" + data.split(b"\n")[1],
    ],
    ids=["cut", "empty", "edited", "foreign", "no JSON", "of another version"],
)
def test_an_index_that_does_not_fit_is_rebuilt(root, looked_at, own_cache, spoil):
    first = load(root)
    (kept,) = own_cache.iterdir()
    good = kept.read_bytes()
    kept.write_bytes(spoil(good))
    looked_at.clear()
    assert content(load(root)) == content(first) and len(looked_at) == 96
    assert kept.read_bytes() == good


def test_repairs_are_reported_once_a_process_also_from_a_cached_index(root, looked_at, caplog, monkeypatch):
    path = root / "trainval.json"
    data = json.loads(path.read_text())
    x, y, w, h = data["annotations"][0]["bbox"]
    data["annotations"][0]["bbox"] = [x + w, y, -w, h]
    path.write_text(json.dumps(data))
    for _ in range(2):
        monkeypatch.setattr("ultravid.datasets.index._warned", set())  # as in another process
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            load(root)
            load(root)
        assert caplog.text.count("boxes had a negative width") == 1
    assert len(looked_at) == 96


def test_a_recording_that_comes_is_seen(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    write_movie(folder / "a.mp4", range(2))
    assert len(load_recordings(path=folder)) == 1
    (folder / "inner").mkdir()
    write_movie(folder / "inner" / "b.mp4", range(3))
    assert [v.video_id for v in load_recordings(path=folder)] == ["a.mp4", "inner/b.mp4"]
    (folder / "a.video.json").write_text('{"fps": 3}')
    assert load_recordings(path=folder)[0].fps == 3.0


def _load_in_process(root, queue):
    queue.put(content(load(root)))


def test_two_processes_may_index_at_once(root, own_cache):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_load_in_process, args=(root, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    results = [queue.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join()
    assert results[0] == results[1] == content(load(root))
    assert len(list(own_cache.iterdir())) == 1


def test_a_cache_that_cannot_be_written_or_is_off_stops_nothing(root, looked_at, monkeypatch, caplog, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ULTRAVID_CACHE", str(tmp_path / "file"))
    load(root)
    assert "can't be cached" in caplog.text
    monkeypatch.setenv("ULTRAVID_CACHE", "off")
    load(root)
    assert len(looked_at) == 2 * 96
    with pytest.raises(DataError, match="does not exist"):
        load_coco_video(json_file=root / "gone.json")
