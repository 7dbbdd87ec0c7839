#!/usr/bin/env python
"""Summarize many runs: mean and deviation of each setting, paired differences, one row per run; as text, CSV, LaTeX and HTML with charts.

    python tools/summarize.py outputs/rates
    python tools/summarize.py outputs/rates --group-by optimizer.lr --metrics AP50,FP80 --reference optimizer.lr=3e-4
    python tools/summarize.py outputs/a outputs/b --output-dir outputs/a_and_b --reports

DIR is an experiment, a run, or any folder that contains runs, finished or not; nothing else is read. Runs that
differ only in seed and fold are one setting, unless --group-by says otherwise. Settings are compared by drawing patients with replacement,
the same ones for both. Writes DIR/summary: summary.html, runs.csv, settings.csv, differences.csv, settings.tex, summary.json. Exit code 3: done,
but the results of a finished run can't be used.
"""

import argparse
import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ultravid.experiments.grouping import Grouping, Setting, group_runs
from ultravid.experiments.paired import Comparison, compare_settings
from ultravid.experiments.run_results import RunResult, canonical, last_step, read_runs
from ultravid.experiments.summary_page import summary_page
from ultravid.experiments.summary_tables import (
    differences_csv,
    runs_csv,
    settings_csv,
    settings_latex,
    summary_json,
    summary_text,
)
from ultravid.utils.errors import UserError
from ultravid.utils.file_io import dump_json, replace_file
from ultravid.utils.text import counted
from ultravid.utils.tool import EXIT_INCOMPLETE, ToolParser, print_warnings, run_tool, seed_argument

WIDTH_OF_FILES = 160
MOST_REPORTS = 12


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="DIR", help="an experiment, a run, or a folder of runs"
    )
    parser.add_argument(
        "--group-by",
        metavar="KEY,...",
        help="keys that define a setting, such as optimizer.lr or lr (default: all keys that differ, except seeds and folds)",
    )
    parser.add_argument(
        "--metrics", metavar="NAME,...", help="metrics to show (default: the metrics in the log of a training)"
    )
    parser.add_argument(
        "--reference", metavar="KEY=VALUE,...", help="the setting that others are compared with (default: the first)"
    )
    parser.add_argument(
        "--bootstrap", type=int, default=2000, metavar="N", help="draws of patients (2000; 0: compare nothing)"
    )
    parser.add_argument("--seed", type=seed_argument, default=0, help="seed of the draws (0)")
    parser.add_argument(
        "--patients",
        help="rule or JSON table that states the patient of each video: folder, stem, regex:..., FILE (docs/patients.md)",
    )
    parser.add_argument(
        "--evaluation",
        default="inference",
        metavar="PATH",
        help="name of the evaluation's folder in each run (inference)",
    )
    parser.add_argument("--output-dir", type=Path, metavar="OUT", help="folder for the files (DIR/summary)")
    parser.add_argument("--no-files", action="store_true", help="print the tables and write nothing")
    parser.add_argument(
        "--reports",
        action=argparse.BooleanOptionalAction,
        help="write the report of each run (tools/report.py), which the page links to; it contains frames of the videos "
        f"(default: of up to {MOST_REPORTS} runs)",
    )
    args = parser.parse_args(argv)
    if args.bootstrap < 0 or args.bootstrap == 1:
        parser.error(f"--bootstrap {args.bootstrap}: at least 2 draws are needed, 2000 are usual; 0 compares nothing")
    if args.no_files and (args.output_dir or args.reports):
        parser.error("--no-files writes nothing, so it takes neither --output-dir nor --reports")
    if not args.no_files and args.output_dir is None and len(args.folders) > 1:
        parser.error(
            "several folders: say where the files belong with --output-dir, or that there are none with --no-files"
        )
    return args


def split_names(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def find_reference(text: str | None, grouping: Grouping) -> Setting | None:
    """The setting that ``KEY=VALUE,...`` names."""
    if text is None:
        return None
    wanted = dict(part.partition("=")[::2] for part in re.split(r",(?=[^,=]+=)", text))
    found = list(grouping.settings)
    for name, value in wanted.items():
        keys = [key for key in grouping.by if key == name or last_step(key) == name or key.endswith(f".{name}")]
        if len(keys) != 1:
            listed = ", ".join(grouping.by) or "nothing"
            raise UserError(f"--reference {text}: {name} is not one key that settings differ in: {listed}.")
        exact = [setting for setting in found if canonical(setting.values[keys[0]]) == canonical(value)]
        found = exact or [setting for setting in found if setting.shown[keys[0]] == value.strip()]
    if len(found) == 1 and found[0].results:
        return found[0]
    labels = "; ".join(s.label for s in (found or grouping.settings) if s.results)
    raise UserError(
        f"--reference {text}: {'names several settings' if found else 'names no setting'}; there are: {labels}."
    )


def write_reports(runs: Sequence[RunResult], folder: Path, args: argparse.Namespace) -> None:
    """Write the report of each run that has none which is newer than its evaluation."""
    from ultravid.evaluation.report.page import report_page
    from ultravid.evaluation.report.report_run import ReportOptions, load_report_runs

    for run in runs:
        path = report_of(run, folder)
        if is_newer(path, run.evaluation.metrics):
            continue
        again = ["python", "tools/report.py", str(run.evaluation.path), "--output", str(path)]
        again += ["--patients", args.patients] if args.patients else []
        options = ReportOptions(
            patients=args.patients, num_draws=args.bootstrap, seed=args.seed, command=shlex.join(again)
        )
        content = report_page(*load_report_runs([run.evaluation.path], options))
        path.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(path) as file:
            file.write(content.encode(errors="backslashreplace"))
        print(f"Wrote {path}", flush=True)


def report_of(run: RunResult, folder: Path) -> Path:
    name = re.sub(r"[^\w.-]+", "_", run.name)
    return folder / "reports" / f"{name}.html"


def is_newer(path: Path, other: Path) -> bool:
    return path.is_file() and other.is_file() and path.stat().st_mtime_ns >= other.stat().st_mtime_ns


def report_links(runs: Sequence[RunResult], folder: Path) -> dict[str, str]:
    """The address of each run's report relative to the page's folder, of those that are there."""
    found = {}
    for run in runs:
        for path in (report_of(run, folder), run.run.path / "report.html"):
            if path.is_file():
                found[run.name] = Path(os.path.relpath(path, folder)).as_posix()
                break
    return found


def write_files(
    folder: Path, grouping: Grouping, comparison: Comparison, args: argparse.Namespace, command: str
) -> None:
    title = f"Summary: {', '.join(str(path) for path in args.folders)}"
    contents: Mapping[str, str] = {
        "runs.csv": runs_csv(grouping),
        "settings.csv": settings_csv(grouping),
        "differences.csv": differences_csv(grouping, comparison),
        "settings.tex": settings_latex(grouping, command),
        "summary.json": dump_json(summary_json(grouping, comparison, command), indent=1),
        "summary.txt": f"{summary_text(grouping, comparison, WIDTH_OF_FILES)}\n\nMade by: {command}\n",
        "summary.html": summary_page(title, grouping, comparison, command, report_links(grouping.runs, folder)),
    }
    for name, content in contents.items():
        with replace_file(folder / name) as file:
            file.write(content.encode(errors="backslashreplace"))


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder} can't be written ({error.strerror}). Say where the files belong with --output-dir, or print only: --no-files"
        ) from error


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    print_warnings()
    runs, notes = read_runs(args.folders, args.evaluation)
    grouping = group_runs(
        runs, None if args.group_by is None else split_names(args.group_by), split_names(args.metrics), notes
    )
    reference = find_reference(args.reference, grouping)
    folder = None if args.no_files else args.output_dir or args.folders[0] / "summary"
    if folder is not None:
        make_folder(folder)
    command = shlex.join(["python", "tools/summarize.py", *(sys.argv[1:] if argv is None else argv)])
    comparison = Comparison()
    if args.bootstrap:
        comparison = compare_settings(grouping, reference, args.bootstrap, args.seed, args.patients, say)
    width = shutil.get_terminal_size((WIDTH_OF_FILES, 24)).columns
    print(summary_text(grouping, comparison, width))
    print(f"To compute this again: {command}", flush=True)
    if folder is not None:
        results = [run for run in runs if run.counts_as_result and run.evaluation.manifest.is_file()]
        if args.reports or (args.reports is None and len(results) <= MOST_REPORTS):
            write_reports(results, folder, args)
        write_files(folder, grouping, comparison, args, command)
        print(
            f"Wrote {folder}: summary.html, summary.txt, runs.csv, settings.csv, differences.csv, settings.tex, summary.json"
        )
    damaged = [run for run in runs if run.is_damaged]
    for run in damaged:
        print(f"{run.name}: {run.problem}", file=sys.stderr)
    if damaged:
        print(f"The results of {counted(len(damaged), 'run')} can't be used.", file=sys.stderr)
    return EXIT_INCOMPLETE if damaged else 0


def say(setting: str) -> None:
    """Report on a terminal which setting's predictions are read, as it takes a while."""
    if sys.stderr.isatty():
        print(f"drawing patients: {setting}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run_tool(main))
