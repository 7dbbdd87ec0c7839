import io
import json
import os
import shutil
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.conftest import load_tool
from tests.datasets.recordings import HEIGHT, WIDTH, number_of, numbered, write_dicom, write_movie
from ultravid.data import DataError, load_coco_stills, load_coco_video, load_labelme, load_recordings, open_source
from ultravid.datasets.faults import FaultSink
from ultravid.datasets.image_io import check_image, read_image
from ultravid.datasets.readers import dicom_pixels, read_frame_image, stacks
from ultravid.utils.tool import run_tool


def encoded(suffix, image, *how):
    return cv2.imencode(suffix, image, list(how))[1].tobytes()


def with_chunk(png, kind, content, at=33):
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return png[:at] + chunk + png[at:]


def exif(orientation):
    return b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)


def convert(folder, output):
    arguments = ["--format", "recordings", "--path", str(folder), "--output", str(output), "--split", "test"]
    return run_tool(load_tool("convert_dataset").main, arguments)


def test_a_folders_frames_may_be_of_several_kinds_and_are_in_natural_order(tmp_path):
    kinds = [".png", ".tif", ".bmp", ".webp", ".png", ".jpg", ""]
    for number, suffix in enumerate(kinds, start=8):
        lossless = [cv2.IMWRITE_WEBP_QUALITY, 101] if suffix == ".webp" else []
        (tmp_path / f"f{number}{suffix}").write_bytes(encoded(suffix or ".png", numbered(number), *lossless))
    (video,) = load_recordings(path=tmp_path)
    assert [number_of(read_frame_image(video, t)) for t in range(7)] == list(range(8, 15))
    assert [number_of(i) for i in open_source(tmp_path)] == list(range(8, 15))


def test_numbers_that_names_skip_are_said_for_recordings_and_labelme(tmp_path, caplog):
    for folder, numbers in (("a", (0, 10, 20)), ("b", (7, 8, 9)), ("c", (1,))):
        (tmp_path / folder).mkdir()
        for n in numbers:
            (tmp_path / folder / f"x_{n:04d}.png").write_bytes(encoded(".png", numbered(n)))
    for load, argument in ((load_recordings, "path"), (load_labelme, "root")):
        caplog.clear()
        load(**{argument: tmp_path})
        (said,) = [r.getMessage() for r in caplog.records if "skip numbers" in r.getMessage()]
        assert "folders of images skip numbers" in said and "video 'a': x_0010.png follows x_0000.png" in said


def test_what_is_left_out_beside_recordings_is_listed(tmp_path, caplog):
    write_dicom(tmp_path / "1.2.840.113619.2.55.3", np.zeros((2, 8, 8), np.uint8))
    bare = write_dicom(tmp_path / "scan.I", np.full((1, 8, 8), 7, np.uint8)).read_bytes()
    (tmp_path / "bare").write_bytes(bare[bare.index(b"\x08\0\x16\0UI") :])
    write_movie(tmp_path / "film.mp4", range(3)).rename(tmp_path / "film")
    (tmp_path / "stack.tif").write_bytes(cv2.imencodemulti(".tif", [numbered(n) for n in range(4)])[1].tobytes())
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "DICOMDIR").write_bytes(bytes(128) + b"DICM")
    (tmp_path / "scans.zip").write_bytes(b"PK\3\4")
    (tmp_path / "flim.video.json").write_text("{}")
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "again.mp4").symlink_to("film")
    for name in ("sub", "sub/deep"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "loop").symlink_to("..")
    (tmp_path / "sub" / "a.png").write_bytes(encoded(".png", numbered(1)))
    videos = load_recordings(path=tmp_path)
    assert [v.video_id for v in videos] == ["1.2.840.113619.2.55.3", "bare", "film", "scan.I", "stack.tif", "sub"]
    assert (read_frame_image(videos[1], 0) == 7).all() and videos[1].patient == videos[0].patient
    assert [number_of(read_frame_image(videos[4], t)) for t in range(4)] == [0, 1, 2, 3]
    assert f"{tmp_path}: 6 files or folders were left out; the first: sub/loop is a link to " in caplog.text
    sink = FaultSink()
    load_recordings(path=tmp_path, faults=sink)
    left_out = {f.message.split(" ")[0]: f.message for f in sink.faults if "left out" in f.kind}
    assert left_out["scans.zip"] == "scans.zip is no movie, DICOM file or image"
    assert left_out["pipe.mp4"] == "pipe.mp4 is not a regular file"
    assert left_out["flim.video.json"] == "flim.video.json describes no recording in its folder"
    assert set(left_out) == {"sub/loop", "sub/deep/loop", "again.mp4", "scans.zip", "pipe.mp4", "flim.video.json"}


@pytest.mark.parametrize(("declared", "stated"), [(None, False), (12, True)])
def test_twelve_bits_in_sixteen_are_scaled_by_the_whole_recording(tmp_path, caplog, declared, stated):
    folder = tmp_path / "scan"
    folder.mkdir()
    for number in range(3):  # only the last frame is bright
        png = encoded(".png", numbered(number)[..., 0].astype(np.uint16) << (2 if number < 2 else 4))
        (folder / f"{number}.png").write_bytes(with_chunk(png, b"sBIT", bytes([12])) if declared else png)
    (video,) = load_recordings(path=folder)
    right = [numbered(0) >> 2, numbered(1) >> 2, numbered(2)]
    source = open_source(folder)
    for t in (1, 0, 2):
        assert np.array_equal(read_frame_image(video, t), right[t]) and np.array_equal(source.read(t), right[t])
    assert ("video 'scan': 12 bits (largest value 4080)" in caplog.text) is not stated
    assert convert(folder, tmp_path / "out") == 0
    written = sorted((tmp_path / "out").rglob("*.png"))
    assert all(np.array_equal(read_image(path), image) for path, image in zip(written, right, strict=True))
    (folder / "9.png").write_bytes(encoded(".png", numbered(3)))
    with pytest.raises(
        DataError, match=r"'scan' frame 3: .*9\.png has 8 bits per channel, its recording's first image has 16"
    ):
        load_recordings(path=folder)
    shutil.copy(folder / "9.png", folder / "0.png")
    with pytest.raises(DataError, match=r"frame 1: .*1\.png has 16 bits per channel, .* first image has 8.* \(1 more"):
        load_recordings(path=folder)


def test_stills_of_sixteen_bits_share_one_scale(tmp_path, caplog):
    content = {"images": [], "annotations": [], "categories": []}
    for n, largest in enumerate((4000, 1900, 900)):
        cv2.imwrite(str(tmp_path / f"{n}.png"), np.full((8, 8), largest, np.uint16))
        content["images"].append({"id": n, "file_name": f"{n}.png", "height": 8, "width": 8})
    cv2.imwrite(str(tmp_path / "eight.png"), np.full((8, 8), 77, np.uint8))
    content["images"].append({"id": 3, "file_name": "eight.png", "height": 8, "width": 8})
    (tmp_path / "stills.json").write_text(json.dumps(content))
    videos = load_coco_stills(json_file=tmp_path / "stills.json")
    assert [read_frame_image(video, 0).max() for video in videos] == [4000 >> 4, 1900 >> 4, 900 >> 4, 77]
    assert caplog.text.count("16-bit") == 1 and "3 stills, 12 bits (largest value 4000)" in caplog.text


def test_how_many_bits_are_used_is_looked_for_once(tmp_path, monkeypatch):
    pages = [numbered(n)[..., 0].astype(np.uint16) << 2 for n in range(4)]
    cv2.imwritemulti(str(tmp_path / "stack.tif"), pages)
    write_dicom(tmp_path / "scan.dcm", np.stack(pages))
    read = load_recordings(path=tmp_path)
    assert [video.frames[0].bits for video in read] == [10, 10]
    dicom_pixels._known_bits.clear()  # as in another process
    monkeypatch.setattr(dicom_pixels.PixelDecoder, "_all_stored", None)
    decoded = []
    decode = stacks.decode_image
    monkeypatch.setattr(stacks, "decode_image", lambda *a, page: decoded.append(page) or decode(*a, page=page))
    for video in read:
        assert np.array_equal(read_frame_image(video, 2)[..., 0], pages[2] >> 2)
    assert decoded == [0, 2]
    write_dicom(tmp_path / "scan.dcm", np.stack(pages) << 1)
    with pytest.raises(
        DataError, match=r"scan\.dcm: holds a value of more than the 10 bits that it had: was it changed"
    ):
        read_frame_image(next(video for video in read if video.video_id == "scan.dcm"), 3)


def damaged(jpeg):
    jpeg = bytearray(jpeg)
    del jpeg[len(jpeg) // 2 : len(jpeg) // 2 + 5]
    return bytes(jpeg)


def test_a_damaged_image_is_refused_by_name_by_every_tool(tmp_path, capfd):
    folder = tmp_path / "scan"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(encoded(".jpg", numbered(number)) + b"a comment\0 of some program" * 9)
    (folder / "1.jpg").write_bytes(damaged(encoded(".jpg", numbered(1))))
    (video,) = load_recordings(path=folder)
    assert number_of(read_frame_image(video, 2)) == 2  # bytes after the end do no harm
    with pytest.raises(DataError, match=r"'scan' frame 1: .*1\.jpg: is a damaged JPEG \(Corrupt JPEG data: "):
        read_frame_image(video, 1)
    assert convert(folder, tmp_path / "out") == 2
    assert "1.jpg: is a damaged JPEG (Corrupt JPEG data" in capfd.readouterr().err
    audit = ["--data", f"recordings:{folder}", "--output", str(tmp_path / "audit.html")]
    assert run_tool(load_tool("audit_dataset").main, audit) == 0
    assert "1.jpg: is a damaged JPEG" in (tmp_path / "audit.html").read_text()


PNG = encoded(".png", numbered(5))
JPEG = encoded(".jpg", numbered(5))


def with_segment(jpeg, marker, content):
    return jpeg[:2] + b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content + jpeg[2:]


def with_sampling(jpeg, *factors):
    at = jpeg.index(b"\xff\xc0") + 11
    changed = bytearray(jpeg)
    changed[at : at + 9 : 3] = bytes(factors)
    return bytes(changed)


def damaged_tiff(compression):
    file = io.BytesIO()
    Image.fromarray(numbered(5)).save(file, "TIFF", compression=compression)
    tiff = bytearray(file.getvalue())
    start = Image.open(file).tag_v2[273][0] + 200  # of the first strip's offset
    tiff[start : start + 4] = b"\xff\xd5?\xff"
    return bytes(tiff)


def of_imagej(number):
    note = f"ImageJ=1.54f\nimages={number}\nslices={number}\n".encode()
    buffer = io.BytesIO()
    Image.fromarray(numbered(5)).save(buffer, "TIFF", description=note.decode())
    return buffer.getvalue()


def in_a_circle():
    buffer = io.BytesIO()
    pages = [Image.fromarray(numbered(5))] * 2
    pages[0].save(buffer, "TIFF", save_all=True, append_images=pages[1:])
    data = bytearray(buffer.getvalue())
    first = int.from_bytes(data[4:8], "little")
    entries = int.from_bytes(data[first : first + 2], "little")
    at = first + 2 + 12 * entries
    data[at : at + 4] = data[4:8]
    return bytes(data)


def white_is_zero():
    tiff = encoded(".tif", np.zeros((8, 8), np.uint16))
    return tiff.replace(struct.pack("<HHIH", 262, 3, 1, 1), struct.pack("<HHIH", 262, 3, 1, 0))


def taller_than_its_pixels():
    tiff = encoded(".tif", np.zeros((8, 8), np.uint8))
    return tiff.replace(struct.pack("<HHIH", 257, 3, 1, 8), struct.pack("<HHIH", 257, 3, 1, 80))


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.png", PNG + b"bytes after the end" * 9, None),
        ("a.jpg", encoded(".jpg", numbered(5)) + bytes(range(200)), None),
        ("a.png", PNG[:-400], "is a truncated PNG"),
        ("a.png", PNG[:99] + b"?" + PNG[100:], r"is a damaged PNG \(wrong checksum of its IDAT chunk\)"),
        ("a.png", with_chunk(PNG, b"acTL", bytes(8)), "is an animated PNG"),
        (
            "a.png",
            PNG[:16] + struct.pack(">II", 60000, 60000) + PNG[24:],
            "60000x60000 px is more than a frame may have",
        ),
        ("a.png", encoded(".png", np.full((8, 8, 4), 99, np.uint8)), "has transparent pixels"),
        ("a.png", encoded(".png", np.full((8, 8, 4), 255, np.uint8)), None),
        ("a.tif", encoded(".tif", np.zeros((8, 8), np.float32)), "TIFF of floating-point numbers"),
        ("a.tif", of_imagej(5), "TIFF of ImageJ that states 5 images"),
        ("a.tif", in_a_circle(), "damaged TIFF: its pages run in a circle"),
        ("a.tif", white_is_zero(), "kind of colours that is not read"),
        ("a.tif", taller_than_its_pixels(), "damaged TIFF: it has 1 of the 10 strips"),
        ("a.jpg", b"\xff\xd8\xff\xc0\0\x14\x08\0\x08\0\x08\x04" + bytes(99), "JPEG in CMYK"),
        ("a.jpg", encoded(".jpg", numbered(5))[:-200], "is a truncated JPEG"),
        (
            "a.jpg",
            encoded(".jpg", numbered(5))[:-1] + b"z\xff\xd9",
            r"is a damaged JPEG \(Unsupported marker type 0x7a\)",
        ),
        ("a.jpg", with_segment(JPEG, 0xE2, b"ICC_PROFILE\0\7\1no profile"), None),
        ("a.jpg", with_sampling(JPEG, 0x22, 0x22, 0x22), "subsampled in a way that is not read: save it as 4:4:4"),
        ("a.jpg", JPEG[: JPEG.index(b"\xff\xda")] + bytes(99) + b"\xff\xd9", "is a damaged JPEG .what comes before"),
        ("a.png", with_chunk(PNG, b"iCCP", b"x"), None),
        ("a.png", with_chunk(PNG, b"tEXt", b"a").replace(b"tEXta", b"tEXtb"), r"\(wrong checksum of its tEXt chunk\)"),
        ("a.tif", damaged_tiff("tiff_lzw"), r"is a damaged TIFF \("),
        ("a.tif", damaged_tiff("tiff_adobe_deflate"), r"is a damaged TIFF \("),
        ("a.tif", damaged_tiff("jpeg"), r"is a damaged (TIFF|JPEG) \("),
        ("a.png", encoded(".bmp", numbered(5)), None),
        ("a.png", b"GIF89a" + bytes(20), "0x0 px is not a size"),
        ("a.png", b"no image" * 9, "is not an? .*image"),
    ],
)
def test_an_image_is_read_right_or_refused_by_name(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    if message is None:
        (video,) = load_recordings(path=tmp_path)
        image = read_frame_image(video, 0)
        assert (image == 255).all() or number_of(image) == 5
        return
    with pytest.raises(DataError, match=rf"{name}:? .*{message}"):
        read_frame_image(load_recordings(path=tmp_path)[0], 0)


@pytest.mark.parametrize("name", ["a.tif", "a.mp4"])
def test_a_file_that_is_replaced_is_read_anew(tmp_path, name):
    for number in (3, 8):
        if name == "a.tif":
            stack = [numbered(n) for n in range(number, number + 3)]
            (tmp_path / name).write_bytes(cv2.imencodemulti(".tif", stack)[1].tobytes())
        else:
            write_movie(tmp_path / name, range(number, number + 3))
        (video,) = load_recordings(path=tmp_path)
        assert [number_of(read_frame_image(video, n)) for n in range(3)] == [number, number + 1, number + 2]


@pytest.mark.parametrize(
    "kind", ["png", "png at its end", "png behind a long text", "png before a long end", "jpg", "jpg behind its size"]
)
def test_an_image_has_the_size_that_it_is_shown_with(tmp_path, kind):
    jpeg, content = encoded(".jpg", numbered(5)), b"Exif\0\0" + exif(6)
    segment = b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content
    data = {
        "png": with_chunk(PNG, b"eXIf", exif(6)),
        "png at its end": with_chunk(PNG, b"eXIf", exif(6), len(PNG) - 12),
        "png behind a long text": with_chunk(
            with_chunk(PNG, b"eXIf", exif(6)), b"tEXt", b"a\0" + b"eXIf acTL tRNS " * 999
        ),
        "png before a long end": with_chunk(PNG, b"eXIf", exif(6), len(PNG) - 12) + bytes(9999),
        "jpg": jpeg[:2] + segment + jpeg[2:],
        "jpg behind its size": jpeg[: jpeg.index(b"\xff\xda")] + segment + jpeg[jpeg.index(b"\xff\xda") :],
    }[kind]
    (tmp_path / "a.png").write_bytes(data)

    def load(height, width):
        image = {"id": 1, "video_id": 1, "frame_id": 0, "file_name": "a.png", "height": height, "width": width}
        content = {"videos": [{"id": 1, "name": "v"}], "images": [image], "annotations": [], "categories": []}
        (tmp_path / "a.json").write_text(json.dumps({**content, "categories": [{"id": 1, "name": "lesion"}]}))
        return load_coco_video(json_file=tmp_path / "a.json", image_root=tmp_path)

    (video,) = load(WIDTH, HEIGHT)
    assert read_frame_image(video, 0).shape == (WIDTH, HEIGHT, 3)
    with pytest.raises(
        DataError, match=r"96x128 px after the turn that its Exif orientation states, its annotation says"
    ):
        load(HEIGHT, WIDTH)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("channels", [1, 3])
def test_a_jpeg_is_shown_upright(tmp_path, orientation, channels):
    image = numbered(5)[..., 0] if channels == 1 else np.random.default_rng(0).integers(0, 255, (33, 50, 3), np.uint8)
    data = with_segment(encoded(".jpg", image), 0xE1, b"Exif\0\0" + exif(orientation)[:-4])  # without its end
    (tmp_path / "a.jpg").write_bytes(data)
    right = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert np.array_equal(read_image(tmp_path / "a.jpg"), right)
    grey = right[..., 0] if channels == 1 else right
    assert np.array_equal(read_image(tmp_path / "a.jpg", keep_grey=True), grey)


def test_threads_find_the_damage_of_their_own_images_and_leave_the_standard_error_alone(tmp_path, capfd):
    sound = [
        encoded(".jpg", numbered(6)),
        encoded(".jpg", numbered(6), cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        encoded(".png", numbered(6)),
    ]
    for number in range(60):
        data = sound[number % 3]
        if number % 4 == 0:
            data = data[:99] + b"?" + data[100:] if number % 3 == 2 else damaged(data)
        (tmp_path / f"{number}").write_bytes(data)

    def read(number):
        os.write(2, b"x\n")
        try:
            return f"{number_of(read_image(tmp_path / f'{number}'))}"
        except DataError as error:
            return str(error).partition(" is a damaged ")[0]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read, range(60)))
    assert found == ["6" if number % 4 else f"{tmp_path / str(number)}:" for number in range(60)]
    assert capfd.readouterr().err == "x\n" * 60


def test_a_pipe_under_an_images_name_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    assert check_image(tmp_path / "a.png", 8, 8).fault == "can't be read (it is a named pipe, not a file)"
    with pytest.raises(DataError, match=r"a\.png.*it is a named pipe, not a file"):
        load_recordings(path=tmp_path)
