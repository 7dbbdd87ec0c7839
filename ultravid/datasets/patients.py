"""Who was scanned in each video: stated by a table, by the dataset's own files, or by a rule that the config names.

Folds, the audit, bootstrap intervals and p-values rest on patients, so a patient is never guessed unasked: a video whose
patient nothing states is a patient of its own, and all of them count and report such videos.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from ultravid.datasets.json_files import read_json
from ultravid.datasets.video import DataError, Video

__all__ = [
    "UNKNOWN_DICOM_PATIENTS",
    "PatientRule",
    "check_patients",
    "describe_unknown_patients",
    "num_unknown_patients",
    "patient_key",
    "patient_rule",
    "read_patients",
    "table_address",
    "unify_spellings",
]

logger = logging.getLogger(__name__)

_SIDE_SUFFIX = re.compile(r"[-_]\d?-?[lr]?$")

UNKNOWN_DICOM_PATIENTS = (
    *("anon", "anonym", "anonymous", "anonymized", "anonymised", "anonymize", "deidentified", "de-identified"),
    *(
        "removed",
        "redacted",
        "unknown",
        "none",
        "null",
        "nil",
        "no id",
        "noid",
        "n/a",
        "na",
        "not available",
        "unnamed",
    ),
    *("patient", "patientid", "patient id", "id", "test", "default", "temp", "phantom", "volunteer", "subject"),
)
"""Values of the DICOM tag PatientID that name nobody, compared as `patient_key` does; so do values of one repeated filler, such as
``0``, ``0000``, ``XXX`` and ``---``."""

_FILLERS = "0x-_.*?#"


def patient_key(name: str) -> str:
    """What two spellings of one patient's name share: it is trimmed, inner blanks count as one, and case does not count."""
    return " ".join(name.split()).casefold()


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _stem_without_side(name: str) -> str:
    return _SIDE_SUFFIX.sub("", _stem(name))


def _folder(name: str) -> str:
    parent = PurePosixPath(name).parent.as_posix()
    return "" if parent == "." else parent


_RULES: dict[str, Callable[[str], str]] = {
    "stem": _stem,
    "stem_without_side": _stem_without_side,
    "folder": _folder,
}
_HOW_TO_STATE = (
    "write 'folder' (of the video), 'stem' (of its file), 'stem_without_side' (the same less a side such as -1-l), "
    "'regex:PATTERN' with a group around the patient, 'dicom' or 'dicom:VALUE,...' (the tag PatientID, and values that mean "
    "unknown), or the address of a table, a JSON object from video name to patient"
)


class PatientRule:
    """Finds which patient a video is of.

    The first of these that says it decides:

    1. a table, if there is one;
    2. what the dataset's own files state: ``patient`` in a video's row or in a sidecar;
    3. the rule: of the video's name, or the DICOM tag PatientID. Without a rule the tag is used too if a file has it.

    Args:
        table: patient by video name.
        of_name: the patient of a video's name, "" if the name does not tell; None without such a rule.
        unknown_tags: values of the DICOM tag PatientID that name nobody, besides `UNKNOWN_DICOM_PATIENTS`.
    """

    def __init__(
        self,
        table: Mapping[str, str] | None = None,
        of_name: Callable[[str], str] | None = None,
        unknown_tags: Iterable[str] = (),
    ) -> None:
        self.table = dict(table or {})
        self._of_name = of_name
        self._unknown_tags = {patient_key(value) for value in (*UNKNOWN_DICOM_PATIENTS, *unknown_tags)}
        self._names_by_token: dict[str, str] = {}

    def patient(
        self, name: str, stated: str | None = None, *, path: str | None = None, dicom: Path | None = None
    ) -> str | None:
        """The patient of a video; None if it is not known.

        Args:
            name: of the video, with ``/`` between folders.
            stated: what the dataset's own files say.
            path: what a rule of names looks at; None: ``name``.
            dicom: the video's DICOM file. Files with the same PatientID share the name of the first of them: the id itself is
                never kept.
        """
        if name in self.table:
            return self.table[name]
        if stated is not None and stated.strip():
            return stated
        if self._of_name is not None:
            return self._of_name(name if path is None else path) or None
        return None if dicom is None else self._of_tag(name, dicom)

    def _of_tag(self, name: str, file: Path) -> str | None:
        from ultravid.datasets.readers.dicom import patient_token  # half a second, for those who have DICOM files

        token = patient_token(file, self.names_nobody)
        return None if token is None else self._names_by_token.setdefault(token, name)

    def names_nobody(self, tag: str) -> bool:
        """Whether a value of the tag PatientID names nobody."""
        key = patient_key(tag)
        return key in self._unknown_tags or any(not key.strip(filler) for filler in _FILLERS)


def patient_rule(patients: str | Path | None) -> PatientRule:
    """The rule that an argument ``patients`` of a config or a command names.

    Args:
        patients: ``"folder"``: the video's folder; ``"stem"``: its file's name without suffix; ``"stem_without_side"``: the same
            without a trailing side such as ``-1-l``; ``"regex:PATTERN"``: the group ``patient``, or the first one, of the pattern
            where it is found in the video's name, unknown if it is not; ``"dicom"``: the tag PatientID, where
            `UNKNOWN_DICOM_PATIENTS` mean unknown; ``"dicom:VALUE,..."``: so do these values. Anything else is the address of
            a table, see `read_patients`. None: what files state.

    Raises:
        DataError: it is none of these, the pattern is not valid or has no group, or the table can't be read.
    """
    if patients is None:
        return PatientRule()
    text = str(patients)
    if text in _RULES:
        return PatientRule(of_name=_RULES[text])
    kind, colon, rest = text.partition(":")
    if colon and kind == "regex":
        return PatientRule(of_name=_of_pattern(rest))
    if kind == "dicom" and (colon or text == "dicom"):
        return PatientRule(unknown_tags=[value for value in rest.split(",") if value.strip()])
    if "/" not in text and "." not in text and not Path(text).exists():
        raise DataError(f"patients={text!r} is not a rule for patients, nor a file: {_HOW_TO_STATE}.")
    return PatientRule(read_patients(patients))


def table_address(patients: str | Path | None) -> str | Path | None:
    """The address of the table that an argument ``patients`` names; None if it names a rule, or nothing."""
    text = str(patients)
    is_rule = patients is None or text in _RULES or text == "dicom" or text.startswith(("regex:", "dicom:"))
    return None if is_rule else patients


def _of_pattern(text: str) -> Callable[[str], str]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise DataError(f"patients='regex:{text}' is not a regular expression: {error}.") from error
    if not pattern.groups:
        raise DataError(
            f"patients='regex:{text}' has no group; put the patient in parentheses, as in 'regex:(P[0-9]+)_'."
        )
    group = "patient" if "patient" in pattern.groupindex else 1

    def patient(name: str) -> str:
        found = pattern.search(name)
        return (found[group] or "") if found else ""

    return patient


def read_patients(address: str | Path | None) -> dict[str, str]:
    """A table from video name to patient, a JSON object at any address; empty for None.

    Raises:
        DataError: the file can't be read, or is no such table.
    """
    if address is None:
        return {}
    table = read_json(address)
    if not isinstance(table, dict):
        raise DataError(f"{address}: the table of patients must be an object from video name to patient.")
    for name, patient in table.items():
        if not isinstance(patient, str | int) or isinstance(patient, bool) or not str(patient).strip():
            raise DataError(f"{address}: the patient of {name!r} is {patient!r}, not text or a whole number.")
    return {name: str(patient) for name, patient in table.items()}


def check_patients(table: Mapping[str, str], names: Iterable[str], path: str | Path) -> None:
    """Refuse a table of patients that names none of a dataset's videos; log how many of its names are unknown.

    Args:
        table: see `read_patients`.
        names: of the videos.
        path: of the dataset, for messages.

    Raises:
        DataError: the table isn't empty, and no video is in it.
    """
    unknown = sorted(set(table) - set(names))
    if unknown and len(unknown) == len(table):
        raise DataError(f"{path}: the table of patients names none of its videos; {unknown[0]!r} is not one of them.")
    if unknown:
        logger.info("%s: %d names in the table of patients are not videos, such as %r.", path, len(unknown), unknown[0])


def unify_spellings(videos: Sequence[Video]) -> tuple[list[Video], list[str]]:
    """The videos with one spelling for each patient, the first in alphabetical order, and a warning for each that had several."""
    spellings: dict[str, set[str]] = defaultdict(set)
    for video in videos:
        if video.patient_known:
            spellings[patient_key(video.patient)].add(video.patient)
    chosen = {key: min(names) for key, names in spellings.items()}
    warnings = [
        f"Patient {chosen[key]!r} is also written {', '.join(map(repr, sorted(names - {chosen[key]})))}; taken as one patient."
        for key, names in sorted(spellings.items())
        if len(names) > 1
    ]
    if not warnings:
        return list(videos), []
    return [
        dataclasses.replace(v, patient=chosen[patient_key(v.patient)]) if v.patient_known else v for v in videos
    ], warnings


def num_unknown_patients(videos: Iterable[Video]) -> int:
    """How many videos' patients are not known; each of them counts as a patient of its own."""
    return sum(not video.patient_known for video in videos)


def describe_unknown_patients(number: int, total: int) -> str:
    """A sentence for folds, audits and intervals about videos whose patients are not known; "" if there are none."""
    if not number:
        return ""
    what = "The patient of 1 video" if number == 1 else f"The patients of {number} videos"
    return (
        f"{what} (of {total}) {'is' if number == 1 else 'are'} not known: each counts as a patient of its own, though some may be "
        "of one person. State them by the argument or flag 'patients'."
    )
