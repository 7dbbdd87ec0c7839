#!/usr/bin/env python
"""Train or evaluate all folds of a config, and report their mean, standard deviation and pooled figures.

    python tools/cross_validate.py --config-file projects/basicdet/configs/cva_bus.py --output-dir outputs/cv
    python tools/cross_validate.py --config-file ... --output-dir outputs/cv --gpus 0,1,2,3 optimizer.lr=1e-4
    python tools/cross_validate.py --config-file ... --output-dir outputs/cv --eval-only
    python tools/cross_validate.py --config-file ... --output-dir outputs/old --eval-only \\
        'train.init_checkpoint=weights/fold_{fold}.pth'

Each fold is a run of tools/lazyconfig_train.py in OUTPUT_DIR/fold_<f>; what it prints is in fold_<f>/terminal.txt. The same
command again goes on where it stopped: folds that are finished under the same config are taken as they are, interrupted
ones go on from their last checkpoint. Ctrl-C and SIGTERM let the folds at work save and leave. "{fold}" in an override is the
fold's number. Writes OUTPUT_DIR/cross_validation.csv, .tex, .html and .json. Exit codes: 0 all folds are there, 1 a fold
failed, 2 your mistake, 75 stopped by a signal.
"""

import argparse
import contextlib
import fcntl
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ultravid.config import Node, config_hash, importable_project, load_checked
from ultravid.config.command_line import load_with_overrides
from ultravid.config.errors import ConfigError
from ultravid.config.resume import is_named, significant_changes
from ultravid.config.serialize import resolved
from ultravid.config.tree import split_key
from ultravid.evaluation.folds import FoldResult, FoldTable, fold_csv, fold_html, fold_json, fold_latex, fold_text
from ultravid.evaluation.metrics import all_metrics, why_undefined
from ultravid.evaluation.results import MatchedVideo
from ultravid.evaluation.runs import load_run
from ultravid.utils.errors import UserError
from ultravid.utils.file_io import dump_json, replace_file
from ultravid.utils.jobs import Job, JobListener, describe_exit, run_jobs
from ultravid.utils.run_folder import RunFolder, RunState
from ultravid.utils.tool import EXIT_STOPPED, run_tool

LAUNCHER = Path(__file__).resolve().with_name("lazyconfig_train.py")
FOLD_KEY = "dataloader.train.fold"
LOG_LINES = 12


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="a config with folds")
    parser.add_argument("--folds", metavar="0-3", help="which ones: 0-3, 0,2 (default: as many as the config says)")
    parser.add_argument(
        "--fold-key", default=FOLD_KEY, metavar="KEY", help=f"the config's key of the fold ({FOLD_KEY})"
    )
    parser.add_argument("--eval-only", action="store_true", help="evaluate the folds' last checkpoints")
    parser.add_argument("--gpus", metavar="0,1,...", help="a fold on each of these at a time (default: one by one)")
    parser.add_argument("--output-dir", type=Path, help="of all folds (default: the config's train.output_dir)")
    parser.add_argument(
        "--allow-change",
        default="",
        metavar="KEY,...",
        help="keys whose values may differ from those that begun folds began with",
    )
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides, as the launcher's")
    return parser.parse_intermixed_args(argv)


@dataclass(frozen=True)
class Fold:
    """A fold's run."""

    number: int
    folder: Path
    overrides: list[str]
    cfg: Node

    @property
    def name(self) -> str:
        return f"fold_{self.number}"

    @property
    def metrics(self) -> Path:
        return self.folder / "inference/metrics.json"

    @property
    def manifest(self) -> Path:
        return self.folder / "inference/predictions/manifest.json"


def value_at(cfg: Node, key: str) -> Any:
    """The value of a full key; None where there is no such key."""
    node: Any = cfg
    for step in split_key(key):
        if not isinstance(node, Node) or step not in node:
            return None
        node = node[step]
    return node


def load_fold(args: argparse.Namespace, number: int, output_dir: Path) -> Fold:
    folder = output_dir / f"fold_{number}"
    given = [opt.replace("{fold}", str(number)) for opt in args.opts]
    overrides = [*given, f"{args.fold_key}={number}", f"train.output_dir={quoted(folder)}"]
    return Fold(number, folder, overrides, load_with_overrides(args.config_file, overrides))


def quoted(path: Path) -> str:
    """A path as a value of the overrides' grammar."""
    text = str(path)
    return text if re.fullmatch(r"[\w./@+-]+", text) else "'" + text.replace("'", "\\'") + "'"


def number_of_folds(args: argparse.Namespace, cfg: Node) -> int | None:
    """What the config says beside the fold's key; None where it says nothing."""
    parent, _, name = args.fold_key.rpartition(".")
    node = value_at(cfg, parent)
    if not isinstance(node, Node) or name not in node:
        raise UserError(
            f"{args.config_file}: has no key {args.fold_key!r}, which is to say the fold. Name the config's own with --fold-key."
        )
    number = value_at(cfg, f"{parent}.num_folds")
    if number is None and not args.folds:
        raise UserError(
            f"{args.config_file}: {parent}.num_folds is not set: this config has no folds. Set it ({parent}.num_folds=4), and "
            f"let the test loader take the held-out fold of the same videos (dataloader.test.fold='${{{args.fold_key}}}' and so "
            "on; configs_py/common/data/cva_bus.py does), or name the folds with --folds."
        )
    return number


def parse_folds(text: str | None, number: int | None) -> list[int]:
    if text is None:
        return list(range(number or 0))
    folds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if match is None:
            raise UserError(f"--folds {text}: {part!r} is neither a fold nor a range of folds; write 0-3 or 0,2.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserError(f"--folds {text}: the range {part!r} is empty; the smaller number comes first.")
        folds += range(first, last + 1)
    twice = {fold for fold in folds if folds.count(fold) > 1}
    if twice:
        raise UserError(f"--folds {text}: names fold {min(twice)} twice.")
    if number is not None and max(folds) >= number:
        raise UserError(f"--folds {text}: there is no fold {max(folds)}; the config has {number} folds, from 0.")
    return folds


def parse_gpus(text: str | None) -> list[Mapping[str, str]]:
    """A slot for each fold that runs at a time."""
    if text is None:
        return [{}]
    gpus = [gpu.strip() for gpu in text.split(",")]
    if not all(gpus) or len(set(gpus)) < len(gpus):
        raise UserError(f"--gpus {text}: name each GPU once, as 0,1,2.")
    threads = max(1, (os.cpu_count() or 1) // len(gpus))
    shared = {} if len(gpus) == 1 or "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(threads)}
    return [{"CUDA_VISIBLE_DEVICES": gpu, **shared} for gpu in gpus]


def check_test_loader(args: argparse.Namespace, fold: Fold, number: int | None) -> None:
    """Refuse a config whose test videos are the same for every fold."""
    other_fold = (fold.number + 1) % number if number else fold.number + 1
    if other_fold == fold.number:
        return
    other = load_fold(args, other_fold, fold.folder.parent)
    if config_hash(resolved(fold.cfg).dataloader.test) == config_hash(resolved(other.cfg).dataloader.test):
        raise UserError(
            f"{args.config_file}: dataloader.test does not change with {args.fold_key}: every fold would be tested on the same "
            f"videos. Let it take the held-out fold: dataloader.test.fold='${{{args.fold_key}}}' and dataloader.test.num_folds, "
            "of the videos that dataloader.train takes."
        )


def refuse_changes(folds: Sequence[Fold], allowed: Sequence[str]) -> None:
    """Refuse to go on with folds that began with another config."""
    found: dict[str, list[str]] = {}
    for fold in folds:
        saved = fold.folder / "config.yaml"
        if not (saved.is_file() and any(fold.folder.glob("model_*"))):
            continue
        for difference in significant_changes(fold.cfg, saved):
            if not is_named(difference, allowed):
                found.setdefault(str(difference), []).append(str(fold.number))
                keys = found.setdefault("", [])
                keys += [difference.key] if difference.key not in keys else []
    keys = found.pop("", [])
    if keys:
        rows = "\n".join(f"  {difference} (fold {', '.join(numbers)})" for difference, numbers in found.items())
        raise ConfigError(
            f"Folds in {folds[0].folder.parent} began with another config:\n{rows}\n"
            f"Name another --output-dir, or to go on with the new values --allow-change {shlex.quote(','.join([*allowed, *keys]))}"
        )


def is_trained(fold: Fold) -> bool:
    """Whether it went through under this config, and what its evaluation left is still that of the end of training."""
    if not (fold.manifest.is_file() and fold.metrics.is_file() and any(fold.folder.glob("model_final*"))):
        return False
    if RunFolder(fold.folder).state() is not RunState.FINISHED:
        return False
    evaluated = fold.folder / "config_eval.yaml"
    if evaluated.is_file() and changed_at(evaluated) > changed_at(fold.folder / "config.yaml"):
        return False
    return not significant_changes(fold.cfg, fold.folder / "config.yaml")


def changed_at(path: Path) -> int:
    return path.stat().st_mtime_ns


def is_evaluated(fold: Fold, weights: Path) -> bool:
    """Whether these weights were evaluated under this config."""
    saved = fold.folder / "config_eval.yaml"
    if not all(path.is_file() for path in (saved, fold.manifest, fold.metrics)):
        return False
    newest = max(changed_at(saved), changed_at(weights))
    return changed_at(fold.manifest) >= newest and not significant_changes(fold.cfg, saved)


def weights_of(fold: Fold, opts: Sequence[str]) -> tuple[Path, list[str]]:
    """What --eval-only evaluates: the override's weights, else the fold's last checkpoint; and the launcher's options."""
    if any(re.match(r"\+{0,2}train\.init_checkpoint=", opt) for opt in opts):
        weights, options = Path(fold.cfg.train.init_checkpoint), []
    else:
        last = fold.folder / "last_checkpoint"
        name = last.read_text(encoding="utf-8").strip() if last.is_file() else "model_final.pth"
        weights, options = fold.folder / name, ["--resume"]
    if not weights.exists():
        raise UserError(
            f"Fold {fold.number}: {weights} is not there, so there is nothing to evaluate. Train the fold first, or give "
            "'train.init_checkpoint=FILE' with {fold} for the fold's number."
        )
    return weights, options


def plan(args: argparse.Namespace, folds: Sequence[Fold]) -> list[Job]:
    """The runs that are still to be made."""
    allowed = [key.strip() for key in args.allow_change.split(",") if key.strip()]
    jobs = []
    if not args.eval_only:
        refuse_changes(folds, allowed)
    for fold in folds:
        if args.eval_only:
            weights, options = weights_of(fold, args.opts)
            options, finished = ["--eval-only", *options], is_evaluated(fold, weights)
        else:
            change = ["--allow-change", ",".join(allowed)] if allowed else []
            options, finished = ["--resume", *change], is_trained(fold)
        if finished:
            print(f"Fold {fold.number}: finished before, {fold.folder}")
            continue
        command = [sys.executable, str(LAUNCHER), "--config-file", args.config_file, *options, *fold.overrides]
        jobs.append(Job(fold.name, command, fold.folder / "terminal.txt"))
    return jobs


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[int]:
    """A lock on a folder that lasts as long as this process or one that inherited it: two would write over each other."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise UserError(f"--output-dir {folder} can't be written: {error.strerror}.") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder}: a cross-validation, or a fold that one left behind, is at work there."
            ) from None
        yield file.fileno()


class Narrator(JobListener):
    """Says on the terminal what happens to the folds."""

    def started(self, job: Job, slot: Mapping[str, str]) -> None:
        where = f" on GPU {slot['CUDA_VISIBLE_DEVICES']}" if "CUDA_VISIBLE_DEVICES" in slot else ""
        print(f"{job.name}: started{where}, log {job.log}", flush=True)

    def ended(self, job: Job, exit_code: int) -> None:
        print(f"{job.name}: {'finished' if exit_code == 0 else describe_exit(exit_code)}", flush=True)

    def stopping(self, running: int) -> None:
        folds = "the fold at work saves and leaves" if running == 1 else f"the {running} folds at work save and leave"
        print(f"Stopping: {folds}; a second Ctrl-C kills.", file=sys.stderr, flush=True)


def read_fold(fold: Fold) -> tuple[FoldResult, list[MatchedVideo]]:
    """A finished fold's figures, and its judged videos where its predictions are there."""
    try:
        written = json.loads(fold.metrics.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{fold.metrics}: can't be read ({error}). A fold's evaluator writes it: a VideoDetectionEvaluator of "
            "output_dir='${train.output_dir}/inference'."
        ) from error
    values = {name: float("nan") if value is None else float(value) for name, value in written.items()}
    counts = {name: value for name, value in values.items() if name.startswith("count/")}
    figures = {name: value for name, value in values.items() if name not in counts}
    videos = load_run(fold.folder)[0] if fold.manifest.is_file() else []
    return FoldResult(fold.number, figures, why_undefined(figures, videos) if videos else {}, counts), videos


def summarize(finished: Sequence[Fold], missing: Sequence[int]) -> FoldTable:
    """The table of the folds that are there."""
    read = [read_fold(fold) for fold in finished]
    results = [result for result, _ in read]
    videos = [video for _, judged in read for video in judged]
    if not all(judged for _, judged in read):
        return FoldTable(results, missing, not_pooled="a fold's predictions are not there")
    names = [video.video_id for video in videos]
    if len(set(names)) < len(names):
        return FoldTable(results, missing, not_pooled="a video stands in several folds")
    return FoldTable(results, missing, pooled=all_metrics(videos))


def write_report(folds: FoldTable, output_dir: Path, argv: Sequence[str]) -> None:
    command_line = shlex.join(["python", "tools/cross_validate.py", *argv])
    contents = {
        "csv": fold_csv(folds),
        "tex": fold_latex(folds),
        "html": fold_html(folds, f"Cross-validation: {output_dir}", command_line),
        "json": dump_json(fold_json(folds), indent=1),
    }
    for ending, content in contents.items():
        with replace_file(output_dir / f"cross_validation.{ending}") as file:
            file.write(content.encode())
    print(f"\n{fold_text(folds)}\nWrote {output_dir}/cross_validation.csv, .tex, .html and .json")


def tell_failures(folds: Sequence[Fold], codes: Mapping[str, int]) -> None:
    for fold in folds:
        code = codes.get(fold.name, 0)
        if code:
            log = fold.folder / "terminal.txt"
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
            text = "\n".join(f"  {line}" for line in lines)
            print(f"\nFold {fold.number} failed, {describe_exit(code)}. The end of {log}:\n{text}", file=sys.stderr)


def prepare(args: argparse.Namespace) -> tuple[list[Fold], Path]:
    """The folds, each with its config, checked before any work."""
    required = ["dataloader.train", "dataloader.test", "train.output_dir", "train.init_checkpoint"]
    checked = [opt.replace("{fold}", "0") for opt in args.opts]
    cfg = load_checked(args.config_file, checked, required=required)
    number = number_of_folds(args, cfg)
    numbers = parse_folds(args.folds, number)
    output_dir = args.output_dir or Path(cfg.train.output_dir)
    folds = [load_fold(args, n, output_dir) for n in numbers]
    check_test_loader(args, folds[0], number)
    return folds, output_dir


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    slots = parse_gpus(args.gpus)
    with importable_project(args.config_file):
        folds, output_dir = prepare(args)
        with locked(output_dir) as lock:
            jobs = plan(args, folds)
            results = run_jobs(jobs, slots, Narrator(), inherited=[lock])
    if results.stopped:
        print("Stopped. The same command goes on.", file=sys.stderr)
        return EXIT_STOPPED
    codes = results.exit_codes
    finished = [fold for fold in folds if not codes.get(fold.name, 0)]
    if finished:
        missing = [fold.number for fold in folds if fold not in finished]
        write_report(summarize(finished, missing), output_dir, sys.argv[1:] if argv is None else argv)
    tell_failures(folds, codes)
    return 1 if len(finished) < len(folds) else 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
