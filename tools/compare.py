#!/usr/bin/env python
"""Compare the metrics of two runs on the same videos, with intervals and p-values over patients.

    python tools/compare.py outputs/a outputs/b
    python tools/compare.py a.json b.json --annotations test.json --bootstrap 2000

A run is its folder (or manifest), or COCO results with --annotations. Patients are drawn with replacement, the same ones for
both runs. The table shows the difference B - A, its 95% interval, and the two-sided p-value of no difference.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from ultravid.datasets.patients import num_patients
from ultravid.evaluation.bootstrap import (
    BOOTSTRAP_METRICS,
    bootstrap_metrics,
    paired_p_value,
    patient_notes,
    percentile_interval,
)
from ultravid.evaluation.image_metrics import stills_note
from ultravid.evaluation.metrics import all_metrics, assumed_rate_note, count_metrics
from ultravid.evaluation.results import MatchedVideo
from ultravid.evaluation.run_facts import differing_settings, evaluated_text, run_warnings
from ultravid.evaluation.runs import check_metrics, check_same_videos, in_order_of, load_run
from ultravid.evaluation.tables import digits_of, format_columns, format_interval, format_value
from ultravid.utils.errors import UserError
from ultravid.utils.file_io import dump_json, is_local, replace_file
from ultravid.utils.text import counted
from ultravid.utils.tool import ToolParser, print_warnings, run_tool, seed_argument


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_a", metavar="RUN_A", help="a run's folder, its manifest of predictions, or COCO results")
    parser.add_argument("run_b", metavar="RUN_B", help="the other run")
    parser.add_argument("--annotations", help="annotations in COCO-VID, needed for COCO results")
    parser.add_argument(
        "--patients",
        help="rule or JSON table that states the patient of each video: folder, stem, regex:..., FILE (docs/patients.md)",
    )
    parser.add_argument("--bootstrap", type=int, default=2000, metavar="N", help="bootstrap draws of patients (2000)")
    parser.add_argument("--seed", type=seed_argument, default=0, help="seed of the draws (0)")
    parser.add_argument("--output", type=Path, help="also write the values to this JSON file")
    args = parser.parse_args(argv)
    if args.bootstrap < 2:
        parser.error(f"--bootstrap {args.bootstrap}: at least 2 draws are needed, 2000 are usual")
    return args


def compare(
    a: Sequence[MatchedVideo], b: Sequence[MatchedVideo], num_draws: int, seed: int
) -> dict[str, dict[str, float]]:
    """Values of both runs, difference, interval and p-value, by name of the metric."""
    metrics = [all_metrics(run) for run in (a, b)]
    draws = [bootstrap_metrics(run, num_draws, seed) for run in (a, b)]
    rows = {}
    for name in BOOTSTRAP_METRICS:
        differences = draws[1][name] - draws[0][name]
        interval = percentile_interval(differences)
        rows[name] = {
            "a": metrics[0][name],
            "b": metrics[1][name],
            "difference": metrics[1][name] - metrics[0][name],
            "low": interval.low,
            "high": interval.high,
            "p": paired_p_value(differences),
        }
    return rows


def print_runs(run_a: str, run_b: str) -> None:
    """What was evaluated in each, and what they differ in besides the weights."""
    for letter, run in (("A", run_a), ("B", run_b)):
        known = is_local(run)
        print(f"{letter}: {run}\n   evaluated: {evaluated_text(Path(run)) if known else 'no record'}")
        for text in run_warnings(Path(run)) if known else ():
            logging.warning("%s: %s", letter, text)
    if is_local(run_a) and is_local(run_b):
        for text in differing_settings(Path(run_a), Path(run_b)):
            logging.warning("%s", text)


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    print_warnings()
    (a, truth_a), (b, truth_b) = (load_run(run, args.annotations, args.patients) for run in (args.run_a, args.run_b))
    check_metrics(args.run_a, a, args.annotations)
    check_metrics(args.run_b, b, args.annotations)
    check_same_videos((args.run_a, truth_a), (args.run_b, truth_b))
    b = in_order_of(a, b)
    rows = compare(a, b, args.bootstrap, args.seed)
    print_runs(args.run_a, args.run_b)
    print(f"{counted(len(a), 'video')} of {counted(num_patients(a), 'patient')}, {args.bootstrap} draws of patients")
    table = [
        [
            name,
            *(format_value(row[key], digits_of(name)) for key in ("a", "b", "difference")),
            format_interval(row["low"], row["high"], digits_of(name)),
            format_value(row["p"], 4),
        ]
        for name, row in rows.items()
    ]
    print(format_columns(["metric", "A", "B", "B - A", "95% interval", "p"], table, left=1))
    print(
        "In percent; FP in false-positive sequences per minute, FP/image in false-positive detections per image, lower is better. "
        "-: undefined in a run or in many draws."
    )
    assumed = assumed_rate_note({name: row["a"] for name, row in rows.items()}, a)
    for note in (assumed, stills_note(a), *patient_notes(a)):
        if note:
            print(note)
    if args.output:
        values: dict[str, float] = {f"{n}/{k}": v for n, row in rows.items() for k, v in row.items()}
        values |= {name: number for name, number in count_metrics(a).items() if "patient" in name}
        try:
            args.output.parent.mkdir(parents=True, exist_ok=True)
            with replace_file(args.output) as file:
                file.write(dump_json(values, indent=1).encode())
        except OSError as error:
            raise UserError(f"{args.output}: can't be written ({error.strerror}).") from error
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
