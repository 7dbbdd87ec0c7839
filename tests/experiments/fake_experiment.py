"""tools/experiment.py with jobs of the fake launcher: its config is not looked at, so that nothing imports torch."""

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from ultravid.config import Node
from ultravid.experiments import checking
from ultravid.experiments.checking import CheckedJob
from ultravid.experiments.plan import PlannedJob
from ultravid.utils.tool import run_tool

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = Path(__file__).with_name("fake_launcher.py")


def fake_check(config_file, common, jobs):
    """Every job is right; what it overrides is its identity."""
    return Node(), [CheckedJob(job, hashlib.sha256(repr(job.overrides).encode()).hexdigest()) for job in jobs]


def fake_command(self, config_file, python, *options):
    program = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-S", str(LAUNCHER)]
    return [*program, *options, *self.overrides, f"train.output_dir={self.run.path}"]


def fake_tool() -> ModuleType:
    """The tool as a module of its own; `run_fake` gives it fake jobs."""
    spec = importlib.util.spec_from_file_location("fake_experiment_tool", ROOT / "tools/experiment.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def run_fake(tool: ModuleType, arguments: list[str]) -> int:
    """The tool's exit code for arguments, in this process."""
    real = checking.check_jobs, PlannedJob.command
    # no getattr: modules of configs look names up in their files
    checks = [module for module in [tool, *sys.modules.values()] if vars(module).get("check_jobs") is real[0]]
    PlannedJob.command = fake_command
    for module in checks:
        module.check_jobs = fake_check
    try:
        return run_tool(tool.main, arguments)
    finally:
        PlannedJob.command = real[1]
        for module in checks:
            module.check_jobs = real[0]


if __name__ == "__main__":
    sys.exit(run_fake(fake_tool(), sys.argv[1:]))
