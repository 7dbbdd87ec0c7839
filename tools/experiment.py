#!/usr/bin/env python
"""Run one config with many settings: each combination of the swept values is a separate run; then compare their metrics.

    python tools/experiment.py --config-file projects/basicdet/configs/phantom.py --output-dir outputs/rates \\
        'optimizer.lr=1e-4,3e-4,1e-3' 'train.seed=range(2)'
    python tools/experiment.py --config-file ... --output-dir outputs/search --search optuna --trials 40 --objective AP50 \\
        'optimizer.lr=tag(log, interval(1e-5, 1e-2))' 'train.max_iter=1000,2000'
    python tools/experiment.py --config-file ... --output-dir outputs/lengths --gpus 0,1,2,3 \\
        --set short='train.max_iter=500' --set long='train.max_iter=4000 optimizer.lr=5e-4' 'train.seed=range(4)'
    python tools/experiment.py --config-file ... --output-dir outputs/list --jobs jobs.csv --dry-run

An override with several values is a sweep, in hydra's grammar: a,b,c or range(3) or choice(a,b) or glob(weights/*.pth). All jobs are
checked before the first one starts. Each is a run of tools/lazyconfig_train.py in OUTPUT_DIR/jobs/<number>-<identity>; its output goes
to terminal.txt there. To continue, run the same command again: finished jobs are kept, interrupted and killed ones are resumed, and failed
ones are listed (--retry-failed runs them again). On Ctrl-C or SIGTERM the running jobs save a checkpoint and stop. Writes OUTPUT_DIR/plan.json, and
OUTPUT_DIR/summary.csv when all jobs are finished. Exit codes: 0 all jobs are finished, 1 a job failed, 2 a user's mistake, 75 stopped.
"""

import argparse
import contextlib
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ultravid.config import importable_project
from ultravid.config.command_line import split_keys
from ultravid.experiments.display import Narrator, describe_states, print_jobs
from ultravid.experiments.local import stopped_by_signals
from ultravid.experiments.plan import ExperimentFolder, Plan, PlannedJob
from ultravid.experiments.planning import ExperimentRequest, PlannedExperiment, experiment_folder, plan_experiment
from ultravid.experiments.running import jobs_to_run, run_locally
from ultravid.experiments.search_options import add_search_arguments, objective_of, refuse_search_folder
from ultravid.experiments.slots import Threads, make_slots, threads_per_job, with_threads
from ultravid.experiments.slurm import (
    SlurmLauncher,
    SlurmOptions,
    SlurmQueue,
    SlurmUnreachableError,
    refuse_queued,
    statuses_with_queue,
)
from ultravid.experiments.slurm.arguments import check_slurm_arguments, given_options, with_dashed_values
from ultravid.experiments.slurm.options import CONFIG_KEY
from ultravid.experiments.slurm.running import first_script
from ultravid.experiments.status import JobState, JobStatus, status_of
from ultravid.experiments.summary import write_summary
from ultravid.experiments.verification import note_verified
from ultravid.utils.errors import UserError
from ultravid.utils.text import counted, visible
from ultravid.utils.tool import EXIT_STOPPED, ToolParser, print_warnings, run_tool

MOST_JOBS = 1000


class _Parser(ToolParser):
    """Answers what users of Hydra type."""

    def hints(self, unknown: Sequence[str], known: Sequence[str]) -> list[str]:
        """See `ToolParser`."""
        for text in unknown:
            option = text.partition("=")[0]
            if option in ("-m", "--multirun"):
                return [f"Every command here runs all jobs: leave {option} out."]
            if option in ("-cn", "-cp", "-cd", "--config-name", "--config-path", "--config-dir"):
                return ["The config is named by its file: --config-file FILE."]
        return super().hints(unknown, known)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", metavar="FILE", help="the config of all jobs (not needed for --status)")
    parser.add_argument("--output-dir", required=True, type=Path, metavar="DIR", help="folder of the plan and all runs")
    jobs = parser.add_argument_group("choose the jobs")
    jobs.add_argument("--jobs", metavar="FILE", help="a list of jobs: .yaml, .csv, or .py with 'experiment = [...]'")
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
    look = parser.add_argument_group("inspect instead of running").add_mutually_exclusive_group()
    look.add_argument("--dry-run", action="store_true", help="check all jobs and print them; nothing is written")
    look.add_argument(
        "--print-jobs", action="store_true", help="write the plan and print one command for each unfinished job"
    )
    look.add_argument("--status", action="store_true", help="print the table of the jobs and their states")
    where = parser.add_argument_group("where the jobs run")
    where.add_argument(
        "--launcher", choices=("local", "slurm"), default="local", help="this machine (default), or Slurm"
    )
    where.add_argument(
        "--gpus", metavar="0,1,...", help="run one job at a time on each of these GPUs (default: one job at a time)"
    )
    where.add_argument("--per-gpu", type=int, metavar="N", help="jobs that run at the same time on each GPU (1)")
    where.add_argument("--slots", type=int, metavar="N", help="jobs that run at the same time on the CPU (1)")
    where.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads of each job on the CPU (first command: cores divided by slots; later commands: the same number)",
    )
    where.add_argument("--restarts", type=int, default=3, metavar="N", help="how often a killed job is resumed (3)")
    add_slurm_arguments(parser)
    add_search_arguments(parser)
    parser.add_argument(
        "opts", nargs="*", metavar="key=value", help="overrides and sweeps: key=value, key=a,b,c, 'key=range(3)'"
    )
    args = parser.parse_intermixed_args(with_dashed_values(sys.argv[1:] if argv is None else argv))
    if args.config_file is None and not args.status:
        parser.error("the following arguments are required: --config-file")
    return args


def add_slurm_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "options for --launcher slurm; a config can set all of them except --no-wait in its dict 'slurm'"
    )
    group.add_argument("--partition", metavar="P", help="partition of the jobs (Slurm's default)")
    group.add_argument(
        "--time", metavar="2:00:00", help="time limit of a job; a job that needs longer is requeued and resumed"
    )
    group.add_argument(
        "--nodes", type=int, metavar="N", help="nodes of a job (1); on several, torchrun starts the processes"
    )
    group.add_argument("--gpus-per-job", type=int, metavar="N", help="GPUs of a job, on all its nodes together (0)")
    group.add_argument(
        "--cpus-per-job", type=int, metavar="N", help="cores of a job, on all its nodes together (Slurm's default)"
    )
    group.add_argument("--mem", metavar="32G", help="memory on each node")
    group.add_argument("--account", metavar="NAME", help="sbatch's --account")
    group.add_argument("--qos", metavar="NAME", help="sbatch's --qos")
    group.add_argument("--constraint", metavar="NAME", help="sbatch's --constraint")
    group.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="OPTION",
        help="any other option of sbatch, such as '--exclusive'; may be repeated",
    )
    group.add_argument(
        "--setup",
        action="append",
        default=[],
        metavar="LINE",
        help="bash before each job, as 'module load cuda; source venv/bin/activate'",
    )
    group.add_argument(
        "--at-once", type=int, metavar="N", help="jobs that run at the same time (no limit except Slurm's)"
    )
    group.add_argument(
        "--save-seconds",
        type=int,
        metavar="S",
        help="seconds before the time limit at which a job gets SIGTERM and saves a checkpoint (120)",
    )
    group.add_argument("--no-wait", action="store_true", help="submit the jobs and return; --status shows them")


def make_plan(args: argparse.Namespace) -> PlannedExperiment:
    """Check every job of the command and find or give their numbers; nothing is written."""
    request = ExperimentRequest(
        args.config_file,
        args.output_dir,
        overrides=args.opts,
        edits=args.set,
        jobs_file=args.jobs,
        most=args.max_jobs,
        allowed=split_keys(args.allow_change),
    )
    planned = plan_experiment(request)
    for remark in planned.remarks:
        print(remark, file=sys.stderr)
    return planned


def dry_run(args: argparse.Namespace) -> None:
    """Check all jobs and print the table of them; nothing is written."""
    planned = make_plan(args)
    jobs = planned.jobs
    if args.launcher == "slurm":
        print(f"{first_script(planned.folder, jobs, slurm_options(args, planned))}\n")
    print_jobs(jobs, read_statuses(jobs))
    print(f"{counted(len(jobs), 'job')}, checked; nothing was started.")


def print_commands(args: argparse.Namespace) -> None:
    """Write the plan if it changes, and print one command for each unfinished job; they may be run in any order."""
    with experiment_folder(args.output_dir):
        with contextlib.redirect_stdout(sys.stderr):  # what a config file prints is no command
            planned = make_plan(args)
        if planned.has_news:
            planned.write()
        statuses = read_statuses(planned.jobs)
        wanted = jobs_to_run(planned.jobs, statuses, retry_failed=args.retry_failed)
        if len(wanted) < len(planned.jobs):
            print(describe_start(planned.jobs, statuses, wanted), file=sys.stderr)
        for job in wanted:
            print(shlex.join(job.command(planned.plan.config_file, sys.executable, *launcher_options(args))))


def launcher_options(args: argparse.Namespace) -> list[str]:
    return ["--allow-change", args.allow_change] if args.allow_change else []


def read_statuses(jobs: Sequence[PlannedJob]) -> dict[int, JobStatus]:
    return {job.number: status_of(job.run) for job in jobs}


def run(
    args: argparse.Namespace,
    slots: Sequence[Mapping[str, str]],
    folder: ExperimentFolder,
    plan: Plan,
    jobs: Sequence[PlannedJob],
) -> int:
    statuses = read_statuses(jobs)
    refuse_queued(folder, jobs, statuses)
    wanted = jobs_to_run(jobs, statuses, retry_failed=args.retry_failed)
    running = [job for job in jobs if statuses[job.number].state is JobState.RUNNING]
    print(describe_start(jobs, statuses, wanted), flush=True)
    if not (wanted or running):
        return conclude(folder, plan, jobs, read_statuses(jobs), stopped=False)
    number, note = threads_per_job(Threads(folder.threads), slots, args.threads)
    if note:
        print(note, flush=True)
    with Narrator(jobs, statuses, len(slots)) as narrator:
        results = run_locally(
            wanted,
            plan.config_file,
            with_threads(slots, number),
            narrator,
            restarts=args.restarts,
            options=launcher_options(args),
            running=running,
        )
    note_verified(folder, [job for job in wanted if results.exit_codes.get(job.label) == 0])
    return conclude(folder, plan, jobs, read_statuses(jobs), stopped=results.stopped)


def run_on_slurm(args: argparse.Namespace, options: SlurmOptions, planned: PlannedExperiment) -> int:
    """Submit what is not in the queue yet, and wait for all of it."""
    folder, plan, jobs = planned.folder, planned.plan, planned.jobs
    launcher = SlurmLauncher(
        *(folder, plan.config_file, options, SlurmQueue(), say),
        restarts=args.restarts,
        further=launcher_options(args),
    )
    submitted, statuses = launcher.read(jobs)
    for job in jobs:  # of those that were submitted, a node that went down may have left the lock
        if job.number not in submitted and (holder := job.run.holder(exact=True)) is not None:
            raise holder.refusal(job.run.path, "wait until it has ended")
    wanted = jobs_to_run(jobs, statuses, retry_failed=args.retry_failed)
    if options.threads is not None and options.gpus_per_job == 0:
        Threads(folder.threads).write(options.threads)
    say(describe_start(jobs, statuses, wanted))
    try:
        launcher.submit(wanted)
    except KeyboardInterrupt:
        say("Interrupted while jobs were submitted. Those that were are in Slurm's queue; the same command continues.")
        return EXIT_STOPPED
    open_states = (JobState.QUEUED, JobState.RUNNING)
    open_jobs = [job for job in jobs if job in wanted or statuses[job.number].state in open_states]
    if args.no_wait and open_jobs:
        ids = " ".join(launcher.ids_in_queue())
        queued = len(open_jobs) - len(launcher.held)
        say(
            f"{counted(queued, 'job')} in Slurm's queue. Look with --status{f'; cancel with: scancel {ids}' if ids else '.'}"
        )
        if launcher.held:
            say(
                f"{counted(len(launcher.held), 'job')} not submitted: run the same command again when others have ended."
            )
        return EXIT_STOPPED if launcher.held else 0
    with Narrator(jobs, statuses, options.at_once or len(jobs)) as narrator:
        launcher.narrate(narrator.note, narrator)
        stopped = launcher.wait(open_jobs)
    launcher.narrate(say)
    statuses = launcher.read(jobs)[1]
    note_verified(folder, [job for job in open_jobs if statuses[job.number].state is JobState.FINISHED])
    return conclude(folder, plan, jobs, statuses, stopped=stopped)


def slurm_options(args: argparse.Namespace, planned: PlannedExperiment) -> SlurmOptions:
    """What jobs ask of Slurm, by the command line and the config; checked as far as that is possible before a job is submitted."""
    queue = SlurmQueue()
    options = SlurmOptions.of(planned.base.get(CONFIG_KEY), given_options(args))
    if options.threads is None and options.gpus_per_job == 0:  # as in the command that began the experiment
        options = replace(options, threads=Threads(planned.folder.threads).read())
    try:
        queue.check_partition(options.partition)
    except SlurmUnreachableError as error:
        raise UserError(
            f"--launcher slurm: Slurm does not answer ({error}). Nothing was submitted; try again."
        ) from error
    return options


def say(text: str) -> None:
    print(text, flush=True)


def describe_start(jobs: Sequence[PlannedJob], statuses: Mapping[int, JobStatus], wanted: Sequence[PlannedJob]) -> str:
    """How many jobs there are, and what becomes of them."""
    states = [statuses[job.number].state for job in jobs]
    retried = any(statuses[job.number].state is JobState.FAILED for job in wanted)
    retry = " (failed ones again: --retry-failed)" if JobState.FAILED in states and not retried else ""
    return f"{counted(len(jobs), 'job')}: {describe_states(states)}; {len(wanted)} to run{retry}."


def conclude(
    folder: ExperimentFolder,
    plan: Plan,
    jobs: Sequence[PlannedJob],
    statuses: Mapping[int, JobStatus],
    *,
    stopped: bool,
) -> int:
    """Print the table, write the summary if all jobs are finished, and choose the exit code."""
    print()
    print_jobs(jobs, statuses)
    states = Counter(status.state for status in statuses.values())
    for job in jobs:
        path = job.run.evaluation_metrics
        if statuses[job.number].state is JobState.FINISHED and not statuses[job.number].metrics and path.exists():
            print(f"WARNING: job {job.number} is finished, but its metrics can't be read: {path}", file=sys.stderr)
    if states[JobState.FINISHED] == len(jobs):
        everything = statuses if len(jobs) == len(plan.jobs) else read_statuses(plan.jobs)
        if all(status.state is JobState.FINISHED for status in everything.values()):
            write_summary(folder, plan.jobs, everything)
            print(f"Wrote {folder.summary}")
        return 0
    for job in jobs:
        if (status := statuses[job.number]).state in (JobState.FAILED, JobState.DIED):
            print(
                f"Job {job.number} {status.state.value}: {visible(status.error)}\n  log {job.run.terminal}",
                file=sys.stderr,
            )
    if stopped or states[JobState.STOPPED]:
        print("Stopped. Run the same command to continue.", file=sys.stderr)
        return EXIT_STOPPED
    if states[JobState.FAILED]:
        print("Failed jobs run again with --retry-failed.", file=sys.stderr)
    if states[JobState.WAITING]:  # as the folder of one was removed while it ran
        print(f"{counted(states[JobState.WAITING], 'job')} not run. Run the same command to continue.", file=sys.stderr)
    return 1


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    check_slurm_arguments(args)
    check_numbers(args)
    print_warnings()
    if args.status:
        return show_status(args)
    with importable_project(args.config_file):
        if args.search:
            from ultravid.experiments.searchers import run_search  # here, as it imports much

            slots = [{}] if args.is_searcher else make_slots(args.gpus, args.per_gpu, args.slots)
            with stopped_by_signals():
                return run_search(args, slots, sys.argv[1:] if argv is None else argv)
        refuse_search_folder(args.output_dir)
        if args.print_jobs:
            print_commands(args)
            return 0
        slots = make_slots(args.gpus, args.per_gpu, args.slots)
        if args.dry_run:
            dry_run(args)
            return 0
        with stopped_by_signals(), experiment_folder(args.output_dir):
            planned = make_plan(args)
            options = slurm_options(args, planned) if args.launcher == "slurm" else None
            planned.write()
            if options is not None:
                return run_on_slurm(args, options, planned)
            return run(args, slots, planned.folder, planned.plan, planned.jobs)


def check_numbers(args: argparse.Namespace) -> None:
    if args.threads is not None and args.threads < 1:
        raise UserError(f"--threads {args.threads}: is below 1.")
    if args.restarts < 0:
        raise UserError(f"--restarts {args.restarts}: is below 0; 0 resumes no job that was killed.")


def show_status(args: argparse.Namespace) -> int:
    folder = ExperimentFolder(args.output_dir.resolve())
    plan = folder.read_plan()
    if plan is None:
        raise UserError(f"{args.output_dir} holds no experiment: there is no {folder.plan.name}.")
    statuses = read_statuses(plan.jobs)
    if folder.slurm.is_dir():
        statuses, warning = statuses_with_queue(folder, plan.jobs, statuses)
        if warning:
            print(f"WARNING: {warning}", file=sys.stderr)
    print_jobs(plan.jobs, statuses, objective_of(folder))
    print(f"{counted(len(plan.jobs), 'job')}: {describe_states(status.state for status in statuses.values())}")
    for note in plan.notes:
        print(note)
    is_finished = all(status.state is JobState.FINISHED for status in statuses.values())
    if is_finished and folder.slurm.is_dir() and not folder.summary.exists():  # of a command that did not wait
        write_summary(folder, plan.jobs, statuses)
        print(f"Wrote {folder.summary}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
