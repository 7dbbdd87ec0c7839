"""Writers for experiment trackers: Weights & Biases and MLflow.

Each tracks a run under one id, which is kept in a small file beside the run's checkpoints: a resumed run continues under it,
and what was sent before is not sent again. The libraries are optional; they are imported at the first write.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import re
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from ultravid.utils.errors import UserError
from ultravid.utils.events import EventStorage, EventWriter, get_event_storage
from ultravid.utils.file_io import archive_file, replace_file, require_local

__all__ = ["MLflowWriter", "WandbWriter"]

logger = logging.getLogger(__name__)

_WANDB_MAX_BINS = 512  # wandb.Histogram.MAX_LENGTH
_MLFLOW_PARAMS_PER_CALL = 100  # the most that its servers accept
_MLFLOW_METRICS_PER_CALL = 1000
_MLFLOW_MAX_PARAM_LENGTH = 6000


class _TrackedWriter(EventWriter):
    """What the trackers have in common: the file with the id, what was sent already, and the config."""

    library: str
    install: str

    def __init__(
        self, output_dir: str | Path, config: Mapping[str, Any] | str | Path | None, window_size: int | None
    ) -> None:
        if importlib.util.find_spec(self.library) is None:
            raise UserError(
                f"{type(self).__name__} needs {self.library}, which is not installed: {self.install} "
                "(or remove this writer from the config)."
            )
        self._output_dir = require_local(output_dir, f"The folder of {type(self).__name__}")
        self._id_file = self._output_dir / f"{self.library}_run.json"
        self._config = config
        self._window_size = window_size
        self._last_sent = -1  # by an earlier attempt: nothing at or before it is sent again
        self._last_row = -1
        self._run_id = ""
        self._run: Any = None

    def rewind(self, iteration: int) -> None:
        """See `EventWriter.rewind`. A run that starts at iteration 0 is tracked as a new one.

        What was sent to a tracker can't be withdrawn. So rows up to the last one that an earlier attempt sent are not sent
        again: a run that is resumed from its checkpoint gives the same values there.
        """
        if iteration > 0:
            self.resume(iteration)
        elif self._id_file.is_file():
            archive_file(self._id_file)

    def resume(self, next_row: int) -> None:
        """See `EventWriter.resume`."""
        if not self._id_file.is_file():
            return
        try:
            known = json.loads(self._id_file.read_text(encoding="utf-8"))
            self._run_id, self._last_sent = str(known["id"]), int(known["last_iteration"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{self._id_file} does not say which run of {self.library} to continue; remove it to track a new one."
            ) from error
        if self._last_sent >= next_row:
            logger.info(
                "%s keeps iterations %d to %d of the earlier attempt; this one's are sent from %d on.",
                *(self.library, next_row, self._last_sent, self._last_sent + 1),
            )

    def write(self) -> None:
        """Send all new scalars, images and, if the tracker has them, histograms."""
        storage = get_event_storage()
        if self._run is None:
            resumed = bool(self._run_id)
            self._run_id = self._run_id or self._new_id()
            self._start(resumed)
        rows = storage.new_rows(self, self._window_size)
        self._send(rows, storage)
        storage.mark_written(self)
        self._last_row = max([self._last_row, *rows])
        self._output_dir.mkdir(parents=True, exist_ok=True)
        with replace_file(self._id_file) as file:
            last = max(self._last_row, self._last_sent)
            file.write(json.dumps({"id": self._run_id, "last_iteration": last}).encode())

    def _new_id(self) -> str:
        """The id of a new run; "" leaves it to `_start`."""
        return uuid.uuid4().hex[:12]

    def _start(self, resumed: bool) -> None:
        """Import the library, and start or continue the run ``self._run_id``."""
        raise NotImplementedError

    def _send(self, rows: dict[int, dict[str, float]], storage: EventStorage) -> None:
        """Send what no earlier attempt sent."""
        raise NotImplementedError

    def _config_values(self) -> dict[str, Any]:
        if self._config is None:
            return {}
        if isinstance(self._config, Mapping):
            return dict(self._config)
        path = Path(self._config)
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError) as error:
            raise UserError(f"{type(self).__name__}: config={str(path)!r} can't be read as YAML: {error}") from error
        if not isinstance(values, dict):
            raise UserError(f"{type(self).__name__}: config={str(path)!r} holds no YAML mapping.")
        return values


class WandbWriter(_TrackedWriter):
    """Sends to Weights & Biases; a step of its charts is an iteration.

    Without a network, ``mode="offline"`` or the environment variable ``WANDB_MODE=offline`` writes below ``output_dir``; ``wandb
    sync --append`` sends it later, one folder for each attempt.

    Args:
        output_dir: the run's folder; ``wandb_run.json`` in it keeps the id.
        project: the project in which the run is listed.
        name: the run's name; None: the folder's name.
        mode: "online", "offline" or "disabled"; None: as ``WANDB_MODE`` says.
        config: the run's config, or a YAML file with it, as ``${train.output_dir}/config.yaml``.
        window_size: see `ultravid.utils.events.JSONWriter`.
        kwargs: passed to ``wandb.init``: ``entity``, ``group``, ``tags``, ....

    Raises:
        UserError: wandb is not installed.
    """

    library = "wandb"
    install = "pip install wandb"

    def __init__(
        self,
        output_dir: str | Path,
        *,
        project: str = "ultravid",
        name: str | None = None,
        mode: str | None = None,
        config: Mapping[str, Any] | str | Path | None = None,
        window_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        if mode not in (None, "online", "offline", "disabled"):
            raise UserError(f"WandbWriter: mode={mode!r} is neither 'online', 'offline' nor 'disabled'.")
        super().__init__(output_dir, config, window_size)
        self._kwargs = {"project": project, "name": name or self._output_dir.resolve().name, "mode": mode, **kwargs}

    def _start(self, resumed: bool) -> None:
        import wandb

        offline = (self._kwargs["mode"] or os.environ.get("WANDB_MODE")) in ("offline", "disabled")
        kwargs = {
            "dir": str(self._output_dir),
            "config": self._config_values(),
            "resume": "allow" if resumed and not offline else None,  # offline it has no effect, and wandb warns
            "settings": wandb.Settings(console="off"),  # log.txt has the same, and progress bars would go through it
            **self._kwargs,
        }
        self._output_dir.mkdir(parents=True, exist_ok=True)
        try:
            self._run = wandb.init(id=self._run_id, **kwargs)
        except wandb.errors.UsageError as error:  # not logged in, most often
            raise UserError(
                f"WandbWriter: {error} Without a network, mode='offline' writes to {kwargs['dir']}."
            ) from error

    def _send(self, rows: dict[int, dict[str, float]], storage: EventStorage) -> None:
        import wandb

        everything: dict[int, dict[str, Any]] = defaultdict(dict, {i: dict(row) for i, row in rows.items()})
        images, histograms = storage.take_new(self)
        for name, image, iteration in images:
            everything[iteration][name] = wandb.Image(_to_image_array(image))
        for histogram in histograms:
            counts_and_edges = _merge_bins(histogram, _WANDB_MAX_BINS)
            everything[histogram["global_step"]][histogram["tag"]] = wandb.Histogram(np_histogram=counts_and_edges)
        for iteration in sorted(everything):
            if iteration > self._last_sent:
                self._run.log(everything[iteration], step=iteration, commit=True)

    def close(self) -> None:
        """Wait until everything is sent or, offline, on disk."""
        if self._run is not None:
            self._run.finish()
            self._run = None


class MLflowWriter(_TrackedWriter):
    """Sends to MLflow: metrics by iteration, images as artifacts ``images/<name>/<iteration>.png``, the config as parameters.

    MLflow has no histograms. Characters that it doesn't allow in names become ``_``: ``R@16`` is ``R_16``.

    Args:
        output_dir: the run's folder; ``mlflow_run.json`` in it keeps the id.
        tracking_uri: a server's address, or ``sqlite:///mlflow.db``; None: ``MLFLOW_TRACKING_URI``, or MLflow's default. MLflow
            opens a ``file:`` store only if ``MLFLOW_ALLOW_FILE_STORE=true`` is set.
        experiment: the experiment in which the run is listed.
        name: the run's name; None: the folder's name.
        config: see `WandbWriter`; nested keys are joined by dots.
        tags: the run's tags.
        window_size: see `ultravid.utils.events.JSONWriter`.

    Raises:
        UserError: mlflow is not installed.
    """

    library = "mlflow"
    install = "pip install mlflow-skinny sqlalchemy alembic"

    def __init__(
        self,
        output_dir: str | Path,
        *,
        tracking_uri: str | None = None,
        experiment: str = "ultravid",
        name: str | None = None,
        config: Mapping[str, Any] | str | Path | None = None,
        tags: Mapping[str, str] | None = None,
        window_size: int | None = None,
    ) -> None:
        super().__init__(output_dir, config, window_size)
        self._tracking_uri = tracking_uri
        self._experiment = experiment
        self._name = name or self._output_dir.resolve().name
        self._tags = dict(tags or {})
        self._names: dict[str, str] = {}
        self._warned: set[str] = set()

    def _new_id(self) -> str:
        return ""  # MLflow chooses it

    def _start(self, resumed: bool) -> None:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        try:
            self._run = MlflowClient(self._tracking_uri)
            if resumed:
                self._continue()
            else:
                self._create()
        except MlflowException as error:
            raise UserError(f"MLflowWriter, tracking_uri={self._tracking_uri!r}: {error}") from error

    def _create(self) -> None:
        from mlflow.entities import Param

        found = self._run.get_experiment_by_name(self._experiment)
        experiment = found.experiment_id if found else self._run.create_experiment(self._experiment)
        self._run_id = self._run.create_run(experiment, run_name=self._name, tags=self._tags).info.run_id
        params = [Param(_mlflow_name(k), v[:_MLFLOW_MAX_PARAM_LENGTH]) for k, v in _flat(self._config_values())]
        for start in range(0, len(params), _MLFLOW_PARAMS_PER_CALL):
            self._run.log_batch(self._run_id, params=params[start : start + _MLFLOW_PARAMS_PER_CALL])

    def _continue(self) -> None:
        self._run.update_run(self._run_id, status="RUNNING")
        # If the run was killed before it wrote the file, the store has more than the file says.
        names = self._run.get_run(self._run_id).data.metrics
        steps = [m.step for name in names for m in self._run.get_metric_history(self._run_id, name)]
        self._last_sent = max(steps, default=-1)

    def _send(self, rows: dict[int, dict[str, float]], storage: EventStorage) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        for name in {name for row in rows.values() for name in row}:
            self._warn_of_same_name(name)
        metrics = [
            Metric(_mlflow_name(name), value, now, iteration)
            for iteration in sorted(rows)
            for name, value in rows[iteration].items()
            if iteration > self._last_sent
        ]
        for start in range(0, len(metrics), _MLFLOW_METRICS_PER_CALL):
            self._run.log_batch(self._run_id, metrics=metrics[start : start + _MLFLOW_METRICS_PER_CALL])
        for name, image, iteration in storage.take_new(self)[0]:
            if iteration > self._last_sent:
                file = f"images/{_mlflow_name(name)}/{iteration:07d}.png"
                self._run.log_image(self._run_id, _to_image_array(image), artifact_file=file)

    def _warn_of_same_name(self, name: str) -> None:
        """Warn if another scalar has the same name once characters are replaced that MLflow doesn't allow."""
        other = self._names.setdefault(_mlflow_name(name), name)
        if other != name and name not in self._warned:
            self._warned.add(name)
            logger.warning("MLflow: %r and %r are one metric there, %r.", other, name, _mlflow_name(name))

    def close(self) -> None:
        """Mark the run as finished; if it is resumed, it is marked as running again."""
        if self._run is not None:
            self._run.set_terminated(self._run_id)
            self._run = None


def _to_image_array(image: Any) -> np.ndarray:
    """The ``(H, W, C)`` uint8 array of an image of `EventStorage.put_image`."""
    array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    if array.dtype != np.uint8:
        array = (array * 255).round().clip(0, 255).astype(np.uint8)
    return array.transpose(1, 2, 0)


def _merge_bins(histogram: Mapping[str, Any], max_bins: int) -> tuple[np.ndarray, np.ndarray]:
    """The (counts, edges) of a record of `EventStorage.put_histogram`, with neighbouring bins merged until there are few enough."""
    counts = np.asarray(histogram["bucket_counts"])
    edges = np.asarray([histogram["min"], *histogram["bucket_limits"]])
    width = -(-len(counts) // max_bins)
    starts = np.arange(0, len(counts), width)
    return np.add.reduceat(counts, starts), np.append(edges[starts], edges[-1])


def _mlflow_name(name: str) -> str:
    return re.sub(r"[^\w\-. :/]", "_", name)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of nested mappings, as (dotted key, text)."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)
