"""Convert a dataset to COCO-VID, with PNG frames in the layout of CVA-BUS.

    python tools/convert_dataset.py --format recordings --path recordings/ --output datasets/mine --split test
    python tools/convert_dataset.py --format hospital-csv --path private/ --output datasets/breast \\
        --option datasets=breast_ALL@20230101-120000 --option class_agnostic=false

To continue an interrupted conversion, run the same command again: finished videos are checked and kept.

Exit code: 0 all was converted, 2 something can't be read. A video with an error is left out and reported, and the others are
converted; the manifest lists the missing videos under "skipped".
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ultravid.datasets.convert import check_output_folder, sound_videos, write_coco_video
from ultravid.datasets.faults import FaultSink
from ultravid.datasets.formats.by_name import FORMATS, DatasetFormat, find_format, parse_options
from ultravid.datasets.patients import BY_OPTION, describe_unknown_patients, num_unknown_patients
from ultravid.datasets.video import DataError, Video
from ultravid.utils.errors import UserError
from ultravid.utils.text import counted
from ultravid.utils.tool import EXIT_USER_ERROR, ToolParser, run_tool

FAULTS_ON_TERMINAL = 50


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--format", required=True, help=f"one of {', '.join(FORMATS)}")
    parser.add_argument("--path", required=True, help="the dataset's file or folder; a JSON file may be at any address")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="an argument of the format's reader; repeatable",
    )
    parser.add_argument(
        "--masks",
        metavar="TABLE",
        help="JSON or YAML: what to black out, by device and image size; as --option masks=TABLE",
    )
    parser.add_argument(
        "--blank-outside-region",
        action="store_true",
        help="black out what is outside of DICOM files' ultrasound regions, and keep the images' size",
    )
    parser.add_argument(
        "--allow-burned-in-text",
        action="store_true",
        help="write DICOM frames that show more than an ultrasound region: names and dates may be burnt into them",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write; created if needed")
    parser.add_argument(
        "--split", help="name of the JSON file (default: the split that --option splits=... reads, or trainval)"
    )
    return parser.parse_args(argv)


def _split_that_is_read(options: Sequence[str]) -> str:
    """The name of the one split that the options read; of several, and without the option, ``trainval``."""
    given = [value for key, _, value in (option.partition("=") for option in options) if key == "splits"]
    names = [name.strip(" []'\"") for name in ",".join(given).split(",") if name.strip(" []'\"")]
    return names[0] if len(names) == 1 else "trainval"


def _options_of_flags(args: argparse.Namespace) -> list[str]:
    """The reader's arguments that have a flag of their own."""
    blank = ["blank_outside_region=true"] if args.blank_outside_region else []
    return [*blank, *([] if args.masks is None else [f"masks={args.masks}"])]


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.split is None:
        args.split = _split_that_is_read(args.option)
    if not args.split or not all(c.isalnum() or c in "_-" for c in args.split):
        raise UserError(
            f"--split {args.split!r}: only letters, digits, '_' and '-' are allowed, because it becomes a file's name."
        )
    source = find_format(args.format)
    options = parse_options(source, [*args.option, *_options_of_flags(args)])
    path = Path(args.path)
    check_output_folder(path, args.output)
    faults = FaultSink()
    videos = read_what_is_sound(source, args.path, options, faults)
    base = path if path.is_dir() else path.parent
    description = {"format": source.name, "dataset": os.path.basename(os.path.realpath(path)), "options": options}
    columns = (TextColumn("frames"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    num_written = total = num_kept = 0
    try:
        with Progress(*columns) as progress:
            task = progress.add_task("", total=sum(map(len, videos)))
            for num_frames, kept in write_coco_video(
                videos,
                args.output,
                args.split,
                description,
                base,
                faults,
                allow_burned_in_text=args.allow_burned_in_text,
            ):
                num_written += 1
                total += num_frames
                num_kept += kept
                progress.advance(task, num_frames)
    except DataError:  # not one video could be converted
        report_faults(faults)
        raise
    except OSError as error:
        raise UserError(f"{error.filename or args.output}: can't be written ({error.strerror}).") from error
    print(
        f"{args.output / args.split}.json: {counted(num_written, 'video')}, {counted(total, 'frame')} ({num_kept} already there)."
    )
    if unknown := describe_unknown_patients(num_unknown_patients(videos), len(videos), BY_OPTION):
        print(unknown)
    return report_faults(faults)


def read_what_is_sound(source: DatasetFormat, path: str, options: Mapping[str, Any], faults: FaultSink) -> list[Video]:
    """The videos without a fault; the others' faults go to ``faults``."""
    try:
        videos = source.read(path, options)
    except DataError:
        videos = source.read(path, options, faults)  # raises again what is not a fault of single files
        try:
            videos = sound_videos(videos, [f for f in faults.faults if not f.repaired], path)
        except DataError as error:
            report_faults(FaultSink([fault for fault in faults.faults if fault.message not in str(error)]))
            raise
    if not videos:
        raise UserError(f"{path}: holds no video.")
    return videos


def report_faults(faults: FaultSink) -> int:
    """Print what was repaired or rejected, one line each, and return the exit code."""
    rejected = [f for f in faults.faults if not f.repaired]
    for fault in [*rejected, *(f for f in faults.faults if f.repaired)][:FAULTS_ON_TERMINAL]:
        print(f"{'repaired' if fault.repaired else 'error'}: {fault.kind}: {fault.message}", file=sys.stderr)
    if len(faults.faults) > FAULTS_ON_TERMINAL:
        print(
            f"... and {len(faults.faults) - FAULTS_ON_TERMINAL} more; tools/audit_dataset.py lists all.",
            file=sys.stderr,
        )
    if rejected:
        print(
            f"{len(rejected)} {'fault' if len(rejected) == 1 else 'faults'}: the data that they concern were not converted.",
            file=sys.stderr,
        )
    return EXIT_USER_ERROR if rejected else 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
