"""The patient, study and object of a DICOM output: as the source states them, or under pseudonyms.

Sources: DICOM PS3.3 C.7.1.1 (patient), C.7.2.1 (study), PS3.15 E (confidentiality profiles), PS3.5 B.2 (UIDs derived from numbers).
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.uid import UID
from pydicom.valuerep import DA, TM

from ultravid.datasets.patient_key import patient_key
from ultravid.datasets.readers.dicom_file import quiet_pydicom, read_tags
from ultravid.datasets.video import DataError
from ultravid.utils.hashing import sha256_of

__all__ = ["DicomSubject", "Pseudonyms", "original_uids", "pseudonymous", "read_subject", "sop_class_of", "uid_of"]

_PATIENT = ("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex")
_STUDY = (
    *("StudyInstanceUID", "StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
    "StudyDescription",
)
_REQUIRED = frozenset({*_PATIENT, *_STUDY} - {"IssuerOfPatientID", "StudyDescription"})  # may be empty, not absent
_UID = re.compile(r"[0-9.]{1,64}")
_OBJECT = ("SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "NumberOfFrames")


class Pseudonyms:
    """New names and UIDs in place of a file's, the same for one original wherever it occurs.

    Args:
        key: `output_key` of an output folder: other folders have other pseudonyms.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def __repr__(self) -> str:
        return "Pseudonyms()"  # not the key

    def uid(self, original: str) -> UID:
        """The new UID in place of one."""
        return UID(f"2.25.{int.from_bytes(self._digest('uid', str(original), 16))}")

    def patient(self, original: str) -> str:
        """A patient's new name and id: ``anon-`` and eight hexadecimal digits."""
        return f"anon-{self._digest('patient', patient_key(original), 4).hex()}"

    def _digest(self, kind: str, original: str, size: int) -> bytes:
        text = f"{kind}:{original}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, key=self._key, digest_size=size).digest()


@dataclass(frozen=True, eq=False)
class DicomSubject:
    """The patient, the study and the object that an output refers to.

    Attributes:
        attributes: the attributes of the patient and the study, for the header of an output.
        sop_class_uid: the SOP class UID of the object.
        sop_instance_uid: the SOP instance UID of the object.
        series_instance_uid: that the object is in.
        modality: the modality of the object.
        is_multi_frame: whether it states a number of frames, so that a reference names one.
        is_kept: whether the attributes are the file's own; else they are pseudonyms.
        emptied: keywords of attributes that are empty because the file's own values are not what DICOM allows for them.
    """

    attributes: pydicom.Dataset
    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    modality: str
    is_multi_frame: bool
    is_kept: bool
    emptied: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"DicomSubject(is_kept={self.is_kept})"  # a traceback must not show a patient


def read_subject(path: Path, pseudonyms: Pseudonyms | None) -> DicomSubject:
    """The subject of a DICOM file.

    Args:
        path: the file.
        pseudonyms: in place of the patient, the study and all UIDs; names, dates and numbers of the study are empty. None: they are
            copied, so that an archive files the output beside the image.

    Raises:
        DataError: the file can't be read, does not state its SOP class, or lacks a UID that is to be copied.
    """
    header = read_tags(path, [*_PATIENT, *_STUDY, *_OBJECT])
    sop_class = sop_class_of(header, path)
    emptied: tuple[str, ...] = ()
    if pseudonyms is None:
        uids = {name: uid_of(header, name) for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")}
        for name, uid in uids.items():
            if not uid:
                raise DataError(
                    f"{path}: has no {name}, so that an output can't be filed with its patient's attributes."
                )
        attributes, emptied = _copied(header)
    else:
        originals = original_uids(header, path)
        attributes = pseudonymous(header, originals["StudyInstanceUID"], pseudonyms)
        uids = {name: str(pseudonyms.uid(original)) for name, original in originals.items()}
    return DicomSubject(
        attributes,
        sop_class,
        uids["SOPInstanceUID"],
        uids["SeriesInstanceUID"],
        _text(header, "Modality") or "US",
        "NumberOfFrames" in header,
        pseudonyms is None,
        emptied,
    )


def uid_of(header: pydicom.Dataset, name: str) -> str:
    """A UID as a file states it, those of its object also in the header of the file; "" if it has none."""
    stated = _text(header, name)
    if stated or name not in ("SOPClassUID", "SOPInstanceUID"):
        return stated
    return _text(getattr(header, "file_meta", pydicom.Dataset()), f"MediaStorage{name}")


def sop_class_of(header: pydicom.Dataset, path: Path) -> str:
    """The UID that says what kind of object a file holds.

    Raises:
        DataError: it has none, or what it has is not a UID.
    """
    found = uid_of(header, "SOPClassUID")
    if not _UID.fullmatch(found):
        fault = "is not a UID" if found else "is missing"
        raise DataError(f"{path}: its SOPClassUID {fault}, so that no DICOM file can be made of it or refer to it.")
    return found


def original_uids(header: pydicom.Dataset, path: Path) -> dict[str, str]:
    """What tells a file's object, series and study from all others: its UIDs.

    A file without a series or study is one of its own, and an object without a UID is known by the content of its file.

    Raises:
        OSError: the file can't be read.
    """
    instance = uid_of(header, "SOPInstanceUID") or sha256_of(path)
    named = {name: uid_of(header, name) or instance + name for name in ("SeriesInstanceUID", "StudyInstanceUID")}
    return {"SOPInstanceUID": instance, **named}


def pseudonymous(header: pydicom.Dataset, study: str, pseudonyms: Pseudonyms) -> pydicom.Dataset:
    """The required attributes of a patient and a study under pseudonyms; all others of them are empty.

    Args:
        header: that of the file.
        study: tells the study from others, as `original_uids` gives it.
        pseudonyms: of the output folder.
    """
    attributes = pydicom.Dataset()
    attributes.SpecificCharacterSet = "ISO_IR 192"
    for name in (*_PATIENT, *_STUDY):
        if name in _REQUIRED:
            setattr(attributes, name, "")
    patient = pseudonyms.patient(_text(header, "PatientID") or _text(header, "PatientName") or study)
    attributes.PatientName = attributes.PatientID = patient
    attributes.StudyInstanceUID = pseudonyms.uid(study)
    return attributes


def _copied(header: pydicom.Dataset) -> tuple[pydicom.Dataset, tuple[str, ...]]:
    """The attributes as the file has them, and the keywords of those that are empty since their values are none that DICOM allows."""
    attributes, emptied = pydicom.Dataset(), []
    attributes.SpecificCharacterSet = (
        "ISO_IR 192"  # values are decoded; those of the output need not fit the file's own
    )
    for name in (*_PATIENT, *_STUDY):
        with quiet_pydicom():
            value = header[name].value if name in header else None
        is_allowed = _is_allowed(name, value)
        if name in header and is_allowed and (value not in (None, "") or name in _REQUIRED):
            attributes[name] = header[name]
        elif name in _REQUIRED:
            setattr(attributes, name, "")
        emptied += [] if is_allowed else [name]
    return attributes, tuple(emptied)


def _is_allowed(name: str, value: Any) -> bool:
    """Whether a value is a date, time or sex as DICOM writes them; highdicom takes no other ones. Other attributes may be any text."""
    if value in (None, ""):
        return True
    if name == "PatientSex":
        return value in ("M", "F", "O")
    kind = DA if name.endswith("Date") else TM if name.endswith("Time") else None
    if kind is None:
        return True
    try:
        return isinstance(value, str) and kind(value) is not None
    except (ValueError, TypeError):  # the text quotes the value
        return False


def _text(header: pydicom.Dataset, name: str) -> str:
    value: Any = None
    try:
        with quiet_pydicom():
            value = header[name].value if name in header else None
    except Exception:  # a value is converted when it is asked for, and that raises any exception
        return ""
    return "" if value is None else str(value).strip(" \0")
