"""The record of each attempt of a run: enough to repeat it."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

import ultravid
from ultravid.config import LazyConfig, diff
from ultravid.datasets.fingerprint import fingerprint_loader
from ultravid.engine.train_loop import HookBase
from ultravid.engine.when import HookOrder
from ultravid.utils import comm
from ultravid.utils.process_facts import git_state, iso_time, package_versions
from ultravid.utils.run_folder import RunFolder, process_start_time
from ultravid.utils.tool import command_line

__all__ = ["RunRecord"]


class RunRecord(HookBase):
    """Writes a folder for each attempt, ``attempts/1``, ``attempts/2``, ...: ``record.json``, ``config.yaml`` and ``git.diff``.

    ``record.json`` holds the command, the versions, the git commit, the seed, the fingerprints of the data, what changed in
    the config since the attempt before, and the iteration at which the attempt began; at the end also how and where it ended. A
    process that is killed writes no end. `ultravid.utils.run_folder.RunFolder.state` reads the record.

    Args:
        output_dir: the run's output folder; its ``config.yaml`` is copied.
        seed: the run's seed.
        datasets: loaders by name.
    """

    order: ClassVar[int] = HookOrder.RECORD

    def __init__(
        self, output_dir: str | Path, seed: int | None = None, datasets: Mapping[str, Any] | None = None
    ) -> None:
        self._run = RunFolder(output_dir)
        self._seed = seed
        self._datasets = dict(datasets or {})
        self._record: dict[str, Any] = {}  # empty before training, and in all processes but the main one
        self._config = ""

    def before_train(self) -> None:
        """Write what is known at the start."""
        if not comm.is_main_process():
            return
        self._begin = time.time()
        self._attempt = self._run.new_attempt()
        git, changes = git_state(Path(ultravid.__file__).parents[1])
        if changes:
            self._attempt.changes.write_text(changes, encoding="utf-8")
        self._record = {
            "attempt": self._attempt.number,
            "started": iso_time(self._begin),
            "command": command_line(),
            "folder": str(Path.cwd()),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_started": process_start_time(os.getpid()),
            "torchrun": os.environ.get("TORCHELASTIC_RUN_ID"),
            "processes": comm.get_world_size(),
            "python": platform.python_version(),
            "versions": {"ultravid": ultravid.__version__, **package_versions()},
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "threads": torch.get_num_threads(),
            "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(("ULTRAVID_", "CUDA_VISIBLE"))},
            "git": git,
            "seed": self._seed,
            "datasets": {name: fingerprint_loader(loader) for name, loader in self._datasets.items()},
            "config_changes": self._copy_config(),
            "start_iter": self.trainer.start_iter,
            "max_iter": self.trainer.max_iter,
            "end": None,
        }
        self._attempt.write_record(self._record)

    def _copy_config(self) -> list[str]:
        """Copy the run's config to this attempt's folder; return how it differs from the attempt before."""
        config = self._run.config
        if not config.is_file():
            return []
        shutil.copy(config, self._attempt.config)
        self._config = config.read_text(encoding="utf-8")
        earlier = self._run.list_attempts()[:-1]
        if self.trainer.start_iter == 0 or not earlier or not earlier[-1].config.is_file():
            return []
        return [str(difference) for difference in diff(LazyConfig.load(earlier[-1].config), LazyConfig.load(config))]

    def after_train(self) -> None:
        """Write how the attempt ended."""
        if not self._record:
            return
        trainer = self.trainer
        failure = "" if trainer.failure is None else f"{type(trainer.failure).__name__}: {trainer.failure}"
        how = "finished" if trainer.failure is None else "stopped" if trainer.stopped else "failed"
        now = time.time()
        self._record["end"] = {
            "how": how,
            "why": failure,
            "time": iso_time(now),
            "seconds": round(now - self._begin, 3),
            "iter": trainer.iter,
        }
        self._attempt.write_record(self._record)

    def state_dict(self) -> dict[str, Any]:
        """The resolved config, so that each checkpoint names the config it was made with."""
        return {"config": self._config}
