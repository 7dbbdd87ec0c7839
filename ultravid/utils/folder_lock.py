"""A lock on a folder, so that two processes don't overwrite each other's files: who works in it, where, and since when.

The lock is the file ``lock.json`` in the folder. The process that holds it renews the file's time every 10 seconds. A lock is
dead if its process is gone from this machine, or if its time was not renewed for 60 seconds; whoever finds a dead lock may take
it. Times are compared with the time that a new file gets in the same folder, so clocks of several machines need not agree.

In two cases whoever wants the folder waits until the lock has had the time to be renewed: its time says that it is dead while its process
is there, as when the clock was set or the machine slept; or it is alive and from before this machine was restarted, unless another
machine has the same name.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import fcntl
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ultravid.utils.errors import UserError
from ultravid.utils.processes import is_running, machine_id, process_start_time
from ultravid.utils.tool import EXIT_USER_ERROR, command_line

__all__ = [
    "LOCK_NAME",
    "FolderLock",
    "LockHolder",
    "LockedError",
    "held_locks",
    "locked",
    "reacquire_folder",
    "read_lock",
    "release_folder",
    "release_locks",
]

logger = logging.getLogger(__name__)

LOCK_NAME = "lock.json"
"""The name of the file in a locked folder that says who holds the lock."""

_RENEWED_EVERY_S = 10.0
_DEAD_AFTER_S = 60.0
_TICK_S = 0.1  # the clock of a file system runs in steps
_UNFINISHED_S = 1.0  # so long a file without content may be one that is being written


class LockedError(UserError):
    """Another process works in the folder: who, where, since when, and what to do."""


@dataclass(frozen=True)
class LockHolder:
    """The process that holds the lock of a folder, as the lock file states it.

    Attributes:
        path: the lock's file.
        facts: its content; empty if that can't be read.
        age_s: seconds since it was renewed.
        renewed: when that was, by the clock of the file system.
    """

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)
    age_s: float = 0.0
    renewed: float = 0.0

    @property
    def token(self) -> str | None:
        """A text that is unique to this lock."""
        return self.facts.get("token")

    @property
    def is_own(self) -> bool:
        """Whether this process holds it."""
        return self.token in {lock.token for lock in held_locks()}

    def is_alive(self) -> bool:
        """Whether the process that holds it is still at work."""
        if not self.facts or abs(self.age_s) > _DEAD_AFTER_S or self._is_before_the_restart():
            return False
        if not _same_machine(self.facts):
            return True
        if self.facts.get("inode") != _inode(self.path.parent) and self.facts.get("folder") != _real(self.path.parent):
            return False  # the folder is a copy of the one that is locked
        pid = self.facts.get("pid")
        return isinstance(pid, int) and is_running(pid, self.facts.get("process_started"))

    def seconds_to_certainty(self) -> float:
        """How long it takes at most until a renewal of the lock, or none, shows whether it is alive; 0 if that is known."""
        pid = self.facts.get("pid")
        if not isinstance(pid, int) or self.is_own:
            return 0.0
        if _same_machine(self.facts):  # the clock was set, the machine slept, or the process is suspended
            is_here = is_running(pid, self.facts.get("process_started"))
            return 1.5 * _RENEWED_EVERY_S if is_here and abs(self.age_s) > _DEAD_AFTER_S else 0.0
        own = machine_id()
        is_earlier = self.facts.get("host") == own["host"] and self.facts.get("boot") not in (None, own.get("boot"))
        return max(0.0, _DEAD_AFTER_S - abs(self.age_s)) if is_earlier else 0.0

    def _is_before_the_restart(self) -> bool:
        """Whether torchrun has replaced the group that holds the lock by this one: it does so when all of the old one have ended."""
        run, restart = self.facts.get("torchrun"), self.facts.get("restart")
        own = _torchrun()
        return run not in (None, "none") and run == own["torchrun"] and (restart or 0) < (own["restart"] or 0)

    def __str__(self) -> str:
        """Who, where and since when."""
        facts = self.facts
        if not facts:
            return f"a process that left no name ({self.path} can't be read)"
        text = f"{facts.get('user', '?')} on {facts.get('host', '?')}, process {facts.get('pid', '?')}"
        return f"{text}, since {facts.get('since', '?')}: {facts.get('command', '?')}"

    def takeover(self) -> str:
        """The warning of a process that replaces this stale lock."""
        return f"Took over the lock of {self}. That process ended without releasing it."

    def refusal(self, folder: Path, remedy: str) -> LockedError:
        """The error for a process that needs the folder.

        Args:
            folder: as the user knows it.
            remedy: what to do instead, a clause: "choose another folder".
        """
        pid, host = self.facts.get("pid"), self.facts.get("host")
        here = "" if _same_machine(self.facts) else f" on {host}"
        stop = f"'kill {pid}'{here}"
        return LockedError(
            f"{folder} is in use: {self.facts.get('work', 'a process')} is still running there, started by {self}\n"
            f"Wait until it ends, stop it ({stop}; a training saves a checkpoint first), or {remedy}."
        )


class FolderLock:
    """The lock that this process holds, or wants to hold, on a folder.

    Args:
        folder: it exists.
        work: what it is locked for: "a training".
        remedy: what someone else should do who needs the folder, a clause: "choose another folder".
        command: what the lock says about this process's command; None: all of it. Arguments may hold the name of a patient.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        work: str,
        remedy: str = "choose another folder",
        command: str | None = None,
    ) -> None:
        self._folder = Path(folder)
        self._path = Path(_real(self._folder)) / LOCK_NAME  # a process may change its working folder
        self._work = work
        self._remedy = remedy
        self._command = command
        self._ended = threading.Event()
        self._owner = os.getpid()
        self.token = os.urandom(12).hex()

    def acquire(self, patience_s: float = 0.0) -> LockHolder | None:
        """Take the lock, unless this process has it already.

        Args:
            patience_s: how long to wait for another process that may be dying.

        Returns:
            the dead lock that this one replaces; None if there was none.

        Raises:
            LockedError: another process holds it.
            OSError: the folder can't be written.
        """
        if any(lock._path == self._path for lock in held_locks()):
            return None
        deadline = time.monotonic() + patience_s
        content, replaced = self._content(), None
        while not self._create(content):
            holder = read_lock(self._folder, exact=True)
            if holder is not None and (seconds := holder.seconds_to_certainty()) > 0:
                holder = self._after(holder, seconds)
            if holder is None:  # released in this moment
                if self._path.is_symlink():  # to nothing
                    self._path.unlink(missing_ok=True)
                continue
            if holder.is_alive():
                if time.monotonic() >= deadline:
                    raise holder.refusal(self._folder, self._remedy)
                time.sleep(1.0)
            elif not holder.facts and abs(holder.age_s) < _UNFINISHED_S:
                time.sleep(0.1)
            elif self._replace(holder, content):
                replaced = holder
                break
        self._ended = threading.Event()
        _held.append(self)
        threading.Thread(target=self._renew, name=f"renews {self._path}", daemon=True).start()
        return replaced

    def _after(self, holder: LockHolder, seconds: float) -> LockHolder | None:
        """The lock as it is when it was renewed, taken or released, or so many seconds later."""
        logger.warning(
            "%s: waiting up to %.0f seconds to see whether %s is still at work there.", self._folder, seconds, holder
        )
        deadline = time.monotonic() + seconds + _TICK_S
        while True:
            time.sleep(min(1.0, _RENEWED_EVERY_S / 10))
            # Before the lock is read, so that its age is that at the end of the wait, or more.
            is_over = time.monotonic() > deadline
            now = read_lock(self._folder, exact=True)
            if is_over or now is None or (now.token, now.renewed) != (holder.token, holder.renewed):
                return now

    def release(self) -> None:
        """Remove the lock, if this process has it."""
        if self not in _held or os.getpid() != self._owner:
            return
        _held.remove(self)
        self._ended.set()
        with contextlib.suppress(OSError):
            holder = read_lock(self._path.parent)
            if holder is not None and holder.token == self.token:
                self._path.unlink()

    def _content(self) -> bytes:
        facts = {
            "work": self._work,
            "user": _user(),
            **machine_id(),
            "pid": self._owner,
            "process_started": process_start_time(self._owner),
            "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": command_line() if self._command is None else self._command,
            "folder": _real(self._folder),
            "inode": _inode(self._folder),
            **_torchrun(),
            "token": self.token,
        }
        return json.dumps(facts, indent=1).encode()

    def _create(self, content: bytes) -> bool:
        """Create the file, whole, if there is none; whether there was none."""
        temporary = self._temporary(content)
        try:
            os.link(temporary, self._path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links: others may see the file before it has its content
            try:
                with self._path.open("xb") as file:
                    file.write(content)
            except FileExistsError:
                return False
        finally:
            temporary.unlink(missing_ok=True)
        return True

    def _replace(self, dead: LockHolder, content: bytes) -> bool:
        """Put this process's lock in the place of a dead one; False if another process was faster."""
        try:
            file = self._path.open("r+b")
        except FileNotFoundError:
            return False
        with file:
            guarded = True
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.05)
                return False
            except OSError:  # a file system without flock
                guarded = False
            now = read_lock(self._path.parent, exact=True)
            if (
                now is None
                or now.is_alive()
                or now.token != dead.token
                or not os.path.samestat(os.fstat(file.fileno()), self._path.stat())
            ):
                return False
            self._temporary(content).replace(self._path)
        if not guarded:  # of several that replaced it the last one has it
            time.sleep(1.0)
        now = read_lock(self._path.parent)
        return now is not None and now.token == self.token

    def _temporary(self, content: bytes) -> Path:
        path = self._path.with_name(f".{LOCK_NAME}.{self.token}.tmp")
        try:
            path.write_bytes(content)
        except OSError:  # a full disk leaves a part of it
            path.unlink(missing_ok=True)
            raise
        return path

    def _renew(self) -> None:
        while not self._ended.wait(_RENEWED_EVERY_S):
            with contextlib.suppress(OSError):  # a server that is away for a while, or a folder that was removed
                self._renew_once()

    def _renew_once(self) -> None:
        """Renew the file's time; if it was removed create it again, and if another process has taken it end this one."""
        try:
            with self._path.open("rb") as file:
                taken = json.loads(file.read()).get("token") != self.token
                if not taken:
                    os.utime(file.fileno())
        except FileNotFoundError:
            taken = not self._create(self._content())
        except ValueError:  # damaged: a dead lock to everybody else
            self._temporary(self._content()).replace(self._path)
            taken = False
        if taken and not self._ended.is_set():
            self._end_process()

    def _end_process(self) -> None:
        """End this process at once: it was suspended for so long that another one took its folder, and must not write there."""
        message = (
            f"error: {self._folder} was taken over by {read_lock(self._path.parent)}\n"
            f"This process did not renew its lock for {_DEAD_AFTER_S:.0f} seconds, probably because it was suspended. It ends, so that the "
            "two don't overwrite each other's files.\n"
        )
        os.write(sys.stderr.fileno() if sys.stderr is not None else 2, message.encode())
        os._exit(EXIT_USER_ERROR)


_held: list[FolderLock] = []


def held_locks() -> list[FolderLock]:
    """The locks that this process holds; a forked process holds none of its parent's."""
    return [lock for lock in _held if lock._owner == os.getpid()]


def release_locks(keep: list[FolderLock] | None = None) -> None:
    """Release the locks that this process holds, except for some. The end of the interpreter does so too.

    Args:
        keep: the locks that stay; None keeps none.
    """
    for lock in held_locks():
        if lock not in (keep or ()):
            lock.release()


def release_folder(folder: str | os.PathLike[str]) -> None:
    """Release this process's lock on a folder, if it has one; `reacquire_folder` takes it again.

    Args:
        folder: the folder.
    """
    path = Path(_real(Path(folder))) / LOCK_NAME
    for lock in held_locks():
        if lock._path == path:
            lock.release()
            _released[path] = lock


def reacquire_folder(folder: str | os.PathLike[str]) -> None:
    """Take the lock on a folder again that `release_folder` has released; nothing without one.

    Args:
        folder: the folder.

    Raises:
        LockedError: another process has taken it since then.
    """
    lock = _released.pop(Path(_real(Path(folder))) / LOCK_NAME, None)
    if lock is not None and lock._owner == os.getpid():
        lock.acquire()


_released: dict[Path, FolderLock] = {}
atexit.register(release_locks)


@contextlib.contextmanager
def locked(
    folder: str | os.PathLike[str], work: str, remedy: str = "choose another folder", command: str | None = None
) -> Iterator[None]:
    """Hold the lock of a folder in the block; the folder is created if necessary.

    Args:
        folder: the folder.
        work: what it is locked for, for the message: "a training".
        remedy: what someone else should do who needs the folder, a clause.
        command: as of `FolderLock`.

    Raises:
        LockedError: another process holds the lock.
        UserError: the folder can't be written.
    """
    lock = FolderLock(folder, work, remedy, command)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        if (replaced := lock.acquire()) is not None:
            logger.warning("%s", replaced.takeover())
    except OSError as error:
        raise UserError(f"{folder} can't be written: {error.strerror}.") from error
    try:
        yield
    finally:
        lock.release()


def read_lock(folder: str | os.PathLike[str], *, exact: bool = False) -> LockHolder | None:
    """The lock of a folder, dead or alive; None if there is none.

    Args:
        folder: the folder.
        exact: take the present time from a file that is written in the folder for a moment. Otherwise it is this machine's,
            which a file server may not share.

    Raises:
        OSError: the lock can't be read.
    """
    path = Path(folder) / LOCK_NAME
    try:
        with path.open("rb") as file:  # opening asks a file server for the file's time, which stat may have stored
            content, changed = file.read(), os.fstat(file.fileno()).st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        facts = json.loads(content)
    except ValueError:
        facts = None
    now = _time_in(path.parent) if exact else time.time()
    return LockHolder(path, facts if isinstance(facts, dict) else {}, now - changed, changed)


def _time_in(folder: Path) -> float:
    """The time that a file gets which is written in the folder now; of a folder that can't be written, this machine's."""
    probe = folder / f".{LOCK_NAME}.{os.getpid()}.{threading.get_ident()}.time"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()


def _same_machine(facts: dict[str, Any]) -> bool:
    return all(facts.get(name) == value for name, value in machine_id().items())


def _torchrun() -> dict[str, Any]:
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    return {"torchrun": run, "restart": int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) if run else None}


def _inode(folder: Path) -> int | None:
    try:
        return folder.stat().st_ino
    except OSError:
        return None


def _real(folder: Path) -> str:
    return os.path.realpath(folder)


def _user() -> str:
    import getpass  # as reading a config starts faster without

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may have no name for its user
        return str(os.getuid())
