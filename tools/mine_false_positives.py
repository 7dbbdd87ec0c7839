#!/usr/bin/env python
"""List the videos and frames with false positives of a detector, to train on them more often.

    python tools/mine_false_positives.py --predictions outputs/run --output hard.json
    python tools/mine_false_positives.py --predictions detections.json --annotations trainval.json --output hard.json

Predictions are a run's folder (or manifest), which holds the ground truth too, or COCO results with --annotations. They must be
of the training videos: evaluate the run on them first, for example with
``--eval-only dataloader.test.videos='${data.videos}' dataloader.test.fold=null train.output_dir=outputs/mining``.

The list holds false-positive sequences, as FP80 counts them (ultravid/evaluation/video_metrics.py), of the detections with a score
of at least a threshold: --score-threshold, or the threshold at which the recall is --recall. The weight of a video is its
number of false-positive sequences; the listed frames are those with a detection of such a sequence. A config uses the list with

    dataloader.train.mining = L(HardMining)(path="hard.json", video_rate=0.5, frame_rate=1.5)
"""

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ultravid.data.mining import HardList, write_hard_list
from ultravid.evaluation.failures import false_sequences
from ultravid.evaluation.frame_ap import DetectionPool, threshold_at_recall
from ultravid.evaluation.results import MatchedVideo
from ultravid.evaluation.runs import load_run
from ultravid.utils.errors import UserError
from ultravid.utils.tool import ToolParser, print_warnings, run_tool


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--predictions", required=True, help="COCO results, a run's folder, or its manifest of predictions"
    )
    parser.add_argument("--annotations", help="annotations in COCO-VID; not needed for a run's own files")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the list to write, JSON")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--recall", type=float, default=0.8, help="use the score at this recall as threshold (0.8)")
    which.add_argument("--score-threshold", type=float, help="the threshold itself")
    args = parser.parse_args(argv)
    if not 0 < args.recall <= 1:
        parser.error(f"--recall {args.recall}: a recall is above 0 and at most 1")
    return args


def chosen_threshold(videos: Sequence[MatchedVideo], args: argparse.Namespace) -> float:
    if args.score_threshold is not None:
        return float(args.score_threshold)
    threshold = threshold_at_recall(DetectionPool(videos), args.recall)
    if math.isnan(threshold):
        raise UserError(
            f"{args.predictions}: the recall never reaches {args.recall}; give a lower --recall, or a --score-threshold."
        )
    return threshold


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    print_warnings()
    videos, _ = load_run(args.predictions, args.annotations)
    threshold = chosen_threshold(videos, args)
    found = defaultdict(list)
    for case in sorted(false_sequences(videos, threshold), key=lambda case: case.video):
        video = videos[case.video]
        found[video.video_id].append(video.frame_index[case.frames])  # places in the video, if not all were evaluated
    weights = {video_id: len(sequences) for video_id, sequences in found.items()}
    if not weights:
        raise UserError(
            f"{args.predictions}: no detection that scores at least {threshold:.4g} belongs to a false sequence: "
            "there is nothing to list. A lower --score-threshold or a higher --recall finds more."
        )
    frames = {video_id: np.unique(np.concatenate(found[video_id])).tolist() for video_id in weights}
    about = {"predictions": str(args.predictions), "score_threshold": threshold}
    try:
        write_hard_list(args.output, HardList(weights, frames, about))
    except OSError as error:
        raise UserError(f"{args.output}: can't be written ({error.strerror}).") from error
    print(
        f"{sum(weights.values())} false sequences at scores from {threshold:.4g}, in {len(weights)} of {len(videos)} videos "
        f"and {sum(map(len, frames.values()))} frames. Wrote {args.output}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
