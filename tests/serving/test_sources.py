import functools
import http.server
import json
import shutil
import socket
import threading
import time
from fractions import Fraction

import cv2
import numpy as np
import pytest
from pydicom.uid import RLELossless

from tests.datasets.recordings import number_of, numbered, write_dicom
from tests.serving import movies
from ultravid.datasets.readers import open_source
from ultravid.datasets.video import DataError
from ultravid.serving.sources import LiveOptions, list_sources, open_stream
from ultravid.serving.sources.live_clock import LiveClock

GREY = np.stack([numbered(n)[..., 0] for n in range(6)])


class SilentHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def frames_of(path, **options):
    stream = open_stream(path, **options)
    frames = list(stream)
    stream.close()
    return stream, frames


def write_pictures(folder, numbers, size=None):
    folder.mkdir(parents=True, exist_ok=True)
    for n in numbers:
        image = numbered(n) if size is None else cv2.resize(numbered(n), size)
        cv2.imwrite(str(folder / f"{n}.png"), image)
    return folder


def test_a_dicom_file_comes_at_its_own_times_and_with_its_region(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", GREY, FrameTimeVector=[0, 20, 45, 70, 20, 45], region=(0, 0, 128, 80))
    stream, frames = frames_of(path)
    assert [frame.pts_s for frame in frames] == pytest.approx([0, 0.02, 0.065, 0.135, 0.155, 0.2])
    assert [number_of(frame.image) for frame in frames] == list(range(6))
    assert stream.shown.crop == (0, 0, 128, 80) and stream.size == (96, 128) == frames[0].image.shape[:2]
    assert stream.time_base == Fraction(1, 1_000_000) and stream.metadata["spacing_mm"] == pytest.approx(0.2)
    assert all(np.array_equal(f.image, image) for f, image in zip(frames, open_source(path, crop=False), strict=True))
    stream, frames = frames_of(path, blank_outside_region=True, vid_stride=4)
    assert (stream.shown.crop, stream.shown.blanked) == (None, ((0, 80, 128, 96),))
    assert [frame.index for frame in frames] == [0, 4] and frames[1].pts_s == pytest.approx(0.155)
    even = write_dicom(tmp_path / "b.dcm", GREY, FrameTime=33.3)
    stream, frames = frames_of(even)
    assert stream.time_base == Fraction(333, 10000) and frames[5].pts_s == pytest.approx(5 * 0.0333)
    stream, frames = frames_of(write_dicom(tmp_path / "c.dcm", GREY))
    assert stream.fps is None and frames[3].pts_s == pytest.approx(0.1)
    assert any("taken as 30 frames a second" in text for _, text in stream.repairs)


@pytest.mark.parametrize("compress", [None, RLELossless])
def test_of_a_dicom_file_that_is_cut_off_all_whole_frames_come_and_then_the_damage(tmp_path, compress):
    path = write_dicom(tmp_path / "a.dcm", GREY, FrameTimeVector=[0, 20, 45, 70, 20, 45], compress=compress)
    data = path.read_bytes()
    path.write_bytes(data[: int(0.75 * len(data))])
    with pytest.raises(DataError, match="truncated"):
        open_source(path)
    stream, frames = frames_of(path)
    assert [number_of(frame.image) for frame in frames] == [0, 1, 2, 3]
    assert [frame.pts_s for frame in frames] == pytest.approx([0, 0.02, 0.065, 0.135])
    assert len(stream.damage) == 1 and "a.dcm: is truncated" in stream.damage[0]


def test_a_dicom_file_of_another_modality_is_refused(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", GREY, Modality="CT")
    with pytest.raises(DataError, match=r"a\.dcm: is not an ultrasound image: its modality is CT, not US or IVUS"):
        open_stream(path)
    assert len(frames_of(write_dicom(tmp_path / "b.dcm", GREY, Modality="US"))[1]) == 6


def test_a_folder_of_pictures_is_one_recording_in_natural_order(tmp_path):
    folder = write_pictures(tmp_path / "scan", [2, 10, 1])
    stream, frames = frames_of(folder)
    assert [number_of(frame.image) for frame in frames] == [1, 2, 10]
    assert [frame.pts_s for frame in frames] == pytest.approx([0, 1 / 30, 2 / 30])
    assert stream.name == "scan" and any("taken as 30 frames a second" in text for _, text in stream.repairs)
    (tmp_path / "scan.video.json").write_text(json.dumps({"fps": 10, "organ": "breast"}))
    stream, frames = frames_of(folder)
    assert (stream.fps, stream.metadata, frames[2].pts_s) == (10, {"organ": "breast"}, 0.2)
    (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:-300])
    stream, frames = frames_of(folder)
    assert [frame.index for frame in frames] == [0, 2] and "(1 of 3 frames can't be read)" in stream.damage[0]
    write_pictures(folder, [11], size=(64, 48))
    with pytest.raises(DataError, match=r"scan: .*different sizes: 1\.png is 128x96 px, 11\.png is 64x48 px"):
        open_stream(folder)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A folder of recordings, and things that are none."""
    root = tmp_path_factory.mktemp("data") / "all"
    movie = movies.constant_rate(tmp_path_factory.mktemp("movie") / "a.mp4", 25, 3).path
    for name in ("scan10.mp4", "scan2.mp4", "sub/scan2.mp4", "sub/-x y.mp4"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(movie, root / name)
    write_dicom(root / "scan10.dcm", GREY[:1])
    write_pictures(root / "frames", [1, 2])
    (root / "notes.bin").write_bytes(b"what is this")
    (root / "loop").symlink_to(root)
    (root / "self.mp4").symlink_to("self.mp4")
    (root / "gone.mp4").symlink_to("nothing")
    return root


def test_a_folder_holds_recordings_with_names_of_their_own_and_what_is_none_is_counted(recordings):
    found = list_sources(recordings)
    paths = [source.path.relative_to(recordings).as_posix() for source in found]
    assert paths == ["frames", "scan2.mp4", "scan10.dcm", "scan10.mp4", "sub/-x y.mp4", "sub/scan2.mp4"]
    names = [source.name for source in found]
    assert names[0] == "frames" and names[2:5] == ["scan10_dcm", "scan10_mp4", "x_y"]
    assert names[1].startswith("scan2-") and names[5].startswith("scan2-") and len(set(names)) == 6
    reversed_order = list_sources([source.path for source in reversed(found)])
    assert [source.name for source in reversed_order] == names[::-1]
    assert [path.rsplit("/", 1)[1] for path, _ in found.left_out] == ["loop", "gone.mp4", "notes.bin", "self.mp4"]
    assert len(frames_of(found[0])[1]) == 2 and frames_of(found[4])[0].name == "x_y"
    with pytest.raises(DataError, match="holds 2 recordings; open one of them"):
        open_stream(recordings / "sub")


def test_sources_are_named_by_patterns_and_lists(recordings, tmp_path, monkeypatch):
    assert [source.path.name for source in list_sources(str(recordings / "*10*"))] == ["scan10.dcm", "scan10.mp4"]
    assert len(list_sources(str(recordings / "**/*.mp4"))) == 4
    followed = list_sources(str(recordings / "**"))  # through the link to the folder itself
    assert len(followed) == 8 and len(followed.left_out) == 4
    (recordings / "list.txt").write_text(
        "# mine\n\nscan2.mp4\nsub/*.mp4\nrtsp://me:secret@host:554/live?key=secret\n0\n"
    )
    monkeypatch.chdir(tmp_path)
    found = list_sources([str(recordings / "list.txt"), recordings / "scan2.mp4"])
    names = [source.name for source in found]
    assert names[1:] == ["x_y", names[2], "rtsp_host_554", "camera0"] and names[2] != names[0]
    assert str(found[3]) == "rtsp://host:554/..." and "secret" not in repr(found) + str(found)
    (recordings / "list.txt").write_text("scan2.mp4\nnone.mp4\n")
    (tmp_path / "a b.h264").write_bytes(b"\0\0\0\1g")
    (tmp_path / "c").mkdir()
    (tmp_path / "c/a.265").write_bytes(b"\0\0\0\1g")
    for source, message in {
        str(recordings / "list.txt"): r"list\.txt, line 2: none\.mp4 does not exist",
        str(recordings / "notes.bin"): "is not a movie, a DICOM file or a picture",
        str(recordings / "*.avi"): "no file has a name of this pattern",
        str(recordings / "*.bin"): "none of the 1 file of this pattern is a recording",
        "a b.h264": r"is a bare H\.264 stream.* ffmpeg -framerate 30 -i 'a b\.h264' -c copy 'a b\.mp4'\.",
        "c": r"holds no movie.*; the other file in it, a\.265, is a bare H\.265 stream",
        "ftp://me:secret@host/a.mp4": r"ftp://\.\.\.: is an address of a kind that is not read",
    }.items():
        with pytest.raises(DataError, match=message) as raised:
            list_sources([source])
        assert "secret" not in str(raised.value)
    with pytest.raises(DataError, match=r"2 of 3 sources can't be used:\n.*a\.mp4 does not exist.*\n.*b\.mp4"):
        list_sources([tmp_path / "a.mp4", recordings, tmp_path / "b.mp4"])
    (recordings / "list.txt").unlink()


def test_a_camera_that_is_not_there_and_an_address_without_an_answer_are_one_message_at_once():
    with pytest.raises(DataError, match=r"/dev/video973: there is no such camera"):
        open_stream("973")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(DataError, match=rf"http://127\.0\.0\.1:{port}/\.\.\.: .*refused") as raised:
        open_stream(f"http://me:secret@127.0.0.1:{port}/secret")
    assert "secret" not in str(raised.value)


def test_a_stream_that_stops_and_comes_back_goes_on_and_its_gap_is_said(tmp_path, caplog):
    sent = movies.transport_stream(tmp_path / "a.ts", start_s=5, num_frames=15).path.read_bytes()
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        for pause_s in (0.2, 0.0):
            connection, _ = server.accept()
            connection.sendall(sent)
            connection.close()
            time.sleep(pause_s)
        server.close()

    threading.Thread(target=serve, daemon=True).start()
    address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    stream, frames = frames_of(address, live=LiveOptions(5.0, 5.0, tries=2, first_wait_s=0.1))
    assert stream.is_live and stream.num_frames is None and stream.size == (64, 64)
    assert [movies.number_in(frame.image) for frame in frames] == 2 * list(range(15))
    assert [frame.index for frame in frames] == list(range(30))
    times = np.array([frame.pts_s for frame in frames])
    assert times[0] == pytest.approx(5) and np.diff(times)[np.arange(29) != 14] == pytest.approx(1 / 30, abs=1e-3)
    assert times[15] - times[14] > 0.05
    assert len(stream.damage) == 1 and "stopped after frame 14 (5.47 s)" in stream.damage[0]
    assert "stopped after frame 14" in caplog.text and any("did not come back" in text for _, text in stream.repairs)


def test_a_file_that_a_web_server_sends_is_read_once_and_is_not_live(tmp_path):
    movies.transport_stream(tmp_path / "a.ts")
    handler = functools.partial(SilentHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        stream, frames = frames_of(f"http://127.0.0.1:{server.server_address[1]}/a.ts", vid_stride=2)
        server.shutdown()
    assert not stream.is_live and [frame.index for frame in frames] == list(range(0, 12, 2))
    assert not stream.damage and frames[1].pts_s == pytest.approx(10 + 2 / 30, abs=1e-4)


def test_the_time_of_a_live_source_rises_whatever_its_clock_does():
    clock = LiveClock(Fraction(1, 1000))
    assert clock.time_s(Fraction(9), 100.0) == 9
    assert clock.time_s(Fraction(904, 100), 100.1) == pytest.approx(9.04)
    assert clock.time_s(Fraction(1), 100.2) == pytest.approx(9.14)  # set back: what passed counts
    assert clock.time_s(Fraction(104, 100), 100.2) == pytest.approx(9.18)
    assert clock.time_s(None, 100.3) == pytest.approx(9.28)
    assert clock.time_s(Fraction(500), 105.0, is_reconnected=True) == pytest.approx(13.98)
    assert (clock.missing, clock.shifted) == (1, 1)
    assert clock.time_s(Fraction(5032, 10), 108.0, is_reconnected=True) == pytest.approx(17.18)  # the same clock
