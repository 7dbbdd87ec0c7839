"""What viewers send: bounded, decoded apart, and deleted."""

import contextlib
import dataclasses
import json
import logging
import math
import os
import re
import signal
import socket
import struct
import subprocess
import sys

import av
import numpy as np
import pytest
import simplejpeg

from tests.datasets.recordings import write_dicom
from tests.serving.movies import variable_rate
from tests.serving.page.page_server import (
    cookie_of,
    ended,
    image_of,
    make_page,
    send,
    serving,
    square_of,
    viewer,
    wait_for,
    write_squares,
)
from ultravid.serving.page import decoder_process
from ultravid.serving.page.bounds import PageBounds
from ultravid.serving.page.decoders import Privacy
from ultravid.serving.page.working_folder import WorkingFolder
from ultravid.serving.privacy.blackout import Blackout, BlackoutRule
from ultravid.utils.errors import UserError

BOUNDS = {
    "max_upload_mb": 2,
    "max_frames": 20,
    "max_pixels": 20_000,
    "max_running": 1,
    "max_queue": 2,
    "max_recordings": 4,
}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return make_page(tmp_path_factory.mktemp("page"), **BOUNDS)


@pytest.fixture(scope="module")
def address(page):
    with serving(page) as found:
        yield found


@pytest.fixture(scope="module")
def movie(tmp_path_factory):
    return write_squares(tmp_path_factory.mktemp("movies") / "squares.mp4").read_bytes()


def files(page):
    return sorted(path.name for path in page.folder.path.iterdir() if path.name != "lock")


def test_an_upload_is_analysed_frame_by_frame_with_its_pictures(address, movie):
    with viewer(address) as client:
        found = ended(client, send(client, movie).json()["id"])
        assert (found["state"], found["frames"], found["width"], found["height"]) == ("done", 12, 96, 96)
        content = client.get(f"/api/recordings/{found['id']}/pictures?first=2&count=50").content
        are_squares = []
        while content:
            (length,) = struct.unpack_from("<I", content)
            image = simplejpeg.decode_jpeg(content[4 : 4 + length])
            x, y = square_of(2 + len(are_squares))
            are_squares.append(image[y + 2 : y + 22, x + 2 : x + 22].min() > 200)
            content = content[4 + length :]
        assert are_squares == [True] * 10  # the movie has 12
        assert client.get(f"/api/recordings/{found['id']}/pictures?first=12").status_code == 404
        for score in ("nan", "inf", "-0.1", "1.1"):
            query = {"min_score": score}
            assert client.get(f"/api/recordings/{found['id']}/detections.json", params=query).status_code == 422
            assert client.post(f"/api/recordings/{found['id']}/movie", params=query).status_code == 422


def test_what_is_no_recording_is_refused_and_leaves_nothing(address, page, movie):
    with viewer(address) as client:
        huge = send(client, b"\0" * 2_100_000)
        assert huge.status_code == 413 and "--max-upload-mb" in huge.json()["detail"]
        assert send(client, (movie[:100].ljust(500_000, b"\0") for _ in range(5))).status_code == 413
        text = send(client, b"hello, this is a text" * 20_000, "text.txt")
        assert text.status_code == 415 and "not a recording" in text.json()["detail"]
        assert send(client, b"short", "text.txt").status_code == 415
        assert send(client, b"").status_code == 400
        assert client.get("/api/recordings").json() == [] and files(page) == []
        broken = ended(client, send(client, movie[:300], "half.mp4").json()["id"])
        assert (
            broken["state"] == "failed"
            and "truncated" in broken["message"]
            and str(page.folder.path) not in broken["message"]
        )
        assert ended(client, send(client, movie[:48] + bytes(range(256)) * 100).json()["id"])["state"] == "failed"
        page.decoders._host.kill()  # as a system does that has no memory left
        page.decoders._host.wait()
        assert ended(client, send(client, movie).json()["id"])["state"] == "done"
    assert files(page) == []


@pytest.mark.parametrize("value", [0, math.nan, math.inf])
def test_bounds_are_numbers(value):
    with pytest.raises(UserError, match="--max-stored-mb"):
        PageBounds(max_stored_mb=value)


def test_frames_and_pixels_are_bounded(address, tmp_path):
    with viewer(address) as client:
        long = ended(client, send(client, write_squares(tmp_path / "long.mp4", 30).read_bytes()).json()["id"])
        assert long["state"] == "failed" and "--max-frames" in long["message"]
        paused = variable_rate(
            tmp_path / "paused.mkv", pause_s=3600
        ).path  # 12 frames; an hour at its rate has thousands
        assert (found := ended(client, send(client, paused.read_bytes(), "paused.mkv").json()["id"]))["state"] == "done"
        assert (found["frames"], found["expected"]) == (12, BOUNDS["max_frames"])
        large = ended(
            client, send(client, write_squares(tmp_path / "large.mp4", 2, repeat=2).read_bytes()).json()["id"]
        )
        assert large["state"] == "failed" and "192x192" in large["message"] and "--max-pixels" in large["message"]


def test_an_interrupted_upload_leaves_nothing(address, page, movie):
    host, port = address.removeprefix("http://").split(":")
    with viewer(address) as client:
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST /api/recordings HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie_of(client)['Cookie']}\r\n"
            connection.sendall(f"{head}Content-Length: {len(movie)}\r\n\r\n".encode() + movie[:1000])
            wait_for(lambda: [one["state"] for one in client.get("/api/recordings").json()] == ["uploading"])
            assert len(files(page)) == 2
        wait_for(lambda: client.get("/api/recordings").json() == [])
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(f"{head}Content-Length: {len(movie)}\r\n\r\n".encode() + movie[:1000])
            wait_for(lambda: client.get("/api/recordings").json())
            client.delete(f"/api/recordings/{client.get('/api/recordings').json()[0]['id']}")
            connection.sendall(movie[1000:1100])  # no more is stored of what nobody can see
            assert connection.recv(100).startswith(b"HTTP/1.1 410 ")
    assert files(page) == []


def test_it_is_said_whether_text_was_found_and_blacked_out(address, page, tmp_path, monkeypatch):
    monkeypatch.setattr(page.decoders, "privacy", Privacy())
    with viewer(address) as client:
        notes, darkest = [], []
        for text in ("", "DOE, JANE 1970"):
            movie = write_squares(tmp_path / "movie.mp4", 4, text=text)
            found = ended(client, send(client, movie.read_bytes()).json()["id"])
            notes.append(found["notes"])
            picture = client.get(f"/api/recordings/{found['id']}/pictures?first=0").content
            darkest.append(simplejpeg.decode_jpeg(picture[4:])[86:, 4:].max())
    assert notes == [
        [
            "Nothing is blacked out: no text was found outside of the scan in the first frames. That is a guess, and text on the scan itself "
            "stays: check that no name can be read."
        ],
        [notes[1][0]],
    ]
    assert re.fullmatch(r"[\d.]+% of each picture is black: it looks like text .* That is a guess.*", notes[1][0])
    assert darkest[0] > 30 and darkest[1] < 10


@pytest.mark.parametrize(
    ("kept", "rule", "what"),
    [
        (None, "nothing", "Nothing is blacked out, as the server was started with --allow-burned-in-text."),
        (None, "mask", "Nothing is blacked out: the server's mask keeps the whole picture."),
        (None, "regions", "Nothing is blacked out: the file states that the whole picture is ultrasound."),
        (
            [[0, 255]],
            "mask",
            "50% of each picture is black: it lies outside what the server's mask and the file state as",
        ),
        ([[0, 255, 255]], "regions", "33% of each picture is black: it lies outside the ultrasound regions"),
        ([[0, 0]], "all", "All of each picture is black: there was no frame to look at."),
    ],
)
def test_what_is_said_of_black_parts(kept, rule, what):
    kept = None if kept is None else np.array(kept, np.uint8)
    assert decoder_process._said(Blackout(kept, BlackoutRule(rule), "a reason")).startswith(what)


def test_recordings_wait_with_a_place_and_can_be_cancelled(address, page, movie):
    gate = page.detector.gate
    gate.clear()
    with viewer(address) as one, viewer(address) as other:
        ids = [send(client, movie).json()["id"] for client in (one, other, one)]
        found = [item for client in (one, other) for item in client.get("/api/recordings").json()]
        places = {item["id"]: (item["state"], item["place"]) for item in found}
        assert [places[id] for id in ids] == [("running", 0), ("queued", 1), ("queued", 2)]
        assert send(other, movie).status_code == 503  # two wait, which is the bound
        other.post(f"/api/recordings/{ids[1]}/cancel")
        assert one.get("/api/recordings").json()[1]["place"] == 1
        one.delete(f"/api/recordings/{ids[0]}")  # it is being analysed
        gate.set()
        assert ended(one, ids[2])["frames"] == 12
        assert other.get("/api/recordings").json()[0]["state"] == "cancelled"


def test_a_viewer_does_not_see_what_is_anothers_and_no_name_is_logged(address, page, movie, caplog):
    with caplog.at_level(logging.DEBUG), viewer(address) as one, viewer(address) as other:
        id = send(one, movie, "..%2F..%2FDOE%5EJANE.mp4").json()["id"]
        assert one.get("/api/recordings").json()[0]["label"] == "DOE^JANE.mp4"
        assert other.get("/api/recordings").json() == []
        for method, path in [("GET", f"{id}/pictures?first=0"), ("POST", f"{id}/cancel"), ("DELETE", id)]:
            assert other.request(method, f"/api/recordings/{path}").status_code == 404
        assert ended(one, id)["state"] == "done"
        assert not any("DOE" in text for text in (*files(page), caplog.text))
        assert one.post("/api/viewer/end").status_code == 204
        assert files(page) == []


def test_what_is_exported_of_a_dicom_file_is_not_called_after_the_patient(address, page, tmp_path):
    scan = write_dicom(tmp_path / "a.dcm", np.stack([image_of(index) for index in range(3)])[..., 0], Modality="US")
    with viewer(address) as client:
        found = ended(client, send(client, scan.read_bytes(), "Doe_19700101.dcm").json()["id"])
        assert re.fullmatch(r"recording-[0-9a-f]{8}\.dcm", found["label"]), found
        assert any("its file's name contains a value" in note for note in found["notes"])
        exported = client.get(f"/api/recordings/{found['id']}/detections.json").text
        assert json.loads(exported)["source"] == found["label"] and "Doe" not in exported + str(found)
        assert client.post(f"/api/recordings/{found['id']}/movie").status_code == 202
        wait_for(lambda: client.get("/api/recordings").json()[0]["movie"]["state"] == "done")
        assert ended(client, send(client, scan.read_bytes(), "scan.dcm").json()["id"])["label"] == "scan.dcm"


def test_a_live_socket_tells_states_and_each_frame_once(address, movie):
    from websockets.sync.client import connect

    with viewer(address) as client:
        url = address.replace("http", "ws") + "/api/live"
        with connect(url, additional_headers=cookie_of(client), origin=address) as live:
            id = send(client, movie).json()["id"]
            live.send(json.dumps({"type": "watch", "id": id, "first": 0}))
            frames, states = [], [""]
            while len(frames) < 12 or states[-1] != "done":
                message = json.loads(live.recv(20))
                frames += message.get("frames", [])
                states += [one["state"] for one in message.get("recordings", [])]
            assert [frame["index"] for frame in frames] == list(range(12))
            for frame in frames:
                x, y = square_of(frame["index"])
                assert frame["pts_s"] == pytest.approx(frame["index"] / 25)
                assert frame["detections"][0]["box"] == pytest.approx([x, y, x + 24, y + 24], abs=2)
            live.send("no JSON")  # closes this socket, and nothing else
        assert client.get("/api/recordings").status_code == 200


def test_a_cameras_pictures_are_analysed_in_order_and_exported(address, tmp_path):
    from websockets.sync.client import connect

    with viewer(address) as client:
        url = address.replace("http", "ws") + "/api/camera"
        with connect(url, additional_headers=cookie_of(client), origin=address) as camera:
            camera.send(json.dumps({"label": "probe"}))
            id = json.loads(camera.recv(10))["id"]
            for index in range(4):
                camera.send(struct.pack("<d", index * 0.04) + simplejpeg.encode_jpeg(image_of(index)))
                wait_for(lambda so_far=index + 1: client.get("/api/recordings").json()[0]["frames"] == so_far)
        found = ended(client, id)
        assert (found["state"], found["frames"], found["label"], found["kind"]) == ("done", 4, "probe", "camera")
        assert client.post(f"/api/recordings/{id}/movie").status_code == 202
        wait_for(lambda: client.get("/api/recordings").json()[0]["movie"]["state"] == "done")
        drawn = tmp_path / "drawn.mp4"
        drawn.write_bytes(client.get(f"/api/recordings/{id}/movie.mp4").content)
    with av.open(str(drawn)) as container:
        frames = list(container.decode(video=0))
    assert [frame.time for frame in frames] == pytest.approx([0, 0.04, 0.08, 0.12], abs=1e-4)
    for index, frame in enumerate(frames):
        x, y = square_of(index)
        red, _, blue = frame.to_ndarray(format="rgb24")[y, x + 6 : x + 18].astype(int).T
        assert np.median(red - blue) > 60  # the box


def test_cameras_that_are_opened_at_the_same_time_keep_the_bounds(address):
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    with viewer(address) as client, contextlib.ExitStack() as stack:
        url, own = address.replace("http", "ws") + "/api/camera", cookie_of(client)
        cameras = [stack.enter_context(connect(url, additional_headers=own, origin=address)) for _ in range(5)]
        for camera in cameras[:3]:
            camera.send("{}")
            assert json.loads(camera.recv(10))["type"] == "ready"
        for camera in cameras[3:]:  # one is analysed and two wait
            camera.send("{}")
            with pytest.raises(ConnectionClosed):
                camera.recv(10)
        assert len(client.get("/api/recordings").json()) == 3


def test_recordings_are_deleted_when_their_viewer_is_gone(address, page, movie, monkeypatch):
    from websockets.sync.client import connect

    impatient = dataclasses.replace(page.bounds, max_absence_s=0.2, max_idle_s=3)
    monkeypatch.setattr(page, "bounds", impatient)
    monkeypatch.setattr(page.viewers, "bounds", impatient)
    with viewer(address) as one, viewer(address) as other:
        with connect(address.replace("http", "ws") + "/api/live", additional_headers=cookie_of(one), origin=address):
            send(one, movie)
            send(other, movie)
        wait_for(lambda: len(files(page)) == 2)  # the closed page's are gone, the other's are there
        wait_for(lambda: files(page) == [])  # it did nothing
        assert other.get("/api/recordings").status_code == 401


def test_what_a_killed_server_has_left_is_deleted_at_the_next_start(tmp_path):
    code = (
        "import sys, pathlib, time; from ultravid.serving.page.working_folder import WorkingFolder\n"
        "folder = WorkingFolder(pathlib.Path(sys.argv[1])); folder.new_path('.mp4').write_bytes(b'scan')\n"
        "print(folder.path, flush=True); time.sleep(60)"
    )
    living = WorkingFolder(tmp_path)
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True) as server:
        killed = server.stdout.readline().strip()
        os.kill(server.pid, signal.SIGKILL)
    assert len(os.listdir(killed)) == 2
    folder = WorkingFolder(tmp_path)
    assert folder.removed == 1 and not os.path.exists(killed) and living.path.exists()
    assert all(os.stat(path).st_mode & 0o777 == 0o700 for path in (folder.path, folder.path.parent))
    folder.remove()
    living.remove()
    assert not folder.path.exists()


def test_a_folder_of_someone_else_is_not_used(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"ultravid-page-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="TMPDIR"):
        WorkingFolder(tmp_path)
