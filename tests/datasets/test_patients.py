"""Who is a patient: what is stated, what a named rule finds, and what stays unknown and is counted."""

import json
import logging

import cv2
import numpy as np
import pytest

from tests.datasets.recordings import write_dicom
from ultravid.config import get_config
from ultravid.datasets import load_recordings
from ultravid.datasets.faults import FaultSink
from ultravid.datasets.folds import fold_of_patient, split_fold
from ultravid.datasets.patients import PatientRule, patient_rule
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


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("stm", "'stm' is not a rule for patients, nor a file: write 'folder'"),
        ("regex:P[0-9]+", "has no group"),
        ("regex:(P", "is not a regular expression"),
        ("missing.json", "missing.json"),
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


def test_names_that_differ_in_case_or_blanks_are_one_patient_and_that_is_said(tmp_path, caplog):
    write_stills(tmp_path, "a", "b", "c")
    for name, patient in (("a", "Anna  B"), ("b", " anna b"), ("c", "carla")):
        (tmp_path / f"{name}.video.json").write_text(json.dumps({"patient": patient}))
    with caplog.at_level(logging.WARNING):
        videos = load_recordings(path=tmp_path)
    assert len({v.patient for v in videos[:2]}) == 1 and videos[2].patient == "carla"
    assert "is also written" in caplog.text
    sink = FaultSink()
    load_recordings(path=tmp_path, faults=sink)
    assert [f.kind for f in sink.faults] == ["patients were written in several ways"]


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
