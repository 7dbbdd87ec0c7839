"""Convert a dataset to COCO-VID, with PNG frames in the layout of CVA-BUS.

    python tools/convert_dataset.py --format recordings --path recordings/ --output datasets/mine --split test
    python tools/convert_dataset.py --format hospital-csv --path private/ --output datasets/breast \\
        --option datasets=breast_ALL@20230101-120000 --option class_agnostic=false

The same command continues a conversion that was interrupted: finished videos are checked and kept.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ultravid.datasets.convert import write_coco_video
from ultravid.datasets.formats.by_name import FORMATS, find_format, parse_options
from ultravid.datasets.patients import describe_unknown_patients, num_unknown_patients
from ultravid.utils.errors import UserError
from ultravid.utils.tool import ToolParser, run_tool


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


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.split is None:
        args.split = _split_that_is_read(args.option)
    if not args.split or not all(c.isalnum() or c in "_-" for c in args.split):
        raise UserError(
            f"--split {args.split!r}: only letters, digits, '_' and '-' are allowed, because it becomes a file's name."
        )
    source = find_format(args.format)
    options = parse_options(source, args.option)
    videos = source.read(args.path, options)
    if not videos:
        raise UserError(f"{args.path}: holds no video.")
    path = Path(args.path)
    base = path if path.is_dir() else path.parent
    description = {"format": source.name, "dataset": path.resolve().name, "options": options}
    columns = (TextColumn("frames"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    num_kept = 0
    try:
        with Progress(*columns) as progress:
            task = progress.add_task("", total=sum(map(len, videos)))
            for num_frames, kept in write_coco_video(videos, args.output, args.split, description, base):
                num_kept += kept
                progress.advance(task, num_frames)
    except OSError as error:
        raise UserError(f"{error.filename or args.output}: can't be written ({error.strerror}).") from error
    total = sum(map(len, videos))
    print(
        f"{args.output / args.split}.json: {len(videos)} videos, {total} frames ({num_kept} videos were already there)."
    )
    if unknown := describe_unknown_patients(num_unknown_patients(videos), len(videos)):
        print(unknown)
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
