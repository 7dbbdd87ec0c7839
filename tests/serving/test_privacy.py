"""What is black in written pictures, how outputs are called, and what is left of a DICOM file that was cleaned."""

import json
import re
from types import SimpleNamespace

import cv2
import numpy as np
import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
    generate_uid,
)

from tests.datasets.recordings import numbered, write_dicom
from ultravid.datasets.phantom import make_phantom_video
from ultravid.datasets.readers.opener import open_whole
from ultravid.datasets.video import DataError
from ultravid.serving.privacy import (
    KEY_FILE,
    BlackoutRule,
    NeutralNames,
    choose_blackout,
    output_key,
    patient_values,
    qc_picture,
    read_scanner_masks,
    write_contact_sheets,
)
from ultravid.serving.privacy.deidentify import deidentify_dicom
from ultravid.serving.privacy.dicom_subject import Pseudonyms, read_subject

H, W = 240, 320
NAME = "DOE^JANE 1970"


def tissue(number, height=H, width=W):
    """Texture that moves from frame to frame."""
    rng = np.random.default_rng(0)
    grey = cv2.GaussianBlur(rng.integers(0, 255, (height, width), np.uint8), (0, 0), 2)
    return np.repeat(np.roll(grey, 2 * number, axis=1)[..., None], 3, axis=2)


def written(image, text, at, level=255):
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (level,) * 3, 2)
    return image


def stream(size=(H, W), regions=None, device="", blanked=()):
    shown = SimpleNamespace(crop=None, blanked=blanked)
    return SimpleNamespace(size=size, regions=regions, shown=shown, metadata={"device": device} if device else {})


def banded(number, level):
    frame = tissue(number)
    frame[:40] = level
    return written(frame, NAME, (10, 30), 255 if level < 128 else 0)


def sector(number):
    fan = np.zeros((H, W), np.uint8)
    cv2.ellipse(fan, (W // 2, -20), (230, 230), 0, 50, 130, 1, -1)
    frame = tissue(number) * fan[..., None]
    written(frame, "DOE", (4, 60))
    return written(frame, f"12:{number:02d}", (250, 25))


def footed(number):
    """Letters 7 px high, compressed, below the scan."""
    frame = tissue(number)
    frame[200:] = 0
    cv2.putText(frame, "Doe, Jane  01.01.1970", (10, 223), cv2.FONT_HERSHEY_PLAIN, 0.8, (200, 200, 60), 1)
    return cv2.imdecode(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR)


def smeared(number, text="DOE^JANE 1970"):
    """Red letters on blue, whose colours strong compression smears."""
    frame = tissue(number)
    frame[:40] = (200, 20, 20)  # BGR
    cv2.putText(frame, text, (10, 27), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (20, 20, 210), 1)
    return cv2.imdecode(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR)[..., ::-1]


def split(number):
    frame = np.zeros((H, W, 3), np.uint8)
    frame[70:220, 5:155], frame[70:220, 165:315] = tissue(number, 150, 150), tissue(number + 5, 150, 150)
    return written(frame, NAME, (10, 40))


@pytest.mark.parametrize("num_frames", [1, 8])
@pytest.mark.parametrize(
    ("frame", "scan", "text"),
    [
        (lambda n: banded(n, 0), np.s_[44:, :], np.s_[14:33, 8:]),
        (lambda n: banded(n, 90), np.s_[46:, :], np.s_[14:33, 8:]),
        (lambda n: banded(n, 220), np.s_[46:, :], np.s_[14:33, 8:]),
        (split, np.s_[72:218, 8:152], np.s_[25:43, :]),
        (sector, np.s_[40:180, 150:170], np.s_[45:63, :40]),
        (footed, np.s_[:190, :], np.s_[214:224, 20:120]),
        (smeared, np.s_[50:, :], np.s_[18:28, 10:115]),
    ],
    ids=["black band", "grey band", "bright band", "two views", "corner", "small letters below", "red on blue"],
)
def test_text_beside_the_scan_is_blacked_out_and_the_scan_stays(frame, scan, text, num_frames):
    frames = [frame(n) for n in range(num_frames)]
    blackout = choose_blackout(stream(), frames)
    assert blackout.rule == BlackoutRule.GUESS and blackout.guessed and "what looks like text" in blackout.reason
    assert (blackout.kept[scan] == 0).mean() < 0.002
    assert not blackout.kept[text].any()


def square(number, level, step):
    """A grey picture with a bright, crossed square that moves by ``step`` a frame."""
    frame = np.full((H, W, 3), level, np.uint8)
    x = 40 + step * number
    frame[80:120, x : x + 40] = 250
    cv2.line(frame, (x + 5, 85), (x + 34, 114), (20, 20, 20), 3)
    cv2.line(frame, (x + 34, 85), (x + 5, 114), (20, 20, 20), 3)
    return frame


def test_without_text_nothing_is_black_and_the_reason_says_what_to_type():
    phantom = make_phantom_video(8, 128, np.random.default_rng(3)).frames
    for frames in (
        [tissue(n) for n in range(4)],
        [numbered(n) for n in range(32)],  # with a changing row of cells that are of one grey level each
        [np.full((H, W, 3), 40 + 9 * n, np.uint8) for n in range(8)],
        [smeared(n, "") for n in range(8)],
        [np.uint8(tissue(n) * [1.0, 0.75, 0.5]) for n in range(4)],  # a scan in brown
        [np.zeros((H, W, 3), np.uint8)] * 3,
        [np.random.default_rng(n).integers(0, 255, (H, W, 3), np.uint8) for n in range(8)],
        *([square(n, level, step) for n in range(16)] for level in (0, 90, 180) for step in (0, 5)),
        [np.repeat(frame[..., None], 3, axis=2) for frame in phantom],
    ):
        blackout = choose_blackout(stream(frames[0].shape[:2]), frames)
        assert blackout.kept is None and blackout.guessed and blackout.share == 0
        assert "no text was found" in blackout.reason and "QC sheet" in blackout.reason
        assert "--mask FILE" in blackout.reason and "--allow-burned-in-text" in blackout.reason


def test_text_without_a_scan_is_blacked_out_and_nothing_else():
    frames = [written(np.full((H, W, 3), 60, np.uint8), NAME, (40, 130)) for _ in range(8)]
    blackout = choose_blackout(stream(), frames)
    assert "1 area " in blackout.reason and not blackout.kept[116:131, 40:175].any()
    assert blackout.kept[:100].all() and blackout.kept[150:].all() and blackout.share < 0.1


def test_without_a_frame_to_look_at_all_is_black():
    blank = choose_blackout(stream(), [])
    assert blank.rule == BlackoutRule.ALL and blank.guessed and blank.share == 1.0
    assert not blank.apply(tissue(0)).any()


def test_regions_and_masks_come_before_a_guess_and_the_user_before_regions(tmp_path):
    region = (10, 40, 300, 230)
    frames = [banded(n, 0) for n in range(4)]
    table = tmp_path / "masks.json"
    table.write_text(json.dumps({"LOGIQ": {f"{W}x{H}": [[0, 0, 100, 50]]}, "other": {"9x9": []}}))
    masks = read_scanner_masks(table)
    given = frames[0].copy()

    stated = choose_blackout(stream(regions=(region,)), frames)
    assert stated.rule == BlackoutRule.REGIONS and not stated.guessed
    picture = stated.apply(given)
    assert np.array_equal(picture[40:230, 10:300], given[40:230, 10:300])
    assert picture.sum() == given[40:230, 10:300].sum()
    assert np.array_equal(given, frames[0])  # the model's frame is not written to

    both = choose_blackout(stream(regions=(region,), device="logiq"), frames, masks)
    assert both.rule == BlackoutRule.MASK and not both.kept[:50, :100].any() and not both.kept[:, :10].any()
    alone = choose_blackout(stream(regions=(region,), device="logiq"), frames, masks, allow=True)
    assert not alone.kept[:50, :100].any() and alone.kept[:40, 100:].all()
    assert choose_blackout(stream(regions=(region,)), frames, allow=True).kept is None
    assert choose_blackout(stream(device="unlisted"), frames, masks).rule == BlackoutRule.GUESS
    assert any("'unlisted', 320x240" in text for text in masks.unfit())
    with pytest.raises(ValueError, match="320x240"):
        stated.apply(given[:-1])


def test_a_mask_is_a_table_a_list_or_a_picture_and_nothing_else(tmp_path):
    listed, picture = tmp_path / "list.yaml", tmp_path / "mask.png"
    listed.write_text("- [0, 0, 320, 40]\n")
    kept = np.zeros((H, W), np.uint8)
    kept[40:, 20:] = 255
    cv2.imwrite(str(picture), kept)
    assert not read_scanner_masks(listed).kept("any", (H, W))[:40].any()
    assert np.array_equal(read_scanner_masks(picture).kept("", (H, W)), kept > 0)
    assert read_scanner_masks(None) is None
    with pytest.raises(DataError, match=r"mask.png: is a picture of 320x240 px for images of 100x50 px"):
        read_scanner_masks(picture).kept("", (50, 100))
    with pytest.raises(DataError, match="not inside images of 100x50"):
        read_scanner_masks(listed).kept("", (50, 100))
    cv2.imwrite(str(picture), tissue(0))
    with pytest.raises(DataError, match="white for what is kept"):
        read_scanner_masks(picture)
    listed.write_text("- [0, 0, 3]\n")
    with pytest.raises(DataError, match="not a box"):
        read_scanner_masks(listed)


def test_the_sheet_to_check_shows_nothing_that_is_blacked_out(tmp_path):
    frames = [banded(n, 0) for n in range(4)]
    dark = [frame.copy() for frame in frames]
    for frame in dark:
        frame[:40] = 0
    blackout = choose_blackout(stream(), frames)
    assert np.array_equal(qc_picture(frames[0], blackout, "a"), qc_picture(dark[0], blackout, "a"))
    assert not np.array_equal(qc_picture(frames[0], blackout, "a"), qc_picture(frames[1], blackout, "a"))
    tiles = [np.zeros((8, 8, 3), np.uint8)] * 41
    assert [path.name for path in write_contact_sheets(tmp_path, tiles)] == ["qc_1.png", "qc_2.png"]


@pytest.mark.parametrize(
    "name",
    [
        "doe_scan",
        "scan-JANE-2",
        "Müller1",
        "mrn4711",
        "x-MRN_4711",
        "19700101",
        "1970-01-01 b",
        "01.01.1970",
        "1.1.1970",
        "scan700101b",
        "mueller",
        "Acc99887",
        "DoeScan3",
        "doe12",
        "王小明超声",
    ],
)
def test_an_output_is_not_called_after_the_patient(tmp_path, name):
    path = write_dicom(tmp_path / f"{name}.dcm", np.zeros((1, 16, 16), np.uint8), AccessionNumber="ACC-99887")
    file = pydicom.dcmread(path)
    file.SpecificCharacterSet, file.PatientName = "ISO_IR 192", "Doe^Jane Müller=王^小明"
    file.save_as(path)
    names = NeutralNames(tmp_path / "out")
    neutral = names.of(path, path.stem)
    assert neutral.startswith("recording-") and names.num_replaced == 1
    assert (
        NeutralNames(tmp_path / "out").of(path, path.stem) == neutral
    )  # a command that is repeated skips what is done
    assert NeutralNames(tmp_path / "other").of(path, path.stem) != neutral
    assert (tmp_path / "out" / KEY_FILE).stat().st_mode & 0o077 == 0
    message = names.scrub(f"{path}: frame 3 can't be decoded; see {path.name}.")
    assert name not in message and message.startswith(neutral)


def test_a_dicom_file_that_ends_before_its_patient_is_called_neutrally(tmp_path):
    path = write_dicom(tmp_path / "Doe_cut.dcm", np.zeros((2, 16, 16), np.uint8))
    path.write_bytes(path.read_bytes()[:400])
    assert re.fullmatch("recording-[0-9a-f]{8}", NeutralNames(tmp_path / "out").of(path, path.stem))


def test_a_deflated_dicom_file_is_not_inflated_to_name_its_outputs(tmp_path, monkeypatch):
    path = write_dicom(tmp_path / "bomb.dcm", np.zeros((2, 16, 16), np.uint8))
    file = pydicom.dcmread(path)
    file.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    file.save_as(path)
    monkeypatch.setattr(pydicom, "dcmread", None)
    without_preamble = tmp_path / "bare.dcm"
    without_preamble.write_bytes(path.read_bytes()[132:])
    for deflated in (path, without_preamble):
        assert re.fullmatch("recording-[0-9a-f]{8}", NeutralNames(tmp_path / "out").of(deflated, "bomb"))
        with pytest.raises(DataError, match="deflated as a whole"):
            read_subject(deflated, None)


def test_a_name_that_tells_nothing_of_the_patient_stays(tmp_path):
    path = write_dicom(tmp_path / "scan_1.dcm", np.zeros((1, 16, 16), np.uint8), PatientID="1")
    names = NeutralNames(tmp_path / "out")
    assert names.of(path, "scan_1") == "scan_1" and not (tmp_path / "out").exists()
    (tmp_path / "Jane").mkdir()
    inside = path.rename(tmp_path / "Jane/a.dcm")
    assert names.of(inside, "a") == "a" and names.scrub("a b as a date, Jane/a.dcm") == "a b as a date, Jane/a.dcm"
    assert names.scrub(f"{inside}: a date").startswith("recording-") and names.scrub(f"{inside}: a date").endswith(
        ": a date"
    )
    path = inside.rename(path)
    assert names.of(tmp_path / "film.mp4", "film") == "film"
    assert names.of(None, "camera_0") == "camera_0"
    assert "MRN" not in repr(patient_values(path)) and patient_values(path)


SECRETS = {
    "PatientName": "Doe^Jane",
    "PatientID": "MRN-4711",
    "PatientBirthDate": "19700101",
    "StudyDate": "20240229",
    "AccessionNumber": "ACC99887",
    "InstitutionName": "Mercy Clinic",
    "ReferringPhysicianName": "House^Gregory",
    "StudyDescription": "visit of Jane Doe",
    "ImageComments": "lives in Elm Street",
}


def full_of_secrets(path, pixels, compress=None, **options):
    write_dicom(path, pixels, **options)
    file = pydicom.dcmread(path)
    for keyword, value in SECRETS.items():
        setattr(file, keyword, value)
    file.StudyInstanceUID, file.SeriesInstanceUID, file.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    file.Modality, file.Manufacturer, file.ManufacturerModelName, file.FrameTime = "US", "Maker", "Doe special", "40"
    file.BurnedInAnnotation = "YES"
    file.private_block(0x0019, "SECRET MAKER", create=True).add_new(0x01, "LO", "Doe^Jane private")
    deep = pydicom.Dataset()
    deep.PatientName, deep.RetrieveURI = "Doe^Jane", "http://mercy/4711"
    deep.ReferencedSOPInstanceUID = file.SOPInstanceUID
    outer = pydicom.Dataset()
    outer.ContentSequence = [deep]
    file.RequestAttributesSequence = [outer]
    file.AnatomicRegionSequence = [pydicom.Dataset()]
    file.AnatomicRegionSequence[0].CodeMeaning = "breast of Jane"
    file.AnatomicRegionSequence[0].PatientComments = "Elm Street"
    if "SequenceOfUltrasoundRegions" in file:
        file.SequenceOfUltrasoundRegions[0].add_new(0x00091001, "LO", "Mercy Clinic")
    file.add_new(0x00181066, "LO", "Elm Street")  # FrameDelay, which is a number
    text = RawDataElement(Tag("RescaleSlope"), "DS", 4, b"Jane", 0, False, True)
    file[text.tag] = text
    file.add_new(0x60003000, "OW", b"OVERLAY DOE JANE")
    file.add_new(0x50000010, "US", 1)
    file.add_new(0x00880200, "SQ", [deep])
    file.preamble = b"DOE JANE".ljust(128, b"\0")
    file.file_meta.SourceApplicationEntityTitle = "MERCY"
    file.file_meta.MediaStorageSOPInstanceUID = file.SOPInstanceUID
    if compress is not None:
        file.compress(compress, generate_instance_uid=False)
    file.save_as(path)
    return path


def cleaned(path, output, allow=False):
    source = open_whole(path)
    seen = stream(source.size, source.regions)
    frames = [source.read(i) for i in range(len(source))]
    blackout = choose_blackout(seen, frames, allow=allow)
    done = deidentify_dicom(path, output, blackout=blackout, pseudonyms=Pseudonyms(b"k" * 32))
    return done, pydicom.dcmread(output), [blackout.apply(frame) for frame in frames]


@pytest.mark.parametrize("case", ["grey", "colour", "implicit", "big endian", "rle", "jpeg", "16 bit", "inverted"])
def test_a_clean_copy_holds_no_value_of_the_patient_and_the_same_scan(tmp_path, case):
    grey = np.stack([banded(n, 0)[..., 0] for n in range(3)])
    pixels = np.stack([banded(n, 0) for n in range(3)]) if case in ("colour", "rle", "jpeg") else grey
    options = {"photometric": "RGB"} if pixels.ndim == 4 else {}
    if case == "16 bit":
        pixels = pixels.astype(np.uint16) * 16
        options["BitsStored"] = 12
    if case == "inverted":
        options["photometric"] = "MONOCHROME1"
    path = full_of_secrets(tmp_path / "a.dcm", pixels, region=(0, 44, W, H), **options)
    file = pydicom.dcmread(path)
    secret_uids = [str(file[k].value) for k in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")]
    if case == "jpeg":
        file.PhotometricInterpretation = "YBR_FULL_422"
        codes = [cv2.imencode(".jpg", image[..., ::-1])[1].tobytes() for image in pixels]
        file.PixelData = pydicom.encaps.encapsulate(codes)
        file.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
        file.save_as(path)
    elif case == "rle":
        file.compress(RLELossless, generate_instance_uid=False)
        file.save_as(path)
    elif case in ("implicit", "big endian"):
        syntax = ImplicitVRLittleEndian if case == "implicit" else ExplicitVRBigEndian
        file.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(
            path, file, force_encoding=True, implicit_vr=case == "implicit", little_endian=case == "implicit"
        )

    done, copy, expected = cleaned(path, tmp_path / "b.dcm")
    assert done.num_frames == 3 and done.num_removed > 15 and done.is_stated_clean
    again = open_whole(tmp_path / "b.dcm")
    assert np.array_equal(np.stack(list(again)), np.stack(expected))
    assert not np.stack(expected)[:, :44].any() and again.fps == 25 and again.regions == ((0, 44, W, H),)

    data = (tmp_path / "b.dcm").read_bytes()
    parts = {part for value in SECRETS.values() for part in (value, *value.replace("^", " ").split()) if len(part) > 3}
    for secret in (*parts, "Jane", "DOE", "Elm", "mercy", "MERCY", "SECRET", "OVERLAY", *secret_uids):
        for encoding in ("utf-8", "utf-16-le"):
            assert secret.encode(encoding) not in data, secret
    assert not data[:128].strip(b"\0")
    assert not [e for e in copy.iterall() if e.tag.is_private or 0x5000 <= e.tag.group < 0x7000]
    assert copy.BurnedInAnnotation == "NO" and copy.PatientIdentityRemoved == "YES"
    assert [c.CodeValue for c in copy.DeidentificationMethodCodeSequence] == ["113100", "113101"]
    assert copy.PatientName == copy.PatientID and str(copy.PatientID).startswith("anon-")
    assert copy.StudyDate == "" and copy.Manufacturer == "Maker" and "ManufacturerModelName" not in copy
    assert copy.file_meta.MediaStorageSOPInstanceUID == copy.SOPInstanceUID


def test_pixels_are_stated_to_be_clean_only_if_they_were_cleaned_by_what_is_stated(tmp_path):
    pixels = np.stack([banded(n, 0)[..., 0] for n in range(2)])
    path = full_of_secrets(tmp_path / "a.dcm", pixels)
    done, guessed, frames = cleaned(path, tmp_path / "b.dcm")
    assert not done.is_stated_clean and "BurnedInAnnotation" in guessed and guessed.BurnedInAnnotation == "YES"
    assert not np.stack(frames)[:, 14:33].any()
    done, as_is, _ = cleaned(path, tmp_path / "c.dcm", allow=True)
    assert as_is.BurnedInAnnotation == "YES" and np.array_equal(as_is.pixel_array, pixels)
    assert guessed.StudyInstanceUID == as_is.StudyInstanceUID  # by the same key
    subject = read_subject(path, Pseudonyms(b"k" * 32))
    assert subject.sop_instance_uid == as_is.SOPInstanceUID and subject.attributes.PatientID == as_is.PatientID
    assert read_subject(path, Pseudonyms(b"x" * 32)).attributes.PatientID != as_is.PatientID


def test_files_without_uids_are_patients_studies_and_series_of_their_own(tmp_path):
    absent = {"SOPInstanceUID": None, "PatientID": None, "PatientName": None}
    for number, name in enumerate(("a.dcm", "b.dcm", "c.dcm")):
        pixels = np.stack([banded(number, 0)[..., 0]])
        write_dicom(tmp_path / name, pixels, Modality="US", **absent, **({"SOPClassUID": None} if number else {}))
        file = pydicom.dcmread(tmp_path / name)
        del file.file_meta.MediaStorageSOPInstanceUID
        if number == 2:
            del file.file_meta.MediaStorageSOPClassUID
        pydicom.dcmwrite(tmp_path / name, file, enforce_file_format=False)
    copies = [cleaned(tmp_path / name, tmp_path / f"clean_{name}")[1] for name in ("a.dcm", "b.dcm")]
    subject = read_subject(tmp_path / "a.dcm", Pseudonyms(b"k" * 32))
    assert subject.sop_instance_uid == copies[0].SOPInstanceUID  # a report refers to the clean copy
    with pytest.raises(DataError, match="has no SOPInstanceUID"):
        read_subject(tmp_path / "a.dcm", None)
    for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        assert copies[0][keyword].value != copies[1][keyword].value
    assert copies[0].SOPClassUID == copies[1].SOPClassUID  # the second states it in the header of the file alone
    (tmp_path / "again.dcm").write_bytes((tmp_path / "a.dcm").read_bytes())
    again = cleaned(tmp_path / "again.dcm", tmp_path / "clean.dcm")[1]
    assert again.SOPInstanceUID == copies[0].SOPInstanceUID and again.PatientID == copies[0].PatientID
    with pytest.raises(DataError, match="its SOPClassUID is missing"):
        cleaned(tmp_path / "c.dcm", tmp_path / "clean_c.dcm")
    file[Tag("SOPClassUID")] = RawDataElement(Tag("SOPClassUID"), "UI", 8, b"Doe^Jane", 0, False, True)
    pydicom.dcmwrite(tmp_path / "c.dcm", file, enforce_file_format=False)
    with pytest.raises(DataError, match="its SOPClassUID is not a UID"):
        read_subject(tmp_path / "c.dcm", Pseudonyms(b"k" * 32))
    assert not (tmp_path / "clean_c.dcm").exists()


def test_a_palette_and_an_overlay_in_unused_bits_are_cleaned(tmp_path):
    pixels = np.full((1, 32, 32), 3, np.uint16)
    pixels[0, :8] = 7
    options = {"BitsStored": 12}
    path = write_dicom(tmp_path / "a.dcm", pixels | 0x8000, region=(0, 8, 32, 32), **options)
    file = pydicom.dcmread(path)
    file.add_new(0x60000102, "US", 15)
    file.add_new(0x60000100, "US", 1)
    file.save_as(path)
    _, copy, _ = cleaned(path, tmp_path / "b.dcm")
    assert copy.pixel_array.max() == 3 and not copy.pixel_array[:8].any()

    colours = np.full((1, 32, 32), 2, np.uint8)
    path = write_dicom(tmp_path / "c.dcm", colours, photometric="PALETTE COLOR", region=(0, 8, 32, 32))
    file = pydicom.dcmread(path)
    for colour, table in {"Red": [90, 0, 200, 7], "Green": [80, 0, 100, 9], "Blue": [70, 0, 50, 8]}.items():
        setattr(file, f"{colour}PaletteColorLookupTableDescriptor", [4, 0, 8])
        setattr(file, f"{colour}PaletteColorLookupTableData", bytes(table))
    file.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # which states no kinds of values
    pydicom.dcmwrite(path, file, implicit_vr=True, little_endian=True)
    _, copy, expected = cleaned(path, tmp_path / "d.dcm")
    assert set(copy.pixel_array[:8].ravel()) == {1}  # the palette's black
    assert np.array_equal(open_whole(tmp_path / "d.dcm").read(0), expected[0])


def test_of_a_damaged_file_nothing_is_left(tmp_path):
    write_dicom(tmp_path / "us.dcm", np.zeros((2, 16, 16), np.uint8))
    cut = tmp_path / "cut.dcm"
    cut.write_bytes((tmp_path / "us.dcm").read_bytes()[:-300])
    blackout = choose_blackout(stream((16, 16)), [], allow=True)
    output = tmp_path / "out"
    output.mkdir()
    for damaged in (cut, tmp_path / "absent.dcm"):
        with pytest.raises((DataError, OSError)):
            deidentify_dicom(damaged, output / "x.dcm", blackout=blackout, pseudonyms=Pseudonyms(b"k" * 32))
    assert not list(output.iterdir())


def test_the_key_of_an_output_folder_is_made_once(tmp_path):
    assert output_key(tmp_path) == output_key(tmp_path) != output_key(tmp_path / "other")
    assert "anon" not in repr(Pseudonyms(output_key(tmp_path)))
