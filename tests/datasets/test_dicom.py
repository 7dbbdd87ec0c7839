"""What a DICOM file claims, against what it holds: frames, bits, palettes, rates, regions, and text that is burnt in."""

import struct

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRBigEndian,
    JPEGBaseline8Bit,
    RLELossless,
)

from tests.conftest import load_tool
from tests.datasets.recordings import HEIGHT, WIDTH, numbered, write_dicom
from ultravid.datasets import load_cva_bus, load_cvat_video, load_recordings, open_source
from ultravid.datasets.faults import FaultSink
from ultravid.datasets.readers import read_frame_image
from ultravid.datasets.video import DataError
from ultravid.utils.tool import run_tool

GREY = np.stack([numbered(t)[..., 0] for t in range(5)])
SMALL = np.random.default_rng(0).integers(0, 256, (5, 24, 33), np.uint8)  # of an odd number of bytes
SECRETS = ("Doe^Jane", "MRN-4711", "19700101")


def rewrite(path, change):
    """Change a file's elements, beyond what pydicom would write unasked."""
    with pydicom.config.disable_value_validation():
        file = pydicom.dcmread(path)
        change(file)
        file.save_as(path)
    return path


def read_one(path, **options):
    """(frames, what was repaired or guessed) of the only video."""
    sink = FaultSink()
    (video,) = load_recordings(path=path, faults=sink, **options)
    assert not [f for f in sink.faults if not f.repaired]
    said = [f.message for f in sink.faults if "may be burnt" not in f.kind]
    return np.stack([read_frame_image(video, t) for t in range(len(video))]), said


def refusal(path):
    with pytest.raises(DataError) as caught:
        open_source(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and not any(s in message for s in SECRETS)
    return message


def rgb(grey):
    return np.repeat(grey[..., None], 3, axis=-1)


@pytest.mark.parametrize("compress", [None, RLELossless, "jpeg"])
@pytest.mark.parametrize(
    ("announced", "said"),
    [
        (None, "announces no number of frames, holds 5 frames"),
        ("3", "announces 3 frames, holds 5 frames"),
        ("9", "announces 9 frames, holds 5 frames"),
        ("0", "announces 0 frames, holds 5 frames"),
        ("-1", "announces -1 frames, holds 5 frames"),
        ("2000000000", "announces 2000000000 frames, holds 5 frames"),
        ("many", "announces frames by what is not a number, holds 5 frames"),
        ("5", None),
    ],
)
def test_frames_are_counted_and_a_wrong_number_is_reported(tmp_path, compress, announced, said):
    path = write_dicom(tmp_path / "a.dcm", SMALL, compress=compress if compress != "jpeg" else None)
    expected = rgb(SMALL)
    if compress == "jpeg":
        codes = [cv2.imencode(".jpg", image)[1].tobytes() for image in SMALL]
        expected = np.stack([cv2.imdecode(np.frombuffer(c, np.uint8), cv2.IMREAD_COLOR) for c in codes])

    def change(file):
        if compress == "jpeg":
            file.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
            file.PixelData = encapsulate(codes, fragments_per_frame=2, has_bot=announced in ("5", "3"))
            file["PixelData"].VR = "OB"
        del file.NumberOfFrames
        if announced is not None:
            file.add(pydicom.DataElement("NumberOfFrames", "LO", announced))
            file["NumberOfFrames"].VR = "IS" if announced != "many" else "LO"

    frames, messages = read_one(rewrite(path, change))
    tolerance = 2 if compress == "jpeg" else 0  # decoders round differently
    assert frames.shape == expected.shape and np.abs(frames.astype(int) - expected).max() <= tolerance
    assert [m.partition("': ")[2] for m in messages] == ([said] if said else [])
    source = open_source(path)
    assert all(np.array_equal(source.read(t), frames[t]) for t in (4, 0, 2))
    with pytest.raises(IndexError, match="there is no frame 5"):
        source.read(5)


def test_a_file_that_ends_early_or_states_a_wrong_size_is_refused_by_frame(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", SMALL)
    data = path.read_bytes()
    path.write_bytes(data[:-400])
    assert "is truncated: 3560 of 3960 bytes of its pixels are there; frame 4 is incomplete" in refusal(path)
    rewrite(write_dicom(path, SMALL), lambda f: setattr(f, "PixelData", f.PixelData[:-100]))
    assert "4 frames of the size that it states and 692 of 792 bytes of frame 4, which is incomplete" in refusal(path)
    rewrite(write_dicom(path, SMALL), lambda f: setattr(f, "Rows", 23))
    assert "or the stated size is wrong" in refusal(path)
    rewrite(write_dicom(path, SMALL), lambda f: setattr(f, "PixelData", f.PixelData + bytes(100)))
    assert read_one(path)[1] == ["video 'a.dcm': has 100 bytes of padding after frame 4"]
    packed = write_dicom(path, SMALL, compress=RLELossless).read_bytes()
    path.write_bytes(packed[: len(packed) // 2])
    assert "bytes of fragment" in refusal(path)
    codes = [cv2.imencode(".jpg", image)[1].tobytes() for image in (SMALL[0], SMALL[1, :20], SMALL[2])]

    def as_jpeg(parts):
        def change(file):
            file.file_meta.TransferSyntaxUID, file.PixelData = JPEGBaseline8Bit, encapsulate(parts)
            file["PixelData"].VR = "OB"

        return rewrite(write_dicom(path, SMALL), change)

    as_jpeg(codes)
    assert "frame 1 is 33x20 px, the file states 33x24" in refusal(path)
    as_jpeg([codes[0], b"\0\0" + codes[2][2:], codes[2]])
    assert "frame 1 is damaged: fragment 1 of the pixels does not begin as JPEG Baseline" in refusal(path)
    as_jpeg([codes[0], codes[2] + bytes(500)])
    assert len(open_source(path)) == 2  # padded to blocks of a fixed size
    as_jpeg([codes[0], codes[2][:-200]])
    assert "frame 1 is truncated: its compressed image has no end" in refusal(path)


def test_a_damaged_frame_is_refused_by_its_number(tmp_path):
    codes = [cv2.imencode(".jpg", image)[1].tobytes() for image in GREY[:3]]
    codes[1] = codes[1][:-60] + b"\xff\xc4" + codes[1][-58:]  # a marker where pixels are

    def change(file):
        file.file_meta.TransferSyntaxUID, file.PixelData = JPEGBaseline8Bit, encapsulate(codes)
        file["PixelData"].VR, file.NumberOfFrames = "OB", 3

    (video,) = load_recordings(path=rewrite(write_dicom(tmp_path / "a.dcm", GREY), change))
    assert read_frame_image(video, 2).any()
    with pytest.raises(
        DataError, match=r"Video 'a\.dcm' frame 1: .*a\.dcm: frame 1 (is a damaged JPEG|can't be decoded)"
    ):
        read_frame_image(video, 1)


def test_a_frame_of_sixteen_bits_that_is_too_long_is_refused_without_a_backtrace(tmp_path, capfd):
    def change(file):
        plane = b"\0\1" * SMALL[0].size  # literal runs of one byte
        head = struct.pack("<16L", 2, 64, 64 + len(plane), *[0] * 13)
        file.file_meta.TransferSyntaxUID = RLELossless
        file.PixelData = encapsulate([head + 2 * plane, head + 2 * plane + b"\0\1" * 9])
        file["PixelData"].VR, file.NumberOfFrames = "OB", 2

    path = rewrite(write_dicom(tmp_path / "a.dcm", SMALL.astype(np.uint16)), change)
    assert "a.dcm: frame 1 can't be decoded: its RLE has another length than its pixels" in refusal(path)
    assert not capfd.readouterr().err


def test_what_can_not_be_read_is_one_line_for_one_file(tmp_path):
    def message(change, **tags):
        return refusal(rewrite(write_dicom(tmp_path / "x.dcm", SMALL, **tags), change))

    def of_syntax(last):
        data = write_dicom(tmp_path / "x.dcm", SMALL).read_bytes()
        syntax = b"1.2.840.10008.1.2." + last
        length = len(syntax).to_bytes(2, "little")
        (tmp_path / "x.dcm").write_bytes(data.replace(b"\x14\x001.2.840.10008.1.2.1\0", length + syntax))
        return refusal(tmp_path / "x.dcm")

    assert "Take out the movie, as by GDCM's gdcmraw" in of_syntax(b"4.102\0")
    assert "private or unknown (1.2.840.10008.1.2.77)" in of_syntax(b"77")
    assert "states compressed pixels (RLE Lossless), but does not hold them" in of_syntax(b"5\0")
    assert "signed pixels" in message(lambda f: setattr(f, "PixelRepresentation", 1))
    assert "has 32 bits per pixel" in message(lambda f: setattr(f, "BitsAllocated", 32))
    assert "states 9 bits that end with bit 8, of 8" in message(lambda f: f.update({"BitsStored": 9, "HighBit": 8}))
    assert "does not state its Rows" in message(lambda f: f.__delattr__("Rows"))
    assert "MONOCHROME2 has 1" in message(lambda f: setattr(f, "SamplesPerPixel", 3))
    assert "can't be read here (YBR_PARTIAL_420)" in message(
        lambda f: setattr(f, "PhotometricInterpretation", "YBR_PARTIAL_420")
    )
    assert "no palette that can be read" in message(lambda f: None, photometric="PALETTE COLOR")
    good = write_dicom(tmp_path / "good.dcm", SMALL)
    for n, at in enumerate(range(132, 700, 40)):  # the header's bytes, overwritten one stretch after another
        data = bytearray(good.read_bytes())
        data[at : at + 8] = b"\xff" * 8
        (tmp_path / f"{n}.dcm").write_bytes(data)
    sink = FaultSink()
    videos = load_recordings(path=tmp_path, faults=sink)
    assert "good.dcm" in [v.video_id for v in videos] and len(sink.faults) > 5
    assert not any(s in repr(sink.faults) for s in SECRETS)


def test_bits_of_pixels_are_those_that_are_used_in_the_whole_file(tmp_path):
    dim = SMALL.copy()
    dim[:4] //= 16  # a frame alone looks as if it had fewer bits

    def read(values, **tags):
        return read_one(write_dicom(tmp_path / "a.dcm", values, **tags))

    frames, (said,) = read(dim.astype(np.uint16))
    assert (
        np.array_equal(frames, rgb(dim))
        and "states 16 bits up to bit 15, no pixel is above 255: taken as 8 bits" in said
    )
    frames, (said,) = read(dim.astype(np.uint16) << 4, compress=RLELossless)
    assert np.array_equal(frames, rgb(dim)) and "taken as 12 bits" in said
    frames, (said,) = read(dim.astype(np.uint16), WindowCenter=2048, WindowWidth=4096)
    assert np.array_equal(frames, rgb(dim >> 4)) and "taken as 12 bits" in said
    frames, (said,) = read(dim.astype(np.uint16) << 4, BitsStored=8)  # more than it states
    assert np.array_equal(frames, rgb(dim)) and "taken as 12 bits" in said
    for values, tags in [
        (dim.astype(np.uint16) << 8, {}),
        (dim.astype(np.uint16) << 4, {"BitsStored": 12}),
        (dim.astype(np.uint16) << 8, {"BitsStored": 8, "HighBit": 15}),
        (dim.astype(np.uint16), {"BitsStored": 8}),
        (dim, {}),
    ]:
        frames, said = read(values, **tags)
        assert np.array_equal(frames, rgb(dim)) and not said
    frames, said = read(255 - dim, photometric="MONOCHROME1")
    assert np.array_equal(frames, rgb(dim))
    frames, said = read(SMALL >> 4, BitsStored=4)
    assert np.array_equal(frames, rgb((SMALL >> 4) * 17)) and not said


def test_palettes_and_orders_of_colours_are_right(tmp_path):
    rng = np.random.default_rng(1)
    colours = rng.integers(0, 256, (200, 3)).astype(np.uint8)
    names = [f"{c}PaletteColorLookupTable" for c in ("Red", "Green", "Blue")]
    expected = colours[np.clip(SMALL.astype(int) - 10, 0, 199)]

    def palette(data, bits, first=10, segmented=""):
        tags = {f"{name}Descriptor": [200, first, bits] for name in names}
        tags |= {f"{segmented}{name}Data": d for name, d in zip(names, data, strict=True)}
        return read_one(write_dicom(tmp_path / "a.dcm", SMALL, photometric="PALETTE COLOR", **tags))

    columns = colours.T
    for data, bits in [
        ([c.tobytes() for c in columns], 8),
        ([c.astype("<u2").tobytes() for c in columns], 8),
        ([(c.astype("<u2") << 8).tobytes() for c in columns], 16),
    ]:
        frames, said = palette(data, bits)
        assert np.array_equal(frames, expected) and not said
    frames, said = palette([c.astype("<u2").tobytes() for c in columns], 16)
    assert np.array_equal(frames, expected) and "its largest entry is below 256: taken as 8 bits" in said[0]
    # A discrete segment of 100 entries, then a straight line to another value.
    segmented = [
        struct.pack("<102H3H", 0, 100, *(int(v) << 8 for v in c[:100]), 1, 100, int(c[150]) << 8) for c in columns
    ]
    frames, said = palette(segmented, 16, segmented="Segmented")
    line = np.linspace(colours[99].astype(float) * 256, colours[150].astype(float) * 256, 101)[1:]
    table = np.concatenate([colours[:100], (np.around(line).astype(int) >> 8).astype(np.uint8)])
    assert np.array_equal(frames, table[np.clip(SMALL.astype(int) - 10, 0, 199)])
    cut = {f"Segmented{name}Data": s[:-2] for name, s in zip(names, segmented, strict=True)}
    rewrite(tmp_path / "a.dcm", lambda f: f.update(cut))
    assert "segmented palette that can't be read" in refusal(tmp_path / "a.dcm")

    rgb_frames = rng.integers(0, 256, (3, 10, 12, 3), np.uint8)
    planes = np.ascontiguousarray(rgb_frames.transpose(0, 3, 1, 2)).reshape(3, 10, 12, 3)
    frames, said = read_one(write_dicom(tmp_path / "a.dcm", planes, photometric="RGB", PlanarConfiguration=1))
    assert np.array_equal(frames, rgb_frames) and not said


def test_subsampled_colours_have_two_bytes_a_pixel(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (3, 10, 12, 2), np.uint8)  # Y Y Cb Cr

    def change(file, data):
        file.PhotometricInterpretation, file.PixelData = "YBR_FULL_422", data.tobytes()

    path = write_dicom(tmp_path / "a.dcm", np.zeros((3, 10, 12, 3), np.uint8), photometric="RGB", NumberOfFrames=None)
    frames, said = read_one(rewrite(path, lambda f: change(f, values)))
    assert len(frames) == 3 and "holds 3 frames" in said[0]
    assert np.array_equal(frames, pydicom.dcmread(rewrite(path, lambda f: setattr(f, "NumberOfFrames", 3))).pixel_array)
    rewrite(path, lambda f: (change(f, np.zeros((2, 10, 12, 3), np.uint8)), setattr(f, "NumberOfFrames", 2)))
    assert "three bytes for each pixel" in refusal(path)


def test_big_endian_frames_of_odd_length_are_right(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", SMALL[:3, :23])
    file = pydicom.dcmread(path)
    swapped = np.frombuffer(file.PixelData, np.uint8).reshape(-1, 2)[:, ::-1].tobytes()
    file.file_meta.TransferSyntaxUID, file.PixelData = ExplicitVRBigEndian, swapped
    file["PixelData"].VR = "OW"
    list(file)  # converts what would be written as it was read
    file.set_original_encoding(False, False)
    file.save_as(path)
    frames, said = read_one(path)
    assert np.array_equal(frames, rgb(SMALL[:3, :23])) and not said


@pytest.mark.parametrize(
    ("tags", "rate", "said"),
    [
        (dict(FrameTimeVector=[0, 40, 40, 2000, 40]), 25, None),
        (dict(FrameTimeVector=[0, 40, 40, 2000, 40], CineRate=2), 25, "CineRate 2; the first is used"),
        (dict(FrameTimeVector=[0, 33, 34, 33, 33]), 1000 / 33.25, None),
        (dict(FrameTimeVector=[0, 40, 40], CineRate=30), 30, "has 3 values for 5 frames"),
        (dict(FrameTimeVector=[0, 40, -40, 0, 40], FrameTime=50), 20, "has 2 values that are no times"),
        (dict(CineRate=25, FrameTime=20), 25, "CineRate says 25 frames a second, FrameTime 50; the first is used"),
        (dict(CineRate=30, FrameTime="33.333"), 30, None),
        (dict(CineRate=0, FrameTime=50), 20, "its CineRate is 0 and is not used"),
        (dict(FrameTime=0), None, "its FrameTime is 0"),
        (dict(RecommendedDisplayFrameRate=15), 15, "15 frames a second are taken from RecommendedDisplayFrameRate"),
        (dict(EffectiveDuration=0.25), 20, "20 frames a second are taken from EffectiveDuration"),
        (dict(ActualFrameDuration=40), 25, None),
    ],
)
def test_times_that_contradict_or_can_not_be_are_reported(tmp_path, tags, rate, said):
    source = open_source(write_dicom(tmp_path / "a.dcm", SMALL, **tags))
    assert source.fps == (rate and pytest.approx(rate))
    assert [said in m for _, m in source.repairs] == [True] if said else source.repairs == []
    (video,) = load_recordings(path=tmp_path)
    assert (video.fps, [f.time_s for f in video.frames]) == (source.fps, list(source.times_s or [None] * 5))
    uneven = 2000 in tags.get("FrameTimeVector", [])
    assert source.times_s == (pytest.approx([0, 0.04, 0.08, 2.08, 2.12]) if uneven else None)


def test_a_frame_time_vector_that_is_no_number_spoils_no_folder(tmp_path):
    for name in ("a.dcm", "b.dcm"):
        write_dicom(tmp_path / name, SMALL, FrameTime=40)

    def change(file):
        file.add(pydicom.DataElement("FrameTimeVector", "LO", ["fast", "nan", "1", "2", "3"]))
        file["FrameTimeVector"].VR = "DS"

    rewrite(tmp_path / "a.dcm", lambda f: f.add(pydicom.DataElement("FrameTimeVector", "LO", ["fast", "slow"])))
    sink = FaultSink()
    videos = load_recordings(path=tmp_path, faults=sink)
    assert [(v.video_id, v.fps) for v in videos] == [("a.dcm", 25.0), ("b.dcm", 25.0)]
    assert sum("FrameTimeVector has 2 values" in f.message for f in sink.faults) == 1


HEADER = 12  # px with the patient's name


def scan(path, region=(0, HEADER, WIDTH + 1, HEIGHT + 1), device="Scanner 9", **tags):
    pixels = GREY.copy()
    pixels[:, :HEADER] = 255
    return write_dicom(path, pixels, region=region, ManufacturerModelName=device, **tags)


def test_a_region_that_ends_a_pixel_beyond_the_image_is_clipped(tmp_path):
    scan(tmp_path / "a.dcm")
    sink = FaultSink()
    (video,) = load_recordings(path=tmp_path, faults=sink)
    assert video.frames[0].crop == (0, HEADER, WIDTH, HEIGHT) and not video.may_show_text
    assert np.array_equal(read_frame_image(video, 3), numbered(3)[HEADER:])
    assert video.metadata["spacing_mm"] == pytest.approx(0.2)
    assert [f.kind for f in sink.faults] == [
        "DICOM files have ultrasound regions that end beyond the image and were clipped to it"
    ]


@pytest.mark.parametrize(
    "region", [(0, HEADER, WIDTH + 9, HEIGHT), (80, HEADER, 20, HEIGHT), (40, 40, 42, 90), (500, 500, 600, 600), None]
)
def test_without_a_usable_region_text_may_be_burnt_in(tmp_path, caplog, region):
    scan(tmp_path / "a.dcm", region=region)
    scan(tmp_path / "b.dcm", region=region, BurnedInAnnotation="NO")
    videos = load_recordings(path=tmp_path)
    assert all(v.may_show_text and v.frames[0].crop is None and "spacing_mm" not in v.metadata for v in videos)
    said = [r.getMessage() for r in caplog.records if "may be burnt" in r.getMessage()]
    assert len(said) == 1 and "2 DICOM files" in said[0] and "'a.dcm'" in said[0]


def test_two_regions_are_both_shown_and_what_is_between_them_is_black(tmp_path):
    path = scan(tmp_path / "a.dcm", region=[(4, HEADER, 60, 90), (70, 20, 124, 90)])
    sink = FaultSink()
    (video,) = load_recordings(path=path, faults=sink)
    image, whole = read_frame_image(video, 1), numbered(1)
    assert image.shape == (90 - HEADER, 120, 3) and not video.may_show_text
    assert np.array_equal(image[:, :56], whole[HEADER:90, 4:60])
    assert np.array_equal(image[8:, 66:], whole[20:90, 70:124])
    assert not image[:, 56:66].any() and not image[:8, 66:].any()
    assert np.array_equal(open_source(path).read(1), image)
    assert [
        f for f in sink.faults if "several ultrasound regions" in f.kind and f.message == "video 'a.dcm': has 2 regions"
    ]
    (second,) = load_recordings(path=path, region=2)
    assert np.array_equal(read_frame_image(second, 1), whole[20:90, 70:124])
    with pytest.raises(DataError, match="has 2 ultrasound regions, there is no region 3"):
        load_recordings(path=path, region=3)


def convert(folder, output, *more):
    arguments = ["--format", "recordings", "--path", folder, "--output", output, "--split", "test", *more]
    return run_tool(load_tool("convert_dataset").main, list(map(str, arguments)))


def test_pixels_that_may_show_a_name_are_not_written_unless_they_are_blanked_or_allowed(tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    scan(folder / "a.dcm")
    scan(folder / "b.dcm", region=None)
    scan(folder / "c.dcm", region=None)
    assert convert(folder, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert "2 of 3 videos" in error and str(folder / "b.dcm") in error and not (tmp_path / "out").exists()
    for way in ("--blank-outside-region", "--masks", "--allow-burned-in-text", "'Scanner 9'", "128x96 px"):
        assert way in error
    assert convert(folder, tmp_path / "out", "--blank-outside-region") == 2  # b and c have no region
    masks = tmp_path / "masks.yaml"
    masks.write_text(f"scanner 9 :\n  128x96: [[0, 0, {WIDTH}, {HEADER}]]\n")
    assert convert(folder, tmp_path / "out", "--masks", masks, "--blank-outside-region") == 0
    for video in load_cva_bus(root=tmp_path / "out", splits=["test"]):
        image = read_frame_image(video, 2)
        assert image.shape == (HEIGHT, WIDTH, 3) and not image[:HEADER].any()
        assert np.array_equal(image[HEADER:], numbered(2)[HEADER:])
    masks.write_text(f"Scanner 9:\n  99x96: []\n  128x96: [[0, 0, {WIDTH}, {HEADER}]]\nOther: {{128x96: []}}")
    write_dicom(folder / "d.dcm", SMALL, ManufacturerModelName="Scanner 9")
    sink = FaultSink()
    assert [v.may_show_text for v in load_recordings(path=folder, masks=masks, faults=sink)] == [False] * 3 + [True]
    said = sorted(f.message.partition(": ")[2] for f in sink.faults if "table of masks" in f.kind)
    assert said == ["'Other', 128x96", "'Scanner 9', 33x24", "'Scanner 9', 99x96"]
    write_dicom(folder / "d.dcm", SMALL, ManufacturerModelName="New")
    sink = FaultSink()
    load_recordings(path=folder, masks=masks, faults=sink)
    (said,) = [f.message.partition(": ")[2] for f in sink.faults if "are not in the table of masks" in f.kind]
    assert said == "'New', 33x24"
    scan(folder / "d.dcm", device="Newer")  # cropped to its region
    sink = FaultSink()
    load_recordings(path=folder, masks=masks, faults=sink)
    assert not [f for f in sink.faults if "are not in the table of masks" in f.kind]
    (folder / "d.dcm").unlink()
    assert convert(folder, tmp_path / "seen", "--allow-burned-in-text") == 0
    capsys.readouterr()
    masks.write_text("Scaner 9: {128x96: []}")
    assert convert(folder, tmp_path / "no", "--masks", masks) == 2
    refused = capsys.readouterr().err
    assert "none of the recordings" in refused and "'Scaner 9', 128x96 (the recordings have 'Scanner 9')" in refused
    assert "They have 'Scanner 9', 128x96 (" in refused
    masks.write_text(refused.partition("A table to start from: ")[2])
    assert load_recordings(path=folder, masks=masks)
    for text, fault in [
        ("[1]", "must be an object from device"),
        ("d: {wide: []}", "'wide' is not a size"),
        ("d: {8x8: [[0, 0, 9, 4]]}", "is not a box"),
        ("d: {8x8: []}\nd: {9x9: []}", "written twice"),
    ]:
        masks.write_text(text)
        assert convert(folder, tmp_path / "no", "--masks", masks) == 2 and fault in capsys.readouterr().err


def test_pictures_of_frames_hide_what_may_show_a_name(tmp_path, capsys):
    scan(tmp_path / "a.dcm", region=None)
    page = tmp_path / "audit.html"
    arguments = ["--data", f"recordings:{tmp_path / 'a.dcm'}", "--output", str(page)]
    assert run_tool(load_tool("audit_dataset").main, arguments) == 0
    assert "Names and dates may be burnt into the frames of these DICOM files" in page.read_text()
    images = page.read_text().split("base64,")[1:]
    import base64

    decoded = [cv2.imdecode(np.frombuffer(base64.b64decode(i.split('"')[0]), np.uint8), 0) for i in images]
    assert decoded and not any(image.any() for image in decoded)
    capsys.readouterr()


def test_boxes_of_cvat_keep_their_place_when_the_outside_is_black(tmp_path, caplog):
    scan(tmp_path / "clip.dcm")
    (tmp_path / "clip.xml").write_text(
        '<annotations><meta><task><size>5</size></task></meta><track id="0" label="l">'
        '<box frame="1" keyframe="1" outside="0" occluded="0" xtl="10" ytl="20" xbr="30" ybr="40"/></track></annotations>'
    )
    (video,) = load_cvat_video(xml=tmp_path / "clip.xml")
    assert video.may_show_text and "shown with what is outside of their ultrasound region" in caplog.text
    (video,) = load_cvat_video(xml=tmp_path / "clip.xml", blank_outside_region=True)
    image = read_frame_image(video, 1)
    assert image.shape == (HEIGHT, WIDTH, 3) and not image[:HEADER].any() and not video.may_show_text
    assert np.array_equal(image[HEADER:], numbered(1)[HEADER:])
    assert video.frames[1].boxes.tolist() == [[10, 20, 30, 40]]
