#!/usr/bin/env python
"""Compute the metrics of detections in videos: those of a run, or COCO results of any detector.

    python tools/evaluate.py --annotations test.json --predictions detections.json --output-dir OUT
    python tools/evaluate.py --predictions outputs/run --output-dir OUT --bootstrap 2000 --strata device,size

Annotations are COCO-VID (videos, images, annotations with instance_id); image files are not needed. Detections are a list of
{image_id, category_id, bbox: [x, y, width, height], score}, or the folder (or manifest) of a run, which contains its ground
truth. Prints a table and writes OUT/metrics.json: one flat object of numbers, null for an undefined metric. Each metric is
defined in ultravid/evaluation/metrics.py. OUT/record.json says what was evaluated and how.
"""

import argparse
import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ultravid.datasets.patients import num_patients, table_address
from ultravid.evaluation.bootstrap import bootstrap_metrics, patient_notes, percentile_interval
from ultravid.evaluation.class_metrics import CONFUSION, classes_of, format_class_tables
from ultravid.evaluation.image_metrics import stills_note
from ultravid.evaluation.metrics import (
    all_metrics,
    assumed_rate_note,
    count_metrics,
    count_text,
    shown_metrics,
    stratum_metrics,
    why_undefined,
)
from ultravid.evaluation.record_of_metrics import describe_file, is_evaluation_of, record_metrics
from ultravid.evaluation.records import read_record
from ultravid.evaluation.results import MatchedVideo
from ultravid.evaluation.run_facts import evaluated_text, run_warnings
from ultravid.evaluation.runs import load_run
from ultravid.evaluation.tables import digits_of, format_columns, format_interval, format_undefined, format_value
from ultravid.utils.errors import UserError
from ultravid.utils.file_io import dump_json, is_local, replace_file
from ultravid.utils.run_folder import InferenceFolder, RunFolder
from ultravid.utils.tool import ToolParser, print_warnings, run_tool, seed_argument


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--predictions", required=True, help="COCO results, a run's folder, or its manifest of predictions"
    )
    parser.add_argument("--annotations", help="annotations in COCO-VID; not needed for a run's own files")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for metrics.json")
    parser.add_argument(
        "--patients",
        help="rule or JSON table that states the patient of each video: folder, stem, regex:..., FILE (docs/patients.md)",
    )
    parser.add_argument(
        "--bootstrap", type=int, default=0, metavar="N", help="bootstrap draws of patients for 95%% intervals (0: none)"
    )
    parser.add_argument("--seed", type=seed_argument, default=0, help="seed of the draws (0)")
    parser.add_argument(
        "--strata",
        default="",
        metavar="FIELDS",
        help="fields of the videos' metadata to stratify by, for example device,organ,size",
    )
    parser.add_argument("--score-threshold", type=float, help="also compute the lesion metrics at this score")
    args = parser.parse_args(argv)
    if args.score_threshold is not None and not math.isfinite(args.score_threshold):
        parser.error(f"--score-threshold {args.score_threshold}: is not a finite number")
    if args.bootstrap < 0 or args.bootstrap == 1:
        parser.error(f"--bootstrap {args.bootstrap}: at least 2 draws are needed, 2000 are usual; 0 draws none")
    return args


def print_metrics(
    metrics: Mapping[str, float], intervals: Mapping[str, tuple[float, float]], videos: Sequence[MatchedVideo]
) -> None:
    """The table, and why metrics are undefined."""
    tables = format_class_tables(classes_of(videos), metrics)
    in_tables = ("class/", "class_mean/", CONFUSION) if tables else ()
    alone = {name: value for name, value in metrics.items() if not name.startswith(in_tables)}
    reasons = why_undefined(alone, videos)
    rows = []
    for name, value in alone.items():
        digits = digits_of(name)
        low, high = intervals.get(name, (float("nan"),) * 2)
        between = format_interval(low, high, digits) if name in intervals else ""
        rows.append([name, format_value(value, digits), *([between] if intervals else [])])
    print(format_columns(["metric", "value", *(["95% interval"] if intervals else [])], rows, left=1))
    print(
        "In percent, except: FP in false-positive sequences per minute, FP/image in false-positive detections per image, delay_s in "
        "seconds, confusion in numbers of boxes, legacy as fractions in 0..1, whose FP@R takes every video as 30 frames per second without gaps."
    )
    without = [n for n, (low, _) in intervals.items() if math.isnan(low) and not math.isnan(metrics[n])]
    no_interval = f"No interval, as undefined in more than 1 of 20 draws: {', '.join(without)}."
    for note in (
        tables,
        assumed_rate_note(metrics, videos),
        stills_note(videos),
        *(patient_notes(videos) if intervals else ()),
        no_interval if without and num_patients(videos) > 1 else "",
    ):
        if note:
            print(note)
    if reasons:
        print(f"Undefined (-, null in JSON): {format_undefined(reasons)}.")


def print_strata(strata: Mapping[str, Mapping[str, float]], shown: Sequence[str]) -> None:
    """A row for each value of each field."""
    rows = [
        [name, *(format_value(v, 0 if k in ("videos", "lesions") else digits_of(k)) for k, v in values.items())]
        for name, values in strata.items()
    ]
    print()
    print(format_columns(["stratum", "videos", "lesions", *shown], rows, left=1))


def check_strata(fields: Sequence[str], videos: Sequence[MatchedVideo]) -> None:
    known = {key for video in videos for key in video.metadata} | {"size"}
    for field in fields:
        if field not in known:
            raise UserError(
                f"--strata {field}: no video has this field in its metadata; the fields are: {', '.join(sorted(known))}."
            )


def output_folder(output_dir: Path, predictions: str) -> InferenceFolder:
    """The folder for the metrics, unless the metrics that are there belong to something else."""
    run, folder = RunFolder(output_dir), InferenceFolder(output_dir)
    if run.config.is_file() or run.attempts.is_dir():
        raise UserError(
            f"--output-dir {output_dir}: is the folder of a run, whose {run.metrics.name} is the training's; give another one."
        )
    record = read_record(folder)
    is_a_models = folder.manifest.is_file() or (record is not None and not record.is_of_predictions)
    if is_a_models and not is_evaluation_of(folder, predictions):
        raise UserError(
            f"--output-dir {output_dir}: holds a model's evaluation, of other predictions; give another folder."
        )
    return folder


def describe(args: argparse.Namespace, fields: Sequence[str], videos: Sequence[MatchedVideo]) -> dict[str, Any]:
    """What the metrics depend on besides the predictions, for the record."""
    return {
        "annotations": describe_file(args.annotations),
        "patients": describe_file(str(table)) if (table := table_address(args.patients)) else None,
        "patients_rule": args.patients,
        "strata": list(fields),
        "score_threshold": args.score_threshold,
        "bootstrap": args.bootstrap,
        "seed": args.seed,
        "videos_of_assumed_rate": count_metrics(videos)["count/videos_of_assumed_rate"],
    }


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    print_warnings()
    fields = [field.strip() for field in args.strata.split(",") if field.strip()]
    folder = output_folder(args.output_dir, args.predictions)
    begin = time.time()
    videos, _ = load_run(args.predictions, args.annotations, args.patients)
    check_strata(fields, videos)
    if is_local(args.predictions):
        print(f"evaluated: {evaluated_text(Path(args.predictions))}")
        for text in run_warnings(Path(args.predictions)):
            logging.warning("%s", text)
    metrics, counts = all_metrics(videos, args.score_threshold), count_metrics(videos)
    print(count_text(counts))
    intervals = {}
    if args.bootstrap:
        for name, values in bootstrap_metrics(videos, args.bootstrap, args.seed).items():
            interval = percentile_interval(values)
            intervals[name] = (interval.low, interval.high)
    print_metrics(metrics, intervals, videos)
    strata = stratum_metrics(videos, fields, shown_metrics(videos))
    if strata:
        print_strata(strata, shown_metrics(videos))
    written: dict[str, float] = {**metrics, **counts}
    written |= {
        f"ci/{n}/{side}": v for n, both in intervals.items() for side, v in zip(("low", "high"), both, strict=True)
    }
    written |= {f"strata/{s}/{name}": value for s, named in strata.items() for name, value in named.items()}
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        with replace_file(folder.metrics) as file:
            file.write(dump_json(written, indent=1).encode())
        record_metrics(folder, args.predictions, begin, describe(args, fields, videos))
    except OSError as error:
        raise UserError(f"{args.output_dir}: can't be written ({error.strerror}).") from error
    print(f"Wrote {args.output_dir / 'metrics.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
