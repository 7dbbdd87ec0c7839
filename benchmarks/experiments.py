#!/usr/bin/env python
"""The cost of experiments: planning and status of many jobs, and the time between the end of a job and the start of the next.

    python benchmarks/experiments.py [--planned 1000] [--jobs 6] [--config-file FILE]

Rows, in seconds of wall time, for commands also in CPU seconds of their processes, in which other load matters little:

- plan and check: ``tools/experiment.py --dry-run`` over so many seeds, as a command, its start and imports included.
- status: ``--status`` of a folder of so many finished runs, as a command; and reading alone.
- from job to job: between a point in a job and the same point in the next one, whose work between the two is nothing: the
  end of a launcher and the start of another. ``tools/experiment.py`` beside a shell that runs the lines of ``--print-jobs`` one
  after another: the median over the jobs, and the ratio of the two.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ultravid.experiments.plan import ExperimentFolder
from ultravid.experiments.status import status_of

ROOT = Path(__file__).resolve().parents[1]
TOOL = [sys.executable, str(ROOT / "tools/experiment.py")]
CONFIG = ROOT / "projects/basicdet/configs/phantom.py"

TRAINER = '''
import time

class NoTrainer:
    """Notes when it is asked to train."""

    def __init__(self, file):
        self.file = file

    def resume_or_load(self, resume=True):
        pass

    def train(self):
        with open(self.file, "a") as file:
            file.write(f"{time.monotonic()}\\n")
'''
TRIVIAL_CONFIG = """
from no_trainer import NoTrainer
from ultravid.config import LazyCall as L

train = dict(output_dir="", device="cpu", seed=0, init_checkpoint="")
model = L(dict)()
dataloader = dict(train=L(list)(), test=L(list)(), evaluator=L(list)())
trainer = L(NoTrainer)(file="{file}")
"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", type=Path, default=CONFIG, help="what is planned (BasicDet on the phantom)")
    parser.add_argument("--planned", type=int, default=1000, help="jobs to plan and to read")
    parser.add_argument("--jobs", type=int, default=6, help="jobs to run one after another")
    return parser.parse_args(argv)


def cpu_of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def seconds_of(command: Sequence[str]) -> str:
    """Wall time and CPU time of a command that must succeed."""
    begin, cpu = time.perf_counter(), cpu_of_children()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if ended.returncode:
        sys.exit(f"{command}: {ended.stderr}")
    return f"{time.perf_counter() - begin:8.2f} s, CPU {cpu_of_children() - cpu:.2f} s"


def finish(folder: ExperimentFolder) -> None:
    """Make each planned job look finished: the files of a run, small."""
    plan = folder.read_plan()
    assert plan is not None
    for job in plan.jobs:
        attempt = job.run.new_attempt()
        attempt.write_record({"max_iter": 100, "end": {"how": "finished"}})
        rows = [{"iteration": i, "time": 0.1, "total_loss": 1.0, "lr": 1e-4} for i in range(100)]
        job.run.metrics.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        job.run.inference.mkdir()
        job.run.evaluation_metrics.write_text(json.dumps({"AP50": 50.0, "mAP": 30.0}))
        job.run.job_record.write_text(json.dumps({"starts": [{"host": "here"}], "exit_code": 0}))
        job.run.checkpoint("model_final").touch()


def measure_planning(config: Path, planned: int, folder: Path) -> None:
    experiment = ["--config-file", str(config), "--output-dir", str(folder)]
    swept = f"train.seed=range({planned})"
    planning = seconds_of([*TOOL, *experiment, "--max-jobs", str(planned), "--dry-run", swept])
    print(f"plan and check {planned} jobs       {planning}")
    write_plan(folder, planned)
    finish(ExperimentFolder(folder))
    status = seconds_of([*TOOL, *experiment, "--status"])
    print(f"status of {planned} jobs            {status}")
    plan = ExperimentFolder(folder).read_plan()
    assert plan is not None
    begin, cpu = time.perf_counter(), time.process_time()
    for job in plan.jobs:
        status_of(job.run)
    wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
    print(f"status of {planned} jobs, reading   {wall:8.2f} s, CPU {cpu:.2f} s")


def write_plan(folder: Path, planned: int) -> None:
    """A plan as the tool writes it; running the command would start the jobs."""
    jobs = [
        {
            "number": n,
            "identity": f"{n:064x}",
            "name": "",
            "folder": f"jobs/{n:03d}-{n:08x}",
            "settings": {"train.seed": str(n)},
            "overrides": [f"train.seed={n}"],
        }
        for n in range(planned)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    content = {"format": 1, "config_file": str(CONFIG), "swept": ["train.seed"], "jobs": jobs}
    ExperimentFolder(folder).plan.write_text(json.dumps(content))


def gaps_in(file: Path) -> list[float]:
    times = [float(line) for line in file.read_text().splitlines()]
    file.unlink()
    return [b - a for a, b in itertools.pairwise(times)]


def measure_gaps(num_jobs: int, folder: Path) -> None:
    times, config = folder / "times.txt", folder / "trivial.py"
    (folder / "no_trainer.py").write_text(TRAINER)
    config.write_text(TRIVIAL_CONFIG.format(file=times))
    jobs = ["--config-file", str(config), f"train.seed=range({num_jobs})"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    printed = subprocess.run(
        [*TOOL, *jobs, "--output-dir", str(folder / "shell"), "--print-jobs"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    medians = {}
    commands = {
        "a shell's loop": ["sh", "-c", printed.stdout],
        "tools/experiment.py": [*TOOL, *jobs, "--output-dir", str(folder / "tool"), "--slots", "1"],
    }
    for name, command in commands.items():
        seconds_of(command)
        gaps = gaps_in(times)
        assert len(gaps) == num_jobs - 1, f"{name}: {len(gaps)} gaps"
        medians[name] = statistics.median(gaps)
        print(f"from job to job, {name:20}{medians[name]:6.2f} s ({min(gaps):.2f} to {max(gaps):.2f})")
    shell, tool = medians.values()
    print(f"ratio of the two                {tool / shell:10.2f}")


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        measure_planning(args.config_file, args.planned, Path(folder) / "planned")
        measure_gaps(args.jobs, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
