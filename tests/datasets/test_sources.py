import logging
import os
import re

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless

from tests.datasets.recordings import HEIGHT, WIDTH, number_of, numbered, write_dicom, write_movie
from ultravid.data import DataError, build_video_test_loader, load_recordings, open_source
from ultravid.datasets.readers.dicom import patient_token
from ultravid.datasets.readers.frames import _MAX_OPEN, _open, read_frame_image

MOVIES = [
    ("a.mp4", dict(codec="libx264")),
    ("a.mov", dict(codec="libx264", gop=5, b_frames=0)),
    ("a.mkv", dict(codec="libx264")),
    ("a.avi", dict(codec="mjpeg")),
    ("b.avi", dict(codec="mpeg4", b_frames=0)),
    ("a.mpeg", dict(codec="mpeg2video", rate=25)),
]


@pytest.mark.parametrize(("name", "how"), MOVIES, ids=[f"{n}-{h['codec']}" for n, h in MOVIES])
def test_a_movie_gives_every_frame_at_its_rate_in_order_and_at_random(tmp_path, name, how):
    source = open_source(write_movie(tmp_path / name, range(67), **how))
    assert (len(source), source.size) == (67, (HEIGHT, WIDTH))
    assert source.fps == pytest.approx(how.get("rate", 37), rel=1e-3)
    in_order = list(source)
    assert [number_of(i) for i in in_order] == list(range(67))
    for index in [66, 0, 65, 13, 12, 11, 24, 66, 40, 39]:
        assert np.array_equal(source.read(index), in_order[index])
    with pytest.raises(IndexError, match="there is no frame 67"):
        source.read(67)


def test_a_movie_that_was_filmed_upright_is_turned(tmp_path):
    path = write_movie(tmp_path / "a.mp4", range(3))
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44  # the display matrix of the track header; this one turns by 90 degrees clockwise
    matrix = [0, 1 << 16, 0, -1 << 16, 0, 0, HEIGHT << 16, 0, 1 << 30]
    data[at : at + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in matrix)
    (tmp_path / "b.mp4").write_bytes(data)
    upright = open_source(tmp_path / "b.mp4")
    assert upright.size == (WIDTH, HEIGHT)
    assert np.array_equal(upright.read(2), np.rot90(open_source(path).read(2), -1))


def test_images_are_in_natural_order_and_share_a_size(tmp_path):
    for number in (10, 9, 1):
        cv2.imwrite(str(tmp_path / f"frame{number}.png"), numbered(number))
    (tmp_path / "notes.txt").write_text("x")
    source = open_source(tmp_path)
    assert [number_of(i) for i in source] == [1, 9, 10] and source.place(2) == (str(tmp_path / "frame10.png"), None)
    cv2.imwrite(str(tmp_path / "frame11.png"), numbered(3)[:50])
    with pytest.raises(DataError, match=r"frame11\.png: frame 3 is 128x50 px, the first is 128x96"):
        list(open_source(tmp_path))


GREY = np.stack([numbered(t)[..., 0] for t in range(5)])


@pytest.mark.parametrize("compress", [None, RLELossless])
def test_grey_dicom_is_read_frame_by_frame(tmp_path, compress):
    source = open_source(write_dicom(tmp_path / "a.dcm", GREY, compress=compress, CineRate=43))
    assert (len(source), source.size, source.fps) == (5, (HEIGHT, WIDTH), 43.0)
    assert all(np.array_equal(image, numbered(t)) for t, image in enumerate(source))
    assert np.array_equal(source.read(3), numbered(3))


def test_kinds_of_dicom_pixels_become_rgb(tmp_path):
    inverted = open_source(write_dicom(tmp_path / "a.dcm", 255 - GREY, photometric="MONOCHROME1"))
    assert np.array_equal(inverted.read(2), numbered(2))
    deep = write_dicom(tmp_path / "b.dcm", GREY.astype(np.uint16) << 4, BitsStored=12)
    assert np.array_equal(open_source(deep).read(2), numbered(2))
    colour = np.random.default_rng(0).integers(0, 255, (2, 20, 30, 3), np.uint8)
    assert np.array_equal(open_source(write_dicom(tmp_path / "c.dcm", colour, photometric="RGB")).read(1), colour[1])
    tables = np.random.default_rng(1).integers(0, 65535, (3, 256)).astype(np.uint16)
    palette = {}
    for name, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        palette[f"{name}PaletteColorLookupTableData"] = table.tobytes()
    given = open_source(write_dicom(tmp_path / "e.dcm", GREY, photometric="PALETTE COLOR", **palette)).read(1)
    assert np.array_equal(given, np.stack([table[GREY[1]] >> 8 for table in tables], axis=-1))
    ybr = np.stack([cv2.cvtColor(c, cv2.COLOR_RGB2YCrCb)[..., [0, 2, 1]] for c in colour])
    given = open_source(write_dicom(tmp_path / "d.dcm", ybr, photometric="YBR_FULL")).read(1)
    assert np.abs(given.astype(int) - colour[1]).max() <= 3  # rounding, there and back


@pytest.mark.parametrize(
    ("tags", "rate"),
    [
        (dict(CineRate=25, FrameTime=20), 25),
        (dict(FrameTime="33.333", RecommendedDisplayFrameRate=15), 1000 / 33.333),
        (dict(FrameTimeVector=[0, 40, 50, 50, 60]), 20),
        (dict(FrameTimeVector=[0, 40, 40, 90, 90]), 1000 / 65),  # the median, near which there is no interval
        (dict(CineRate=0, RecommendedDisplayFrameRate=15), 15),
        ({}, None),
    ],
)
def test_the_rate_of_a_dicom_file_is_found(tmp_path, tags, rate):
    assert open_source(write_dicom(tmp_path / "a.dcm", GREY, **tags)).fps == (rate and pytest.approx(rate))


def test_dicom_frames_are_cropped_to_their_region_unless_it_does_not_fit(tmp_path, caplog):
    path = write_dicom(tmp_path / "a.dcm", GREY, region=(16, 0, 100, 90), ManufacturerModelName="Scanner 9")
    source = open_source(path)
    assert source.size == (90, 84) and np.array_equal(source.read(4), numbered(4)[:90, 16:100])
    assert source.metadata == {
        "device": "Scanner 9",
        "spacing_mm": pytest.approx(0.2),
        "spacing_y_mm": pytest.approx(0.3),
    }
    assert open_source(path, crop=False).size == (HEIGHT, WIDTH)
    resized = open_source(write_dicom(tmp_path / "b.dcm", GREY, region=(16, 0, 300, 200)))
    assert resized.size == (HEIGHT, WIDTH) and "spacing_mm" not in resized.metadata
    load_recordings(path=tmp_path)
    assert "is not inside the image of 128x96 px" in caplog.text
    assert "DICOM files state no ultrasound region that can be used" in caplog.text


def test_nothing_of_the_patient_leaves_a_dicom_file(tmp_path, caplog, own_cache):
    with caplog.at_level(logging.DEBUG):
        write_dicom(tmp_path / "a.dcm", GREY)
        write_dicom(tmp_path / "b.dcm", GREY)
        write_dicom(tmp_path / "c.dcm", GREY, PatientID="MRN-4712")
        videos = load_recordings(path=tmp_path)
        whole = open_source(tmp_path / "a.dcm")
    assert [v.patient for v in videos] == ["a.dcm", "a.dcm", "c.dcm"]  # who is one patient is known, and not who it is
    assert patient_token(tmp_path / "a.dcm") == patient_token(tmp_path / "b.dcm") != patient_token(tmp_path / "c.dcm")
    kept = "".join(p.read_text() for p in own_cache.iterdir())
    assert "a.dcm" in kept
    written = caplog.text + repr(videos) + repr(vars(whole)) + kept
    assert not any(secret in written for secret in ("Doe^Jane", "MRN-471", "19700101"))


def test_recordings_are_read_through_the_loader_in_worker_processes(tmp_path, caplog):
    folder = tmp_path / "clips"
    (folder / "stills").mkdir(parents=True)
    for t in range(3):
        cv2.imwrite(str(folder / "stills" / f"{t}.png"), numbered(t))
    write_movie(folder / "a.mp4", range(30))
    write_dicom(folder / "b.dcm", GREY, region=(0, 0, 128, 90), FrameTime=50)
    (folder / "a.video.json").write_text('{"patient": "p7", "fps": 12.5, "organ": "breast", "spacing_mm": 0.1}')
    videos = load_recordings(path=folder)
    assert "sidecar with another fps than their own; the sidecar's is used (1): video 'a.mp4': states" in caplog.text
    assert [(v.video_id, v.patient, v.fps, len(v)) for v in videos] == [
        ("a.mp4", "p7", 12.5, 30),
        ("b.dcm", "b.dcm", 20.0, 5),
        ("stills", "stills", None, 3),
    ]
    for video in videos:  # open sources of this process must do no harm in those that are forked from it
        read_frame_image(video, 1)
    items = [item for (item,) in build_video_test_loader(videos=videos, num_workers=2)]
    assert [number_of(i["image"].permute(1, 2, 0).numpy()) for i in items] == [*range(30), *range(5), *range(3)]
    assert (items[0]["patient"], items[0]["metadata"]) == ("p7", {"organ": "breast", "spacing_mm": 0.1})
    assert items[30]["image"].shape == (3, 90, 128)


def test_few_files_are_open_at_a_time(tmp_path):
    for k in range(_MAX_OPEN + 3):
        write_movie(tmp_path / f"{k}.mp4", range(k, k + 2))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        for k, video in enumerate(load_recordings(path=tmp_path)):
            assert number_of(read_frame_image(video, 1)) == k + 1
    assert len(os.listdir("/proc/self/fd")) <= before + _MAX_OPEN and len(_open.sources) == _MAX_OPEN


def test_what_is_not_a_recording_is_refused_in_one_message(tmp_path):
    def message(name, content=None):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as caught:
            open_source(tmp_path / name)
        return str(caught.value)

    assert message("a.mp4", b"") == f"{tmp_path / 'a.mp4'}: is empty (0 bytes)."
    assert "can't be opened as a movie" in message("b.mp4", b"no movie at all" * 99)
    assert "is not a kind of file that frames are read from" in message("a.txt", b"x")
    assert message("gone.mp4").endswith("gone.mp4 does not exist.")
    assert "is not a DICOM file that can be read" in message("a.dcm", b"nothing" * 99)
    (tmp_path / "empty").mkdir()
    assert message("empty").endswith("holds no image.")
    file = pydicom.dcmread(write_dicom(tmp_path / "b.dcm", GREY))
    del file.PixelData
    file.save_as(tmp_path / "b.dcm")
    assert message("b.dcm").endswith("without pixel data: it holds no image.")
    movie = write_movie(tmp_path / "c.mp4", range(40))
    assert "can't be opened as a movie" in message("d.mp4", movie.read_bytes()[:-2000])  # its index is at its end
    mpeg = write_movie(tmp_path / "e.mpeg", range(40), codec="mpeg2video", rate=25)
    assert re.search(
        r"e\.mpeg: frame \d+ is damaged or truncated", message("e.mpeg", mpeg.read_bytes()[: -mpeg.stat().st_size // 3])
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"fsp": 25}', "unknown key 'fsp'. Did you mean 'fps'"),
        ('{"fps": "fast"}', "'fps' is 'fast', not a number above 0"),
        ('{"patient": ["x"]}', "'patient' is .* not text or a whole number"),
        ("[1]", "must be a JSON object"),
    ],
)
def test_a_bad_sidecar_is_reported_by_key(tmp_path, content, message):
    write_movie(tmp_path / "a.mp4", range(2))
    (tmp_path / "a.video.json").write_text(content)
    with pytest.raises(DataError, match=message):
        load_recordings(path=tmp_path)
