"""The part of ``tools/experiment.py`` that searches, with a process for each slot.

Several slots are as many commands on one study, each in a slot of its own.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ultravid.experiments.local import GPU_VARIABLE, Job, JobListener, describe_exit, run_jobs
from ultravid.experiments.plan import ExperimentFolder
from ultravid.experiments.search import Search, SearchOptions, default_direction
from ultravid.experiments.search_space import search_space
from ultravid.experiments.settings import parse_named_edits
from ultravid.experiments.slots import Threads, threads_per_job, with_threads
from ultravid.utils.errors import UserError
from ultravid.utils.text import counted
from ultravid.utils.tool import EXIT_STOPPED, tools_folder

__all__ = ["run_search"]

_OF_SLOT = (GPU_VARIABLE, "OMP_NUM_THREADS")


def run_search(args: argparse.Namespace, slots: Sequence[Mapping[str, str]], argv: Sequence[str]) -> int:
    """Search as the options say.

    Args:
        args: the arguments of ``tools/experiment.py``.
        slots: environment variables of each slot.
        argv: the arguments as typed.

    Returns:
        an exit code.

    Raises:
        UserError: something can't be searched; nothing was started.
    """
    _refuse(args)
    space = search_space(args.opts, parse_named_edits(args.set))
    options = SearchOptions(
        args.objective,
        args.direction or default_direction(args.objective),
        args.trials,
        args.sampler,
        args.pruner,
        args.search_seed,
        args.restarts,
        args.retry_failed,
    )
    folder = ExperimentFolder(args.output_dir.resolve())
    search = Search(folder, str(Path(args.config_file).resolve()), space, options, _say)
    if not args.is_searcher:
        search.check()
        _say(f"{options.direction} {options.objective} in {counted(options.num_trials, 'trial')} over")
        for key, text in space.described().items():
            _say(f"  {key}: {text}")
    if args.dry_run:
        _say("Checked; nothing was started.")
        return 0
    if args.is_searcher:
        return search.run({name: os.environ[name] for name in _OF_SLOT if name in os.environ})
    folder.path.mkdir(parents=True, exist_ok=True)
    number, note = threads_per_job(Threads(folder.threads), slots, args.threads)
    if note:
        _say(note)
    slots = with_threads(slots, number)
    if len(slots) == 1:
        return search.run(slots[0])
    return _in_slots(search, slots, argv)


def _refuse(args: argparse.Namespace) -> None:
    if args.trials < 1:
        raise UserError(f"--trials {args.trials}: at least one is needed.")
    for name, value, why in (
        ("--jobs", args.jobs, "a search proposes its jobs; name what varies by intervals and lists, or by --set"),
        ("--print-jobs", args.print_jobs, "the jobs of a search are not known before it runs"),
        ("--allow-change", args.allow_change, "trials under another config can't be compared with the earlier ones"),
    ):
        if value:
            raise UserError(f"--search with {name}: {why}.")
    if any(text.lstrip("+~").startswith("train.output_dir=") for text in args.opts):
        raise UserError("train.output_dir: each job has its own folder in --output-dir; leave this out.")
    if getattr(args, "launcher", None) not in (None, "local"):
        raise UserError(
            f"--search with --launcher {args.launcher}: submit this command itself as a job, once for each trial that should run at the same time; "
            "several commands work on one study."
        )


def _in_slots(search: Search, slots: Sequence[Mapping[str, str]], argv: Sequence[str]) -> int:
    """Run a command in each slot until the search ends."""
    command = [sys.executable, str(tools_folder() / "experiment.py"), *argv, "--searcher"]
    logs = search.folder.path / "searchers"
    jobs = [Job(f"slot {number}", command, logs / f"slot_{number}.txt") for number in range(len(slots))]
    results = run_jobs(jobs, slots, _Narrator(logs, len(jobs)))
    for name, code in results.exit_codes.items():
        if code not in (0, 1, EXIT_STOPPED):
            _say(f"{name} ended: {describe_exit(code)}; see its log in {logs}")
    code = search.conclude()
    if results.stopped or code == EXIT_STOPPED:
        return EXIT_STOPPED
    return max([code, *(1 for own in results.exit_codes.values() if own not in (0, 1))])


class _Narrator(JobListener):
    """Prints what the commands in the slots print."""

    def __init__(self, logs: Path, number: int) -> None:
        self._files = [logs / f"slot_{slot}.txt" for slot in range(number)]
        self._read = [path.stat().st_size if path.exists() else 0 for path in self._files]
        self._next = 0.0

    def waiting(self) -> None:
        """See `JobListener`."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + 1
        for slot, path in enumerate(self._files):
            lines = self._new_lines(slot, path)
            for line in lines:
                if line.startswith("trial "):
                    _say(f"slot {slot}, {line}")

    def _new_lines(self, slot: int, path: Path) -> list[str]:
        try:
            with path.open("rb") as file:
                file.seek(self._read[slot])
                content = file.read()
        except OSError:
            return []
        whole = content[: content.rfind(b"\n") + 1]
        self._read[slot] += len(whole)
        return whole.decode("utf-8", "replace").splitlines()

    def stopping(self, running: int) -> None:
        """See `JobListener`."""
        _say(f"Stopping: {counted(running, 'running job')} save and stop; a second Ctrl-C kills.")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201
