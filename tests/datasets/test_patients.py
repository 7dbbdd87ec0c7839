"""Who is a patient: what is stated, what a named rule finds, and what stays unknown and is counted."""

import json
import logging

import cv2
import numpy as np
import pytest

from tests.datasets.recordings import write_dicom
from ultravid.config import get_config
from ultravid.datasets import load_coco_stills, load_coco_video, load_recordings
from ultravid.datasets.faults import FaultSink
from ultravid.datasets.fingerprint import combine_fingerprints, fingerprint_videos
from ultravid.datasets.folds import fold_of_patient, split_fold
from ultravid.datasets.patients import PatientRule, num_patients, patient_key, patient_rule, table_address
from ultravid.datasets.video import DataError

GREY = np.full((1, 96, 128), 90, np.uint8)


def write_stills(root, *names):
    for k, name in enumerate(names):
        (root / name).mkdir(parents=True)
        cv2.imwrite(str(root / name / "0.png"), np.full((20, 30), k, np.uint8))
    return root


@pytest.mark.parametrize(
    ("rule", "name", "patient"),
    [
        (None, "patA/scan1.mp4", None),
        ("stem", "patA/scan1.mp4", "scan1"),
        ("stem", "P001_10.mp4", "P001_10"),
        ("stem", "dicom/1.2.840.113619.2.55.3", "1.2.840.113619.2.55.3"),
        ("folder", r"patA\scan1", "patA"),
        ("folder", "unknown/scan1.mp4", None),
        ("stem_without_side", "benign/x7-1-l", "x7"),
        ("folder", "patA/scan1.mp4", "patA"),
        ("folder", "siteB/patA/scan1.mp4", "siteB/patA"),
        ("folder", "scan1.mp4", None),
        (r"regex:(P\d+)_", "P001_10.mp4", "P001"),
        (r"regex:(?P<site>\w+)/(?P<patient>P\d+)", "b/P001_1", "P001"),
        (r"regex:(P\d+)_", "unnamed.mp4", None),
    ],
)
def test_a_rule_is_named_and_finds_the_patient_or_says_that_it_is_not_known(rule, name, patient):
    assert patient_rule(rule).patient(name) == patient


def test_what_a_file_states_comes_before_a_rule_and_a_table_before_both(tmp_path):
    (tmp_path / "table.json").write_text(json.dumps({"b/1": "anna"}))
    assert patient_rule("folder").patient("b/1", "stated") == "stated"
    assert patient_rule("folder").patient("b/1", "  ") == "b"
    assert patient_rule(tmp_path / "table.json").patient("b/1", "stated") == "anna"
    assert patient_rule(tmp_path / "table.json").patient("b/2") is None
    both = f"{tmp_path / 'table.json'} else folder"
    assert [patient_rule(both).patient(name) for name in ("b/1", "b/2", "2")] == ["anna", "b", None]
    assert table_address(both) == str(tmp_path / "table.json") and table_address("regex:(a else b)") is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("stm", "'stm' is not a rule for patients, nor a file: write 'folder'"),
        ("regex:P[0-9]+", "has no group"),
        ("regex:(P", "is not a regular expression"),
        ("missing.json", "missing.json"),
        ("", "'' is not a rule for patients"),
        ("table.json else other.json", "is not a rule for patients"),
    ],
)
def test_a_rule_that_cannot_be_used_is_refused(wrong, message):
    with pytest.raises(DataError, match=message.replace("[", r"\[").replace("(", r"\(")):
        patient_rule(wrong)


def test_two_folders_with_one_file_name_are_two_unknown_patients_until_a_rule_is_named(tmp_path, caplog):
    write_stills(tmp_path, "patA/scan1", "patB/scan1", "patB/scan2")
    videos = load_recordings(path=tmp_path)
    assert [(v.patient, v.patient_known) for v in videos] == [(v.video_id, False) for v in videos]
    with caplog.at_level(logging.WARNING):
        split_fold(videos, 0, 2)
    assert "The patients of 3 videos (of 3) are not known" in caplog.text
    assert [v.patient for v in load_recordings(path=tmp_path, patients="folder")] == ["patA", "patB", "patB"]


NUMBERED = [f"P00{patient}_{k}" for patient in (1, 2, 3) for k in (1, 2, 10, 11, 12)]


def coco_video(path, patients):
    """COCO-VID of a frame a video, by the patients of the videos; None: the row states none."""
    images = [
        {"id": k, "video_id": k, "frame_id": 0, "file_name": "0.png", "height": 20, "width": 30}
        for k in range(len(patients))
    ]
    videos = [
        {"id": k, "name": n, **({} if p is None else {"patient": p})} for k, (n, p) in enumerate(patients.items())
    ]
    cv2.imwrite(str(path.parent / "0.png"), np.zeros((20, 30), np.uint8))
    path.write_text(json.dumps({"videos": videos, "images": images, "annotations": [], "categories": []}))
    return path


@pytest.mark.parametrize(
    ("rule", "number", "said"),
    [
        (None, 15, ""),
        ("regex:(P[0-9]+)_", 3, ""),
        ("stem_without_side", 12, "'P001_10' is a patient by itself, 'P001_1' is of 'P001'"),
        ("stem", 15, ""),
    ],
)
def test_numbered_clips_are_as_many_patients_as_the_named_rule_says(tmp_path, caplog, rule, number, said):
    videos = load_coco_video(
        json_file=coco_video(tmp_path / "v.json", dict.fromkeys(NUMBERED)), image_root=tmp_path, patients=rule
    )
    assert num_patients(videos) == number
    assert said in caplog.text if said else not caplog.text


def test_one_file_name_in_several_folders_is_said_if_a_rule_takes_it_for_one_patient(tmp_path, caplog):
    videos = load_recordings(path=write_stills(tmp_path, "patA/scan1", "patB/scan1"), patients="stem")
    assert num_patients(videos) == 1
    assert "'patA/scan1' and 'patB/scan1' are taken as one patient, 'scan1', as patients='stem' says" in caplog.text


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("regex:(Q[0-9]+)", r"patients='regex:\(Q\[0-9\]\+\)' finds no patient in any of 15 names, such as 'P001_1'"),
        ("folder", "finds no patient in any of 15 names"),
        ("dicom", "patients='dicom' reads DICOM files, but no video is one"),
    ],
)
def test_a_rule_that_finds_nobody_is_refused(tmp_path, rule, message):
    path = coco_video(tmp_path / "v.json", dict.fromkeys(NUMBERED))
    with pytest.raises(DataError, match=message):
        load_coco_video(json_file=path, image_root=tmp_path, patients=rule)
    path = coco_video(tmp_path / "v.json", dict.fromkeys(NUMBERED, "stated"))  # then the rule is not asked
    assert num_patients(load_coco_video(json_file=path, image_root=tmp_path, patients=rule)) == 1


def test_someone_called_like_a_video_of_an_unknown_patient_is_another(tmp_path):
    path = coco_video(tmp_path / "v.json", {"a": None, "b": "a", "c": " A", "d": None})
    videos = load_coco_video(json_file=path, image_root=tmp_path)
    assert num_patients(videos) == 3  # a; who is called so, in b and c; d


def test_the_record_of_the_data_counts_videos_of_unknown_patients(tmp_path):
    read = [
        load_coco_video(json_file=coco_video(tmp_path / "v.json", {"a": patient, "b": None}), image_root=tmp_path)
        for patient in (None, "a")
    ]
    facts = [fingerprint_videos(videos) for videos in read]
    assert [f["videos_of_unknown_patient"] for f in facts] == [2, 1] and facts[0]["sha256"] != facts[1]["sha256"]
    parts = [{v.video_id: fingerprint_videos([v])} for v in read[1]]
    assert combine_fingerprints(parts)["videos_of_unknown_patient"] == 1


def test_a_stated_name_that_names_nobody_is_not_known_and_that_is_said(tmp_path, caplog):
    path = coco_video(tmp_path / "v.json", {"a": "unknown", "b": "Anonymous ", "c": "---", "d": "0", "e": 7})
    videos = load_coco_video(json_file=path, image_root=tmp_path)
    assert [v.patient_known for v in videos] == [False, False, False, True, True]
    assert (
        "3 stated patients are placeholders such as 'unknown', and count as not known; the first: video 'a' states 'unknown'"
        in caplog.text
    )
    with pytest.raises(DataError, match=r"video .a.: patient is 7\.5, not text"):
        load_coco_video(json_file=coco_video(tmp_path / "w.json", {"a": 7.5}), image_root=tmp_path)


def test_a_still_without_a_patient_is_its_own_and_a_rule_is_asked_for_it(tmp_path):
    content = json.loads(coco_video(tmp_path / "v.json", dict.fromkeys("abc")).read_text())
    names = ["p1-l.png", "p1-r.png", "p2-l.png"]
    images = [{**image, "file_name": name} for image, name in zip(content["images"], names, strict=True)]
    for name in names:
        cv2.imwrite(str(tmp_path / name), np.zeros((20, 30), np.uint8))
    (tmp_path / "s.json").write_text(json.dumps({**content, "images": images}))
    stills = load_coco_stills(json_file=tmp_path / "s.json")
    assert [(v.patient, v.patient_known) for v in stills] == [(name, False) for name in names]
    stills = load_coco_stills(json_file=tmp_path / "s.json", patients="stem_without_side")
    assert [v.patient for v in stills] == ["p1", "p1", "p2"]


def test_spellings_are_compared_without_case_blanks_and_signs_that_cannot_be_seen():
    assert len({patient_key(n) for n in ("M\u00fcller", " mu\u0308ller", "MÜLLER\u200b", "m\u00fcller\u00a0")}) == 1
    assert patient_key("Müller") != patient_key("Muller")


def test_names_of_the_shape_of_cva_bus_keep_their_folds():
    """Computed from sha256 of the name as it stands, so that a run that is resumed keeps its folds."""
    names = ("x5a3c2f1", "1dc9ca2f1748c2ec", "4f0b", "P001", "Anna B", "bus_0007")
    assert [fold_of_patient(name, 4) for name in names] == [0, 2, 0, 3, 2, 2]


def test_anonymous_dicom_files_are_not_one_patient(tmp_path):
    for name, patient in (
        ("a", "ANONYMOUS"),
        ("b", "anonymous "),
        ("c", "0000"),
        ("d", "S17"),
        ("e", "s17"),
        ("f", "STUDY"),
    ):
        write_dicom(tmp_path / f"{name}.dcm", GREY, PatientID=patient)
    videos = load_recordings(path=tmp_path)
    assert [v.patient_known for v in videos] == [False, False, False, True, True, True]
    assert videos[3].patient == videos[4].patient == "d.dcm" != videos[5].patient
    assert not load_recordings(path=tmp_path, patients="dicom:Study,other")[5].patient_known


def test_a_table_that_does_not_fit_names_a_video_and_the_nearest_key(tmp_path, caplog):
    write_stills(tmp_path / "data", "left/a_01", "left/b_02")
    table = tmp_path / "table.json"
    for content, said in (
        (
            {"x": "p", "A_01": "p"},
            "a video is called 'left/a_01', the name in the table that is most like it is 'A_01'",
        ),
        ([], "must be a JSON object from video name to patient"),
    ):
        table.write_text(json.dumps(content))
        with pytest.raises(DataError, match=said):
            load_recordings(path=tmp_path / "data", patients=table)
    (tmp_path / "table.csv").write_text("video,patient")
    with pytest.raises(DataError, match="must be a JSON object from video name to patient, such as"):
        load_recordings(path=tmp_path / "data", patients=tmp_path / "table.csv")
    table.write_text(json.dumps({"left/a_01": "p", "b_02": "q", "c_03": "r"}))
    load_recordings(path=tmp_path / "data", patients=table)
    said = "2 names in the table of patients are not those of videos, which are compared letter by letter; the first: 'b_02'"
    assert said in caplog.text


def test_names_that_differ_in_case_or_blanks_are_one_patient_and_that_is_said(tmp_path, caplog):
    write_stills(tmp_path, "a", "b", "c")
    for name, patient in (("a", "Anna  B"), ("b", " anna b"), ("c", "carla")):
        (tmp_path / f"{name}.video.json").write_text(json.dumps({"patient": patient}))
    with caplog.at_level(logging.WARNING):
        videos = load_recordings(path=tmp_path)
    assert len({v.patient for v in videos[:2]}) == 1 and videos[2].patient == "carla"
    assert "patients are written in several ways, and each is taken for one patient (1): " in caplog.text
    sink = FaultSink()
    load_recordings(path=tmp_path, faults=sink)
    assert [f.kind for f in sink.faults] == ["patients are written in several ways, and each is taken for one patient"]


def test_a_filler_names_nobody_and_a_number_does():
    rule = PatientRule()
    assert all(map(rule.names_nobody, ("0", "000", "XXXX", "---", "Anonymized", "No ID")))
    assert not any(map(rule.names_nobody, ("7", "11", "P0", "anna")))


def test_the_shipped_config_of_cva_bus_keeps_its_folds():
    """Values computed from the rule that it always had: the stem less a side, then sha256 modulo four."""
    rule = patient_rule(get_config("common/data/cva_bus.py").data.videos.patients)
    for name, patient, fold in (
        ("benign/x5a3c2f1-l", "x5a3c2f1", 0),
        ("malignant/4f0b-1-r", "4f0b", 0),
        ("benign/1dc9_2", "1dc9", 1),
    ):
        assert (rule.patient(name), fold_of_patient(patient, 4)) == (patient, fold)
