"""Locks on folders, with real processes where one process can't show it."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from tests.quick_python import quick_python
from ultravid.utils import folder_lock
from ultravid.utils.folder_lock import FolderLock, LockedError, held_locks, locked, read_lock
from ultravid.utils.processes import process_start_time
from ultravid.utils.run_folder import RunFolder, RunState

RACE = """
import sys, time
from pathlib import Path
from ultravid.utils.folder_lock import FolderLock, LockedError
for round in range(24):
    folder = Path(sys.argv[1]) / str(round)
    while time.time() < float(sys.argv[2]) + round * 0.03:
        pass
    try:
        FolderLock(folder, "a race").acquire()
        print(round, flush=True)
    except LockedError:
        pass
sys.stdin.read()
"""


def test_of_processes_that_start_in_the_same_instant_one_gets_the_lock_a_dead_one_too(tmp_path):
    for number in range(24):
        (tmp_path / str(number)).mkdir()
        if number % 2:  # a dead lock, which all may take
            (tmp_path / str(number) / "lock.json").write_text(json.dumps(facts_of(pid=gone(), token="old")))
    command = [quick_python(), "-c", RACE, str(tmp_path), str(time.time() + 0.6)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racers = [subprocess.Popen(command, **pipes) for _ in range(3)]
    deadline = time.time() + 30
    while not all((tmp_path / str(n) / "lock.json").exists() for n in range(24)) and time.time() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    won = "".join(racer.communicate("")[0] for racer in racers).split()
    assert sorted(map(int, won)) == list(range(24))
    assert not list(tmp_path.glob("*/lock.json")) and not list(tmp_path.glob("*/.lock*"))  # each was released


def facts_of(**changed):
    """The content of a lock of a process of this machine that is alive, with changes."""
    lock = FolderLock(os.curdir, "a training")
    return {**json.loads(lock._content()), "folder": None, **changed}


def gone():
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    return process.pid


ALIVE = {"pid": os.getppid(), "process_started": process_start_time(os.getppid())}


@pytest.mark.parametrize(
    ("content", "age_s", "is_alive"),
    [
        (ALIVE, 5, True),
        (ALIVE, 61, False),
        ({**ALIVE, "process_started": 1}, 5, False),  # the pid was given to another process
        ({"pid": "gone"}, 5, False),
        ({**ALIVE, "host": "elsewhere"}, 40, True),
        ({"pid": "gone", "host": "elsewhere"}, 40, True),  # its pids say nothing here
        ({**ALIVE, "host": "elsewhere"}, 61, False),
        ({"pid": "gone", "pid_namespace": "pid:[1]"}, 5, True),  # a container that shares the host's name
        ({**ALIVE, "inode": 1}, 5, False),  # a copy of a folder that is locked
        ({**ALIVE, "host": "elsewhere", "torchrun": "job", "restart": 0}, 5, False),  # this is the restarted group
        ({**ALIVE, "host": "elsewhere", "torchrun": "job", "restart": 1}, 5, True),
        ({**ALIVE, "host": "elsewhere", "torchrun": "none", "restart": 0}, 5, True),  # torchrun's default, of many runs
        ("", 5, False),
        ("", -1000, False),  # a clock that was set back
        ("{", 5, False),
        ("[1]", 0, False),
    ],
)
def test_a_lock_is_dead_if_its_process_is_gone_or_gives_no_sign_of_life(
    tmp_path, monkeypatch, content, age_s, is_alive
):
    if isinstance(content, dict):
        facts = {**facts_of(inode=tmp_path.stat().st_ino), **content}
        facts["pid"] = gone() if facts["pid"] == "gone" else facts["pid"]
        content = json.dumps(facts)
    path = tmp_path / "lock.json"
    path.write_text(content)
    now = time.time()
    os.utime(path, (now - age_s, now - age_s))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setattr(folder_lock, "_RENEWED_EVERY_S", 0.1)  # else it waits for a sign of life
    run = RunFolder(tmp_path)
    assert (run.holder() is not None) is is_alive
    assert (run.state() is RunState.RUNNING) is is_alive
    lock = FolderLock(tmp_path, "a training")
    if is_alive:
        with pytest.raises(LockedError, match=r"is in use: a training is still running there, started by .*, since 20"):
            lock.acquire()
        assert path.read_text() == content
        return
    assert lock.acquire().path == path
    assert read_lock(tmp_path).token == lock.token and run.holder() is None
    lock.release()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("facts", "age_s", "is_renewed"),
    [
        (ALIVE, 3600, True),  # the clock was set, or the machine slept
        (ALIVE, -3600, True),
        ({"boot": "an earlier one"}, 59, False),  # this machine was restarted
        ({"boot": "another machine's"}, 59, True),
    ],
)
def test_a_lock_that_may_be_alive_is_given_the_time_to_be_renewed(tmp_path, monkeypatch, facts, age_s, is_renewed):
    path = tmp_path / "lock.json"
    path.write_text(json.dumps({**facts_of(inode=tmp_path.stat().st_ino), "pid": gone(), **facts}))
    now = time.time()
    os.utime(path, (now - age_s, now - age_s))
    if is_renewed:
        monkeypatch.setattr(folder_lock.logger, "warning", lambda *_: os.utime(path))
    lock = FolderLock(tmp_path, "a training")
    if is_renewed:
        with pytest.raises(LockedError):
            lock.acquire()
    else:
        assert lock.acquire().facts["boot"] == "an earlier one"
        lock.release()


def test_a_process_may_lock_a_folder_twice_and_a_lock_lasts_as_long_as_its_block(tmp_path):
    with locked(tmp_path / "a", "a training"):
        FolderLock(tmp_path / "a", "a training").acquire()
        assert len(held_locks()) == 1
        (tmp_path / "a" / "lock.json").rename(tmp_path / "kept.json")  # another process's by now
        shutil.copy(tmp_path / "kept.json", tmp_path / "a" / "lock.json")
    assert not held_locks() and not (tmp_path / "a" / "lock.json").exists()
    (tmp_path / "b" / "lock.json").mkdir(parents=True)
    with pytest.raises(ValueError, match="can't be written"), locked(tmp_path / "b", "a training"):
        pass


LIVES = """
import sys, time
from ultravid.utils import folder_lock
folder_lock._RENEWED_EVERY_S = 0.02
folder_lock.FolderLock(sys.argv[1], "a training").acquire()
print("locked", flush=True)
time.sleep(60)
"""


def test_a_lock_is_renewed_and_restored_and_a_process_that_lost_it_ends(tmp_path):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([quick_python(), "-c", LIVES, str(tmp_path)], **pipes)
    assert process.stdout.readline() == "locked\n"
    path = tmp_path / "lock.json"
    for damage in (lambda: os.utime(path, (0, 0)), path.unlink, lambda: path.write_text("")):
        damage()
        deadline = time.time() + 20
        while (lock := read_lock(tmp_path)) is None or not lock.is_alive():
            assert time.time() < deadline
            time.sleep(0.01)
    temporary = tmp_path / "other"
    temporary.write_text(json.dumps({**facts_of(), "user": "somebody"}))
    temporary.replace(path)
    assert "was taken over by somebody on " in process.communicate(timeout=20)[1] and process.returncode == 2
    assert folder_lock.read_lock(tmp_path).facts["user"] == "somebody"
