"""Write a phantom dataset (synthetic ultrasound videos) in the layout of CVA-BUS, or movies or DICOM files of phantoms.

    python tools/make_phantom.py --output datasets/phantom --videos 360 --frames 64 --size 128 --seed 0
    python tools/make_phantom.py --output scans --movies --videos 2 --frames 90 --size 256
    python tools/make_phantom.py --output study --dicom --videos 2 --frames 90 --size 256

With --movies, it writes MP4 files (phantom_00000.mp4, ...) to try tools/predict.py and tools/serve.py with: a scan below a band with
a made-up name and date, as on a scanner's screen. With --dicom, it writes DICOM files (phantom_00000.dcm, ...) with the same pictures; the
header has the same name and date, and states which part is the scan.

The same arguments give the same bytes (for movies and DICOM files, with the same versions of the encoder and of pydicom). A folder that
already holds the dataset of these arguments is not changed.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ultravid.datasets.phantom import (
    check_phantom_arguments,
    write_phantom_dataset,
    write_phantom_dicom,
    write_phantom_movies,
)
from ultravid.utils.errors import UserError
from ultravid.utils.text import counted
from ultravid.utils.tool import ToolParser, run_tool

VERSION = 1  # of the phantom's bytes: increase it if the same arguments give other bytes


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to write; created if needed")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--movies", action="store_true", help="write MP4 files in place of a dataset")
    kind.add_argument("--dicom", action="store_true", help="write DICOM files in place of a dataset")
    parser.add_argument("--videos", type=int, default=360, help="number of videos, both splits together")
    parser.add_argument("--frames", type=int, default=64, help="frames per video")
    parser.add_argument("--size", type=int, default=128, help="side of the square image, px")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--test-fraction",
        type=float,
        default=1 / 6,
        help="share of the videos in test.json",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        help="processes; they do not change the bytes",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    arguments = {key: getattr(args, key) for key in ("videos", "frames", "size", "seed", "test_fraction")}
    if args.movies or args.dicom:
        arguments = {**arguments, "movies" if args.movies else "dicom": True}
        del arguments["test_fraction"]
    described = json.dumps({"version": VERSION, **arguments}, indent=1)
    manifest: Path = args.output / "phantom.json"
    if manifest.is_file() and manifest.read_text(encoding="utf-8") == described:
        print(f"{args.output} already holds this phantom.")
        return 0
    unfinished: Path = args.output / "unfinished"
    same = unfinished.is_file() and unfinished.read_text(encoding="utf-8") == described
    if args.output.is_dir() and any(args.output.iterdir()) and not same:
        raise UserError(
            f"{args.output} is not empty and does not hold the phantom of these arguments. "
            "Choose another folder or remove this one."
        )
    try:
        check_phantom_arguments(args.videos, args.frames, args.size, args.test_fraction)
        args.output.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(described, encoding="utf-8")
        columns = (
            TextColumn("phantom videos"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns) as progress:
            task = progress.add_task("", total=args.videos)
            numbers = (args.videos, args.frames, args.size, args.seed)
            if args.movies or args.dicom:
                write = write_phantom_movies if args.movies else write_phantom_dicom
                written = write(args.output, *numbers, args.workers)
            else:
                written = write_phantom_dataset(args.output, *numbers, args.test_fraction, args.workers)
            for done in written:
                progress.update(task, completed=done)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    manifest.write_text(described, encoding="utf-8")
    unfinished.unlink()
    kind = "movie" if args.movies else "DICOM file" if args.dicom else "video"
    print(f"Wrote {counted(args.videos, kind)} of {args.frames} frames, {args.size} px, to {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
