"""Experiments of fake jobs as a user meets them: what is killed goes on, nothing starts twice, and what is shown."""

import contextlib
import csv
import errno
import fcntl
import json
import os
import pty
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.experiments.fake_experiment import fake_tool, run_fake
from ultravid.experiments.plan import ExperimentFolder
from ultravid.experiments.running import process_at_work, run_locally
from ultravid.experiments.status import JobState, note_process, note_start, started_process, status_of
from ultravid.utils.processes import machine_id
from ultravid.utils.run_folder import RunFolder

SWEEP = ["train.seed=1,2,3", "fake.seconds=0.001"]


@pytest.fixture(scope="module")
def tool():
    return fake_tool()


@pytest.fixture
def arguments(tmp_path):
    """Of an experiment of three jobs, which wait before iteration 12 until the file `gate` is there."""
    (tmp_path / "config.py").touch()
    place = ["--config-file", str(tmp_path / "config.py"), "--output-dir", str(tmp_path / "out")]
    return [*place, *SWEEP, f"fake.gate=12:{tmp_path}/gate"]


@dataclass
class Begun:
    """A process that runs an experiment; its output goes to a file."""

    pid: int
    output: Path

    @property
    def said(self):
        return self.output.read_text()

    def send(self, number):
        os.kill(self.pid, number)

    def wait(self):
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = 0
        return code

    def kill(self):
        if self.pid:
            self.send(signal.SIGKILL)
            self.wait()


@contextlib.contextmanager
def begun(tool, arguments, prepare=lambda: None):
    """The experiment in a process of its own, forked as that starts fast; it is killed at the end with what it has left at work."""
    folder = Path(arguments[arguments.index("--output-dir") + 1])
    output = next(path for n in range(9) if not (path := folder.parent / f"said{n}.txt").exists())
    output.touch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads: those of torch have done nothing yet
        pid = os.fork()
    if pid == 0:
        try:
            prepare()
            sys.stdout = sys.stderr = output.open("w")
            code = run_fake(tool, arguments)
            sys.stdout.flush()
            os._exit(code)
        finally:
            os._exit(99)
    process = Begun(pid, output)
    try:
        yield process
    finally:
        process.kill()
        for run in runs_of(folder):
            if (left := started_process(run)) is not None:
                os.kill(left.pid, signal.SIGKILL)


def runs_of(folder):
    return [RunFolder(path) for path in sorted(Path(folder).glob("jobs/*"))]


def wait_until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def iteration_of(folder, number):
    runs = runs_of(folder)
    return -1 if len(runs) <= number else status_of(runs[number]).iteration or -1


def results_of(folder):
    """What a run leaves, but for times and processes."""
    files = ["model_final.pth", "metrics.json", "inference/metrics.json"]
    return [[(run.path / name).read_text() for name in files] for run in runs_of(folder)]


def starts_of(folder):
    return [len(json.loads(run.job_record.read_text())["starts"]) for run in runs_of(folder)]


@pytest.fixture(scope="module")
def alone(tool, tmp_path_factory):
    """The folder of an experiment that nothing disturbed."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "config.py").touch()
    arguments = ["--config-file", str(folder / "config.py"), "--output-dir", str(folder / "out"), *SWEEP]
    assert run_fake(tool, [*arguments, "--slots", "3"]) == 0
    return folder / "out"


def test_what_is_left_alone_finishes_with_a_summary_and_is_not_run_again(alone, tool, capsys):
    with (alone / "summary.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["train.seed"] for row in rows] == ["1", "2", "3"]
    assert list(rows[0]) == ["number", "train.seed", "AP50", "multi"]
    config = ["--config-file", str(alone.parent / "config.py")]
    assert run_fake(tool, [*config, "--output-dir", str(alone), *SWEEP]) == 0
    assert "3 jobs: 3 finished; 0 to run." in capsys.readouterr().out and starts_of(alone) == [1, 1, 1]


def test_killed_three_times_it_gives_the_bits_of_one_that_was_left_alone(alone, arguments, tool, tmp_path):
    out = tmp_path / "out"

    def at_the_gate(*numbers):
        return lambda: all(iteration_of(out, number) == 11 for number in numbers)

    with begun(tool, [*arguments, "--slots", "2"]) as process:
        wait_until(at_the_gate(0, 1))
        job = started_process(runs_of(out)[0])
        os.kill(job.pid, signal.SIGKILL)  # a job: it is resumed at once
        wait_until(lambda: starts_of(out)[0] == 2 and (now := started_process(runs_of(out)[0])) and now.pid != job.pid)
        process.kill()  # the experiment alone: its jobs go on
        left = [started_process(run) for run in runs_of(out)]
        assert len(left) == 2 and all(left)
        with begun(tool, [*arguments, "--slots", "1"]) as second:  # which waits for them
            wait_until(lambda: second.said.count("waiting for it") == 2 and at_the_gate(0, 1)())
            assert f"job 1: is already running (process {left[1].pid}, which an earlier command started)" in second.said
            second.kill()  # everything
            for process in left:
                os.kill(process.pid, signal.SIGKILL)
            wait_until(lambda: not any(started_process(run) for run in runs_of(out)))
    (tmp_path / "gate").touch()
    assert run_fake(tool, [*arguments, "--slots", "3"]) == 0
    assert starts_of(out) == [3, 2, 1] and results_of(out) == results_of(alone)
    assert (out / "summary.csv").read_text() == (alone / "summary.csv").read_text()


def test_what_is_at_work_still_is_taken_over_to_its_end(alone, arguments, tool, tmp_path):
    out = tmp_path / "out"
    with begun(tool, arguments) as process:
        wait_until(lambda: iteration_of(out, 0) == 11)
        process.kill()
        with begun(tool, [*arguments, "--slots", "2"]) as second:
            wait_until(lambda: "waiting for it" in second.said)
            (tmp_path / "gate").touch()
            assert second.wait() == 0
    assert starts_of(out) == [1, 1, 1] and results_of(out) == results_of(alone)
    assert json.loads(runs_of(out)[0].job_record.read_text())["exit_code"] == 0


def test_ctrl_c_stops_in_order_and_a_second_command_is_refused_meanwhile(alone, arguments, tool, tmp_path, capsys):
    out = tmp_path / "out"
    with begun(tool, [*arguments, "--slots", "2"]) as process:
        wait_until(lambda: iteration_of(out, 1) == 11)
        assert run_fake(tool, arguments) == 2
        error = capsys.readouterr().err
        assert "is in use: an experiment is still running there" in error and f"process {process.pid}" in error
        assert run_fake(tool, [*arguments, "--status"]) == 0
        assert "2 running" in capsys.readouterr().out
        process.send(signal.SIGINT)
        assert process.wait() == 75
    assert "Stopping: the 2 running jobs save and stop" in process.said
    assert process.said.endswith("Stopped. Run the same command to continue.\n")
    assert [status_of(run).state for run in runs_of(out)] == [JobState.STOPPED] * 2  # the third has no folder yet
    (tmp_path / "gate").touch()
    assert run_fake(tool, arguments) == 0 and results_of(out) == results_of(alone)
    assert "3 jobs: 1 waiting, 2 stopped; 3 to run." in capsys.readouterr().out


def test_a_failed_job_is_shown_with_its_error_and_retried_when_that_is_asked_for(tool, arguments, tmp_path, capsys):
    sweep = [*arguments[:4], "fake.exit=2,1", "--restarts", "1"]
    assert run_fake(tool, sweep) == 1
    said, error = capsys.readouterr()
    log = tmp_path / "out/jobs"
    assert "job 0: failed: the config is wrong: \\x1b[31mred\n  log " in said
    assert re.search(rf"Job 0 failed: the config is wrong: .*red\n  log {log}/000-\w+/terminal.txt\n", error)
    assert run_fake(tool, sweep) == 1 and starts_of(tmp_path / "out") == [1, 1]
    assert "2 failed; 0 to run (failed ones again: --retry-failed)" in capsys.readouterr().out
    assert run_fake(tool, [*sweep, "--retry-failed"]) == 1 and starts_of(tmp_path / "out") == [2, 2]
    assert not (tmp_path / "out/summary.csv").exists()


def test_a_job_that_dies_at_one_iteration_again_and_again_is_given_up(tool, arguments, tmp_path, capsys):
    assert run_fake(tool, [*arguments[:4], "train.seed=1", "fake.die_at=7", "--restarts", "2"]) == 1
    said, error = capsys.readouterr()
    assert said.count("job 0: died at iteration 7/20: killed by SIGKILL") == 3 and "resumed, 2 of at most 2" in said
    assert "Job 0 died: killed by SIGKILL" in error and starts_of(tmp_path / "out") == [3]


def test_a_folder_that_can_not_be_written_is_one_message(tool, arguments, monkeypatch, capsys):
    def full(run, **_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(run.job_record))

    monkeypatch.setattr("ultravid.experiments.running.note_start", full)
    assert run_fake(tool, arguments) == 2
    said, error = capsys.readouterr()
    assert "No further job starts: OSError" in said and error.count("error: ") == 1
    assert re.search(r"error: \S+/job.json: can't be read or written \(No space left on device\)", error)


def test_the_folder_of_a_job_that_is_removed_while_it_runs_stops_no_other_job(tool, arguments, tmp_path):
    out = tmp_path / "out"
    with begun(tool, arguments) as process:
        wait_until(lambda: iteration_of(out, 0) == 11)
        (folder,) = [run.path for run in runs_of(out)]
        pid = json.loads((folder / "attempts/1/record.json").read_text())["pid"]
        os.kill(pid, signal.SIGSTOP)  # it must not write while its folder is removed
        shutil.rmtree(folder)
        (tmp_path / "gate").touch()
        os.kill(pid, signal.SIGCONT)
        assert process.wait() == 1
        assert "1 job not run. Run the same command to continue." in process.said and "2 of 3 finished" in process.said


def test_a_finished_job_whose_metrics_are_damaged_is_named(alone, tool, tmp_path, capsys):
    shutil.copytree(alone, tmp_path / "out")
    metrics = runs_of(tmp_path / "out")[1].evaluation_metrics
    metrics.write_text("{")
    config = ["--config-file", str(alone.parent / "config.py")]
    assert run_fake(tool, [*config, "--output-dir", str(tmp_path / "out"), *SWEEP]) == 0
    assert f"WARNING: job 1 is finished, but its metrics can't be read: {metrics}" in capsys.readouterr().err


def test_a_limit_on_the_size_of_files_is_one_message(tool, arguments):
    many = [*arguments[:4], "train.seed=range(30)"]
    with begun(tool, many, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))) as process:
        assert process.wait() == 2
    assert re.fullmatch(r"error: \S+/plan.json: can't be read or written \(File too large\).\n", process.said)


def test_a_pid_that_another_process_got_is_no_job(tmp_path):
    run = RunFolder(tmp_path / "job")
    note_start(run, **machine_id())
    note_process(run, os.getpid())
    assert started_process(run).pid == os.getpid() and status_of(run).state is JobState.RUNNING
    record = json.loads(run.job_record.read_text())
    for change in ({"process_started": 1}, {"boot": "before"}, {"host": "another"}, {"pid": "12"}):
        run.job_record.write_text(json.dumps({**record, "starts": [{**record["starts"][-1], **change}]}))
        assert started_process(run) is None and status_of(run).state is JobState.DIED
        assert process_at_work(run) is None
    run.job_record.write_text("[1, 2")
    assert status_of(run).state is JobState.WAITING


@pytest.mark.parametrize("how", ["stopped", "failed"])
def test_a_job_that_was_killed_before_it_recorded_its_attempt_died(tmp_path, how):
    """With the command that started it, which has therefore noted no exit code."""
    run = RunFolder(tmp_path / "job")
    gone = [subprocess.Popen(["true"]) for _ in range(2)]
    for number, process in enumerate(gone):
        process.wait()
        note_start(run, **machine_id())
        note_process(run, process.pid)
        if number == 0:
            run.new_attempt().write_record({"pid": process.pid, "end": {"how": how, "why": ""}})
            assert status_of(run).state is JobState(how)
    assert status_of(run).state is JobState.DIED


def test_a_folder_that_somebody_else_trains_in_is_waited_for_and_left_alone(tool, arguments, tmp_path):
    """As by a command of --print-jobs that a user runs by hand."""
    out = tmp_path / "out"
    with begun(tool, arguments) as process:
        wait_until(lambda: iteration_of(out, 0) == 11)
        process.kill()
        pid = started_process(runs_of(out)[0]).pid
        runs_of(out)[0].job_record.unlink()  # nobody knows who started it
        with begun(tool, arguments) as second:
            wait_until(lambda: iteration_of(out, 1) == 11)  # it occupies no slot
            second.send(signal.SIGTERM)
            assert second.wait() == 75
        assert runs_of(out)[0].holder().facts["pid"] == pid
        os.kill(pid, signal.SIGKILL)
    assert "job 0: is already running (" in second.said and "job 0: continues (" in second.said


def test_a_terminal_shows_a_table_that_fits_and_when_it_is_closed_jobs_stop_in_order(tool, arguments, tmp_path):
    out = tmp_path / "out"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid, terminal = pty.fork()
    if pid == 0:
        try:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 60, 0, 0))
            os.environ["TERM"] = "xterm"
            for name in ("COLUMNS", "LINES"):  # of the tests' own terminal
                os.environ.pop(name, None)
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            os._exit(run_fake(tool, [*arguments[:4], "train.seed=range(30)", arguments[-1]]))
        finally:
            os._exit(99)
    text = ""
    while not re.search(r"12/20.*29 waiting, 1 running, [^\r]*left", text, re.DOTALL):
        text += os.read(terminal, 4096).decode()
    os.close(terminal)  # SIGHUP
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 75
    frame = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).split("job  ")[-1]
    lines = [line.rstrip() for line in frame.splitlines()]
    assert max(map(len, lines)) <= 60 and len(lines) < 12 and any("not shown: 23 waiting" in line for line in lines)
    assert re.match(r" *seed +state +iteration +rate +m", frame)
    assert "30 jobs: 29 waiting, 1 running" in frame
    assert [status_of(run).state for run in runs_of(out)] == [JobState.STOPPED]


def test_the_plan_keeps_the_number_of_threads(alone):
    assert json.loads(ExperimentFolder(alone).threads.read_text()) == {"threads": 1}


def test_a_job_that_finished_while_it_was_looked_for_is_not_started(alone):
    plan = ExperimentFolder(alone).read_plan()
    results = run_locally([], plan.config_file, [{}], running=plan.jobs)
    assert set(results.exit_codes.values()) == {0} and starts_of(alone) == [1, 1, 1]
