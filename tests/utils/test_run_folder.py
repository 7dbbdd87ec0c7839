import json
import os
import socket
import subprocess
import sys

import pytest

from ultravid.utils.errors import UserError
from ultravid.utils.run_folder import RunFolder, RunState, process_start_time


def record(run, **content):
    attempt = run.new_attempt()
    attempt.write_record({"host": socket.gethostname(), "pid": os.getpid(), "end": None, **content})
    return attempt


def test_a_folder_that_is_missing_or_empty_is_a_new_run(tmp_path):
    assert RunFolder(tmp_path / "gone").state() is RunState.NEW
    run = RunFolder(tmp_path)
    run.config.write_text("train: {}")
    run.inference.mkdir()
    assert run.state() is RunState.NEW and run.newest_record() is None and run.newest_checkpoint() is None


@pytest.mark.parametrize(
    ("how", "state"), [(s.value, s) for s in (RunState.FINISHED, RunState.STOPPED, RunState.FAILED)]
)
def test_the_end_in_the_newest_record_is_the_state(tmp_path, how, state):
    run = RunFolder(tmp_path)
    record(run, end={"how": "failed" if how != "failed" else "finished"})
    record(run, end={"how": how})
    assert run.state() is state


def test_a_record_without_an_end_is_a_process_at_work_or_one_that_was_killed(tmp_path):
    run = RunFolder(tmp_path)
    record(run, process_started=process_start_time(os.getpid()))
    assert run.state() is RunState.RUNNING
    record(run, process_started=1)  # another process, which had this pid before
    assert run.state() is RunState.FAILED
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    record(run, pid=process.pid)
    assert run.state() is RunState.FAILED
    record(run, pid=process.pid, host="elsewhere")  # nothing is known of another host's processes
    assert run.state() is RunState.RUNNING


def test_a_process_that_ended_and_was_not_waited_for_is_not_at_work():
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    assert process_start_time(process.pid) is None
    process.wait()


def test_a_record_cut_off_by_a_kill_is_passed_over(tmp_path):
    run = RunFolder(tmp_path)
    first = record(run, end={"how": "stopped"})
    run.new_attempt().record.write_text('{"attempt": 2, "end"')
    run.new_attempt()
    assert run.state() is RunState.STOPPED and run.newest_record() == json.loads(first.record.read_text())
    assert [attempt.number for attempt in run.list_attempts()] == [1, 2, 3]


def test_attempts_are_ordered_by_number_and_the_newest_that_trained_has_the_config(tmp_path):
    run = RunFolder(tmp_path)
    assert run.trained_config() is None
    run.config.write_text("a")
    assert run.trained_config() == run.config
    for _ in range(11):
        newest = run.new_attempt()
    (run.attempts / "notes").mkdir()
    assert newest.number == 11 and run.new_attempt().number == 12
    for attempt in run.list_attempts()[1:10]:
        attempt.config.write_text("b")
    assert run.trained_config() == run.attempts / "10/config.yaml"


def test_without_records_checkpoints_say_the_state(tmp_path):
    run = RunFolder(tmp_path)
    run.checkpoint("model_0000009").write_bytes(b"")
    assert run.state() is RunState.STOPPED and run.final_checkpoint() is None
    run.checkpoint("model_final", ".dcp").mkdir()
    assert run.state() is RunState.FINISHED and run.final_checkpoint() == tmp_path / "model_final.dcp"
    run.last_checkpoint.write_text("model_final.dcp\n")
    assert run.newest_checkpoint() == run.final_checkpoint()
    run.last_checkpoint.write_bytes(b"\xff\xfe")  # a damaged file names none
    assert run.newest_checkpoint() is None


def test_an_earlier_runs_files_are_moved_and_numbered(tmp_path):
    run = RunFolder(tmp_path)
    assert run.archive_checkpoints() is None and run.archive_events() is None
    run.archive_config()
    for folder in ("earlier_run_1", "earlier_run_2"):
        for path in (run.checkpoint("model_final"), run.checkpoint("stage_0000001"), run.manifest, run.last_checkpoint):
            path.write_text(folder)
        assert run.archive_checkpoints(["stage_0000001.pth", "gone.pth"]) == tmp_path / folder
        assert {p.name for p in (tmp_path / folder).iterdir()} == {
            *("model_final.pth", "stage_0000001.pth", "manifest.json", "last_checkpoint"),
        }
    run.config.write_text("a")
    run.archive_config()
    assert not run.config.exists() and (tmp_path / "config.yaml.1").read_text() == "a"
    (tmp_path / "events.out.tfevents.1").write_text("")
    assert run.archive_events() == tmp_path / "earlier_events_1" and run.events() == []


def test_a_run_is_found_from_its_files(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.predictions.mkdir(parents=True)
    assert RunFolder.containing(run.prediction_manifest) is None
    run.eval_config.write_text("")
    run.prediction_manifest.write_text("")
    for path in (run, run.inference, run.predictions, run.prediction_manifest):
        assert RunFolder.containing(path) == run
    assert RunFolder.containing(tmp_path) is None and run.saved_config == run.eval_config


def test_ranks_have_logs_of_their_own(tmp_path):
    run = RunFolder(str(tmp_path))
    assert run.log == tmp_path / "log.txt" and run.log_of(2) == tmp_path / "log.txt.rank2"
    assert os.fspath(run) == str(run) == str(tmp_path) and repr(run) == f"RunFolder({str(tmp_path)!r})"


def test_a_file_named_attempts_and_a_record_nested_too_deeply_are_no_tracebacks(tmp_path):
    run = RunFolder(tmp_path)
    run.attempts.write_text("")
    assert run.state() is RunState.NEW
    with pytest.raises(UserError, match="attempts is a file"):
        run.new_attempt()
    run.attempts.unlink()
    run.new_attempt().record.write_text("[" * 100_000)
    assert run.newest_record() is None
