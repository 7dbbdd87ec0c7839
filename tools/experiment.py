#!/usr/bin/env python
"""Run one config with many settings: every combination of what is swept, each as a run of its own, and the table of their metrics.

    python tools/experiment.py --config-file projects/basicdet/configs/phantom.py --output-dir outputs/rates \\
        'optimizer.lr=1e-4,3e-4,1e-3' 'train.seed=range(2)'
    python tools/experiment.py --config-file ... --output-dir outputs/sizes --gpus 0,1,2,3 \\
        --set small='model.backbone.width=16' --set large='model.backbone.width=64 optimizer.lr=5e-4' 'dataloader.train.fold=range(4)'
    python tools/experiment.py --config-file ... --output-dir outputs/list --jobs jobs.csv --dry-run

An override with several values is a sweep, in hydra's grammar: a,b,c or range(3) or choice(a,b) or glob(weights/*.pth). All jobs are
checked before the first one starts. Each is a run of tools/lazyconfig_train.py in OUTPUT_DIR/jobs/<number>-<identity>; its output goes
to terminal.txt there. Run again, the same command continues: finished jobs stay, interrupted and killed ones are resumed, failed ones are
shown and retried with --retry-failed. On Ctrl-C or SIGTERM the running jobs save a checkpoint and stop. Writes OUTPUT_DIR/plan.json, and
OUTPUT_DIR/summary.csv when all jobs are finished. Exit codes: 0 all jobs are finished, 1 a job failed, 2 a user's mistake, 75 stopped.
"""

import argparse
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ultravid.config import importable_project
from ultravid.experiments import Job, JobListener, describe_exit, gpu_slots, locked
from ultravid.experiments.checking import check_jobs
from ultravid.experiments.plan import ExperimentFolder, Plan, PlannedJob, extend_plan
from ultravid.experiments.running import jobs_to_run, run_locally
from ultravid.experiments.settings import parse_named_edits, read_jobs, span, split_sweeps
from ultravid.experiments.status import JobState, JobStatus, status_of
from ultravid.experiments.summary import status_table, write_summary
from ultravid.utils.errors import UserError
from ultravid.utils.text import counted
from ultravid.utils.tool import EXIT_STOPPED, ToolParser, print_warnings, run_tool

MOST_JOBS = 1000


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the config of all jobs")
    parser.add_argument("--output-dir", required=True, type=Path, metavar="DIR", help="folder of the plan and all runs")
    jobs = parser.add_argument_group("which jobs")
    jobs.add_argument("--jobs", metavar="FILE", help="a list of jobs: .yaml, .csv, or .py with experiment = [...]")
    jobs.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME='key=value ...'",
        help="a named edit of several keys; those of one group (GROUP/NAME=...) are alternatives",
    )
    jobs.add_argument("--max-jobs", type=int, default=MOST_JOBS, help=f"refuse more jobs than this ({MOST_JOBS})")
    jobs.add_argument("--retry-failed", action="store_true", help="run failed jobs again")
    jobs.add_argument(
        "--allow-change", default="", metavar="KEY,...", help="keys whose values may differ from those of the plan"
    )
    look = parser.add_argument_group("look instead of running")
    look.add_argument("--dry-run", action="store_true", help="check all jobs and print the table of them")
    look.add_argument("--print-jobs", action="store_true", help="check all jobs and print a command for each")
    look.add_argument("--status", action="store_true", help="print the table of the jobs and their states")
    where = parser.add_argument_group("where they run")
    where.add_argument("--gpus", metavar="0,1,...", help="run one job at a time on each GPU (default: one by one)")
    where.add_argument("--restarts", type=int, default=3, help="how often a job that was killed is resumed (3)")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides, as for the launcher, and sweeps")
    return parser.parse_intermixed_args(argv)


class Narrator(JobListener):
    """Reports on the terminal which jobs start and end."""

    def started(self, job: Job, slot: Mapping[str, str]) -> None:
        where = f" on GPU {slot['CUDA_VISIBLE_DEVICES']}" if "CUDA_VISIBLE_DEVICES" in slot else ""
        print(f"{job.name}: started{where}, log {job.log}", flush=True)

    def ended(self, job: Job, exit_code: int) -> None:
        print(f"{job.name}: {'finished' if exit_code == 0 else describe_exit(exit_code)}", flush=True)

    def stopping(self, running: int) -> None:
        jobs = "the running job saves and stops" if running == 1 else f"the {running} running jobs save and stop"
        print(f"Stopping: {jobs}; a second Ctrl-C kills.", file=sys.stderr, flush=True)


def make_plan(args: argparse.Namespace) -> tuple[ExperimentFolder, Plan, list[PlannedJob]]:
    """Check every job of the command and find or give their numbers; under the lock of the folder."""
    sweeps = split_sweeps(args.opts)
    if sweeps.intervals:
        raise UserError(
            f"{sweeps.intervals[0].key}: an interval holds endlessly many values; search it with --search optuna."
        )
    jobs = span(sweeps, parse_named_edits(args.set), read_jobs(args.jobs) if args.jobs else ())
    if len(jobs) > args.max_jobs:
        raise UserError(f"This makes {len(jobs)} jobs, more than --max-jobs {args.max_jobs}.")
    base, checked = check_jobs(args.config_file, sweeps.plain, jobs)
    folder = ExperimentFolder(args.output_dir.resolve())
    allowed = [key.strip() for key in args.allow_change.split(",") if key.strip()]
    plan, chosen = extend_plan(folder, str(Path(args.config_file).resolve()), base, checked, allowed)
    if not (args.dry_run or args.print_jobs):
        folder.write_plan(plan, base)
    return folder, plan, chosen


def read_statuses(jobs: Sequence[PlannedJob]) -> dict[int, JobStatus]:
    return {job.number: status_of(job.run) for job in jobs}


def refuse_running(jobs: Sequence[PlannedJob]) -> None:
    """Refuse to start while a job of an earlier command is still at work, as after a kill of that command alone."""
    for job in jobs:
        if (holder := job.run.holder(exact=True)) is not None:
            raise holder.refusal(job.run.path, "wait until it has ended")


def run(args: argparse.Namespace, folder: ExperimentFolder, plan: Plan, jobs: Sequence[PlannedJob]) -> int:
    refuse_running(jobs)
    statuses = read_statuses(jobs)
    wanted = jobs_to_run(jobs, statuses, retry_failed=args.retry_failed)
    print(describe_start(jobs, statuses, wanted), flush=True)
    options = ["--allow-change", args.allow_change] if args.allow_change else []
    results = run_locally(
        wanted, plan.config_file, gpu_slots(args.gpus), Narrator(), restarts=args.restarts, options=options
    )
    return conclude(folder, plan, jobs, stopped=results.stopped)


def describe_start(jobs: Sequence[PlannedJob], statuses: Mapping[int, JobStatus], wanted: Sequence[PlannedJob]) -> str:
    """How many jobs there are, and what becomes of them."""
    number = Counter(statuses[job.number].state for job in jobs)
    parts = [f"{number[state]} {state.value}" for state in JobState if number[state]]
    left = number[JobState.FAILED] and not any(job for job in wanted if statuses[job.number].state == JobState.FAILED)
    retry = " (failed ones again: --retry-failed)" if left else ""
    return f"{counted(len(jobs), 'job')}: {', '.join(parts)}; {len(wanted)} to run{retry}."


def conclude(folder: ExperimentFolder, plan: Plan, jobs: Sequence[PlannedJob], *, stopped: bool) -> int:
    """Print the table, write the summary if all jobs are finished, and choose the exit code."""
    statuses = read_statuses(jobs)
    print(f"\n{status_table(jobs, statuses)}")
    states = Counter(status.state for status in statuses.values())
    if states[JobState.FINISHED] == len(jobs):
        everything = statuses if len(jobs) == len(plan.jobs) else read_statuses(plan.jobs)
        if all(status.state == JobState.FINISHED for status in everything.values()):
            write_summary(folder, plan.jobs, everything)
            print(f"Wrote {folder.summary}")
        return 0
    for job in jobs:
        if statuses[job.number].state == JobState.FAILED:
            print(f"Job {job.number} failed: {statuses[job.number].error}\n  {job.run.terminal}", file=sys.stderr)
    if stopped or states[JobState.STOPPED]:
        print("Stopped. Run the same command to continue.", file=sys.stderr)
        return EXIT_STOPPED
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    print_warnings()
    with importable_project(args.config_file):
        if args.dry_run or args.print_jobs:
            _, plan, jobs = make_plan(args)
            for job in jobs if args.print_jobs else ():
                print(shlex.join(job.command(plan.config_file, sys.executable)))
            if args.dry_run:
                print(
                    f"{status_table(jobs, read_statuses(jobs))}\n{counted(len(jobs), 'job')}, checked; nothing was started."
                )
            return 0
        if args.status:
            return show_status(args)
        with locked(args.output_dir, "an experiment", "choose another --output-dir"):
            folder, plan, jobs = make_plan(args)
            return run(args, folder, plan, jobs)


def show_status(args: argparse.Namespace) -> int:
    folder = ExperimentFolder(args.output_dir.resolve())
    plan = folder.read_plan()
    if plan is None:
        raise UserError(f"{args.output_dir} holds no experiment: there is no {folder.plan.name}.")
    print(status_table(plan.jobs, read_statuses(plan.jobs)))
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
