"""Records an evaluation while it is made, and decides in which folder its files go.

What is known where: a launcher or a training says for which run it evaluates (`evaluating`), a checkpointer notes which file a
model's weights come from (`ultravid.checkpoint.origin`), evaluators have folders and settings, and `inference_on_dataset` brings
them together here. An evaluation of the run's own newest weights goes to the folders that the evaluators were configured with.
One of other weights, or beside a training that goes on, goes to a folder of its own beside them.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import os
import secrets
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ultravid
from ultravid.checkpoint.origin import WeightsOrigin, weights_origin
from ultravid.config import ConfigError, LazyConfig, config_hash
from ultravid.config.nodes import resolve_environment
from ultravid.config.plain_data import to_data
from ultravid.config.project_names import naming_folders, with_project_names
from ultravid.config.serialize import resolved
from ultravid.datasets.fingerprint import combine_fingerprints, fingerprint_each
from ultravid.evaluation.evaluated_run import EvaluatedRun, evaluated_run
from ultravid.evaluation.records import folder_of_weights, is_under_way, read_record, write_record
from ultravid.utils import comm
from ultravid.utils.errors import UserError
from ultravid.utils.events import get_event_storage, has_event_storage
from ultravid.utils.file_io import is_local
from ultravid.utils.hashing import sha256_of
from ultravid.utils.process_facts import git_state, iso_time, package_versions, process_facts
from ultravid.utils.run_folder import InferenceFolder, RunFolder, RunState

__all__ = ["Recording", "recorded_evaluation"]

logger = logging.getLogger(__name__)

_FOLDER_NAMES = ("output_dir", "_output_dir")  # the second is that of detectron2's evaluators
_WITHOUT_INFLUENCE = frozenset(
    {"output_dir", "resume", "num_workers", "videos"}
)  # `videos` is described by the data's hash


@contextlib.contextmanager
def recorded_evaluation(
    model: nn.Module, data_loader: Any, evaluators: Sequence[Any], fingerprint: Callable[[str], str], described_by: str
) -> Iterator[Recording]:
    """Redirect the evaluators and record what happens in the block. All processes must enter it.

    Args:
        model: plain or wrapped.
        data_loader: this process's.
        evaluators: without nesting.
        fingerprint: the fingerprint of the model, given a text that identifies the rest of it.
        described_by: that text; "" takes the hash of the config's ``model``, if the config is known.

    Raises:
        UserError: another process is writing an evaluation to the folder, or the processes have different weights.
    """
    recording = Recording(model, data_loader, evaluators, fingerprint, described_by)
    try:
        yield recording
        recording.end()
    except BaseException as error:
        recording.fail(error)
        raise
    finally:
        recording.restore()


@dataclass(frozen=True)
class _Plan:
    """What the main process decides for all.

    Attributes:
        folders: where each folder of an evaluator is replaced, by the configured path.
        recorded: folders that get a record.
        described_by: see `recorded_evaluation`.
        error: why the evaluation must not begin.
    """

    folders: dict[str, str]
    recorded: tuple[str, ...]
    described_by: str
    error: str = ""


class Recording:
    """One evaluation, from its begin to its end; see `recorded_evaluation`."""

    def __init__(
        self,
        model: nn.Module,
        data_loader: Any,
        evaluators: Sequence[Any],
        fingerprint: Callable[[str], str],
        described_by: str,
    ) -> None:
        self.model = comm.unwrapped(model)
        self.results: Mapping[str, Any] = {}
        self._run = evaluated_run()
        self._loader, self._evaluators = data_loader, evaluators
        self._restored: list[tuple[Any, str, Any]] = []
        self._content: dict[str, Any] = {}
        self._sha256: str | None = None
        self._compute = fingerprint
        self._seen = _Seen()
        plan = comm.all_gather(self._plan(described_by) if comm.is_main_process() else None)[0]
        assert plan is not None, "the main process plans"
        if plan.error:
            raise UserError(plan.error)
        self._redirect(plan.folders)
        self._folders = [InferenceFolder(Path(path)) for path in plan.recorded]
        self._described_by = plan.described_by
        self._fingerprint = ""

    def begin(self) -> None:
        """Write the records of an evaluation that has not ended; after this the evaluators may write."""
        if not self._folders:
            return
        self._check_same_weights()
        if not comm.is_main_process():
            return
        self._begin = time.time()
        self._before = {folder.path: _files_in(folder) for folder in self._folders}
        earlier = [read_record_or_none(folder) for folder in self._folders]
        self._content |= {
            "id": secrets.token_hex(8),
            "by": "training" if self._is_of_training() else "command",
            **process_facts(),
            "processes": comm.get_world_size(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "versions": {"ultravid": ultravid.__version__, **package_versions()},
            "git": self._git(),
            "begin": iso_time(self._begin),
            "run": self._describe_run(),
            "weights": self._describe_weights(),
            "config": None,
            "evaluators": [_describe_evaluator(evaluator) for evaluator in self._evaluators],
            "end": None,
            "how": None,
        }
        for folder, before in zip(self._folders, earlier, strict=True):
            unfinished = before is not None and before.content.get("how") != "finished"
            self._content["config"] = self._describe_config(folder)
            follows = {k: before.content.get(k) for k in ("id", "begin", "command")} if before and unfinished else None
            write_record(folder, {**self._content, "folder": os.path.abspath(folder.path), "follows": follows})

    def fingerprint(self) -> str:
        """The hash of the model, computed once."""
        if not self._fingerprint:
            self._fingerprint = self._compute(self._described_by)
        return self._fingerprint

    def saw(self, inputs: Any, cached: bool) -> None:
        """Count inputs that were evaluated."""
        self._seen.add(inputs, cached)

    def end(self) -> None:
        """Complete the records."""
        if not self._folders:
            return
        parts = comm.gather((self._seen, _fingerprint_each(self._loader)))
        if not comm.is_main_process():
            return
        seen = _Seen.sum(part for part, _ in parts)
        known = [videos for _, videos in parts if videos is not None]
        data = combine_fingerprints(known) if len(known) == len(parts) else None
        identity = self._identity(data, seen)
        if self._run is not None:
            self._run.identities.append(identity)
        now = time.time()
        self._content |= {
            "data": data,
            "seen": seen.facts(),
            "identity": identity,
            "metrics": _plain(self.results),
            "end": iso_time(now),
            "seconds": round(now - self._begin, 3),
            "how": "finished",
        }
        for folder in self._folders:
            written = read_record_or_none(folder)
            if written is None or written.content.get("id") != self._content["id"]:
                raise UserError(
                    f"{folder.path}: another evaluation has begun in this folder, so it holds results of both. "
                    "Evaluate again when the other one has ended."
                )
            before = self._before[folder.path]
            files = {
                name: path
                for name, (path, stat) in _files_in(folder).items()
                if before.get(name, (path, None))[1] != stat
            }
            hashes = {name: sha256_of(path) for name, path in files.items()}
            kept = {key: written.content[key] for key in ("folder", "follows", "config")}
            write_record(folder, {**self._content, **kept, "files": hashes})

    def fail(self, error: BaseException) -> None:
        """Record that the evaluation did not get to its end."""
        if not (comm.is_main_process() and "id" in self._content):
            return
        with contextlib.suppress(OSError, UserError):  # the error that is being raised matters more
            for folder in self._folders:
                written = read_record_or_none(folder)
                if written is not None and written.content.get("id") == self._content["id"]:
                    how = {"end": iso_time(time.time()), "how": f"failed: {type(error).__name__}"}
                    write_record(folder, {**written.content, **how})

    def restore(self) -> None:
        """Give the evaluators the folders that they were configured with."""
        for evaluator, name, value in self._restored:
            setattr(evaluator, name, value)

    # What the main process decides

    def _plan(self, described_by: str) -> _Plan:
        run, configured = self._run, [str(value) for _, _, value in _folders_of(self._evaluators)]
        if run is not None and not configured and self._evaluators:
            configured = [_free_folder(run, type(self._evaluators[0]).__name__)]
        described = described_by or self._model_hash()
        try:
            own = None if run is None else self._own_folder(run)
        except (OSError, UserError) as error:
            return _Plan({}, (), described, f"The weights to evaluate can't be identified: {error}")
        moved = {path: _moved(path, run.folder, own) for path in configured} if run is not None and own else {}
        folders = tuple(dict.fromkeys(_to_record(moved.get(path, path), run) for path in configured))
        for folder in folders:
            record = read_record_or_none(InferenceFolder(Path(folder)))
            if record is not None and is_under_way(record) and record.content.get("pid") != os.getpid():
                if self._is_of_training():
                    logger.warning("%s: process %s evaluates into this folder too.", folder, record.content.get("pid"))
                    continue
                why = f"began {record.content.get('begin')}, process {record.content.get('pid')} on this host"
                return _Plan(
                    {}, (), described, f"{folder}: another evaluation is writing to this folder ({why}). Wait for it."
                )
        if run is not None:
            run.recorded.extend(folders)
        return _Plan(moved, folders, described)

    def _own_folder(self, run: EvaluatedRun) -> str | None:
        """The name of the folder for weights that are not the run's newest; None if they are, or if there is no run there."""
        if self._is_of_training():
            return None
        origin = self._origin()
        if origin is None:
            chosen = folder_of_weights(run.folder, None, "in_memory", self.fingerprint_of_memory)
        else:
            path = Path(origin.path)
            chosen = folder_of_weights(run.folder, path, path.name, lambda: self._weights_hash(origin) or "unknown")
        if chosen == run.folder.evaluation:
            return None
        living = run.folder.state() is RunState.RUNNING
        why = f"{run.folder} is training" if living else f"the weights are not the newest of {run.folder}"
        logger.warning("This evaluation is written to %s, because %s.", chosen.path, why)
        return chosen.path.name

    def fingerprint_of_memory(self) -> str:
        """A hash of the weights as they are in memory."""
        return self._compute("")

    def _is_of_training(self) -> bool:
        """Whether the training of this run evaluates: it says so, or it runs in this process."""
        if self._run is None or self._run.weights is not None:
            return self._run is not None
        record = self._run.folder.newest_record() or {}
        return record.get("pid") == os.getpid() and self._run.folder.state() is RunState.RUNNING

    def _origin(self) -> WeightsOrigin | None:
        origin, changed = weights_origin(self.model)
        return None if changed else origin

    def _weights_hash(self, origin: WeightsOrigin) -> str | None:
        """The hash of the weights' file, computed once; None if it is gone."""
        if self._sha256 is None and os.path.exists(origin.path):
            self._sha256 = sha256_of(Path(origin.path))
        return self._sha256

    def _model_hash(self) -> str:
        config = None if self._run is None else self._run.config
        if config is None or "model" not in config:
            return ""
        try:
            return config_hash(resolved(config).model)
        except ConfigError:  # live objects, which a program put there
            return ""

    def _redirect(self, folders: Mapping[str, str]) -> None:
        for evaluator, name, value in _folders_of(self._evaluators):
            if str(value) in folders:
                self._restored.append((evaluator, name, value))
                setattr(evaluator, name, type(value)(folders[str(value)]))

    def _check_same_weights(self) -> None:
        """All processes must have the same model: their predictions are put together."""
        found = comm.all_gather(self.fingerprint())
        others = [rank for rank, value in enumerate(found) if value != found[0]]
        if not others:
            return
        message = f"Process {others[0]} has other weights or another config than process 0"
        if self._run is None or self._run.weights is None:
            raise UserError(f"{message}: their predictions can't be put together. Give all processes the same files.")
        logger.warning("%s: each evaluates its videos with its own weights.", message)

    # What is recorded

    def _git(self) -> dict[str, Any] | None:
        """The commit of the code; a training's is in the record of its attempt, and asking git takes a while."""
        return None if self._is_of_training() else git_state(Path(ultravid.__file__).parents[1])[0]

    def _describe_run(self) -> dict[str, Any] | None:
        if self._run is None:
            return None
        attempts = self._run.folder.list_attempts()
        attempt = attempts[-1].number if attempts and self._is_of_training() and attempts[-1].read_record() else None
        return {"folder": os.path.abspath(self._run.folder), "attempt": attempt, "data_set": self._run.data_set or None}

    def _describe_weights(self) -> dict[str, Any]:
        run = self._run
        trained = None if run is None or not _contains(self.model, run.model) else run.weights
        origin, changed = weights_origin(self.model)
        facts: dict[str, Any] = {"path": None, "sha256": None, "model_sha256": self.fingerprint()}
        if trained is not None:
            return {**facts, "iteration": trained.iteration, "averaged": trained.averaged}
        if self._is_of_training() and (origin is None or changed):
            return {**facts, "iteration": get_event_storage().iter if has_event_storage() else None, "averaged": None}
        if origin is None:
            return {**facts, "iteration": None, "averaged": None}
        return {
            **facts,
            "path": origin.path,
            "address": origin.address,
            "sha256": self._weights_hash(origin),
            "iteration": origin.iteration,
            "averaged": origin.averaged,
            "from_scratch": origin.from_scratch,
            "changed_since_loaded": changed,
        }

    def _describe_config(self, folder: InferenceFolder) -> dict[str, Any] | None:
        run = self._run
        if run is None or run.config is None:
            return None
        config = run.config
        try:
            if run.config_file is None:
                folder.path.mkdir(parents=True, exist_ok=True)
                config = config.copy()
                resolve_environment(config)
                LazyConfig.save(config, folder.config)
            else:
                folder.config.unlink(missing_ok=True)  # of an earlier evaluation
            file = os.path.relpath(run.config_file or folder.config, folder.path)
            return {"file": file, "sha256": config_hash(config)}
        except ConfigError as error:
            return {"file": None, "sha256": None, "why": str(error)}

    def _identity(self, data: dict[str, Any] | None, seen: _Seen) -> str:
        """A hash of what the metrics depend on besides the weights: data, how they are read, evaluators."""
        settings: list[Any] = [self._content["evaluators"], data, seen.digest]
        config = None if self._run is None else self._run.config
        if config is not None and "dataloader" in config:
            with contextlib.suppress(ConfigError):
                loader, folders = resolved(config).dataloader, naming_folders(config)
                parts = [with_project_names(loader[key], folders) for key in ("test", "evaluator") if key in loader]
                settings += [_significant(to_data(part)) for part in parts]
        return hashlib.sha256(json.dumps(settings, sort_keys=True, default=repr).encode()).hexdigest()


@dataclass
class _Seen:
    """The inputs of an evaluation, counted in any order."""

    frames: int = 0
    cached: int = 0
    videos: set[Any] = field(default_factory=set)
    of_no_rate: Counter[str] = field(default_factory=Counter)  # frames by video
    classes: dict[tuple[str, ...], tuple[Any, ...]] = field(default_factory=dict)  # names and ids in the annotations
    merged_classes: Counter[str] = field(default_factory=Counter)
    digest: int = 0

    def add(self, inputs: Any, cached: bool) -> None:
        for given in inputs if isinstance(inputs, list | tuple) else [inputs]:
            self.frames += 1
            self.cached += cached
            if not isinstance(given, Mapping):
                continue
            names = [given.get(key) for key in ("video_id", "frame_index", "image_id")]
            if names[0] is not None:
                if str(names[0]) not in self.videos and given.get("class_names"):
                    self.classes[tuple(given["class_names"])] = tuple(given.get("category_ids") or ())
                    self.merged_classes.update(given.get("merged_classes") or {})
                self.videos.add(str(names[0]))
                if not given.get("fps") and given.get("time_s") is None:
                    self.of_no_rate[str(names[0])] += 1
            sha256 = hashlib.sha256(repr(names).encode()).digest()
            self.digest = (self.digest + int.from_bytes(sha256[:16], "big")) % 2**128

    @classmethod
    def sum(cls, parts: Iterator[_Seen]) -> _Seen:
        """What several processes saw."""
        total = cls()
        for part in parts:
            total.frames += part.frames
            total.cached += part.cached
            total.videos |= part.videos
            total.of_no_rate += part.of_no_rate
            total.classes |= part.classes
            total.merged_classes += part.merged_classes
            total.digest = (total.digest + part.digest) % 2**128
        return total

    def facts(self) -> dict[str, Any]:
        """As a record has it."""
        counts = {"frames": self.frames, "videos": len(self.videos), "reused": self.cached}
        assumed = sum(frames > 1 for frames in self.of_no_rate.values())  # a still needs no rate
        facts: dict[str, Any] = {**counts, "videos_of_assumed_rate": assumed, "ids": f"{self.digest:032x}"}
        for names, ids in list(self.classes.items())[:1]:
            merged = dict(sorted(self.merged_classes.items()))
            facts["classes"] = {"names": list(names), "category_ids": list(ids), "read_as_one": merged}
        return facts


def read_record_or_none(folder: InferenceFolder) -> Any:
    """The record in a folder that is about to be replaced; None if there is none, or a file that is damaged."""
    try:
        return read_record(folder)
    except UserError as error:
        logger.warning("%s It is replaced.", error)
        return None


def _folders_of(evaluators: Sequence[Any]) -> list[tuple[Any, str, Any]]:
    """(evaluator, attribute, folder) of the evaluators that have a local folder."""
    found = []
    for evaluator in evaluators:
        for name in _FOLDER_NAMES:
            value = getattr(evaluator, name, None)
            if isinstance(value, str | Path) and str(value) and is_local(value):
                found.append((evaluator, name, value))
    return found


def _free_folder(run: EvaluatedRun, name: str) -> str:
    """The folder to record evaluators in that have none: that of the run, unless another evaluation is recorded there."""
    folder = run.folder.inference / run.data_set
    names = itertools.chain(["", name], (f"{name}_{number}" for number in itertools.count(2)))
    return next(path for each in names if (path := str(folder / each)) not in run.recorded)


def _to_record(path: str, run: EvaluatedRun | None) -> str:
    """The folder for the record of an evaluation that writes to a folder; not the run's own, which holds its other files."""
    is_root = run is not None and os.path.abspath(path) == os.path.abspath(run.folder)
    return str(run.folder.inference) if is_root and run is not None else path


def _contains(model: nn.Module, part: nn.Module | None) -> bool:
    return part is None or any(module is part for module in model.modules())


def _moved(path: str, run: RunFolder, own: str) -> str:
    """The path with the run's folder of evaluations replaced; one outside of the run stays."""
    folder, place = os.path.abspath(run), os.path.abspath(path)
    if place != folder and not place.startswith(folder + os.sep):
        return path
    parts = Path(os.path.relpath(place, folder)).parts
    if parts and parts[0] != run.inference.name:
        own = own.replace(run.inference.name, parts[0], 1)
    return str(Path(run, own, *parts[1:]))


def _files_in(folder: InferenceFolder) -> dict[str, tuple[Path, tuple[int, int, int]]]:
    """The files of an evaluation but its record, by name; the manifest vouches for those of the predictions."""
    paths = [*(folder.path.iterdir() if folder.path.is_dir() else []), folder.manifest]
    files = [path for path in sorted(paths) if path.is_file() and path != folder.record]
    stats = [(path, path.stat()) for path in files]
    return {
        path.relative_to(folder.path).as_posix(): (path, (stat.st_mtime_ns, stat.st_size, stat.st_ino))
        for path, stat in stats
    }


def _describe_evaluator(evaluator: Any) -> dict[str, Any]:
    settings = getattr(evaluator, "settings", None)
    kind = type(evaluator)
    name = f"{kind.__module__}.{kind.__qualname__}"
    return {"class": name, "settings": _plain(settings()) if callable(settings) else {}}


def _plain(value: Any) -> Any:
    """What JSON can hold of it: numbers of numpy and torch as numbers, anything else as its text."""

    def other(value: Any) -> Any:
        try:
            return float(value)
        except (TypeError, ValueError):
            return repr(value)

    return json.loads(json.dumps(value, default=other))


def _significant(data: Any) -> Any:
    """A part of a config without what does not change metrics."""
    if isinstance(data, dict):
        return {key: _significant(value) for key, value in data.items() if key not in _WITHOUT_INFLUENCE}
    return [_significant(value) for value in data] if isinstance(data, list) else data


_FINGERPRINTS: weakref.WeakKeyDictionary[Any, dict[str, dict[str, Any]] | None] = weakref.WeakKeyDictionary()


def _fingerprint_each(loader: Any) -> dict[str, dict[str, Any]] | None:
    """`fingerprint_each`, computed once for the evaluations of a training: it takes half a second for 100 000 frames."""
    try:
        if loader not in _FINGERPRINTS:
            _FINGERPRINTS[loader] = fingerprint_each(loader)
        return _FINGERPRINTS[loader]
    except TypeError:  # a list, which can't be a key
        return fingerprint_each(loader)
