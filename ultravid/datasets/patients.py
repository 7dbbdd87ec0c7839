"""The patient of each video: stated by a table, by the dataset's own files, or found by a rule that the config names.

Folds, the audit, bootstrap intervals and p-values rest on patients, so a patient is never guessed unasked: a video whose
patient nothing states counts as a separate patient, and all of them count and report such videos.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Protocol

from ultravid.datasets.faults import FileFaults
from ultravid.datasets.json_files import read_json
from ultravid.datasets.patient_key import patient_key
from ultravid.datasets.video import DataError, Video
from ultravid.utils.text import nearest

__all__ = [
    "BY_OPTION",
    "UNKNOWN_DICOM_PATIENTS",
    "UNKNOWN_PATIENTS",
    "HasPatient",
    "PatientRule",
    "check_patients",
    "describe_unknown_patients",
    "note_spellings",
    "num_patients",
    "num_unknown_patients",
    "patient_identities",
    "patient_key",
    "patient_rule",
    "read_patients",
    "table_address",
    "unify_spellings",
]


_SIDE_SUFFIX = re.compile(r"[-_]\d?-?[lr]?$")
_LONGER_SUFFIX = re.compile(r"(.*)[-_]\d\d+-?[lr]?")

UNKNOWN_PATIENTS = frozenset(
    (
        *("anon", "anonym", "anonymous", "anonymized", "anonymised", "anonymous patient"),
        *("deidentified", "de-identified", "removed", "redacted"),
        *("unknown", "unknown patient", "unnamed", "none", "null", "nil", "nan", "n/a", "n.a.", "not available"),
        *("no id", "noid", "not known", "unspecified", "undefined", "missing"),
    )
)
"""Names of patients that name nobody wherever they are stated, compared as `patient_key` does; so does a name without any letter
or digit, such as ``---``."""

UNKNOWN_DICOM_PATIENTS = (
    *sorted(UNKNOWN_PATIENTS),
    *("na", "anonymize", "anonymise", "patient", "patientid", "patient id", "patient_id", "id", "test", "test patient"),
    *(
        "default",
        "temp",
        "phantom",
        "volunteer",
        "subject",
        "dummy",
        "emergency",
        "9999",
        "123456",
        "1234567",
        "12345678",
    ),
    *("123456789", "1234567890"),
)
"""Values of the DICOM tag PatientID that name nobody, compared as `patient_key` does; so do values of one repeated filler, such as
``0``, ``0000``, ``XXX`` and ``---``, and of five equal signs or more, such as ``99999``."""

BY_OPTION = "with --option patients=RULE (docs/patients.md)"
"""How patients are stated to a tool that passes options to readers, for `describe_unknown_patients`."""

_COMPARED = 300  # names of a table with that of a video, letter by letter
_NO_VIDEOS = "names in the table of patients are not those of videos, which are compared letter by letter"

_FILLERS = "0x-_.*?#"
_REPEATED = re.compile(r"(.)\1{4,}")


_SPELLINGS = "patients are written in several ways, and each is taken for one patient"


class HasPatient(Protocol):
    """A video whose patient is known or not, of a dataset or of an evaluation."""

    @property
    def video_id(self) -> str:
        """Unique in its dataset."""
        ...

    @property
    def patient(self) -> str:
        """Who was scanned; the video's own id if that is not known."""
        ...

    @property
    def patient_known(self) -> bool:
        """Whether it is known who was scanned."""
        ...


def _stem(name: str) -> str:
    """The last part of a name less a suffix that has a letter: the last number of a DICOM file's UID is no suffix."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.stem if any(c.isalpha() for c in path.suffix) else path.name


def _stem_without_side(name: str) -> str:
    return _SIDE_SUFFIX.sub("", PurePosixPath(name).stem)  # as in version 0.1: folds rest on it


def _folder(name: str) -> str:
    parent = PurePosixPath(name.replace("\\", "/")).parent.as_posix()
    return "" if parent == "." else parent


_RULES: dict[str, Callable[[str], str]] = {
    "stem": _stem,
    "stem_without_side": _stem_without_side,
    "folder": _folder,
}
_ELSE = " else "  # between a table and a rule
_HOW_TO_STATE = (
    "write 'folder' (of the video), 'stem' (of its file), 'stem_without_side' (the same less a side such as -1-l), "
    "'regex:PATTERN' with a group around the patient, 'dicom' or 'dicom:VALUE,...' (the tag PatientID, and values that mean "
    "unknown), the address of a table, a JSON object from video name to patient, or 'TABLE else RULE'"
)


class PatientRule:
    """Finds which patient a video is of.

    The first of these that says it decides:

    1. a table, if there is one;
    2. what the dataset's own files state: ``patient`` in a video's row or in a sidecar;
    3. the rule: of the video's name, or the DICOM tag PatientID. Without a rule the tag is used too if a file has it.

    None of them says it by a name of `UNKNOWN_PATIENTS`. A rule is for one dataset: it remembers what it was asked, for `check`.

    Args:
        table: patient by video name.
        of_name: the patient of a video's name, "" if the name does not tell; None without such a rule.
        unknown_tags: values of the DICOM tag PatientID that mean an unknown patient, besides `UNKNOWN_DICOM_PATIENTS`.
        text: how the rule is named, for messages; "" for what files state.

    Attributes:
        num_stated: how many videos' patients the dataset's own files decided.
        unknown_tags: the argument.
    """

    def __init__(
        self,
        table: Mapping[str, str] | None = None,
        of_name: Callable[[str], str] | None = None,
        unknown_tags: Iterable[str] = (),
        text: str = "",
    ) -> None:
        self.table = dict(table or {})
        self.text = text
        self._of_name = of_name
        self.unknown_tags = tuple(unknown_tags)
        self._unknown_tags = {patient_key(value) for value in (*UNKNOWN_DICOM_PATIENTS, *self.unknown_tags)}
        self._names_by_token: dict[str, str] = {}
        self._asked: dict[str, str | None] = {}  # what the rule said of the names that it was asked for
        self._by_rule: set[str] = set()  # videos whose patient nothing else said
        self._num_dicom = 0
        self.num_stated = 0
        self._nobody: dict[str, str] = {}  # by video, a stated patient that names nobody
        self._reported: set[str] = set()

    def patient(
        self, name: str, stated: str | None = None, *, path: str | None = None, dicom: Path | None = None
    ) -> str | None:
        """The patient of a video; None if it is not known.

        Args:
            name: the name of the video, with ``/`` between folders.
            stated: what the dataset's own files say.
            path: what a rule of names looks at; None: ``name``.
            dicom: the video's DICOM file. Files with the same PatientID share the name of the first of them: the id itself is
                never kept.
        """
        for said, is_stated in ((self.table.get(name), False), (stated, True)):
            if said is not None and said.strip():
                if not _is_nobody(said):
                    self.num_stated += is_stated
                    return said
                self._nobody.setdefault(name, said)
        found: str | None = None
        if self._of_name is not None:
            found = self._of_name(name if path is None else path)
            found = found if found and not _is_nobody(found) else None
        elif dicom is not None:
            self._num_dicom += 1
            found = self._of_tag(name, dicom)
        self._asked[name if path is None else path] = found
        self._by_rule.add(name)
        return found

    def decided(self, name: str) -> bool:
        """Whether it was up to the rule who a video's patient is: neither a table nor the dataset's files said it."""
        return name in self._by_rule

    def _of_tag(self, name: str, file: Path) -> str | None:
        from ultravid.datasets.readers.dicom import patient_token  # half a second, for those who have DICOM files

        token = patient_token(file, self.names_nobody)
        if token is None or token in self._names_by_token:
            return None if token is None else self._names_by_token[token]
        taken = {patient_key(named) for named in self._names_by_token.values()}
        named, number = name, 1
        while patient_key(named) in taken:  # a.dcm and A.dcm are two files, perhaps of two patients
            number += 1
            named = f"{name} ({number})"
        self._names_by_token[token] = named
        return named

    def names_nobody(self, tag: str) -> bool:
        """Whether a value of the tag PatientID names nobody."""
        key = patient_key(tag)
        is_filler = any(not key.strip(filler) for filler in _FILLERS) or _REPEATED.fullmatch(key) is not None
        return is_filler or key in self._unknown_tags or _is_nobody(tag) or key.strip("^ ") in self._unknown_tags

    def check(self, names: Iterable[str], faults: FileFaults) -> None:
        """Refuse a rule that does not fit a dataset, once all its videos are read, and note what looks wrong.

        Args:
            names: the names of all its videos.
            faults: the faults of the dataset; takes what is noted.

        Raises:
            DataError: the table names none of the videos, or the rule finds a patient in none of the names it was asked for.
        """
        if self.table:
            names = list(names)
            if unknown := check_patients(self.table, names, faults.path):
                name, key = _closest(names, unknown)
                faults.repair(_NO_VIDEOS, f"{key!r}; of the videos, {name!r} is like it", len(unknown))
        if self._asked and self.text and not any(self._asked.values()):
            first = next(iter(self._asked))
            if self._of_name is not None:
                number = "the name" if len(self._asked) == 1 else f"any of {len(self._asked)} names, such as"
                raise DataError(f"{faults.path}: patients={self.text!r} finds no patient in {number} {first!r}.")
            if not self._num_dicom:
                raise DataError(
                    f"{faults.path}: patients={self.text!r} reads DICOM files, but no video is one, for example {first!r}."
                )
        for kind, message in self._suspicions():
            if message not in self._reported:
                self._reported.add(message)
                faults.repair(kind, message)

    def _suspicions(self) -> Iterable[tuple[str, str]]:
        """(kind, message) as `FileFaults.repair` takes them."""
        for name, said in self._nobody.items():
            yield (
                "stated patients are placeholders such as 'unknown', and count as not known",
                f"video {name!r} states {said!r}",
            )
        if self.text not in ("stem", "stem_without_side"):
            return
        by_patient: dict[str, list[str]] = defaultdict(list)
        for name, patient in self._asked.items():
            by_patient[patient or ""].append(name)
        for patient, names in by_patient.items():
            other = next((n for n in names if _folder(n) != _folder(names[0])), None)
            if patient and other is not None:
                yield (
                    "patients are of one file name in several folders",
                    f"{names[0]!r} and {other!r} are taken as one patient, {patient!r}, as patients={self.text!r} says",
                )
            longer = _LONGER_SUFFIX.fullmatch(patient) if self.text == "stem_without_side" else None
            if longer is not None and len(by_patient.get(longer[1], ())) and patient:
                yield (
                    "names keep a number of several digits where one digit is cut from others",
                    f"{names[0]!r} is a patient by itself, {by_patient[longer[1]][0]!r} is of {longer[1]!r}; "
                    "if they are one patient, give patients='regex:...'",
                )


def _is_nobody(name: str) -> bool:
    """Whether a stated name names nobody."""
    return patient_key(name) in UNKNOWN_PATIENTS or not any(map(str.isalnum, name))


def patient_rule(patients: str | Path | None) -> PatientRule:
    """The rule that an argument ``patients`` of a config or a command names.

    Args:
        patients: ``"folder"``: the video's folder; ``"stem"``: its file's name without suffix; ``"stem_without_side"``: the same
            without a trailing side such as ``-1-l``; ``"regex:PATTERN"``: the group ``patient``, or the first one, of the pattern
            where it is found in the video's name, unknown if it is not; ``"dicom"``: the tag PatientID, where
            `UNKNOWN_DICOM_PATIENTS` mean unknown; ``"dicom:VALUE,..."``: so do these values. Anything else is the address of
            a table, see `read_patients`; ``"TABLE else RULE"``: the rule is for videos that the table does not name. None:
            what files state.

    Raises:
        DataError: it is none of these, the pattern is not valid or has no group, or the table can't be read.
    """
    if patients is None:
        return PatientRule()
    text = str(patients)
    if text in _RULES:
        return PatientRule(of_name=_RULES[text], text=text)
    kind, colon, rest = text.partition(":")
    if colon and kind == "regex":
        return PatientRule(of_name=_of_pattern(rest), text=text)
    if kind == "dicom" and (colon or text == "dicom"):
        return PatientRule(unknown_tags=[value for value in rest.split(",") if value.strip()], text=text)
    table, has_rule, rule = text.partition(_ELSE)
    if has_rule and _is_rule(rule) and not _is_rule(table):
        both = patient_rule(rule)
        both.table = patient_rule(table).table
        return both
    if has_rule or not text.strip() or ("/" not in text and "." not in text and not Path(text).exists()):
        raise DataError(f"patients={text!r} is not a rule for patients, nor a file: {_HOW_TO_STATE}.")
    return PatientRule(read_patients(patients))


def _is_rule(text: str) -> bool:
    return text in _RULES or text == "dicom" or text.startswith(("regex:", "dicom:"))


def table_address(patients: str | Path | None) -> str | Path | None:
    """The address of the table that an argument ``patients`` names; None if it names a rule, or nothing."""
    if patients is None or _is_rule(str(patients)):
        return None
    table, has_rule, _ = str(patients).partition(_ELSE)
    return table if has_rule else patients


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
    of_another_kind = Path(address).suffix.lower() in (".csv", ".tsv", ".xls", ".xlsx", ".ods")
    table = None if of_another_kind else read_json(address)
    if not isinstance(table, dict):
        raise DataError(
            f"{address}: the table of patients must be a JSON object from video name to patient, such as "
            '{"a.mp4": "p1", "b.mp4": "p1"}.'
        )
    for name, patient in table.items():
        if not isinstance(patient, str | int) or isinstance(patient, bool) or not str(patient).strip():
            raise DataError(f"{address}: the patient of {name!r} is {patient!r}, not text or a whole number.")
    return {name: str(patient) for name, patient in table.items()}


def check_patients(table: Mapping[str, str], names: Iterable[str], path: str | Path) -> list[str]:
    """Refuse a table of patients that names none of a dataset's videos. Returns its names that are not those of videos, sorted.

    Args:
        table: see `read_patients`.
        names: the names of the videos.
        path: the path of the dataset, for messages.

    Raises:
        DataError: the table isn't empty, and no video is in it.
    """
    known = set(names)
    unknown = sorted(set(table) - known)
    if unknown and len(unknown) == len(table):
        like = ""
        if known:
            name, key = _closest(known, unknown)
            like = f": a video is called {name!r}, the name in the table that is most like it is {key!r}"
        raise DataError(f"{path}: the table of patients names none of its videos{like}.")
    return unknown


def _closest(videos: Iterable[str], names: Iterable[str]) -> tuple[str, str]:
    """A video, and the name in a table of patients that is most like its own; at least one of each must be given."""
    by_key = {patient_key(name): name for name in names}
    for video in sorted(videos):
        path = PurePosixPath(video)
        for form in map(patient_key, (video, path.name, path.stem)):
            if form in by_key:
                return video, by_key[form]
    first = min(videos)
    some = sorted(names)[:_COMPARED]
    return first, nearest(first, some, cutoff=0.0) or some[0]


def _spellings(videos: Iterable[HasPatient]) -> dict[str, set[str]]:
    """How each known patient is written, by key."""
    spellings: dict[str, set[str]] = defaultdict(set)
    for video in videos:
        if video.patient_known:
            spellings[patient_key(video.patient)].add(video.patient)
    return spellings


def note_spellings(videos: Iterable[HasPatient], faults: FileFaults) -> bool:
    """Note each patient who is written in several ways, that is in others of case or blanks. Returns whether there is one."""
    several = sorted(sorted(names) for names in _spellings(videos).values() if len(names) > 1)
    for names in several:
        faults.repair(_SPELLINGS, ", ".join(map(repr, names)))
    return bool(several)


def unify_spellings(videos: Sequence[Video], faults: FileFaults | None = None) -> list[Video]:
    """The videos with one spelling for each patient, the first in alphabetical order; ``faults`` takes what is changed."""
    if not note_spellings(videos, faults or FileFaults("")):
        return list(videos)
    chosen = {name: min(names) for names in _spellings(videos).values() for name in names}
    return [replace(v, patient=chosen[v.patient]) if v.patient_known and v.patient in chosen else v for v in videos]


def patient_identities(videos: Sequence[HasPatient]) -> list[tuple[str, bool]]:
    """(name, whether it is known) of each video's patient: equal for videos of one patient, and for no others.

    Names that differ in case or blanks only are one patient. A video whose patient is not known is its own patient, also if
    someone is called like the video.
    """
    first = {key: min(names) for key, names in _spellings(videos).items()}
    return [(first[patient_key(v.patient)], True) if v.patient_known else (v.video_id, False) for v in videos]


def num_patients(videos: Sequence[HasPatient]) -> int:
    """How many patients the videos are of; a video whose patient is not known counts as one more."""
    return len(set(patient_identities(videos)))


def num_unknown_patients(videos: Iterable[HasPatient]) -> int:
    """How many videos' patients are not known; each of them counts as a separate patient."""
    return sum(not video.patient_known for video in videos)


def describe_unknown_patients(number: int, total: int, how: str = "by the reader's argument 'patients'") -> str:
    """Sentences for folds, audits and intervals about videos whose patients are not known; "" if there are none.

    Args:
        number: how many patients are not known.
        total: how many videos there are.
        how: where the user states patients; continues "State patients".
    """
    if not number:
        return ""
    if number == 1:
        return (
            f"The patient of 1 video (of {total}) is not known: it counts as a separate patient, although others may show the same "
            f"person. State patients {how}, or add them to your table of patients."
        )
    return (
        f"The patients of {number} videos (of {total}) are not known: each counts as a separate patient, although some may show "
        f"the same person. State patients {how}, or add them to your table of patients."
    )
