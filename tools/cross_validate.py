#!/usr/bin/env python
"""Train or evaluate all folds of a config, and report the mean, standard deviation and pooled value of each metric.

    python tools/cross_validate.py --config-file projects/basicdet/configs/cva_bus.py --output-dir outputs/cv
    python tools/cross_validate.py --config-file ... --output-dir outputs/cv --gpus 0,1,2,3 optimizer.lr=1e-4
    python tools/cross_validate.py --config-file ... --output-dir outputs/cv --eval-only
    python tools/cross_validate.py --config-file ... --output-dir outputs/old --eval-only \\
        'train.init_checkpoint=weights/fold_{fold}.pth'

Each fold is a run of tools/lazyconfig_train.py in OUTPUT_DIR/fold_<f>; its output goes to fold_<f>/terminal.txt. To continue, run the same
command again: finished folds with the same config are kept, and interrupted ones are resumed from their last checkpoint. A fold that is
killed (out of memory, for example) is resumed at once, at most three times. On Ctrl-C or SIGTERM the running folds save a checkpoint and
stop. "{fold}" in an override stands for the number of the fold. Writes OUTPUT_DIR/cross_validation.csv, .tex, .html and .json. Exit
codes: 0 all folds are finished, 1 a fold failed, 2 a user's mistake, 75 stopped by a signal.
"""

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ultravid.config import importable_project
from ultravid.config.command_line import split_keys
from ultravid.evaluation.folds import fold_text
from ultravid.experiments import (
    FOLD_KEY,
    CrossValidation,
    Fold,
    Job,
    JobListener,
    describe_exit,
    gpu_slots,
    locked,
    run_jobs,
    summarize_folds,
    write_fold_tables,
)
from ultravid.utils.tool import EXIT_STOPPED, ToolParser, print_warnings, run_tool

LOG_LINES = 12
RESTARTS = 3


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="a config with folds")
    parser.add_argument("--folds", metavar="0-3", help="which folds: 0-3 or 0,2 (default: as many as the config says)")
    parser.add_argument(
        "--fold-key", default=FOLD_KEY, metavar="KEY", help=f"the config's key of the fold (default: {FOLD_KEY})"
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate the folds' last checkpoints")
    parser.add_argument("--gpus", metavar="0,1,...", help="run one fold at a time on each GPU (default: one by one)")
    parser.add_argument("--output-dir", type=Path, help="folder of all folds (default: the config's train.output_dir)")
    parser.add_argument(
        "--allow-change",
        default="",
        metavar="KEY,...",
        help="keys whose values may differ from those with which unfinished folds were started",
    )
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of the config: key=value")
    return parser.parse_intermixed_args(argv)


class Narrator(JobListener):
    """Reports on the terminal which folds start and end."""

    def started(self, job: Job, slot: Mapping[str, str]) -> None:
        where = f" on GPU {slot['CUDA_VISIBLE_DEVICES']}" if "CUDA_VISIBLE_DEVICES" in slot else ""
        print(f"{job.name}: started{where}, log {job.log}", flush=True)

    def ended(self, job: Job, exit_code: int) -> None:
        print(f"{job.name}: {'finished' if exit_code == 0 else describe_exit(exit_code)}", flush=True)

    def stopping(self, running: int) -> None:
        folds = "the running fold saves and stops" if running == 1 else f"the {running} running folds save and stop"
        print(f"Stopping: {folds}; a second Ctrl-C kills.", file=sys.stderr, flush=True)


def print_failures(folds: Sequence[Fold], exit_codes: Mapping[str, int]) -> None:
    for fold in folds:
        code = exit_codes.get(fold.name, 0)
        if code:
            lines = fold.run.terminal.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
            text = "\n".join(f"  {line}" for line in lines)
            print(
                f"\nFold {fold.number} failed, {describe_exit(code)}. The end of {fold.run.terminal}:\n{text}",
                file=sys.stderr,
            )


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    print_warnings()
    slots = gpu_slots(args.gpus)
    experiment = CrossValidation(
        config_file=args.config_file,
        overrides=args.opts,
        fold_key=args.fold_key,
        folds=args.folds,
        output_dir=args.output_dir,
        eval_only=args.eval_only,
        allowed_changes=split_keys(args.allow_change),
    )
    with importable_project(args.config_file):
        folds, output_dir = experiment.load()
        with locked(output_dir, "a cross-validation", "choose another --output-dir"):
            jobs, done = experiment.jobs(folds)
            for fold in done:
                print(f"Fold {fold.number}: finished before, {fold.run}")
            results = run_jobs(jobs, slots, Narrator(), restarts=RESTARTS)
    if results.stopped:
        print("Stopped. Run the same command to continue.", file=sys.stderr)
        return EXIT_STOPPED
    finished = [fold for fold in folds if not results.exit_codes.get(fold.name, 0)]
    if finished:
        table = summarize_folds(finished, [fold.number for fold in folds if fold not in finished])
        arguments = sys.argv[1:] if argv is None else argv
        write_fold_tables(table, output_dir, shlex.join(["python", "tools/cross_validate.py", *arguments]))
        print(f"\n{fold_text(table)}\nWrote {output_dir}/cross_validation.csv, .tex, .html and .json")
    print_failures(folds, results.exit_codes)
    return 1 if len(finished) < len(folds) else 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
