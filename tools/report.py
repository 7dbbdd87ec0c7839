#!/usr/bin/env python
"""Write an HTML report on one run or several: metrics, curves, and the frames in which the model failed.

    python tools/report.py outputs/run
    python tools/report.py outputs/a outputs/b --output compared.html --bootstrap 2000
    python tools/report.py detections.json --annotations test.json --images rawframes

A run is its folder (or manifest), or COCO results with --annotations. The report is one HTML file that loads nothing else; it
contains frames of the videos, so it is as confidential as they are.
"""

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ultravid.evaluation.report.page import report_page
from ultravid.evaluation.report.report_run import ReportOptions, load_report_runs
from ultravid.evaluation.run_facts import run_warnings
from ultravid.utils.errors import UserError
from ultravid.utils.file_io import replace_file
from ultravid.utils.tool import ToolParser, print_warnings, run_tool, seed_argument


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUN", help="a run's folder, its manifest of predictions, or COCO results"
    )
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="the HTML file (report.html)")
    parser.add_argument("--annotations", help="annotations in COCO-VID, needed for COCO results")
    parser.add_argument(
        "--patients",
        help="rule or JSON table that states the patient of each video: folder, stem, regex:..., FILE (docs/patients.md)",
    )
    parser.add_argument("--images", type=Path, metavar="DIR", help="folder of the image files, if they were moved")
    parser.add_argument(
        "--allow-burned-in-text",
        action="store_true",
        help="show frames of DICOM files without a usable ultrasound region, into which names may be burnt",
    )
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=2000,
        metavar="N",
        help="bootstrap draws of patients for 95%% intervals (2000; 0: none)",
    )
    parser.add_argument("--seed", type=seed_argument, default=0, help="seed of the draws (0)")
    parser.add_argument(
        "--score-threshold",
        type=float,
        help="score threshold at which failures are shown (default: that of recall 0.8)",
    )
    parser.add_argument(
        "--strips", type=int, default=8, metavar="N", help="largest number of picture strips of each kind per run (8)"
    )
    parser.add_argument(
        "--timelines",
        type=int,
        default=40,
        metavar="N",
        help="largest number of videos with a timeline, and of stills (40)",
    )
    args = parser.parse_args(argv)
    if args.bootstrap < 0 or args.bootstrap == 1:
        parser.error(f"--bootstrap {args.bootstrap}: at least 2 draws are needed, 2000 are usual; 0 draws none")
    for name in ("strips", "timelines"):
        if getattr(args, name) < 0:
            parser.error(f"--{name} {getattr(args, name)}: can't be negative")
    if args.images and not args.images.is_dir():
        raise UserError(f"--images {args.images} is not a folder.")
    if not args.output.parent.is_dir():
        raise UserError(f"--output {args.output}: the folder {args.output.parent} does not exist.")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    print_warnings()
    options = ReportOptions(
        annotations=args.annotations,
        patients=args.patients,
        images=args.images,
        allow_burned_in_text=args.allow_burned_in_text,
        num_draws=args.bootstrap,
        seed=args.seed,
        score_threshold=args.score_threshold,
        num_strips=args.strips,
        num_timelines=args.timelines,
        command=shlex.join(["python", "tools/report.py", *(sys.argv[1:] if argv is None else argv)]),
    )
    runs, not_compared = load_report_runs(args.runs, options)
    for run in runs:
        for text in run_warnings(run.path):
            logging.warning("%s: %s", run.name, text)
    content = report_page(runs, not_compared).encode(errors="backslashreplace")
    for run in runs:
        if run.pictures["missing"]:
            where = f"under --images {options.images}" if options.images else "where the predictions say"
            logging.warning(
                "%s: %d of %d pictures are not found %s: give the folder that holds them now with --images DIR.",
                *(run.name, run.pictures["missing"], run.pictures["all"], where),
            )
        if run.pictures["hidden"]:
            logging.warning(
                "%s: %d of %d pictures are of DICOM files that show more than an ultrasound region, and are not shown: names may be "
                "burnt into them. --allow-burned-in-text shows them.",
                *(run.name, run.pictures["hidden"], run.pictures["all"]),
            )
    try:
        with replace_file(args.output) as file:
            file.write(content)
    except OSError as error:
        raise UserError(f"--output {args.output}: can't be written ({error.strerror}).") from error
    print(f"Wrote {args.output}, {len(content) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
