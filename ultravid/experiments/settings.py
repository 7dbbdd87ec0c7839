"""The settings of an experiment: the grid of its sweeps, named edits, and files of jobs.

    'optimizer.lr=1e-4,3e-4' 'train.seed=range(3)'       six jobs
    --set small='model.backbone.depth=18 optimizer.lr=3e-4' --set large='model.backbone.depth=34'     two, of several keys each
    --jobs FILE                                          a job a row (CSV) or an entry (YAML, or `experiment` of a Python file)

All of these multiply. What is set for every job alike is no setting of a job. A config file may list its jobs itself, in
``experiment = [...]``, which is what a command without any of these runs.
"""

from __future__ import annotations

import csv
import itertools
import math
import os
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ultravid.config import OverrideError
from ultravid.config.addresses import config_path
from ultravid.config.everywhere import is_everywhere, may_set
from ultravid.config.loader import config_errors, load_namespace
from ultravid.config.overrides import split_override
from ultravid.config.plain_data import to_data
from ultravid.config.sweeps import Choices, Interval, parse_sweep, text_of_string
from ultravid.config.yaml_files import load_yaml_data
from ultravid.utils.errors import UserError
from ultravid.utils.text import counted

__all__ = [
    "JobSettings",
    "Sweeps",
    "jobs_of_config",
    "parse_named_edits",
    "read_jobs",
    "span",
    "split_sweeps",
    "value_text",
]

_NAME = "name"
_GROUP = "set"  # of named edits without one
_EDIT = re.compile(r"(?:(?P<group>[\w-]+)/)?(?P<name>[\w.+-]+)=(?P<overrides>.*)", re.DOTALL)


@dataclass(frozen=True)
class JobSettings:
    """What one job sets.

    Attributes:
        overrides: the whole list, in the order in which they are applied; without the output folder.
        settings: what differs between jobs: values as text by key, or by the name of a group of named edits.
        name: the user's own name for the job; "" if there is none.
        edited: further keys that it sets itself, as by a named edit.
    """

    overrides: tuple[str, ...]
    settings: Mapping[str, str] = field(default_factory=dict)
    name: str = ""
    edited: tuple[str, ...] = ()

    @property
    def own_keys(self) -> set[str]:
        """Keys that the job sets itself, whatever all jobs have in common."""
        return {*self.settings, *self.edited}


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

    def with_swept(self, keys: Collection[str]) -> Sweeps:
        """The same, in which a key that distinguishes other jobs already is a sweep even with one value.

        So a job of a part of a grid has the settings that it has in the whole grid.

        Args:
            keys: the keys that distinguish jobs of the plan.
        """
        in_order = tuple(_one_choice(item, keys) if isinstance(item, str) else item for item in self.in_order)
        return replace(self, in_order=in_order)


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


def _one_choice(text: str, keys: Collection[str]) -> str | Choices:
    sign, key, value = split_override(text)
    is_choice = key in keys and key != _NAME and sign != "~" and value is not None
    return Choices(key, sign, (value or "",)) if is_choice else text


def span(
    sweeps: Sweeps,
    edits: Mapping[str, Sequence[JobSettings]],
    jobs: Sequence[JobSettings] = (),
    *,
    most: int | None = None,
) -> list[JobSettings]:
    """Every combination of the values of the sweeps, of the named edits of each group, and of the jobs of a file.

    Jobs of a file and edits vary slowest, the last sweep fastest. Their overrides are applied first, then those of the command line
    as typed.

    Args:
        sweeps: the sweeps of the command line.
        edits: named edits by group, as of `parse_named_edits`.
        jobs: as of `read_jobs`.
        most: refuse more combinations than this.

    Raises:
        UserError: a key is set in two of these ways, or there are more combinations.
    """
    sources = {**({"the list of jobs": jobs} if jobs else {}), **{_of_group(name): edits[name] for name in edits}}
    _refuse_overlap(sources, sweeps)
    choices = sweeps.choices
    _refuse_too_many(
        {**{name: len(block) for name, block in sources.items()}, **{c.key: len(c.values) for c in choices}}, most
    )
    found = []
    for chosen in itertools.product(*sources.values()):
        above = [override for block in chosen for override in block.overrides]
        settings = {key: text for block in chosen for key, text in block.settings.items()}
        name = " ".join(block.name for block in chosen if block.name)
        for values in itertools.product(*(sweep.values for sweep in choices)):
            value_of = dict(zip([sweep.key for sweep in choices], values, strict=True))
            own = [item if isinstance(item, str) else item.override(value_of[item.key]) for item in sweeps.in_order]
            found.append(JobSettings((*above, *own), {**settings, **value_of}, name, tuple(map(_key, above))))
    return found


def _of_group(name: str) -> str:
    return "--set" if name == _GROUP else f"--set {name}/..."


def _refuse_too_many(numbers: Mapping[str, int], most: int | None) -> None:
    """Refuse a grid before it is spanned."""
    number = math.prod(numbers.values())
    if most is not None and number > most:
        factors = " x ".join(f"{count} of {name}" for name, count in numbers.items() if count > 1)
        raise UserError(
            f"This makes {number:,} jobs ({factors}), more than {most:,}. If they are meant, allow them: --max-jobs {number}"
        )


def parse_named_edits(texts: Iterable[str]) -> dict[str, list[JobSettings]]:
    """The named edits of ``--set [GROUP/]NAME='key=value key=value'``, by group; the group without a name is ``set``.

    The overrides are split at blanks as a shell splits them. An edit may set nothing: ``--set base=``.

    Raises:
        UserError: one does not parse, sweeps, or is named twice.
    """
    groups: dict[str, list[JobSettings]] = {}
    for text in texts:
        match = _EDIT.fullmatch(text)
        if match is None:
            raise UserError(f"--set {shlex.quote(text)}: is not of the form NAME='key=value key=value'.")
        overrides = _split_line(match["overrides"], f"--set {text}")
        if len(overrides) == 1 and "=" not in overrides[0] and not overrides[0].startswith("~"):
            edit = shlex.join(["--set", f"NAME={text}"])
            raise UserError(
                f"--set {shlex.quote(text)}: gives a key where a name belongs; write {edit}, or the override without --set."
            )
        group, name = match["group"] or _GROUP, match["name"]
        if any(edit.name == name for edit in groups.get(group, ())):
            raise UserError(f"--set: {name} is defined twice.")
        _check_overrides(overrides, f"--set {name}")
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
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"--jobs {path}: is neither .yaml, .csv nor .py.")
    return _jobs_of(reader(path), str(path), "job ")


def jobs_of_config(config_file: str | Path) -> list[JobSettings]:
    """The jobs that a Python config lists itself, in ``experiment = [...]``; none if that is no list, but a part of the config.

    Raises:
        UserError: the list is empty, or an entry is no job.
        ConfigError: the file can't be read.
    """
    path = config_path(config_file)
    if path.suffix != ".py":
        return []
    with config_errors():
        names = load_namespace(path)
    if not isinstance(names.get("experiment"), list | tuple):
        return []
    return _jobs_of(_python_list(names["experiment"], f"{path}: 'experiment'"), f"{path}: experiment", "job ")


def _jobs_of(entries: Sequence[Any], source: str, what: str) -> list[JobSettings]:
    lines = [f" (line {entry.line})" if isinstance(entry, _Cells) else "" for entry in entries]
    jobs = [
        _job_of(entry, f"{source}, {what}{n}{line}") for n, (entry, line) in enumerate(zip(entries, lines, strict=True))
    ]
    if not jobs:
        raise UserError(f"{source}: holds no job.")
    names = [job.name for job in jobs if job.name]
    if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise UserError(f"{source}: two jobs have the name {repeated[0]!r}.")
    return jobs


def _read_yaml(path: Path) -> list[Any]:
    content = load_yaml_data(path)
    if isinstance(content, dict) and set(content) == {"experiment"}:
        content = content["experiment"]
    if not isinstance(content, list):
        raise UserError(f"--jobs {path}: is not a list of jobs; begin each with '- '.")
    return content


def _read_csv(path: Path) -> list[Any]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = list(file)
    except UnicodeDecodeError as error:
        raise UserError(f"--jobs {path}: is not a CSV file in UTF-8; save it as one: {error}") from error
    header = next(filter(str.strip, lines), "")
    rows = list(_rows(path, lines, next((each for each in ",;\t" if each in header), ",")))
    if not rows:
        return []
    keys, *values = rows
    if repeated := {key for key in keys.cells if keys.cells.count(key) > 1 and key}:
        raise UserError(f"{keys.place}: the column {min(repeated)!r} is there twice.")
    if not all(keys.cells):
        raise UserError(f"{keys.place}: column {keys.cells.index('') + 1} has no key, which belongs in the first row.")
    for row in values:
        if len(row.cells) != len(keys.cells):
            raise UserError(
                f"{row.place}: has {counted(len(row.cells), 'cell')} where the first row has {len(keys.cells)}."
            )
    return [_Cells(row.line, zip(keys.cells, row.cells, strict=True)) for row in values]


@dataclass(frozen=True)
class _Row:
    """A row of a CSV file that is not empty; cells without blanks around them."""

    place: str
    line: int
    cells: list[str]


def _rows(path: Path, lines: Sequence[str], delimiter: str) -> Iterator[_Row]:
    """The rows of a CSV file, each of one line: a quote that is left open would otherwise take the next rows into its cell."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        place = f"--jobs {path}, line {line}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            if reader.line_num > line or lines[line - 1].count('"') % 2:
                raise UserError(f"{place}: a quote is left open.") from error
            raise UserError(f"{place}: is not CSV: {error}.") from error
        if cells is None:
            return
        if any(re.search(r"[\r\n]", cell) for cell in cells):
            raise UserError(f"{place}: a quote is left open, or a cell holds a line break, which no override has.")
        if any(cell.strip() for cell in cells):
            yield _Row(place, line, [cell.strip() for cell in cells])


class _Cells(dict[str, str]):
    """A job of a CSV file: each value is the text of an override; an empty one sets nothing.

    Attributes:
        line: where it is in the file, from 1.
    """

    def __init__(self, line: int, cells: Iterable[tuple[str, str]]) -> None:
        super().__init__((key, cell) for key, cell in cells if cell)
        self.line = line


def _read_python(path: Path) -> list[Any]:
    with config_errors():
        names = load_namespace(path)
    if "experiment" not in names:
        raise UserError(f"--jobs {path}: defines no list 'experiment'.")
    return _python_list(names["experiment"], f"--jobs {path}: 'experiment'")


def _python_list(entries: Any, place: str) -> list[Any]:
    """The entries of a Python file's list, as data; objects that are described in it too."""
    if not isinstance(entries, list | tuple):
        raise UserError(f"{place} is {type(entries).__name__}, not a list of jobs.")
    found = list(list.__iter__(entries)) if isinstance(entries, list) else list(tuple.__iter__(entries))
    return [entry if isinstance(entry, str) else to_data(_plain_numbers(entry)) for entry in found]


def _plain_numbers(value: Any) -> Any:
    """A value without numpy's numbers, which a list that numpy computed holds, and with paths as texts."""
    if isinstance(value, dict):
        return {key: _plain_numbers(item) for key, item in dict.items(value)}
    if isinstance(value, list):
        return [_plain_numbers(item) for item in list.__iter__(value)]
    if isinstance(value, tuple):
        return tuple(_plain_numbers(item) for item in tuple.__iter__(value))
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    is_number = type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0
    return value.item() if is_number else value


_READERS = {".yaml": _read_yaml, ".yml": _read_yaml, ".csv": _read_csv, ".py": _read_python}


def _job_of(entry: Any, place: str) -> JobSettings:
    name = ""
    if isinstance(entry, dict) and set(entry) == {"_tuple_"}:
        entry = entry["_tuple_"]
    if isinstance(entry, str):
        overrides = _split_line(entry, place)
    elif isinstance(entry, Mapping):
        values = dict(entry)
        name = str(values.pop(_NAME, ""))
        text_of = _text_of_cell if isinstance(entry, _Cells) else value_text
        overrides = [f"{key}={text_of(value, f'{place}: {key}')}" for key, value in values.items()]
    elif isinstance(entry, list) and all(isinstance(item, str) for item in entry):
        overrides = list(entry)
    else:
        raise UserError(
            f"{place}: is {entry!r}; a job is a mapping of keys to values, a list of overrides, or a text of overrides."
        )
    settings = _check_overrides(overrides, place)
    return JobSettings(tuple(overrides), {**({_NAME: name} if name else {}), **settings}, name)


def _text_of_cell(value: str, place: str) -> str:
    del place
    return value


def value_text(value: Any, place: str) -> str:
    """A value as text in the grammar of overrides.

    Args:
        value: plain data.
        place: where it is, for messages.

    Raises:
        UserError: it is not plain data.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return text_of_string(value)
    if isinstance(value, dict) and set(value) == {"_tuple_"}:
        value = value["_tuple_"]
    if isinstance(value, list | tuple):
        return f"[{','.join(value_text(item, place) for item in value)}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{value_text(k, place)}:{value_text(v, place)}' for k, v in value.items())}}}"
    raise UserError(f"{place} is of {type(value).__name__}, which an override can't express.")


def _split_line(text: str, place: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise UserError(f"{place}: a quote is left open.") from error


def _check_overrides(overrides: Iterable[str], place: str) -> dict[str, str]:
    """The settings of a job's overrides, each of which sets one value.

    Raises:
        UserError: one does not parse or sweeps; the message gives the place.
    """
    settings = {}
    for text in overrides:
        try:
            sign, key, typed = split_override(text)
            sweep = parse_sweep(text)
        except OverrideError as error:
            raise UserError(f"{place}: {error}") from error
        if sweep is not None:
            as_text = f"{key}='{typed}'" if typed and "'" not in typed else ""
            number = (
                f" If it is the number {_number(typed)}, write it with a point." if typed and _number(typed) else ""
            )
            raise UserError(
                f"{place}: {text} names several values, and a job sets one. Sweep on the command line: {shlex.quote(text)}."
                f"{f' If it is one text, put it in single quotes: {as_text}' if as_text and not number else ''}{number}"
            )
        if key in settings:
            raise UserError(f"{place}: sets {key} twice.")
        settings[key] = "(deleted)" if sign == "~" else typed or ""
    return settings


def _number(text: str) -> str:
    """A number with a decimal comma, with a point; "" for anything else."""
    return text.replace(",", ".") if re.fullmatch(r"[+-]?\d+,\d+(e[+-]?\d+)?", text) else ""


def _refuse_overlap(sources: Mapping[str, Sequence[JobSettings]], sweeps: Sweeps) -> None:
    """Refuse a key that two of the sources set: the result would depend on an order that the user does not see."""
    keys = {
        source: sorted({_key(text) for job in block for text in job.overrides}) for source, block in sources.items()
    }
    keys["the command line"] = [_key(item) if isinstance(item, str) else item.key for item in sweeps.in_order]
    seen: dict[str, str] = {}
    for source, own in keys.items():
        for key in own:
            if key in seen:
                raise UserError(f"{key} is set by {seen[key]} and by {source}: set it in one of them.")
            if (lost := next((each for each in seen if _undoes(key, each)), None)) is not None:
                raise UserError(
                    f"{lost} is set by {seen[lost]}, and {key}, which includes it, by {source}, which is applied later: set both in one of "
                    "them."
                )
        seen |= dict.fromkeys(own, source)


def _undoes(later: str, earlier: str) -> bool:
    """Whether an override of one key also sets another, which is below it or which its pattern matches."""
    return may_set(later, earlier) if is_everywhere(later) else earlier.startswith((f"{later}.", f"{later}["))


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")
