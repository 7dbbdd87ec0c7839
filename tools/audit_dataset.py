"""Audit a dataset: count its contents, list its faults, and check whether its splits share patients or frames.

    python tools/audit_dataset.py --data train=coco-stills:train.json --data test=coco-stills:test.json --output audit.html
    python tools/audit_dataset.py --data cva-bus:datasets/CVA-BUS --option splits=trainval,test --num-folds 4
    python tools/audit_dataset.py --data coco-stills:all.json --split-table folds.csv --id-column ID --split-column kFold

Exit code: 0 nothing is shared, 1 two splits share a patient, a frame or nearly the same frame, 2 the input can't be read. Faults of
single videos and frames are listed and do not change the exit code.
"""

import argparse
import csv
import io
import sys
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table as TerminalTable
from rich.text import Text

from ultravid.datasets.audit import AuditReport, Split, Table, audit_splits, render_page
from ultravid.datasets.bounds import MAX_ANNOTATION_BYTES
from ultravid.datasets.faults import Fault, FaultSink
from ultravid.datasets.folds import folds_of_videos
from ultravid.datasets.formats.by_name import FORMATS, find_format, parse_options
from ultravid.datasets.missing_files import WRONG_ROOT
from ultravid.datasets.patients import patient_rule
from ultravid.datasets.safe_files import read_bytes
from ultravid.datasets.video import Video
from ultravid.utils.errors import UserError
from ultravid.utils.file_io import replace_file
from ultravid.utils.text import counted, spelling_key
from ultravid.utils.tool import EXIT_USER_ERROR, ToolParser, run_tool

EXIT_LEAK = 1
ROWS_ON_TERMINAL = 15


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        action="append",
        required=True,
        metavar="[SPLIT=]FORMAT:PATH",
        help=f"a dataset, or a split of one; repeatable. Formats: {', '.join(FORMATS)}",
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="[SPLIT.]KEY=VALUE",
        help="an argument of the format's reader, for every --data or for a split's; repeatable",
    )
    parser.add_argument("--num-folds", type=int, help="use the folds of a training run as splits")
    parser.add_argument("--split-table", type=Path, help="a CSV file that states the split of each video")
    parser.add_argument(
        "--id-column", default="video", help="column of --split-table with the videos, or with the stems of their files"
    )
    parser.add_argument("--split-column", default="split")
    parser.add_argument(
        "--frozen",
        type=int,
        default=10,
        help="report boxes that stay the same for this many frames (default: %(default)s)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("audit.html"), help="the HTML page to write (default: %(default)s)"
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.num_folds is not None and args.split_table is not None:
        raise UserError("--num-folds and --split-table both define splits; give one of them.")
    if args.num_folds is not None and args.num_folds < 2:
        raise UserError(f"--num-folds {args.num_folds}: at least two folds are needed.")
    if args.frozen < 2:
        raise UserError(f"--frozen {args.frozen}: at least two frames are needed.")
    (splits, tags), notes = read_splits(args.data, args.option), []
    if args.num_folds is not None:
        videos = [video for split in splits for video in split.videos]
        folds = dict(zip(map(id, videos), folds_of_videos(videos, args.num_folds), strict=True))
        notes += empty_folds(folds.values(), args.num_folds)
        splits = regroup(splits, lambda v: f"fold {folds[id(v)]}")
    if args.split_table is not None:
        table = read_split_table(args.split_table, args.id_column, args.split_column)
        splits = split_by_table(splits, table, args.split_table)
    columns = (TextColumn("frames"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("", total=sum(len(v) for s in splits for v in s.videos))
        report = audit_splits(splits, args.frozen, lambda number: progress.advance(task, number), tags)
    report.notes += notes
    print_report(report)
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(args.output) as file:
            file.write(render_page(report, f"Audit of {', '.join(args.data)}").encode(errors="backslashreplace"))
    except OSError as error:
        raise UserError(f"{args.output}: can't be written ({error.strerror}).") from error
    print(f"Images and all rows: {args.output}")
    if report.has_leak:
        return EXIT_LEAK
    if wrong := [f"{f.file}: {f.message}." for split in splits for f in split.faults if f.kind == WRONG_ROOT]:
        raise UserError(wrong[0])
    return EXIT_USER_ERROR if report.unseen else 0


def empty_folds(folds: Collection[int], number: int) -> list[str]:
    """A sentence about the folds that no video is in."""
    empty = sorted(set(range(number)) - set(folds)) if folds else []
    if not empty:
        return []
    named = (
        f"Fold {empty[0]} of {number} holds"
        if len(empty) == 1
        else f"Folds {', '.join(map(str, empty))} of {number} hold"
    )
    return [f"{named} no video and can't be held out: a patient's fold follows from the name, so give fewer folds."]


def read_splits(data: Sequence[str], options: Sequence[str]) -> tuple[list[Split], list[str]]:
    """The splits in the order of their first ``--data``, with the faults of single videos and frames.

    Returns:
        the splits; and the values of PatientID that name nobody, as the rules for patients among the options say.
    """
    videos: dict[str, list[Video]] = defaultdict(list)
    faults: dict[str, list[Fault]] = defaultdict(list)
    parsed = [parse_data(text) for text in data]
    names = {name for name, _, _ in parsed}
    tags: list[str] = []
    for text in options:
        before = text.partition("=")[0]
        if "." in before and before.partition(".")[0] not in names:
            raise UserError(f"--option {text}: no --data has the split {before.partition('.')[0]!r}.")
    for name, format_name, path in parsed:
        source = find_format(format_name)
        mine = [t for t in options if "." not in t.partition("=")[0]]
        mine += [t[len(name) + 1 :] for t in options if t.startswith(f"{name}.")]
        sink = FaultSink()
        arguments = parse_options(source, mine)
        tags += patient_rule(arguments.get("patients")).unknown_tags
        videos[name] += source.read(path, arguments, sink)
        faults[name] += sink.faults
    return [Split(name, videos[name], faults[name]) for name in videos], tags


def parse_data(text: str) -> tuple[str, str, str]:
    """(split, format, path)."""
    place, colon, path = text.partition(":")
    name, equals, format_name = place.rpartition("=")
    if not colon or not path or (equals and not name):
        raise UserError(f"--data {text!r}: write FORMAT:PATH or SPLIT=FORMAT:PATH; formats are {', '.join(FORMATS)}.")
    return name or "all", format_name, path


def regroup(splits: Sequence[Split], name_of: Callable[[Video], str]) -> list[Split]:
    """The videos in other splits. A split without videos stays as it is: it says which data were not seen, and why."""
    videos: dict[str, list[Video]] = defaultdict(list)
    for split in splits:
        for video in split.videos:
            videos[name_of(video)].append(video)
    faults = [f for split in splits if split.videos for f in split.faults]
    # Faults belong to files, not to splits: they are reported once.
    grouped = [Split(name, videos[name], faults if k == 0 else ()) for k, name in enumerate(sorted(videos))]
    return [*grouped, *(split for split in splits if not split.videos)]


def read_split_table(path: Path, id_column: str, split_column: str) -> dict[str, str]:
    try:
        text = read_bytes(path, MAX_ANNOTATION_BYTES).decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: the table of splits can't be read: {error}") from error
    for column in (id_column, split_column):
        if not rows or column not in rows[0]:
            raise UserError(
                f"{path}: has no column {column!r}; there are {', '.join(map(str, rows[0])) if rows else 'no rows'}."
            )
    table: dict[str, str] = {}
    spelled: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        if None in row:
            raise UserError(f"{path}:{number}: has more cells than the table has columns.")
        name, split = row[id_column], row[split_column]
        if not name or not split:
            raise UserError(f"{path}:{number}: has no {id_column if not name else split_column}.")
        if spelled.setdefault(spelling_key(split), split) != split:
            raise UserError(
                f"{path}:{number}: {split!r} and {spelled[spelling_key(split)]!r} differ in case or blanks only; write a split in one way."
            )
        if table.setdefault(name, split) != split:
            raise UserError(f"{path}:{number}: puts {name!r} into {split!r}, an earlier row into {table[name]!r}.")
    return table


def split_by_table(splits: Sequence[Split], table: dict[str, str], path: Path) -> list[Split]:
    found: dict[int, str] = {}
    row_of: dict[str, str] = {}
    for video in (v for s in splits for v in s.videos):
        keys = [k for k in (video.video_id, Path(video.video_id).name, Path(video.video_id).stem) if k in table]
        if not keys:
            continue
        if row_of.setdefault(keys[0], video.video_id) != video.video_id:
            raise UserError(
                f"{path}: the row {keys[0]!r} fits the videos {row_of[keys[0]]!r} and {video.video_id!r}; name each by its whole name."
            )
        found[id(video)] = table[keys[0]]
    missing = [v.video_id for s in splits for v in s.videos if id(v) not in found]
    if missing:
        raise UserError(f"{path}: has no row for video {missing[0]!r} ({counted(len(missing), 'video')} without).")
    return regroup(splits, lambda v: found[id(v)])


def print_report(report: AuditReport) -> None:
    console = Console()
    for table in [*report.counts, *report.findings]:
        rows = [row for row in table.rows if row[0] != WRONG_ROOT]  # the error at the end says it
        if rows and "file" in table.columns:
            print_by_file(console, replace(table, rows=rows))
        elif rows:
            console.print(terminal_table(replace(table, rows=rows)))
    bad, unsure = report.has_leak or report.unseen, report.unknown_patients or report.rejected
    console.print(report.verdict.replace("[", "\\["), style="red" if bad else "yellow" if unsure else "green")
    for note in report.notes:
        console.print(note.replace("[", "\\["), style="yellow")


def print_by_file(console: Console, table: Table) -> None:
    """A table with a column of files as lines, which the terminal wraps: in a cell, a path would be cut and could not be copied."""
    console.print(Text(f"{table.title} ({len(table.rows)})", style="bold red" if table.leak else "bold"))
    for row in table.rows[:ROWS_ON_TERMINAL]:
        cells = dict(zip(table.columns, row, strict=True))
        console.print(Text(cells.pop("file")), soft_wrap=True)
        for column, value in cells.items():
            console.print(Text(f"  {column}: {value}"), soft_wrap=True)
    console.print(Text(caption_of(table), style="dim italic"))


def terminal_table(table: Table) -> TerminalTable:
    title = f"{table.title} ({len(table.rows)})" if table.columns[0] else table.title
    shown = TerminalTable(title=title, title_justify="left", title_style="bold red" if table.leak else "bold")
    for column in table.columns:
        shown.add_column(column, overflow="fold")
    for row in table.rows[:ROWS_ON_TERMINAL]:
        shown.add_row(*(value.replace("[", "\\[") for value in row))
    shown.caption = caption_of(table)
    return shown


def caption_of(table: Table) -> str:
    hidden = len(table.rows) - ROWS_ON_TERMINAL
    return "; ".join(t for t in (table.note, f"{hidden} more rows on the page" if hidden > 0 else "") if t)


if __name__ == "__main__":
    sys.exit(run_tool(main))
