"""Which runs an experiment consists of: the grid that sweeps span, named edits, and files of jobs.

    'optimizer.lr=1e-4,3e-4' 'train.seed=range(3)'       six jobs
    --set small='model.backbone.depth=18 optimizer.lr=3e-4' --set large='model.backbone.depth=34'     two, of several keys each
    --jobs FILE                                          a job a row (CSV) or an entry (YAML, or `experiment` of a Python file)

All of these multiply. What is set for every job alike is no setting of a job.
"""

from __future__ import annotations

import csv
import itertools
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ultravid.config.loader import load_namespace
from ultravid.config.override_values import quoted_value
from ultravid.config.overrides import split_override
from ultravid.config.sweeps import Choices, Interval, parse_sweep
from ultravid.utils.errors import UserError
from ultravid.utils.text import counted

__all__ = ["JobSettings", "Sweeps", "jobs_of_entries", "parse_named_edits", "read_jobs", "span", "split_sweeps"]

_NAME = "name"
_EDIT = re.compile(r"(?:(?P<group>[\w-]+)/)?(?P<name>[\w.+-]+)=(?P<overrides>.*)", re.DOTALL)


@dataclass(frozen=True)
class JobSettings:
    """What one job sets.

    Attributes:
        overrides: the whole list, in the order in which they are applied; without the output folder.
        settings: what differs between jobs: values as text by key, or by the name of a group of named edits.
        name: the user's own name for the job; "" if there is none.
    """

    overrides: tuple[str, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True)
class Sweeps:
    """The overrides of a command line by what they are.

    Attributes:
        in_order: all of them as typed: the text of one that sets one value, or its choices.
        intervals: those that only a search can use.
    """

    in_order: tuple[str | Choices, ...]
    intervals: tuple[Interval, ...] = ()

    @property
    def plain(self) -> list[str]:
        """The overrides of every job."""
        return [item for item in self.in_order if isinstance(item, str)]

    @property
    def choices(self) -> list[Choices]:
        """The sweeps, in order."""
        return [item for item in self.in_order if isinstance(item, Choices)]


def split_sweeps(overrides: Sequence[str]) -> Sweeps:
    """Tell sweeps from overrides that set one value.

    Raises:
        OverrideError: a sweep that can't be spanned.
        UserError: a key that is swept is set twice.
    """
    parsed = [parse_sweep(text) for text in overrides]
    swept = [sweep.key for sweep in parsed if sweep is not None]
    plain = [text for text, sweep in zip(overrides, parsed, strict=True) if sweep is None]
    for key in swept:
        if swept.count(key) > 1 or key in map(_key, plain):
            raise UserError(
                f"{key} is set twice, and at least once to several values; name all its values in one: {key}=a,b."
            )
    in_order = [text if sweep is None else sweep for text, sweep in zip(overrides, parsed, strict=True)]
    return Sweeps(
        tuple(item for item in in_order if not isinstance(item, Interval)),
        tuple(item for item in in_order if isinstance(item, Interval)),
    )


def span(
    sweeps: Sweeps, edits: Mapping[str, Sequence[JobSettings]], jobs: Sequence[JobSettings] = ()
) -> list[JobSettings]:
    """Every combination of the values of the sweeps, of the named edits of each group, and of the jobs of a file.

    Jobs of a file and edits vary slowest, the last sweep fastest. Their overrides are applied first, then those of the command line
    as typed.

    Args:
        sweeps: of the command line.
        edits: named edits by group, as of `parse_named_edits`.
        jobs: as of `read_jobs`.

    Raises:
        UserError: a key is set in two of these ways.
    """
    blocks = [*([jobs] if jobs else []), *edits.values()]
    _refuse_overlap(blocks, sweeps)
    found = []
    choices = sweeps.choices
    for chosen in itertools.product(*blocks):
        above = [override for block in chosen for override in block.overrides]
        settings = {key: text for block in chosen for key, text in block.settings.items()}
        name = " ".join(block.name for block in chosen if block.name)
        for values in itertools.product(*(sweep.values for sweep in choices)):
            value_of = dict(zip([sweep.key for sweep in choices], values, strict=True))
            own = [item if isinstance(item, str) else item.override(value_of[item.key]) for item in sweeps.in_order]
            found.append(JobSettings((*above, *own), {**settings, **value_of}, name))
    return found


def parse_named_edits(texts: Iterable[str]) -> dict[str, list[JobSettings]]:
    """The named edits of ``--set [GROUP/]NAME='key=value key=value'``, by group; the group without a name is ``set``.

    Raises:
        UserError: one does not parse, sweeps, or is named twice.
    """
    groups: dict[str, list[JobSettings]] = {}
    for text in texts:
        match = _EDIT.fullmatch(text)
        overrides = _split_line(match["overrides"], f"--set {text}") if match else []
        if match is None:
            raise UserError(f"--set {text}: is not of the form NAME='key=value key=value'.")
        if match["group"] is None and "." in match["name"] and len(overrides) == 1 and "=" not in overrides[0]:
            edit = f"--set 'NAME={text}'"
            raise UserError(
                f"--set {text}: gives a key where a name belongs; write {edit}, or the override without --set."
            )
        group, name = match["group"] or "set", match["name"]
        if any(edit.name == name for edit in groups.get(group, ())):
            raise UserError(f"--set: {name} is defined twice.")
        _refuse_sweeps(overrides, f"--set {name}")
        groups.setdefault(group, []).append(JobSettings(tuple(overrides), {group: name}, name))
    return groups


def read_jobs(path: str | Path) -> list[JobSettings]:
    """The jobs of a file.

    An entry of YAML or of ``experiment = [...]`` in a Python file is a mapping from keys to values, a list of overrides, or one
    text of overrides; in a mapping the key ``name`` names the job. In a CSV file the first row holds the keys (and ``name``);
    an empty cell sets nothing.

    Raises:
        UserError: the file can't be read, holds no job, or an entry is of another form; the message gives its number.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"--jobs {path}: there is no such file.")
    if path.suffix not in _READERS:
        raise UserError(f"--jobs {path}: is neither .yaml, .csv nor .py.")
    entries = _READERS[path.suffix](path)
    jobs = [_job_of(entry, f"{path}, job {number}") for number, entry in enumerate(entries)]
    if not jobs:
        raise UserError(f"--jobs {path}: holds no job.")
    return jobs


def jobs_of_entries(entries: Any, place: str) -> list[JobSettings]:
    """The jobs of a list, as a Python file's ``experiment`` has it; see `read_jobs`."""
    if not isinstance(entries, list | tuple):
        raise UserError(f"{place}: is {type(entries).__name__}, not a list of jobs.")
    return [_job_of(entry, f"{place}[{number}]") for number, entry in enumerate(entries)]


def _read_yaml(path: Path) -> list[Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--jobs {path}: is no YAML: {error}") from error
    if not isinstance(content, list):
        raise UserError(f"--jobs {path}: is not a list of jobs; begin each with '- '.")
    return content


def _read_csv(path: Path) -> list[Any]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if any(cell.strip() for cell in row)]
    if not rows:
        return []
    keys, *values = rows
    keys = [key.strip() for key in keys]
    if repeated := {key for key in keys if keys.count(key) > 1}:
        raise UserError(f"--jobs {path}: the column {min(repeated)!r} is there twice.")
    for number, row in enumerate(values):
        if len(row) != len(keys):
            raise UserError(
                f"--jobs {path}, job {number}: has {counted(len(row), 'cell')} where the first row has {len(keys)}."
            )
    return [
        {"_cells_": {key: cell.strip() for key, cell in zip(keys, row, strict=True) if cell.strip()}} for row in values
    ]


def _read_python(path: Path) -> list[Any]:
    names = load_namespace(path)
    if "experiment" not in names:
        raise UserError(f"--jobs {path}: defines no list 'experiment'.")
    entries = names["experiment"]
    if not isinstance(entries, list | tuple):
        raise UserError(f"--jobs {path}: 'experiment' is {type(entries).__name__}, not a list of jobs.")
    return list(entries)


_READERS = {".yaml": _read_yaml, ".yml": _read_yaml, ".csv": _read_csv, ".py": _read_python}


def _job_of(entry: Any, place: str) -> JobSettings:
    name = ""
    if isinstance(entry, str):
        overrides = _split_line(entry, place)
    elif isinstance(entry, Mapping):
        cells = entry.get("_cells_")
        values = dict(entry if cells is None else cells)
        name = str(values.pop(_NAME, ""))
        overrides = [
            f"{key}={value if cells is not None else _value_text(value, f'{place}: {key}')}"
            for key, value in values.items()
        ]
    elif isinstance(entry, list | tuple) and all(isinstance(item, str) for item in entry):
        overrides = list(entry)
    else:
        raise UserError(
            f"{place}: is {entry!r}; a job is a mapping of keys to values, a list of overrides, or a text of overrides."
        )
    for text in overrides:
        split_override(text)
    _refuse_sweeps(overrides, place)
    settings = {_key(text): text.partition("=")[2] or "(deleted)" for text in overrides}
    return JobSettings(tuple(overrides), {**({_NAME: name} if name else {}), **settings}, name)


def _value_text(value: Any, place: str) -> str:
    """A Python value as text in the grammar of overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w./+-]+(\.(py|yaml):\w+)?|\$\{[\w.]+\}", value) else quoted_value(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(_value_text(item, place) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{_value_text(k, place)}:{_value_text(v, place)}' for k, v in value.items())}}}"
    raise UserError(f"{place} is of {type(value).__name__}, which an override can't express.")


def _split_line(text: str, place: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"{place}: a quote is left open.") from error


def _refuse_sweeps(overrides: Iterable[str], place: str) -> None:
    for text in overrides:
        if parse_sweep(text) is not None:
            raise UserError(
                f"{place}: {text} names several values; a job sets one. Sweep on the command line, {text!r}, instead."
            )


def _refuse_overlap(blocks: Sequence[Sequence[JobSettings]], sweeps: Sweeps) -> None:
    """Refuse a key that two of the sources set: which one counts would depend on an order that nobody sees."""
    seen: dict[str, str] = {
        _key(item) if isinstance(item, str) else item.key: "the command line" for item in sweeps.in_order
    }
    for number, block in enumerate(blocks):
        keys = {_key(text) for job in block for text in job.overrides}
        source = f"the list of jobs or edits {number + 1}"
        for key in sorted(keys):
            if key in seen:
                raise UserError(f"{key} is set by {seen[key]} and by {source}: set it in one of them.")
            seen[key] = source


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")
