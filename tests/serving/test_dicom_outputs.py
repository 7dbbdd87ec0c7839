"""Structured reports and secondary captures, read back by pydicom and highdicom."""

import functools
import json
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest

from tests.datasets.recordings import write_dicom
from ultravid.datasets.readers.opener import open_whole
from ultravid.datasets.video import DataError
from ultravid.serving.privacy.dicom_subject import Pseudonyms, read_subject
from ultravid.serving.records import Detection, FrameDetections
from ultravid.serving.writers import dicom_sr
from ultravid.serving.writers.base import Picture
from ultravid.serving.writers.dicom_sc import DicomCapture
from ultravid.serving.writers.dicom_sr import DicomReport

hd = pytest.importorskip("highdicom")

TIMES_S = [0.5, 0.54, 0.573, 0.62]
FOUND = [
    FrameDetections(0, TIMES_S[0], (Detection((10.25, 20.5, 40.0, 60.125), 0.875, 0, 0),)),
    FrameDetections(1, TIMES_S[1]),
    FrameDetections(
        2, TIMES_S[2], (Detection((11, 20, 41, 61), 0.75, 0, 0), Detection((0, 0, 7.5, 8), 0.1234567, 1, 1))
    ),
    FrameDetections(3, TIMES_S[3], (Detection((1, 2, 3, 4), 0.5, 1),)),
]
SECRETS = ("Doe", "Jane", "MRN-4711", "19700101", "20240229", "ACC99887")


@pytest.fixture
def source(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", np.zeros((4, 64, 80), np.uint8), StudyDate="20240229")
    file = pydicom.dcmread(path)
    file.SpecificCharacterSet, file.PatientName, file.AccessionNumber = "ISO_IR 100", "Döe^Jane", "ACC99887"
    file.StudyInstanceUID, file.SeriesInstanceUID, file.Modality = "1.2.3.20240229.4", "1.2.3.5", "US"
    file.save_as(path)
    return path


def report_of(source, output, pseudonyms):
    subject = read_subject(source, pseudonyms)
    report = DicomReport(
        output, subject, ["lesion", "囊肿"], algorithm="BasicDet", version="0f3a", parameters=["score >= 0.1"]
    )
    for found in FOUND:
        report.add(found)
    assert not output.exists()
    report.close()
    return hd.sr.srread(output)


def capture_of(source, output, times_s, pseudonyms):
    capture = DicomCapture(output, read_subject(source, pseudonyms), algorithm="BasicDet")
    capture.has_text = False
    for index, time_s in enumerate(times_s):
        drawn = np.full((64, 80, 3), (40 * index, 90, 200), np.uint8)
        capture.add(FrameDetections(index, time_s), Picture(np.zeros_like(drawn), drawn))
    capture.close()
    return pydicom.dcmread(output)


@functools.cache
def standard():
    folder = Path(hd.__file__).parent / "_standard"
    names = ("sop_class_iod_map", "iod_module_map", "module_attribute_map")
    return [json.loads((folder / f"{name}.json").read_text()) for name in names]


def check_modules(file):
    """Every module that highdicom's copy of the standard asks of the file's kind has its attributes: type 1 with a value, type 2 at all."""
    kinds, modules, attributes = standard()
    for module in modules[kinds[file.SOPClassUID]]:
        is_needed = module["usage"] == "M" and module["key"] != "sr-document-content"  # of any depth
        for attribute in attributes[module["key"]] if is_needed else ():
            if attribute["path"] or attribute["type"] not in ("1", "2"):
                continue
            assert attribute["keyword"] in file, (module["key"], attribute["keyword"])
            if attribute["type"] == "1":
                assert file[attribute["keyword"]].value not in (None, ""), attribute["keyword"]


@pytest.mark.parametrize("sop_class", [None, "1.2.840.10008.5.1.4.1.1.3", "1.2.840.113543.6.6.1.3.10002"])
def test_a_report_has_the_boxes_scores_and_times_and_a_tracking_uid_a_lesion(source, tmp_path, sop_class):
    if sop_class is not None:  # a retired one, and a vendor's own, whose files need not state a number of frames
        file = pydicom.dcmread(source)
        file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = sop_class
        del file.NumberOfFrames
        file.save_as(source)
    report = report_of(source, tmp_path / "sr.dcm", None)
    assert isinstance(report, hd.sr.ComprehensiveSR)
    regions = report.content.get_planar_roi_measurement_groups()
    expected = [(found, detection) for found in FOUND for detection in found.detections]
    assert len(regions) == len(expected) == 4
    for region, (found, detection) in zip(regions, expected, strict=True):
        x1, y1, x2, y2 = detection.box
        assert region.roi.graphic_type == hd.sr.GraphicTypeValues.POLYLINE
        assert np.array_equal(region.roi.value, [[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]])
        image = region.roi.ContentSequence[0].ReferencedSOPSequence[0]
        assert image.ReferencedSOPInstanceUID == pydicom.dcmread(source).SOPInstanceUID
        assert image.ReferencedSOPClassUID == pydicom.dcmread(source).SOPClassUID
        assert image.ReferencedFrameNumber == found.index + 1
        score, time = region.get_measurements()
        assert score.value == pytest.approx(100 * detection.score) and score.unit.value == "%"
        assert time.value == pytest.approx(found.pts_s) and time.unit.value == "s"
    assert regions[0].tracking_uid == regions[1].tracking_uid
    assert len({region.tracking_uid for region in regions}) == 3
    assert [r.tracking_identifier for r in regions] == ["lesion track 0"] * 2 + ["lesion track 1", "box 4"]
    assert [r.finding_type.meaning for r in regions] == ["Lesion", "Lesion", "囊肿", "囊肿"]
    assert len(report.content.get_planar_roi_measurement_groups(tracking_uid=regions[0].tracking_uid)) == 2
    check_modules(pydicom.dcmread(tmp_path / "sr.dcm"))


def test_a_report_without_a_box_is_one_too(source, tmp_path):
    report = DicomReport(tmp_path / "sr.dcm", read_subject(source, None), ["lesion"], algorithm="", version="")
    report.add(FOUND[1])
    report.close()
    content = hd.sr.srread(tmp_path / "sr.dcm").content
    assert content.get_planar_roi_measurement_groups() == []
    (group,) = content.get_image_measurement_groups()
    assert [m.value for m in group.get_measurements()] == [0]


def test_outputs_are_filed_with_their_patient_only_if_that_is_asked_for(source, tmp_path):
    original = pydicom.dcmread(source)
    for output in (report_of(source, tmp_path / "1.dcm", None), capture_of(source, tmp_path / "2.dcm", TIMES_S, None)):
        assert output.PatientName == "Döe^Jane" and output.PatientID == "MRN-4711"
        assert output.StudyInstanceUID == original.StudyInstanceUID and output.StudyDate == "20240229"
        assert output.SeriesInstanceUID != original.SeriesInstanceUID

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, as the values are wrong
        original.PatientSex, original.PatientBirthDate, original.StudyTime = "Female", "1970-01-01", "noon"
        original.AccessionNumber, original.StudyID = "A" * 40, "S" * 40
        original.save_as(tmp_path / "odd.dcm")
        odd = tmp_path / "odd.dcm"
    assert read_subject(odd, None).emptied == ("PatientBirthDate", "PatientSex", "StudyTime")
    for output in (report_of(odd, tmp_path / "5.dcm", None), capture_of(odd, tmp_path / "6.dcm", TIMES_S, None)):
        assert output.PatientID == "MRN-4711" and output.StudyDate == "20240229"
        assert not (output.PatientSex or output.PatientBirthDate or output.StudyTime)

    pseudonyms = Pseudonyms(b"k" * 32)
    report = report_of(source, tmp_path / "3.dcm", pseudonyms)
    capture = capture_of(source, tmp_path / "4.dcm", TIMES_S, pseudonyms)
    assert report.StudyInstanceUID == capture.StudyInstanceUID == pseudonyms.uid(original.StudyInstanceUID)
    assert report.PatientID == capture.PatientID == pseudonyms.patient("MRN-4711")
    assert report.get_evidence()[0][2] == pseudonyms.uid(original.SOPInstanceUID)
    for name in ("3.dcm", "4.dcm"):
        data = (tmp_path / name).read_bytes()
        for secret in (*SECRETS, "Döe", str(original.SOPInstanceUID)):
            assert secret.encode() not in data and secret.encode("latin-1") not in data


@pytest.mark.parametrize(
    ("times_s", "is_even"),
    [
        (TIMES_S, False),
        ([n / 30 for n in range(5)], True),
        ([0.1 + n * 1001 / 24000 for n in range(4)], True),
        ([2.0], True),
    ],
)
def test_a_capture_has_the_pictures_at_the_times_of_the_source(source, tmp_path, times_s, is_even):
    capture = capture_of(source, tmp_path / "sc.dcm", times_s, Pseudonyms(b"k" * 32))
    assert capture.NumberOfFrames == len(times_s) and ("FrameTime" in capture) == is_even
    if is_even:
        steps_ms = [0.0] + [float(capture.FrameTime)] * (len(times_s) - 1)
    else:
        steps_ms = [float(step) for step in capture.FrameTimeVector]
    assert np.allclose(np.cumsum(steps_ms) / 1000, np.array(times_s) - times_s[0], atol=1e-5)
    assert capture.FrameIncrementPointer == (0x00181063 if is_even else 0x00181065)
    frames = list(open_whole(tmp_path / "sc.dcm"))
    assert [int(frame[30, 30, 0]) for frame in frames] == pytest.approx([40 * n for n in range(len(times_s))], abs=4)
    assert capture.BurnedInAnnotation == "NO"
    if not is_even:
        assert np.array_equal(hd.imread(tmp_path / "sc.dcm").get_frame(3), frames[2])  # counted from 1
        check_modules(capture)


def test_nothing_is_left_of_a_capture_that_was_discarded_or_has_no_frames(source, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    subject = read_subject(source, None)
    discarded = DicomCapture(folder / "sc.dcm", subject, algorithm="a")
    small, other = np.zeros((8, 8, 3), np.uint8), np.zeros((9, 8, 3), np.uint8)
    discarded.add(FOUND[0], Picture(small, small))
    with pytest.raises(ValueError, match="one size"):
        discarded.add(FOUND[1], Picture(other, other))
    discarded.discard()
    DicomCapture(folder / "sc.dcm", subject, algorithm="a").close()
    assert not list(folder.iterdir())


def test_too_many_boxes_for_a_report_are_refused_as_they_come(source, tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_sr, "MAX_REGIONS", 2)
    report = DicomReport(tmp_path / "sr.dcm", read_subject(source, None), ["lesion"], algorithm="a", version="1")
    report.add(FOUND[0])
    with pytest.raises(DataError, match=r"at most 2 boxes.*raise --conf"):
        report.add(FOUND[2])


def test_a_file_without_the_uids_that_outputs_refer_to_is_refused(source, tmp_path):
    file = pydicom.dcmread(source)
    del file.StudyInstanceUID
    file.save_as(tmp_path / "b.dcm")
    with pytest.raises(DataError, match="has no StudyInstanceUID"):
        read_subject(tmp_path / "b.dcm", None)
    assert read_subject(tmp_path / "b.dcm", Pseudonyms(b"k" * 32)).attributes.StudyInstanceUID.startswith("2.25.")
