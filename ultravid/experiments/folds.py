"""Cross-validation: one run of the launcher per fold, the folds that are still to be run, and the table of their metrics.

A fold's run is in the folder ``fold_<number>`` of the experiment. What is finished, resumable or changed is read from the runs'
folders, so that the same command continues after any interruption.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultravid.config import ConfigError, Node, UnknownKeyError, load_checked
from ultravid.config.command_line import load_with_overrides
from ultravid.config.references import is_reference
from ultravid.config.resume import is_named, significant_changes
from ultravid.config.tree import value_at
from ultravid.datasets.boxes import is_number
from ultravid.datasets.json_files import read_json
from ultravid.evaluation.folds import (
    FoldResult,
    FoldTable,
    fold_csv,
    fold_html,
    fold_json,
    fold_latex,
    notes_on_patients,
)
from ultravid.evaluation.metrics import all_metrics, shown_metrics, why_undefined
from ultravid.evaluation.records import check_record, folder_of_weights, read_record
from ultravid.evaluation.results import MatchedVideo
from ultravid.evaluation.run_facts import training_behind
from ultravid.evaluation.runs import check_metrics, load_run
from ultravid.experiments.checking import check_jobs
from ultravid.experiments.held_out import how_to_hold_out, is_tested_on_the_same
from ultravid.experiments.local import Job
from ultravid.experiments.plan import quoted_path
from ultravid.experiments.settings import JobSettings
from ultravid.experiments.trained import changed_at, is_trained
from ultravid.utils.errors import UserError
from ultravid.utils.file_io import dump_json, replace_file
from ultravid.utils.hashing import sha256_of
from ultravid.utils.run_folder import InferenceFolder, RunFolder
from ultravid.utils.tool import tools_folder

__all__ = ["FOLD_KEY", "CrossValidation", "Fold", "summarize_folds", "write_fold_tables"]

FOLD_KEY = "dataloader.train.fold"
"""The key of the fold in the shipped configs."""

_REQUIRED_KEYS = ("dataloader.train", "dataloader.test", "train.output_dir", "train.init_checkpoint")


@dataclass(frozen=True)
class Fold:
    """The run of one fold.

    Attributes:
        number: the number of the fold, from 0.
        run: its folder.
        overrides: that select the fold and its folder, after the user's own.
        cfg: the config with these overrides.
        weights: the file to evaluate; None: the training evaluates its own.
    """

    number: int
    run: RunFolder
    overrides: list[str]
    cfg: Node
    weights: Path | None = None

    @property
    def name(self) -> str:
        """``fold_<number>``, which is also the name of its folder."""
        return f"fold_{self.number}"

    @property
    def evaluation(self) -> InferenceFolder:
        """Where its evaluation is, or will be."""
        weights = self.weights
        if weights is None:
            return self.run.evaluation
        return folder_of_weights(self.run, weights, weights.name, lambda: sha256_of(weights))

    def is_trained(self) -> bool:
        """Whether training finished under this config, and the evaluation in the folder is still that of its end."""
        return is_trained(self.run, self.cfg)

    def is_evaluated(self, weights: Path) -> bool:
        """Whether these weights have been evaluated under this config."""
        run, folder = self.run, self.evaluation
        if not (folder.manifest.is_file() and folder.metrics.is_file()):
            return False
        record = read_record(folder)
        if record is not None:
            same = record.has_ended and record.weights.get("sha256") == sha256_of(weights)
            return same and record.config is not None and not significant_changes(self.cfg, record.config)
        if folder != run.evaluation or not run.eval_config.is_file():
            return False
        newest = max(changed_at(run.eval_config), changed_at(weights))
        return changed_at(folder.manifest) >= newest and not significant_changes(self.cfg, run.eval_config)


@dataclass(frozen=True)
class CrossValidation:
    """A cross-validation: its config, its folds and its output folder.

    Attributes:
        config_file: a config with folds.
        overrides: the user's; ``{fold}`` in one stands for the fold's number.
        fold_key: the config's key of the fold; ``num_folds`` beside it is the number of folds.
        folds: which ones, as ``"0-3"`` or ``"0,2"``; None: as many as the config says.
        output_dir: the folder of all folds; None: the config's ``train.output_dir``.
        eval_only: evaluate the folds' last checkpoints instead of training.
        allowed_changes: keys whose values may differ from those with which unfinished folds were started.
    """

    config_file: str
    overrides: Sequence[str] = ()
    fold_key: str = FOLD_KEY
    folds: str | None = None
    output_dir: Path | None = None
    eval_only: bool = False
    allowed_changes: Sequence[str] = field(default_factory=tuple)

    def load(self) -> tuple[list[Fold], Path]:
        """Read and check the config of every fold; nothing is started.

        Returns:
            the folds, and the folder of all of them.

        Raises:
            UserError: a fault of the config, no or unknown folds, or test videos that are the same for every fold.
        """
        cfg = load_checked(self.config_file, self._overrides_of(0), required=_REQUIRED_KEYS)
        num_folds = self._num_folds(cfg)
        numbers = _parse_folds(self.folds, num_folds)
        output_dir = self.output_dir or Path(cfg.train.output_dir)
        folds = [self._load_fold(number, output_dir) for number in numbers]
        self._check_test_loader(folds[0], num_folds, output_dir)
        jobs = [JobSettings(tuple(fold.overrides)) for fold in folds]
        labels = [f"fold {fold.number}" for fold in folds]
        check_jobs(self.config_file, (), jobs, required=_REQUIRED_KEYS, objects=(), labels=labels)
        return folds, output_dir

    def jobs(self, folds: Sequence[Fold]) -> tuple[list[Job], list[Fold]]:
        """The commands that are still to be run, and the folds that are finished already.

        Raises:
            ConfigError: unfinished folds were started with another config.
            LockedError: a fold is still training, as one of a cross-validation that was killed.
            UserError: there are no weights to evaluate.
        """
        if not self.eval_only:
            for fold in folds:
                if (holder := fold.run.holder(exact=True)) is not None:
                    raise holder.refusal(fold.run.path, "choose another --output-dir")
            self._check_changes(folds)
        jobs, finished = [], []
        launcher = str(tools_folder() / "lazyconfig_train.py")
        for fold in folds:
            if self.eval_only:
                assert fold.weights is not None, "with eval_only each fold names its weights"
                if not fold.weights.exists():
                    raise UserError(
                        f"Fold {fold.number}: {fold.weights} is missing, so there is nothing to evaluate. Train the fold first, "
                        "or give 'train.init_checkpoint=FILE' with {fold} for the fold's number."
                    )
                own = [] if self._names_weights() else ["--resume"]
                options, is_finished = ["--eval-only", *own], fold.is_evaluated(fold.weights)
            else:
                change = ["--allow-change", ",".join(self.allowed_changes)] if self.allowed_changes else []
                options, is_finished = ["--resume", *change], fold.is_trained()
            if is_finished:
                finished.append(fold)
                continue
            command = [sys.executable, launcher, "--config-file", self.config_file, *options, *fold.overrides]
            jobs.append(Job(fold.name, command, fold.run.terminal))
        return jobs, finished

    def _overrides_of(self, number: int) -> list[str]:
        return [override.replace("{fold}", str(number)) for override in self.overrides]

    def _load_fold(self, number: int, output_dir: Path) -> Fold:
        run = RunFolder(output_dir / f"fold_{number}")
        own = [f"{self.fold_key}={number}", f"train.output_dir={quoted_path(run.path)}"]
        overrides = [*self._overrides_of(number), *own]
        cfg = load_with_overrides(self.config_file, overrides)
        if not self.eval_only:
            return Fold(number, run, overrides, cfg)
        last = run.newest_checkpoint() or run.checkpoint("model_final")
        return Fold(number, run, overrides, cfg, Path(cfg.train.init_checkpoint) if self._names_weights() else last)

    def _num_folds(self, cfg: Node) -> int | None:
        """The config's number of folds; None if it states none and the user names the folds."""
        parent, _, name = self.fold_key.rpartition(".")
        node = _value_at(cfg, parent)
        if not isinstance(node, Node) or name not in node:
            raise UserError(
                f"{self.config_file}: has no key {self.fold_key!r} to hold the fold. Name the config's own key with --fold-key."
            )
        number = _value_at(cfg, f"{parent}.num_folds")
        if number is None and not self.folds:
            raise UserError(
                f"{self.config_file}: {parent}.num_folds is not set, so this config has no folds. Set it, and let the test "
                f"loader use the held-out fold of the same videos:\n  {shlex.join(self._fold_overrides(cfg, parent))}\n"
                "(configs_py/common/data/cva_bus.py does so), or name the folds with --folds."
            )
        return number

    def _fold_overrides(self, cfg: Node, parent: str) -> list[str]:
        """The overrides that make folds of the training videos, tested on the fold that is held out."""
        overrides = [f"{parent}.num_folds=4"]
        test = _value_at(cfg, "dataloader.test")
        if not (isinstance(test, Node) and "_target_" in test):
            return overrides
        sign = "" if "fold" in test else "++"
        overrides += [f"{sign}dataloader.test.fold=${{{self.fold_key}}}"]
        overrides += [f"{sign}dataloader.test.num_folds=${{{parent}.num_folds}}"]
        loader = _value_at(cfg, parent)
        videos = loader.raw.get("videos") if isinstance(loader, Node) else None
        if is_reference(videos) and videos != test.raw.get("videos"):
            overrides += [f"dataloader.test.videos={videos}"]
        return overrides

    def _check_test_loader(self, fold: Fold, num_folds: int | None, output_dir: Path) -> None:
        """Reject a config whose test videos are the same for every fold."""
        other_number = (fold.number + 1) % num_folds if num_folds else fold.number + 1
        if other_number == fold.number:
            return
        other = self._load_fold(other_number, output_dir)
        if is_tested_on_the_same(fold.cfg, other.cfg):
            raise UserError(
                f"{self.config_file}: dataloader.test does not change with {self.fold_key}: every fold would be tested on the "
                f"same videos. {how_to_hold_out(self.fold_key)}"
            )

    def _check_changes(self, folds: Sequence[Fold]) -> None:
        """Reject changes of the config since unfinished folds were started, except for those that are allowed."""
        numbers_by_change: dict[str, list[str]] = {}
        keys: list[str] = []
        for fold in folds:
            if not (fold.run.config.is_file() and fold.run.checkpoints()):
                continue
            for difference in significant_changes(fold.cfg, fold.run.config):
                if not is_named(difference, self.allowed_changes):
                    numbers_by_change.setdefault(str(difference), []).append(str(fold.number))
                    keys += [difference.key] if difference.key not in keys else []
        if keys:
            rows = "\n".join(f"  {change} (fold {', '.join(n)})" for change, n in numbers_by_change.items())
            allowed = shlex.quote(",".join([*self.allowed_changes, *keys]))
            raise ConfigError(
                f"Folds in {folds[0].run.path.parent} were started with another config:\n{rows}\n"
                f"Use another --output-dir, or allow the new values: --allow-change {allowed}"
            )

    def _names_weights(self) -> bool:
        """Whether an override names the weights to evaluate; else they are the last checkpoint."""
        return any(re.match(r"\+{0,2}train\.init_checkpoint=", override) for override in self.overrides)


def summarize_folds(finished: Sequence[Fold], missing: Sequence[int]) -> FoldTable:
    """The table of the finished folds' metrics.

    Args:
        finished: the folds that are trained and evaluated.
        missing: the numbers of the folds that are not.

    Raises:
        UserError: a fold's metrics can't be read.
    """
    read = [_read_fold(fold) for fold in finished]
    results = [result for result, _ in read]
    videos = [video for _, matched in read for video in matched]
    notes = notes_on_patients({result.fold: matched for result, matched in read if matched})
    shown = shown_metrics(videos)
    if not all(matched for _, matched in read):
        why = "the predictions of a fold are missing"
        return FoldTable(results, missing, not_pooled=why, shown=shown, patient_notes=notes)
    names = [video.video_id for video in videos]
    if len(set(names)) < len(names):
        why = "a video is in several folds"
        return FoldTable(results, missing, not_pooled=why, shown=shown, patient_notes=notes)
    return FoldTable(results, missing, pooled=all_metrics(videos), shown=shown, patient_notes=notes)


def write_fold_tables(table: FoldTable, output_dir: Path, command: str) -> None:
    """Write ``cross_validation.csv``, ``.tex``, ``.html`` and ``.json``.

    Args:
        table: what to write.
        output_dir: the folder of all folds.
        command: the command that produced the table, for the page.
    """
    contents = {
        "csv": fold_csv(table),
        "tex": fold_latex(table),
        "html": fold_html(table, f"Cross-validation: {output_dir}", command),
        "json": dump_json(fold_json(table), indent=1),
    }
    for ending, content in contents.items():
        with replace_file(output_dir / f"cross_validation.{ending}") as file:
            file.write(content.encode(errors="backslashreplace"))


def _read_fold(fold: Fold) -> tuple[FoldResult, list[MatchedVideo]]:
    """A finished fold's metrics, and its matched videos if its predictions are there.

    Raises:
        UserError: they can't be read, or are not those that the record of the evaluation describes.
    """
    folder = fold.evaluation
    try:
        written = read_json(folder.metrics)
    except UserError as error:
        raise UserError(
            f"{str(error).rstrip('.')}. The evaluator of a fold writes it: a VideoDetectionEvaluator with "
            "output_dir='${train.output_dir}/inference'."
        ) from error
    if not isinstance(written, dict) or not all(value is None or is_number(value) for value in written.values()):
        raise UserError(f"{folder.metrics}: is not an object of numbers, which an evaluator writes.")
    record = check_record(folder.metrics)
    values = {name: float("nan") if value is None else float(value) for name, value in written.items()}
    counts = {name: value for name, value in values.items() if name.startswith("count/")}
    metrics = {name: value for name, value in values.items() if name not in counts}
    videos = load_run(folder.path)[0] if folder.manifest.is_file() else []
    if videos:
        check_metrics(folder.path, videos)
    reasons = why_undefined(metrics, videos) if videos else {}
    trained = training_behind(folder)
    return FoldResult(fold.number, metrics, reasons, counts, record.content if record else None, trained), videos


def _parse_folds(text: str | None, num_folds: int | None) -> list[int]:
    if text is None:
        return list(range(num_folds or 0))
    folds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if match is None:
            raise UserError(f"--folds {text}: {part!r} is neither a fold nor a range of folds; write 0-3 or 0,2.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UserError(f"--folds {text}: the range {part!r} is empty; the smaller number comes first.")
        folds += range(first, last + 1)
    repeated = {fold for fold in folds if folds.count(fold) > 1}
    if repeated:
        raise UserError(f"--folds {text}: names fold {min(repeated)} twice.")
    if num_folds is not None and max(folds) >= num_folds:
        raise UserError(f"--folds {text}: there is no fold {max(folds)}; the config has {num_folds} folds, from 0.")
    return folds


def _value_at(cfg: Node, key: str) -> Any:
    """The value of a full key; None if there is no such key."""
    try:
        return value_at(cfg, key)
    except UnknownKeyError:
        return None
