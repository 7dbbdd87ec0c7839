"""What each attempt of a run was: enough to make it again."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

import ultravid
from ultravid.config import LazyConfig, diff
from ultravid.datasets.fingerprint import fingerprint_loader
from ultravid.engine.train_loop import HookBase
from ultravid.utils import comm
from ultravid.utils.attempts import new_attempt_folder
from ultravid.utils.file_io import dump_json, replace_file

__all__ = ["RunRecord"]

_PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "fvcore", "hydra-core", "omegaconf")


class RunRecord(HookBase):
    """Writes a folder for each attempt, ``attempts/1``, ``attempts/2``, ...: ``record.json``, ``config.yaml`` and ``git.diff``.

    ``record.json`` holds the command, the versions, the git commit, the seed, the fingerprints of the data, what changed in
    the config since the attempt before, and where the attempt began; when it ends, how and where. One that was killed has no
    end.

    Args:
        output_dir: of the run; its ``config.yaml`` is copied.
        seed: of the run.
        datasets: loaders by name.
    """

    order: ClassVar[int] = 98  # its end is written when the other hooks have ended

    def __init__(
        self, output_dir: str | Path, seed: int | None = None, datasets: Mapping[str, Any] | None = None
    ) -> None:
        self._output_dir = Path(output_dir)
        self._seed = seed
        self._datasets = dict(datasets or {})
        self._record: dict[str, Any] = {}  # empty before the start, and in all processes but the main one
        self._config = ""

    def before_train(self) -> None:
        """Write what is known at the start."""
        if not comm.is_main_process():
            return
        self._begin = time.time()
        self._folder = new_attempt_folder(self._output_dir)
        number = int(self._folder.name)
        git, changes = _git_state(Path(ultravid.__file__).parents[1])
        if changes:
            (self._folder / "git.diff").write_text(changes, encoding="utf-8")
        self._record = {
            "attempt": number,
            "started": _iso(self._begin),
            "command": shlex.join([sys.executable, *sys.argv]),
            "folder": str(Path.cwd()),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "torchrun": os.environ.get("TORCHELASTIC_RUN_ID"),
            "processes": comm.get_world_size(),
            "python": platform.python_version(),
            "versions": {"ultravid": ultravid.__version__, **{p: importlib.metadata.version(p) for p in _PACKAGES}},
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
            "threads": torch.get_num_threads(),
            "environment": {k: v for k, v in sorted(os.environ.items()) if k.startswith(("ULTRAVID_", "CUDA_VISIBLE"))},
            "git": git,
            "seed": self._seed,
            "datasets": {name: fingerprint_loader(loader) for name, loader in self._datasets.items()},
            "config_changes": self._copy_config(number),
            "start_iter": self.trainer.start_iter,
            "max_iter": self.trainer.max_iter,
            "end": None,
        }
        self._write()

    def _copy_config(self, number: int) -> list[str]:
        """Keep this attempt's config, and say what it changes of the one before."""
        config, before = self._output_dir / "config.yaml", self._folder.parent / str(number - 1) / "config.yaml"
        if not config.is_file():
            return []
        shutil.copy(config, self._folder / "config.yaml")
        self._config = config.read_text(encoding="utf-8")
        if self.trainer.start_iter == 0 or not before.is_file():
            return []
        return [str(difference) for difference in diff(LazyConfig.load(before), LazyConfig.load(config))]

    def after_train(self) -> None:
        """Write how it ended."""
        if not self._record:
            return
        trainer = self.trainer
        failure = "" if trainer.failure is None else f"{type(trainer.failure).__name__}: {trainer.failure}"
        how = "finished" if trainer.failure is None else "stopped" if trainer.stopped else "failed"
        now = time.time()
        self._record["end"] = {
            "how": how,
            "why": failure,
            "time": _iso(now),
            "seconds": round(now - self._begin, 3),
            "iter": trainer.iter,
        }
        self._write()

    def state_dict(self) -> dict[str, Any]:
        """The resolved config, so that a checkpoint says what it was made with."""
        return {"config": self._config}

    def _write(self) -> None:
        with replace_file(self._folder / "record.json") as file:
            file.write(dump_json(self._record, indent=1).encode())


def _iso(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def _git_state(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Commit and state of the checkout that the package runs from, and the text of what is not committed."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, errors="replace", timeout=20).stdout

    try:
        if Path(git("rev-parse", "--show-toplevel").strip()) != folder.resolve():
            return None, ""  # installed inside some other checkout
        changes = git("diff", "HEAD")
        untracked = git("ls-files", "--others", "--exclude-standard").split("\n")[:-1]
        return {"commit": git("rev-parse", "HEAD").strip(), "changed": bool(changes), "untracked": untracked}, changes
    except (OSError, subprocess.SubprocessError):
        return None, ""
