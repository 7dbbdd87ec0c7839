"""tools/predict.py as a user meets it: movies in, movies with boxes and tables out."""

import contextlib
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pydicom
import pytest
import torch

from tests.conftest import ROOT, load_tool
from tests.datasets.recordings import write_dicom
from tests.serving import movies
from tests.serving.movies import SIZE, grey_of, square_of
from tests.serving.square_detector import SquareDetector
from ultravid.datasets import load_coco_video
from ultravid.serving.output_folder import Identity, OutputFolder
from ultravid.serving.privacy import KEY_FILE
from ultravid.serving.sources import LiveOptions
from ultravid.serving.writers import dicom_sr
from ultravid.utils.drawing import DETECTION
from ultravid.utils.errors import UserError
from ultravid.utils.folder_lock import LOCK_NAME, FolderLock
from ultravid.utils.tool import run_tool

MAKERS = {
    "23.976.mp4": lambda path: movies.constant_rate(path, Fraction(24000, 1001)),
    "29.97.mov": lambda path: movies.constant_rate(path, Fraction(30000, 1001)),
    "59.94.mkv": lambda path: movies.constant_rate(path, Fraction(60000, 1001)),
    "variable.mp4": movies.variable_rate,
    "b_frames.mp4": movies.with_b_frames,
    "trimmed.mp4": movies.trimmed,
    "late.mp4": movies.late_start,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Arguments that name a detector of squares."""
    folder = tmp_path_factory.mktemp("model")
    torch.save({"model": SquareDetector().state_dict()}, folder / "weights.pth")
    (folder / "config.py").write_text(
        "from tests.serving.square_detector import SquareDetector\nfrom ultravid.config import LazyCall as L\n\n"
        "model = L(SquareDetector)()\ntrain = {'device': 'cpu', 'num_threads': 1}\n"
    )
    return ["--config-file", folder / "config.py", "--weights", folder / "weights.pth"]


@pytest.fixture
def predict(model, capsys):
    def call(*arguments, out=None):
        handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
        try:
            code = run_tool(load_tool("predict").main, list(map(str, [*model, "--output-dir", out, *arguments])))
        except SystemExit as error:
            code = error.code
        finally:
            for number, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
                signal.signal(number, handler)
        printed = capsys.readouterr()
        return SimpleNamespace(code=code, out=printed.out, err=printed.err)

    return call


def frames_of(path):
    """Time stamp in seconds and image of each frame."""
    with av.open(str(path)) as container:
        return [(float(f.pts * f.time_base), f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]


def write_sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def is_boxed(image, number):
    """Whether the square of a frame is drawn with a box around it."""
    x1, y1, x2, y2 = square_of(number)
    edge = np.concatenate([image[y1, x1 + 3 : x2 - 3], image[y2 - 1, x1 + 3 : x2 - 3]]).astype(int)
    middle = image[y1 + 5 : y2 - 5, x1 + 5 : x2 - 5].astype(int)
    return (edge[:, 0] - edge[:, 2]).mean() > 60 > np.abs(DETECTION[0] - edge[:, 0]).mean() and middle.mean() > 200


def test_each_box_is_drawn_on_its_own_frame_at_its_own_time(predict, tmp_path):
    made = {name: make(tmp_path / name) for name, make in MAKERS.items()}
    out = tmp_path / "out"
    done = predict(*(m.path for m in made.values()), "--allow-burned-in-text", "--save-frames", "--save-txt", out=out)
    assert done.code == 0, done.err
    for name, movie in made.items():
        stem = Path(name).stem
        content = json.loads((out / f"{stem}.json").read_text())
        assert [content[key] for key in ("source", "width", "height")] == [name, SIZE, SIZE]
        assert [frame["pts_s"] for frame in content["frames"]] == pytest.approx(
            movie.times_s, abs=movie.tick_s / 2 + 1e-9
        )
        drawn = frames_of(out / f"{stem}.mp4")
        assert [stamp for stamp, _ in drawn] == [frame["pts_s"] for frame in content["frames"]]
        assert [stamp for stamp, _ in drawn] == [stamp for stamp, _ in frames_of(movie.path)]
        for number, (_, image), frame in zip(movie.numbers, drawn, content["frames"], strict=True):
            (found,) = frame["detections"]
            assert found["box"] == list(square_of(number)) and found["class"] == "lesion"
            assert is_boxed(image, number) and abs(image[26:38, 26:38].mean() - grey_of(number)) < 4
        assert len(list((out / f"{stem}_frames").iterdir())) == len(movie.numbers)
        rows = csv.DictReader((out / f"{stem}.csv").read_text().splitlines())
        assert [float(row["pts_s"]) for row in rows] == [stamp for stamp, _ in drawn]
        label = (out / f"labels/{stem}_000001.txt").read_text().split()
        x1, y1, x2, y2 = square_of(movie.numbers[1])
        assert [float(v) * SIZE for v in label[1:5]] == [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
    videos = load_coco_video(json_file=out / "coco_vid.json")
    assert sum(len(frame.boxes) for video in videos for frame in video.frames) == sum(
        len(m.numbers) for m in made.values()
    )
    report = json.loads((out / "report.json").read_text())
    assert (report["done"], report["exit_code"], len(report["sources"])) == (7, 0, 7)
    assert [p.name for p in out.rglob(".*")] == [KEY_FILE]


def test_a_command_goes_on_where_it_stopped(predict, tmp_path):
    a, b = (movies.constant_rate(tmp_path / name, 25).path for name in ("a.mp4", "b.mp4"))
    out = tmp_path / "out"
    assert predict(a, out=out).code == 0
    before = (out / "a.json").stat().st_mtime_ns
    left = [out / f".a.mp4.{os.getpid()}.tmp", out / f"qc/.a.png.{os.getpid()}.tmp"]
    for path in left:
        path.write_text("what a killed command left")
    again = predict(a, b, out=out)
    assert again.code == 0 and "a.mp4: done before" in again.out
    assert (out / "a.json").stat().st_mtime_ns == before and (out / "b.mp4").is_file()
    assert not any(path.exists() for path in left)
    for deleted in (out / "b.mp4", out / "b.csv"):
        deleted.unlink()
        assert predict(a, b, out=out).code == 0 and deleted.is_file()
    assert (out / "a.json").stat().st_mtime_ns == before
    refused = predict(a, "--conf", 0.5, out=out)
    assert refused.code == 2 and "--conf: 0.25 before, 0.5 now" in refused.err and "--redo" in refused.err
    assert (out / "a.json").stat().st_mtime_ns == before
    movies.constant_rate(a, 25, num_frames=5)
    assert predict(a, out=out).code == 0  # another file of the same name
    assert len(json.loads((out / "a.json").read_text())["frames"]) == 5
    assert predict(a, "--conf", 0.95, "--redo", "--no-save", out=out).code == 0
    content = json.loads((out / "a.json").read_text())
    assert [frame["detections"] for frame in content["frames"]] == [[]] * 5 and not (out / "a.mp4").exists()
    assert [video["name"] for video in json.loads((out / "coco_vid.json").read_text())["videos"]] == ["a"]


def test_what_is_damaged_or_left_out_is_listed_with_exit_code_3(predict, tmp_path):
    whole = movies.constant_rate(tmp_path / "whole.mkv", 25, num_frames=30).path
    (tmp_path / "cut.mkv").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    out = tmp_path / "out"
    (tmp_path / "audio").mkdir()
    write_sound(tmp_path / "audio/a.mp4")
    (tmp_path / "audio/self.mp4").symlink_to("self.mp4")
    movies.late_start(tmp_path / "audio/late.mp4", start_s=10**11, num_frames=2)
    done = predict(tmp_path / "cut.mkv", tmp_path / "audio", whole, out=out)
    assert done.code == 3
    report = json.loads((out / "report.json").read_text())
    assert [row["source"] for row in report["left_out"]] == ["self.mp4", "a.mp4", "late.mp4"]
    assert report["left_out"][2]["reason"].startswith("late.mp4: Frame 0") and len(report["damaged"]) >= 1
    assert str(tmp_path) not in (out / "report.json").read_text() + (out / "cut.json").read_text()
    content = json.loads((out / "cut.json").read_text())
    assert 0 < len(content["frames"]) < 30 and content["damage"]
    assert len(frames_of(out / "cut.mp4")) == len(content["frames"])
    assert predict(tmp_path / "cut.mkv", out=out).code == 3  # done before, and still damaged
    alone = predict(tmp_path / "audio/self.mp4", out=tmp_path / "none")
    assert alone.code == 2 and "it is a link that leads nowhere" in alone.err
    alone = predict(tmp_path / "audio/a.mp4", out=tmp_path / "none")
    assert alone.code == 2 and alone.err.startswith("error: a.mp4: ") and "Traceback" not in alone.err
    other = movies.constant_rate(tmp_path / "audio/whole.mkv", 25).path  # of the same name, and another film
    assert predict(other, out=out).code == 0
    assert len(list(out.glob("whole*.json"))) == 2 and len(json.loads((out / "whole.json").read_text())["frames"]) == 30
    third = movies.constant_rate(tmp_path / "audio/whole.mp4", 25, num_frames=2).path
    both = predict(whole, other, third, out=out)  # earlier ones keep the names that they had
    assert both.out.count(": done before") == 2 and len(list(out.glob("whole*.json"))) == 3
    videos = json.loads((out / "coco_vid.json").read_text())["videos"]
    assert len(videos) == 4 and {"cut", "whole"} < {video["name"] for video in videos}


def test_a_damaged_dicom_file_without_a_clean_copy_keeps_its_results(predict, tmp_path):
    scan = write_dicom(tmp_path / "scan.dcm", np.stack([movies.picture_of(n)[..., 0] for n in range(4)]), Modality="US")
    scan.write_bytes(scan.read_bytes()[:-SIZE])
    out = tmp_path / "out"
    assert predict(scan, "--deidentify", out=out).code == 3
    assert len(json.loads((out / "scan.json").read_text())["frames"]) == 3 == len(frames_of(out / "scan.mp4"))
    assert any("no clean copy" in text for text in json.loads((out / "report.json").read_text())["damaged"])
    assert not (out / "scan.dcm").exists() and "done before" in predict(scan, "--deidentify", out=out).out


def test_a_report_that_can_not_be_written_costs_no_other_result(predict, tmp_path, monkeypatch):
    pytest.importorskip("highdicom")
    monkeypatch.setattr(dicom_sr, "MAX_REGIONS", 1)
    pictures = np.stack([movies.picture_of(number)[..., 0] for number in range(3)])
    (tmp_path / "in").mkdir()
    for name, uids in (("full", {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.4"}), ("bare", {})):
        write_dicom(tmp_path / f"in/{name}.dcm", pictures, Modality="US", **uids)
    out = tmp_path / "out"
    assert predict(tmp_path / "in", "--sr", "--keep-patient", out=out).code == 3
    bare, full = json.loads((out / "report.json").read_text())["damaged"]
    assert "no secondary capture: bare.dcm: " in bare and "full.dcm: there is no structured report" in full
    written = {path.name for path in out.iterdir()}
    assert {"full.mp4", "full.json", "full.sc.dcm", "bare.mp4", "bare.json"} <= written
    assert not {"full.sr.dcm", "bare.sr.dcm", "bare.sc.dcm"} & written
    assert predict(tmp_path / "in", "--sr", "--keep-patient", out=out).out.count(": done before") == 2


def test_reports_of_a_dicom_file_say_what_its_json_does(predict, tmp_path):
    hd = pytest.importorskip("highdicom")
    grey = np.stack([movies.picture_of(number)[..., 0] for number in (0, 7, 14, 1, 8)])  # in two places
    grey[2] = 50
    scan = write_dicom(
        tmp_path / "jane doe.dcm",
        grey,
        Modality="US",
        FrameTimeVector=[0, 20, 45, 70, 20],
        StudyInstanceUID="1.2.3",
        SeriesInstanceUID="1.2.4",
    )
    done = predict(scan, "--sr", "--deidentify", out=tmp_path / "out")
    assert done.code == 0 and "Results of 1 source are called recording-...: its file's name" in done.out, done.err
    assert "doe" not in (done.out + done.err).lower()
    assert json.loads((tmp_path / "out/report.json").read_text())["names_replaced"] == 1
    (written,) = (tmp_path / "out").glob("recording-*.sr.dcm")
    name = written.name.removesuffix(".sr.dcm")
    content = json.loads((tmp_path / f"out/{name}.json").read_text())
    capture, clean = (pydicom.dcmread(tmp_path / f"out/{name}{suffix}") for suffix in (".sc.dcm", ".dcm"))
    expected = [(frame, found) for frame in content["frames"] for found in frame["detections"]]
    regions = hd.sr.srread(written).content.get_planar_roi_measurement_groups()
    assert [frame["pts_s"] for frame, _ in expected] == pytest.approx([0, 0.02, 0.135, 0.155])
    uids = {}
    for region, (frame, found) in zip(regions, expected, strict=True):
        x1, y1, x2, y2 = found["box"]
        assert np.array_equal(region.roi.value, [[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]])
        image = region.roi.ContentSequence[0].ReferencedSOPSequence[0]
        assert (image.ReferencedSOPInstanceUID, image.ReferencedFrameNumber) == (
            clean.SOPInstanceUID,
            frame["index"] + 1,
        )
        assert [m.value for m in region.get_measurements()] == pytest.approx([100 * found["score"], frame["pts_s"]])
        assert region.tracking_identifier == f"lesion track {found['track_id']}"
        assert uids.setdefault(found["track_id"], region.tracking_uid) == region.tracking_uid
    assert len(set(uids.values())) == len(uids) == 2
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == clean.SOPInstanceUID
    assert np.cumsum([float(step) for step in capture.FrameTimeVector]) / 1000 == pytest.approx(
        [frame["pts_s"] for frame in content["frames"]]
    )
    assert is_boxed(capture.pixel_array[1], 0) and not is_boxed(capture.pixel_array[2], 0)


def test_mistakes_are_one_message_before_any_work(predict, model, tmp_path):
    movie = movies.constant_rate(tmp_path / "a.mp4", 25).path
    out = tmp_path / "out"
    for arguments, message in [
        ((movie, "--conf", 1.5), "--conf"),
        ((movie, "--confi", 0.3), "Did you mean --conf?"),
        ((movie, ""), "A source is an empty text"),
        ((movie, "--imgsz", 100_000), "up to 8192"),
        ((movie, "--device", "0,1"), "is not the name of one device"),
        ((movie, "--device", "banana"), "device='banana' is not the name of one device. This machine has cpu"),
        ((movie, "--device", "cuda:77"), "device='cuda:77' is not a device of this machine, which has cpu"),
        ((movie, "--device", "xla"), "device='xla' is not a device of this machine, which has cpu"),
        ((movie, "--vid-stride", 0), "--vid-stride 0: must be 1 or more"),
        ((movie, "--project", "p"), "--output-dir OUT and --project P --name N say the same"),
        ((movie, "--mask", tmp_path / "none.json"), "none.json"),
        ((movie, "--run", tmp_path), "one of --run and --config-file is needed"),
    ]:
        refused = predict(*arguments, out=out)
        assert (refused.code, out.exists()) == (2, False) and message in refused.err, refused.err
    out.write_text("a file in the way")
    assert predict(movie, out=out).code == 2
    busy = tmp_path / "busy"
    busy.mkdir()
    lock = FolderLock(busy, "a prediction")
    lock.acquire()
    lock._owner = -1  # as another process holds it
    try:
        refused = predict(movie, out=busy)
    finally:
        lock._owner = os.getpid()
        lock.release()
    assert refused.code == 2 and "is in use" in refused.err
    assert [p.name for p in busy.iterdir()] == []


def test_a_source_may_begin_with_a_dash_and_its_name_reaches_no_terminal_as_it_is(predict, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    movies.constant_rate(tmp_path / "-a.mp4", 25, 2)
    odd = tmp_path / "b\x1b[31m\n[bold].mp4"
    odd.write_bytes((tmp_path / "-a.mp4").read_bytes())
    (tmp_path / "c\x1b[31m\n.mp4").touch()
    assert predict("--save-txt", "--", "-a.mp4", out="one").code == 0
    assert Path("one/a.mp4").is_file()
    done = predict(tmp_path, out="out")
    assert done.code == 3 and r"b\x1b[31m\n[bold].mp4: 2 frames" in done.out, done.err
    refused = predict(tmp_path / "c\x1b[31m\n.mp4", out="none")
    assert refused.code == 2 and r"c\x1b[31m\n.mp4: is empty" in refused.err
    assert "\x1b" not in done.out + done.err + refused.err
    assert r"c\x1b[31m\n.mp4: is empty" in json.loads(Path("out/report.json").read_text())["left_out"][0]["reason"]


def test_only_a_folder_with_results_refuses_other_settings(tmp_path):
    with OutputFolder(tmp_path, Identity("a", {"--conf": 0.25})).open() as folder:
        folder.write_report()  # of a command that failed before its first result
    with OutputFolder(tmp_path, Identity("a", {"--conf": 0.5})).open() as folder:
        folder.entries["scan"] = {"name": "scan"}
        folder.write_report()
    with (
        pytest.raises(UserError, match=r"--conf: 0\.5 before, 0\.25 now"),
        OutputFolder(tmp_path, Identity("a", {"--conf": 0.25})).open(),
    ):
        pass


REFUSED = """
import importlib.util, sys
from ultravid.utils.tool import run_tool
spec = importlib.util.spec_from_file_location("predict", "tools/predict.py")
predict = importlib.util.module_from_spec(spec)
spec.loader.exec_module(predict)
folder = sys.argv[1]
for sources, out in (("none.mp4", "o"), ("empty", "o"), ("list.txt", "o"), ("sound.mp4", "o"), ("a.mp4", "list.txt/o"), ("973", "o")):
    source = sources if sources.isdecimal() else f"{folder}/{sources}"
    given = ["--config-file", "none.py", "--weights", "none.pth", source, "--output-dir", f"{folder}/{out}"]
    assert run_tool(predict.main, given) == 2
sys.exit("torch" in sys.modules)
"""


def test_what_cannot_be_read_or_written_is_refused_before_torch_is_imported(tmp_path):
    movies.constant_rate(tmp_path / "a.mp4", 25, num_frames=2)
    write_sound(tmp_path / "sound.mp4")
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\0")
    command = [sys.executable, "-c", REFUSED, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    errors = done.stderr.splitlines()
    assert done.returncode == 0 and len(errors) == 6 and not (tmp_path / "o").exists(), done.stderr
    for error, part in zip(
        errors,
        (
            "none.mp4 does not exist",
            "empty: holds no movie",
            "it is not UTF-8",
            "has no video",
            "is not a folder",
            "camera",
        ),
        strict=True,
    ):
        assert error.startswith("error: ") and part in error


def test_sources_may_stand_on_both_sides_of_an_option(predict, tmp_path):
    a, b = (movies.constant_rate(tmp_path / name, 25, num_frames=2).path for name in ("a.mp4", "b.mp4"))
    assert predict(a, "--conf", 0.5, b, "--no-save", out=tmp_path / "out").code == 0
    assert json.loads((tmp_path / "out/report.json").read_text())["done"] == 2


def serve(parts, pauses_s=(0.0, 0.0)):
    """The address of a local source that sends one part to each connection, some bytes at a time, as a scanner in real time."""
    server = socket.create_server(("127.0.0.1", 0))

    def send():
        with server, contextlib.suppress(OSError):  # whoever listens may be gone
            for part, pause_s in zip(parts, pauses_s, strict=False):
                connection, _ = server.accept()
                with connection:
                    for at in range(0, len(part), 4096):
                        connection.sendall(part[at : at + 4096])
                        time.sleep(0.01)
                time.sleep(pause_s)

    threading.Thread(target=send, daemon=True).start()
    return f"tcp://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def impatient(monkeypatch):
    """A stream that stopped is looked for twice, at once."""
    options = LiveOptions(5.0, 5.0, tries=2, first_wait_s=0.1)
    monkeypatch.setattr("ultravid.serving.sources.live.LiveOptions", lambda: options)


def test_a_live_source_that_comes_back_is_one_movie_and_what_is_missing_is_said(predict, tmp_path, impatient):
    sent = movies.transport_stream(tmp_path / "a.ts", start_s=5, num_frames=15).path.read_bytes()
    done = predict(serve([sent, sent]), "--latency-budget-ms", 5000, out=tmp_path / "out")
    assert done.code == 3 and "0 of 30 frames dropped; latency" in done.out, done.err
    (file,) = (tmp_path / "out").glob("tcp_*.json")
    content = json.loads(file.read_text())
    times = [frame["pts_s"] for frame in content["frames"]]
    assert [frame["index"] for frame in content["frames"]] == list(range(30)) and times == sorted(set(times))
    assert [stamp for stamp, _ in frames_of(file.with_suffix(".mp4"))] == pytest.approx(times, abs=1e-6)
    assert "stopped after frame 14" in content["damage"][0] and "came back" in content["damage"][0]
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert (report["exit_code"], len(report["damaged"]), report["sources"][0]["dropped"]) == (3, 1, 0)


def test_control_c_ends_a_live_source_whose_outputs_are_whole(predict, tmp_path, impatient):
    sent = movies.transport_stream(tmp_path / "a.ts", num_frames=300).path.read_bytes()
    out = tmp_path / "out"

    def interrupt():
        while not list(out.glob(".*.mp4.*")):
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    done = predict(serve([sent]), "--latency-budget-ms", 0.01, out=out)
    assert done.code == 0 and " dropped" in done.out, done.err
    (file,) = out.glob("tcp_*.json")
    frames = json.loads(file.read_text())["frames"]
    assert 0 < len(frames) < 300
    assert [stamp for stamp, _ in frames_of(file.with_suffix(".mp4"))] == pytest.approx(
        [frame["pts_s"] for frame in frames], abs=1e-6
    )
    report = json.loads((out / "report.json").read_text())
    assert report["exit_code"] == 0 and report["sources"][0]["frames"] == len(frames)
    assert not list(out.rglob(".*"))


def test_every_nth_frame_keeps_its_own_number_and_time(predict, tmp_path):
    movie = movies.constant_rate(tmp_path / "a.mp4", Fraction(30000, 1001))
    out = tmp_path / "out"
    assert predict(movie.path, "--vid-stride", 3, "--tracker", "none", "--allow-burned-in-text", out=out).code == 0
    content = json.loads((out / "a.json").read_text())
    assert [frame["index"] for frame in content["frames"]] == [0, 3, 6, 9]
    assert [frame["pts_s"] for frame in content["frames"]] == [stamp for stamp, _ in frames_of(out / "a.mp4")]
    assert {d["track_id"] for frame in content["frames"] for d in frame["detections"]} == {None}


def test_time_stamps_that_the_movie_can_not_have_are_said(predict, tmp_path):
    source = movies.write_movie(tmp_path / "a.nut", [0, 2_400_000_000, 2_400_040_000], Fraction(1, 10**6))
    done = predict(source.path, out=tmp_path / "out")
    assert done.code == 0 and "an MP4 can't have some time stamps, which are written as others: of 2 frames" in done.out
    content = json.loads((tmp_path / "out/a.json").read_text())
    assert [frame["pts_s"] for frame in content["frames"]] == source.times_s
    assert len(frames_of(tmp_path / "out/a.mp4")) == 3


def test_sources_are_neither_overwritten_nor_taken_from_the_results(predict, tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    source = movies.constant_rate(folder / "a.mp4", 25).path
    before = source.read_bytes()
    refused = predict(source, out=folder)
    assert refused.code == 2 and "a.mp4 would be overwritten" in refused.err
    assert source.read_bytes() == before and [p.name for p in folder.iterdir() if p.suffix] == ["a.mp4"]
    for _ in range(2):  # the second time the folder holds results
        assert predict(folder, out=folder / "out").code == 0
    assert json.loads((folder / "out/report.json").read_text())["skipped"] == 1
    assert len(list((folder / "out").glob("*.mp4"))) == 1 and source.read_bytes() == before


def test_a_source_may_be_called_like_a_file_of_the_results(predict, tmp_path):
    made = [
        movies.constant_rate(tmp_path / f"{name}.mp4", 25, num_frames=2) for name in ("report", "lock", "a", "a.tracks")
    ]
    out = tmp_path / "out"
    assert predict(*(movie.path for movie in made), "--conf", 0.95, out=out).code == 0
    for name in ("report_", "lock_", "a", "a_tracks"):
        assert len(json.loads((out / f"{name}.json").read_text())["frames"]) == 2
    assert json.loads((out / "report.json").read_text())["done"] == 4 and (out / "a.tracks.csv").is_file()


def test_what_fails_or_is_not_read_leaves_a_report_that_says_so(predict, tmp_path, monkeypatch):
    a, b = (movies.constant_rate(tmp_path / name, 25, num_frames=2).path for name in ("a.mp4", "b.mp4"))
    out = tmp_path / "out"
    locks = []

    def is_gone(*_, **__):
        locks.append((out / LOCK_NAME).read_text())
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", is_gone)
    assert predict(a, b, out=out).code == 0 and len(locks) == 1  # `| head` has read enough
    monkeypatch.undo()
    report = json.loads((out / "report.json").read_text())
    assert (report["done"], report["exit_code"]) == (2, 0) and (out / "b.json").is_file()
    assert "a.mp4" not in locks[0]  # a path may hold the name of a patient
    (out / "c.mp4").mkdir()
    (out / "c.mp4/in_the_way").touch()
    failed = predict(movies.constant_rate(tmp_path / "c.mp4", 25, num_frames=2).path, out=out)
    assert failed.code == 2 and "c.mp4" in failed.err
    assert json.loads((out / "report.json").read_text())["exit_code"] == 2


@pytest.mark.slow_models
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_command_leaves_nothing_half_written_and_goes_on(model, tmp_path, how):
    long = movies.constant_rate(tmp_path / "long.mp4", 25, num_frames=1500).path
    short = movies.constant_rate(tmp_path / "a_short.mp4", 25).path
    out = tmp_path / "out"
    command = [sys.executable, str(ROOT / "tools/predict.py"), *map(str, [*model, short, long, "--output-dir", out])]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        while not list(out.glob(".long.mp4.*.tmp")) and process.poll() is None:
            time.sleep(0.05)
        time.sleep(0.3)
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 130) and "Traceback" not in err
    assert (out / "a_short.json").is_file() and not (out / "long.mp4").exists() and not (out / "long.json").exists()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0 and "a_short.mp4: done before" in done.stdout, done.stderr
    assert len(frames_of(out / "long.mp4")) == 1500
