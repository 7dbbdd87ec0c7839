"""The values of a DICOM file that identify a patient, a visit or a hospital, for comparisons only within this process.

The values are never written, logged or quoted. Comparisons are without regard to case, accents and signs.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultravid.datasets.readers.kinds import is_dicom
from ultravid.datasets.video import DataError

if TYPE_CHECKING:
    import pydicom

__all__ = ["PatientValues", "patient_values"]

_NAMES = (
    *("PatientName", "OtherPatientNames", "PatientBirthName", "PatientMotherBirthName", "ResponsiblePerson"),
    *("ReferringPhysicianName", "PerformingPhysicianName", "PhysiciansOfRecord", "NameOfPhysiciansReadingStudy"),
    *("OperatorsName", "RequestingPhysician", "ConsultingPhysicianName", "ScheduledPerformingPhysicianName"),
)
_IDS = (
    *("PatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "AdmissionID", "MedicalRecordLocator"),
    *("IssuerOfPatientID", "PatientTelephoneNumbers", "PatientAddress"),
    *("InstitutionName", "InstitutionAddress", "StationName", "DeviceSerialNumber", "PerformedProcedureStepID"),
    *("RequestedProcedureID", "ScheduledProcedureStepID", "FillerOrderNumberImagingServiceRequest"),
    *("PlacerOrderNumberImagingServiceRequest", "IssuerOfAdmissionID"),
)
_DATES = (
    *("PatientBirthDate", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "InstanceCreationDate"),
    *("AcquisitionDateTime", "PerformedProcedureStepStartDate", "ScheduledProcedureStepStartDate"),
)
_UIDS = (
    *("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"),
    *("ConcatenationUID", "SynchronizationFrameOfReferenceUID", "IrradiationEventUID"),
)
_SEQUENCES = ("OtherPatientIDsSequence", "RequestAttributesSequence", "ReferencedStudySequence")

_SPELLED = str.maketrans(
    {"ä": "ae", "ö": "oe", "ü": "ue", "å": "aa", "ø": "oe", "æ": "ae", "œ": "oe", "ł": "l", "đ": "d"}
)
_WORD = 2  # letters and digits of a word that is compared with words
_PIECE = 4  # of one that is looked for within words
_HAN_PIECE = 2  # of one in Chinese characters, which are written without spaces
_WORD_ENDS = re.compile(r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])|(?<=[a-zß-öø-ÿ])(?=[A-ZÀ-ÖØ-Þ])")
_TITLES = frozenset({"dr", "md", "mr", "mrs", "ms", "prof", "jr", "sr", "the", "von", "van", "de", "of", "us"})


class PatientValues:
    """Values that must not occur in what is written.

    Args:
        words: normalised (`_normal`) words, of which an equal word in a text is an occurrence.
        pieces: normalised texts that are an occurrence wherever they are found.
        quoted: the values as they are in the file, for `values`.
        are_unknown: whether the file has some that could not be read, so that any text may hold one.
    """

    def __init__(
        self,
        words: Iterable[str] = (),
        pieces: Iterable[str] = (),
        quoted: Iterable[str] = (),
        *,
        are_unknown: bool = False,
    ) -> None:
        self._words = frozenset(words)
        self._pieces = frozenset(pieces)
        self._quoted = tuple(dict.fromkeys(quoted))
        self._are_unknown = are_unknown

    def __repr__(self) -> str:
        return f"PatientValues({len(self._quoted)} values)"  # a traceback must not show them

    def __bool__(self) -> bool:
        return bool(self._words or self._pieces or self._are_unknown)

    @property
    def values(self) -> tuple[str, ...]:
        """The values as they are in the file. Never write, log or quote them."""
        return self._quoted

    def occur_in(self, text: str) -> bool:
        """Whether ``text`` holds one of the values, or a part of one of the names."""
        if not self:
            return False
        if self._are_unknown:
            return True
        words = {*_words(text), *_words(_WORD_ENDS.sub(" ", text))}  # JaneDoe12 is also Jane, Doe and 12
        joined = "".join(_words(text))
        return bool(words & self._words) or any(piece in joined for piece in self._pieces)


def patient_values(path: Path | None) -> PatientValues:
    """The values of a DICOM file, which are unknown if its header can't be read or is cut off; none of another file.

    Args:
        path: the file; None, as of a camera, has no values.
    """
    if path is None or not path.is_file() or not is_dicom(path):
        return PatientValues()
    from ultravid.datasets.readers.dicom_file import read_tags  # half a second, for those who have DICOM files

    try:
        header = read_tags(path, [*_NAMES, *_IDS, *_DATES, *_UIDS, *_SEQUENCES, "Rows"])
    except DataError:
        return PatientValues(are_unknown=True)
    if not any(keyword in header for keyword in ("PatientName", "PatientID", "Rows")):  # Rows come after the patient
        return PatientValues(are_unknown=True)
    words: set[str] = set()
    pieces: set[str] = set()
    quoted: list[str] = []
    for kind, value in _all_values(header):
        quoted.append(value)
        found_words, found_pieces = _looked_for(kind, value)
        words |= found_words
        pieces |= found_pieces
    return PatientValues(words, pieces, quoted)


def _all_values(item: pydicom.Dataset) -> Iterator[tuple[str, str]]:
    """(kind, value) of an item and the items in it; kinds: name, date, uid, id."""
    from pydicom import Sequence

    for keywords, kind in ((_NAMES, "name"), (_IDS, "id"), (_DATES, "date"), (_UIDS, "uid")):
        for keyword in keywords:
            for value in _texts(item, keyword):
                yield kind, value
    for keyword in _SEQUENCES:
        value = _value(item, keyword)
        for inner in value if isinstance(value, Sequence) else ():
            yield from _all_values(inner)


def _texts(item: pydicom.Dataset, keyword: str) -> list[str]:
    from pydicom import Sequence
    from pydicom.multival import MultiValue

    value = _value(item, keyword)
    if isinstance(value, Sequence):
        return []
    values = value if isinstance(value, MultiValue | list) else [value]
    texts = [str(v).strip() for v in values if v is not None]
    return [text for text in texts if text]


def _value(item: pydicom.Dataset, keyword: str) -> Any:
    from ultravid.datasets.readers.dicom_file import quiet_pydicom

    try:
        with quiet_pydicom():
            return item[keyword].value if keyword in item else None
    except Exception:  # a value is converted when it is asked for, and that raises any exception
        return None


def _looked_for(kind: str, value: str) -> tuple[set[str], set[str]]:
    """Words and pieces of one value."""
    whole = "".join(_words(value))
    if kind == "date":
        return set(), _spellings(value)
    if kind == "uid":
        return set(), {whole} if len(whole) >= 2 * _PIECE else set()
    pieces = {whole} if len(whole) >= _PIECE else set()
    words = {whole} if len(whole) >= _WORD and whole not in _TITLES and not _is_small(whole) else set()
    if kind == "name":
        groups = [" ".join(group.split("^")[:3]) for group in value.split("=")]
        for spelled in (spelling for group in groups for spelling in (group, _transliterated(group))):
            parts = [part for part in _words(spelled) if part not in _TITLES]
            words |= {part for part in parts if len(part) >= _WORD}
            pieces |= {piece for piece in (*parts, "".join(parts), "".join(parts[::-1])) if _is_piece(piece)}
    return words, pieces


def _is_piece(word: str) -> bool:
    """Whether a part of a name is long enough to be looked for within words."""
    is_han = all("\u3400" <= character <= "\u9fff" or character >= "\U00020000" for character in word)
    return len(word) >= (_HAN_PIECE if is_han else _PIECE)


def _is_small(word: str) -> bool:
    """Whether a word is a number as files are counted with: an id of 1 is not in every ``scan_1``."""
    return word.isdecimal() and len(word) < 3


def _spellings(date: str) -> set[str]:
    """How a date ``YYYYMMDD...`` may be written, less its signs."""
    found = re.match(r"(\d{4})[.-]?(\d{2})[.-]?(\d{2})", date)
    if found is None or found[0].strip("0.-") == "":
        return set()
    year, month, day = found.groups()
    short = str(int(month)), str(int(day))  # as in 3.2.2019
    spelled = {spelling for y in (year, year[2:]) for spelling in (y + month + day, day + month + y, month + day + y)}
    return spelled | {year + "".join(short), "".join(short[::-1]) + year, "".join(short) + year}


def _transliterated(text: str) -> str:
    """A name as it is spelled where there are no such letters: ``Müller`` is ``Mueller``."""
    return unicodedata.normalize("NFC", text).casefold().translate(_SPELLED)


def _words(text: str) -> list[str]:
    r"""Runs of letters and digits, in lower case and without accents: ``Müller^Änne-1`` gives ``muller``, ``anne``, ``1``."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return re.findall(r"[^\W_]+", plain.casefold())
