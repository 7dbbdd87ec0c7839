"""tools/experiment.py as a user meets it: sweeps of real runs on the phantom, which are killed and go on."""

import csv
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT, read_rows, same_weights, small_arguments, without_times
from tests.quick_python import quick_python
from ultravid.experiments.status import started_process, status_of
from ultravid.utils.run_folder import RunFolder


def command(phantom, folder, *arguments):
    """A sweep of runs of a few seconds."""
    small = [a for a in small_arguments(phantom, folder) if not a.startswith("train.output_dir=")]
    return [quick_python(), str(ROOT / "tools/experiment.py"), *small, "--output-dir", str(folder), *arguments]


def start(*arguments):
    return subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(*arguments):
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False)


def runs_of(folder):
    return [RunFolder(path) for path in sorted(Path(folder).glob("jobs/*"))]


def wait_until(condition):
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def num_rows(folder):
    """Iterations that all jobs together have recorded."""
    return sum((status_of(run).iteration or -1) + 1 for run in runs_of(folder))


def kill_jobs(folder, most=100):
    found = [process for run in runs_of(folder) if (process := started_process(run)) is not None]
    for process in found[:most]:
        os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not any(started_process(run) in found[:most] for run in runs_of(folder)))


def same_results(a, b):
    """Whether two experiments have the same bits: weights, recorded rows, metrics, summary."""
    pairs = list(zip(runs_of(a), runs_of(b), strict=True))
    assert (Path(a) / "summary.csv").read_text() == (Path(b) / "summary.csv").read_text()
    for one, other in pairs:
        assert one.path.name == other.path.name
        assert same_weights(one.checkpoint("model_final"), other.checkpoint("model_final"))
        assert without_times(read_rows(one.metrics)) == without_times(read_rows(other.metrics))
        assert one.evaluation_metrics.read_text() == other.evaluation_metrics.read_text()
    return True


def test_a_real_run_that_was_killed_is_resumed_by_the_same_command(phantom, tmp_path):
    folder = tmp_path / "sweep"
    arguments = (phantom, folder, "train.seed=choice(1)", "train.max_iter=5")
    first = start(*arguments)
    wait_until(lambda: num_rows(folder) > 3)
    first.kill()
    first.communicate()
    kill_jobs(folder)
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert "1 job: 1 died; 1 to run" in done.stdout
    with (folder / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["number"], row["train.seed"]) for row in rows] == [("0", "1")] and "AP50" in rows[0]
    assert [row["iteration"] for row in read_rows(runs_of(folder)[0].metrics)] == [0, 1, 2, 3, 4, 5]


@pytest.mark.slow_models
def test_a_sweep_that_was_killed_three_times_at_random_gives_the_bits_of_one_that_was_left_alone(phantom, tmp_path):
    sweep = ("optimizer.lr=1e-4,3e-4,1e-3", "train.seed=range(2)", "--slots", "2")
    done = run(phantom, tmp_path / "alone", *sweep)
    assert done.returncode == 0, done.stderr
    seed = random.SystemRandom().randrange(1000)
    chance, folder = random.Random(seed), tmp_path / "killed"
    moments = sorted(chance.randrange(1, 40) for _ in range(3))
    experiment = start(phantom, folder, *sweep)
    for moment, what in zip(moments, chance.sample(["the experiment", "a job", "all"], 3), strict=True):
        wait_until(lambda: num_rows(folder) >= moment)  # noqa: B023
        if what != "a job":
            experiment.kill()
            experiment.communicate()
        if what != "the experiment":
            kill_jobs(folder, most=1 if what == "a job" else 100)
        if what != "a job":
            experiment = start(phantom, folder, *sweep)
    said, error = experiment.communicate()
    assert experiment.returncode == 0, f"seed {seed}, kills after {moments} of 48 iterations\n{said}\n{error}"
    assert same_results(tmp_path / "alone", folder)
