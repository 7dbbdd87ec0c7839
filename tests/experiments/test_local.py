"""Commands as processes: order, slots, signals, restarts, and what keeps one from starting."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest

from ultravid.config import LazyConfig
from ultravid.experiments.job_processes import AdoptedProcess
from ultravid.experiments.local import Job, JobListener, describe_exit, run_jobs, stopped_by_signals
from ultravid.utils.errors import UserError
from ultravid.utils.processes import process_start_time
from ultravid.utils.tool import EXIT_STOPPED


@pytest.fixture
def job_of(tmp_path):
    def make(name, script):
        return Job(name, ["sh", "-c", script], tmp_path / name / "terminal.txt")

    return make


class Events(JobListener):
    """What was called, in words; ``on`` calls a function with the number of the call of `waiting`."""

    def __init__(self, on_waiting=lambda number: None):
        self.said, self.pids, self.calls, self.on_waiting = [], {}, 0, on_waiting

    def started(self, job, slot):
        self.said.append(f"{job.name} starts {slot.get('SLOT', '')}".strip())

    def launched(self, job, pid):
        self.pids[job.name] = pid

    def adopted(self, job, process):
        self.said.append(f"{job.name} adopted")

    def ended(self, job, exit_code):
        self.said.append(f"{job.name} ends with {exit_code}")

    def restarting(self, job, number, of):
        self.said.append(f"{job.name} again {number}/{of}")

    def stopping(self, running):
        self.said.append(f"stopping {running}")

    def killing(self, running):
        self.said.append(f"killing {running}")

    def halting(self, error, running):
        self.said.append(f"halting {running}")

    def waiting(self):
        self.calls += 1
        self.on_waiting(self.calls)


def test_jobs_start_in_order_in_the_slot_that_is_free_and_one_that_fails_stops_no_other(job_of):
    jobs = [job_of("a", "sleep 0.6"), job_of("b", "exit 3"), job_of("c", "echo $SLOT $OWN")]
    events = Events()
    results = run_jobs(jobs, [{"SLOT": "0"}, {"SLOT": "1"}], events)
    assert results.exit_codes == {"a": 0, "b": 3, "c": 0} and not results.stopped
    said = ["a starts 0", "b starts 1", "b ends with 3", "c starts 1", "c ends with 0", "a ends with 0"]
    assert events.said == said
    assert jobs[2].log.read_text() == "$ sh -c 'echo $SLOT $OWN'\n1\n"


def test_a_job_that_is_killed_starts_again_ahead_of_others_and_not_for_ever(job_of, tmp_path):
    once = f"test -e {tmp_path}/mark || {{ touch {tmp_path}/mark; kill -9 $$; }}"
    jobs = [job_of("once", once), job_of("always", "kill -9 $$"), job_of("asked", "kill $$"), job_of("last", "true")]
    events = Events()
    results = run_jobs(jobs, [{}], events, restarts=2)
    assert results.exit_codes == {"once": 0, "always": -9, "asked": -15, "last": 0} and not results.stopped
    assert events.said[:5] == ["once starts", "once ends with -9", "once again 1/2", "once starts", "once ends with 0"]
    assert [text for text in events.said if text.startswith("always again")] == ["always again 1/2", "always again 2/2"]
    assert not any(text.startswith("asked again") for text in events.said)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_stops_what_runs_and_starts_nothing_else(job_of, number):
    save = "trap 'echo saved; exit 75' TERM; echo ready; while :; do sleep 0.02; done"
    jobs = [job_of("a", save), job_of("b", "true")]

    def once_it_is_ready(_):
        if "stopping 1" not in events.said and "\nready" in jobs[0].log.read_text():
            os.kill(os.getpid(), number)

    events = Events(once_it_is_ready)
    before = signal.getsignal(number)
    results = run_jobs(jobs, [{}], events, restarts=3)
    assert results.stopped and results.exit_codes == {"a": 75} and jobs[0].log.read_text().endswith("saved\n")
    assert events.said == ["a starts", "stopping 1", "a ends with 75"] and signal.getsignal(number) is before


def test_a_signal_while_a_config_is_read_stops_the_command_and_is_no_fault_of_the_config(tmp_path):
    config = tmp_path / "config.py"
    config.write_text("import os, signal\n\nos.kill(os.getpid(), signal.SIGTERM)\n")
    with stopped_by_signals(), pytest.raises(SystemExit) as caught:
        LazyConfig.load(config)
    assert caught.value.code == EXIT_STOPPED


def test_a_second_interrupt_kills_a_job_that_does_not_stop_with_its_workers(job_of):
    deaf = "trap '' TERM INT; sleep 60 & echo $!; wait"
    job = job_of("deaf", deaf)

    def twice(_):
        if len(job.log.read_text().splitlines()) > 1:
            os.kill(os.getpid(), signal.SIGINT)

    events = Events(twice)
    results = run_jobs([job], [{}], events, restarts=3)
    assert results.stopped and results.exit_codes == {"deaf": -9} and "killing 1" in events.said
    worker = int(job.log.read_text().split()[-1])
    deadline = time.monotonic() + 5
    while process_start_time(worker) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process_start_time(worker) is None


def test_under_nohup_a_closed_terminal_stops_nothing(job_of):
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        events = Events(lambda _: os.kill(os.getpid(), signal.SIGHUP))
        assert run_jobs([job_of("a", "true")], [{}], events).exit_codes == {"a": 0}
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, old)


def test_a_full_disk_keeps_further_jobs_from_starting_and_those_that_run_come_to_their_end(job_of):
    class Full(Events):
        def started(self, job, slot):
            super().started(job, slot)
            if job.name == "b":
                raise OSError(errno.ENOSPC, "No space left on device", "/full/job.json")

    events = Full()
    with pytest.raises(OSError, match="No space left"):
        run_jobs([job_of("a", "sleep 0.2"), job_of("b", "true"), job_of("c", "true")], [{}, {}], events)
    assert events.said == ["a starts", "b starts", "halting 1", "a ends with 0"]


def test_a_program_that_is_missing_is_one_message(tmp_path):
    with pytest.raises(UserError, match="a can't be started: /no/such: No such file or directory"):
        run_jobs([Job("a", ["/no/such"], tmp_path / "log")], [{}])


def test_a_process_at_work_is_waited_for_in_place_of_a_second_one(job_of, tmp_path):
    """As its child here it is reaped by nobody, as an orphan in a container without init."""
    orphan = subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(0.5)"])
    started = process_start_time(orphan.pid)
    processes = {"a": AdoptedProcess(orphan.pid, started, lambda: 0)}
    events = Events()
    jobs = [job_of("a", "echo twice"), job_of("b", "true")]
    results = run_jobs(jobs, [{}], events, at_work=lambda job: processes.pop(job.name, None))
    assert results.exit_codes == {"a": 0, "b": 0} and not jobs[0].log.exists()
    assert events.said == ["a adopted", "a ends with 0", "b starts", "b ends with 0"]  # it occupies the slot
    orphan.wait()


def test_a_job_that_is_refused_as_another_process_has_its_folder_waits_for_that(job_of):
    job = job_of("a", "exit 2")
    orphan = subprocess.Popen(["sleep", "0.3"])
    found = iter([None, None, AdoptedProcess(orphan.pid, process_start_time(orphan.pid), lambda: 0)])
    events = Events()
    assert run_jobs([job], [{}], events, at_work=lambda _: next(found, None)).exit_codes == {"a": 0}
    assert events.said == ["a starts", "a adopted", "a ends with 0"]
    orphan.wait()


def test_an_exit_is_described_by_the_signals_name():
    assert [describe_exit(code) for code in (1, -9, -40)] == ["exit code 1", "killed by SIGKILL", "killed by signal 40"]
