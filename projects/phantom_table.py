#!/usr/bin/env python
"""Train all detectors on the phantom, a run folder for each row, and write their metrics into the table of projects/README.md.

    python tools/make_phantom.py --output datasets/phantom
    python projects/phantom_table.py
    python projects/phantom_table.py --models UltraDet,BasicDet --seeds 0,1
    python projects/phantom_table.py --models projects/basicdet/configs/phantom_one_frame.py --readme ""

Run again, the same command continues: rows that are finished under their config stay, interrupted ones are resumed from their last
checkpoint, and rows whose config changed since in a way that changes results are retrained. Rows that are not finished are in
the table with the reason. Speed is measured once the training is over, one model after the other; the table says of what. On Ctrl-C or
SIGTERM the running rows save a checkpoint and stop. Exit codes: 0 all rows are finished, 1 a row is not, 2 a user's mistake, 75 stopped.
"""

import argparse
import json
import math
import statistics
import sys
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from ultravid.checkpoint import DetectionCheckpointer
from ultravid.config import Builder, Node, importable_project, instantiate, load_checked
from ultravid.config.resume import significant_changes
from ultravid.experiments import Job, JobListener, JobResults, describe_exit, is_trained, locked, run_jobs
from ultravid.modeling.detector import VideoDetector, VideoStream
from ultravid.modeling.inference import prepare_for_inference
from ultravid.utils.errors import UserError
from ultravid.utils.file_io import dump_json, replace_file
from ultravid.utils.hashing import sha256_of
from ultravid.utils.run_folder import RunFolder
from ultravid.utils.text import counted
from ultravid.utils.tool import EXIT_STOPPED, ToolParser, run_tool

ROOT = Path(__file__).resolve().parents[1]
MODELS = {
    "FasterRCNN": "two_stage/configs/phantom.py",
    "RelationNet": "two_stage/configs/phantom_relationnet.py",
    "BasicDet": "basicdet/configs/phantom.py",
    "SELSA": "two_stage/configs/phantom_selsa.py",
    "MEGA": "two_stage/configs/phantom_mega.py",
    "FGFA": "two_stage/configs/phantom_fgfa.py",
    "UltraDet": "ultradet/configs/phantom_causal.py",
    "RetinaNet": "one_stage/configs/phantom.py",
    "FCOS": "one_stage/configs/phantom_fcos.py",
    "DeFCN": "one_stage/configs/phantom_defcn.py",
    "YOLOX": "one_stage/configs/phantom_yolox.py",
    "TrackYOLO": "one_stage/configs/phantom_trackyolo.py",
    "DeformableDETR": "query/configs/phantom.py",
    "TransVOD": "query/configs/phantom_transvod.py",
    "CVA-Net": "query/configs/phantom_cvanet.py",
    "PTSEFormer": "query/configs/phantom_ptseformer.py",
}
SEEDS = {"FasterRCNN": (0, 1, 2), "BasicDet": (0, 1, 2), "UltraDet": (0, 1, 2)}
"""Models that are trained with more seeds than 0."""
METRICS = ("AP50", "Pr80", "Pr90", "FP80", "FP90", "R@16")
BEGIN, END = "<!-- phantom table: begin -->", "<!-- phantom table: end -->"
VIDEOS, WARM_UP = 3, 20  # videos whose frames are timed, and frames before them that are not


@dataclass(frozen=True)
class Row:
    """A run of the table.

    Attributes:
        model: its name in the table.
        config: its file.
        seed: seed of the training.
        run: its folder.
        overrides: of the config, the user's first.
        cfg: the config with them.
    """

    model: str
    config: Path
    seed: int
    run: RunFolder
    overrides: list[str]
    cfg: Node

    @property
    def name(self) -> str:
        return self.run.path.name


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", help="names of the table or config files, FCOS,YOLOX (default: the whole table)")
    parser.add_argument("--seeds", help="seeds of each model, 0,1 (default: 0; 0,1,2 for " + ", ".join(SEEDS) + ")")
    parser.add_argument("--iterations", type=int, help="iterations of each row (default: those of its config)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, each with one thread (2)")
    parser.add_argument("--output", type=Path, default=Path("outputs/phantom_table"), help="folder of the runs")
    parser.add_argument("--readme", default=str(ROOT / "projects/README.md"), help='file to write to; "" for none')
    parser.add_argument("--table-only", action="store_true", help="train nothing; write what there is")
    parser.add_argument("--measure", choices=("missing", "again", "never"), default="missing", help="speed (missing)")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of every config")
    return parser.parse_intermixed_args(argv)


def chosen_models(text: str | None) -> dict[str, Path]:
    """Names in the table and config files, of the models that the user chose."""
    configs = {name: ROOT / "projects" / file for name, file in MODELS.items()}
    if text is None:
        return configs
    chosen = {}
    by_name = {name.lower(): name for name in configs}
    for part in filter(None, (part.strip() for part in text.split(","))):
        if part.endswith(".py"):
            file = Path(part).expanduser()
            if not file.is_file():
                raise UserError(f"--models: there is no file {part}.")
            if chosen.setdefault(file.stem, file) != file:
                raise UserError(
                    f"--models: {chosen[file.stem]} and {part} have one name, {file.stem}; run one at a time."
                )
        elif part.lower() in by_name:
            chosen[by_name[part.lower()]] = configs[by_name[part.lower()]]
        else:
            raise UserError(f"--models: {part!r} is not one of {', '.join(configs)}, and no config file.")
    return chosen


def seeds_of(model: str, text: str | None) -> tuple[int, ...]:
    if text is None:
        return SEEDS.get(model, (0,))
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError as error:
        raise UserError(f"--seeds {text}: is not a list of numbers, as 0,1,2.") from error


def load_rows(args: argparse.Namespace, models: Mapping[str, Path]) -> list[Row]:
    """The rows of the models whose config is there, first seeds first; every config is read and checked before anything is started."""
    pairs = [(seed, model) for model in models for seed in seeds_of(model, args.seeds) if models[model].is_file()]
    rows = []
    for seed, model in sorted(pairs, key=lambda pair: seeds_of(pair[1], args.seeds).index(pair[0])):
        run = RunFolder(args.output.resolve() / f"{model}-seed{seed}")
        own = [] if args.iterations is None else [f"train.max_iter={args.iterations}"]
        overrides = [*args.opts, *own, f"train.seed={seed}", f"train.output_dir='{run}'"]
        required = ("model", "trainer", "dataloader.test", "train.max_iter")
        rows.append(
            Row(model, models[model], seed, run, overrides, load_checked(models[model], overrides, required=required))
        )
    return rows


def job_of(row: Row) -> Job:
    """The command that trains a row, or resumes it if it was interrupted under the same config."""
    saved = row.run.trained_config()
    goes_on = saved is not None and row.run.can_resume() and not significant_changes(row.cfg, saved)
    launcher = str(ROOT / "tools/lazyconfig_train.py")
    command = [sys.executable, launcher, "--config-file", str(row.config), *(["--resume"] if goes_on else [])]
    return Job(row.name, [*command, *row.overrides], row.run.terminal)


class Narrator(JobListener):
    """Reports on the terminal which rows start and end."""

    def started(self, job: Job, slot: Mapping[str, str]) -> None:
        del slot
        print(f"{job.name}: {'resumed' if '--resume' in job.command else 'started'}, log {job.log}", flush=True)

    def ended(self, job: Job, exit_code: int) -> None:
        print(f"{job.name}: {'finished' if exit_code == 0 else describe_exit(exit_code)}", flush=True)

    def stopping(self, running: int) -> None:
        print(f"Stopping: {counted(running, 'row')} will be saved; a second Ctrl-C kills.", file=sys.stderr, flush=True)


def train(rows: Iterable[Row], num_jobs: int) -> JobResults:
    """Run the rows that are not finished, several at a time, each with one thread: small models gain nothing from a second."""
    waiting = [row for row in rows if not is_trained(row.run, row.cfg)]
    for row in waiting:
        if (holder := row.run.holder(exact=True)) is not None:
            raise holder.refusal(row.run.path, "choose another --output")
    slot = {"OMP_NUM_THREADS": "1"}
    return run_jobs([job_of(row) for row in waiting], [slot] * num_jobs, Narrator())


# --- speed


def milliseconds(row: Row) -> list[float]:
    """The time of each frame of a few test videos, streamed through the trained and prepared model on one thread."""
    with importable_project(str(row.config)):
        model: VideoDetector = instantiate(row.cfg.model)
        loader = Builder(row.cfg).build("dataloader.test")
    DetectionCheckpointer(model).load(str(row.run.final_checkpoint()))
    prepared = prepare_for_inference(model, None, threads=1)
    videos: dict[str, list[dict[str, Any]]] = {}
    for (frame,) in loader:
        if len(videos) == VIDEOS and frame["video_id"] not in videos:
            break
        videos.setdefault(frame["video_id"], []).append(frame)
    first = next(iter(videos.values()))
    timed(prepared, first[:WARM_UP])
    return [ms for frames in videos.values() for ms in timed(prepared, frames)]


def timed(model: VideoDetector, frames: Sequence[Mapping[str, Any]]) -> list[float]:
    image = frames[0]["image"]
    stream = VideoStream(model, (int(image.shape[-2]), int(image.shape[-1])))
    found = []
    for frame in frames:
        begin = time.perf_counter()
        stream(frame["image"], (frame["height"], frame["width"]))
        found.append((time.perf_counter() - begin) * 1000)
    return found


def measure(rows: Sequence[Row], file: Path, again: bool) -> None:
    """Add the times of the rows' models to a file; what is there for the same weights stays."""
    measured = read_speeds(file)
    for row in {row.model: row for row in reversed(rows)}.values():  # one seed of each model
        weights = sha256_of(row.run.final_checkpoint() or Path())
        if again or measured.get(row.name, {}).get("weights") != weights:
            times = sorted(milliseconds(row))
            worst = {
                "p50": statistics.median(times),
                "p95": times[math.ceil(0.95 * len(times)) - 1],
                "worst": times[-1],
            }
            measured[row.name] = {"weights": weights, "frames": len(times), **worst}
            print(f"{row.name}: {worst['p50']:.1f} ms a frame", flush=True)
            with replace_file(file) as target:
                target.write(dump_json(measured, indent=1).encode())


def read_speeds(file: Path) -> dict[str, dict[str, Any]]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


# --- the table


def minutes(row: Row) -> float:
    """Minutes of training: the mean time of an iteration, times their number, whatever interrupted the run."""
    lines = row.run.metrics.read_text(encoding="utf-8").splitlines()
    times = [entry["time"] for entry in map(json.loads, lines) if "time" in entry]
    return statistics.mean(times) * row.cfg.train.max_iter / 60 if times else math.nan


def cells(rows: Sequence[Row], speeds: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The cells of a model's line after its name, from its finished rows."""
    metrics = [json.loads(row.run.evaluation_metrics.read_text(encoding="utf-8")) for row in rows]
    parameters = sum(p.numel() for p in instantiate(rows[0].cfg.model).parameters())
    times = [speeds[row.name] for row in rows if row.name in speeds]
    return [
        *(spread([m.get(name) for m in metrics]) for name in METRICS),
        f"{parameters / 1e6:.2f}",
        *(
            f"{1000 / statistics.median(t[part] for t in times):.0f}" if times else "-"
            for part in ("p50", "p95", "worst")
        ),
        str(rows[0].cfg.train.max_iter),
        f"{statistics.mean(map(minutes, rows)):.0f}",
    ]


def spread(values: Sequence[float | None]) -> str:
    """Mean and standard deviation over seeds; "-" if a value is undefined, as the precision at a recall that was not reached."""
    numbers = [math.nan if value is None else value for value in values]
    if any(map(math.isnan, numbers)):
        return "-"
    mean = f"{statistics.mean(numbers):.1f}"
    return mean if len(numbers) == 1 else f"{mean} ± {statistics.stdev(numbers):.1f}"


def why_unfinished(row: Row) -> str:
    """Why a row has no metrics yet."""
    saved = row.run.trained_config()
    if saved is None:
        terminal = row.run.terminal
        lines = terminal.read_text(encoding="utf-8", errors="replace").split("\n") if terminal.is_file() else []
        said = next((line for line in reversed(lines) if "error:" in line), "")
        return shortened(said) or "not run yet"
    if changes := significant_changes(row.cfg, saved):
        return f"to be retrained: {counted(len(changes), 'key')} changed, as {changes[0].key}"
    record = row.run.newest_record() or {}
    end = record.get("end") or {}
    return shortened(": ".join(filter(None, (row.run.state().value, end.get("why")))))


def shortened(text: str) -> str:
    """A cell of a table in Markdown."""
    return textwrap.shorten(text.replace("|", "/"), 120, placeholder=" ...")


def table(models: Mapping[str, Path], rows: Sequence[Row], speeds: Mapping[str, Mapping[str, Any]]) -> str:
    """The table in Markdown."""
    header = ["", *METRICS, "parameters, M", "frames/s, p50", "p95", "worst", "iterations", "minutes", ""]
    lines = []
    for model, config in models.items():
        own = [row for row in rows if row.model == model]
        finished = [row for row in own if is_trained(row.run, row.cfg)]
        reasons = [f"seed {row.seed}: {why_unfinished(row)}" for row in own if row not in finished]
        shown = cells(finished, speeds) if finished else ["-"] * (len(header) - 2)
        note = "; ".join(reasons) if own else f"there is no {config.name} in {config.parent.parent.name}"
        seeds = f"{len(finished)} seeds" if len(finished) > 1 else ""
        lines.append([model, *shown, "; ".join(filter(None, (seeds, note)))])
    return tabulate(lines, headers=header, tablefmt="pipe", disable_numparse=True)


def parts_around_table(readme: Path) -> tuple[str, str]:
    """What stands before and after the table of a file.

    Raises:
        UserError: the file is not there, or has not both markers, each once.
    """
    if not readme.is_file():
        raise UserError(f"{readme} is missing; name the file with --readme, or --readme '' to print the table only.")
    content = readme.read_text(encoding="utf-8")
    if content.count(BEGIN) != 1 or content.count(END) != 1:
        raise UserError(f"{readme}: the table belongs between the lines {BEGIN} and {END}, each once.")
    return content.split(BEGIN)[0], content.split(END)[1]


def write_between_markers(readme: Path, text: str) -> None:
    """Replace the table of a file."""
    before, after = parts_around_table(readme)
    with replace_file(readme) as file:
        file.write(f"{before}{BEGIN}\n{text}\n{END}{after}".encode())


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.jobs < 1:
        raise UserError(f"--jobs {args.jobs}: must be at least 1.")
    models = chosen_models(args.models)
    if args.readme:
        parts_around_table(Path(args.readme))  # before hours of work
    rows = load_rows(args, models)
    speeds = args.output / "speeds.json"
    with locked(args.output, "the table", "choose another --output"):
        stopped = False if args.table_only else train(rows, args.jobs).stopped
        finished = [row for row in rows if is_trained(row.run, row.cfg)]
        if not stopped and args.measure != "never":
            measure(finished, speeds, args.measure == "again")
        text = table(models, rows, read_speeds(speeds))
    print(f"\n{text}")
    if args.readme:
        write_between_markers(Path(args.readme), text)
    if stopped:
        print("Stopped. Run the same command to continue.", file=sys.stderr)
        return EXIT_STOPPED
    return 0 if len(finished) == len(rows) and all(config.is_file() for config in models.values()) else 1


if __name__ == "__main__":
    sys.exit(run_tool(main))
