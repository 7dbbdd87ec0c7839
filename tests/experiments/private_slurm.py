"""A Slurm of two nodes on this machine, in a folder of its own, with its own munge: it meets no other Slurm."""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_CONFIG = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldPort={ports[0]}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
SwitchType=switch/none
MaxArraySize={max_array_size}
SlurmdParameters=config_overrides
{further}
NodeName=n[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] CPUs=4 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
"""
# cred_expire is also how long a requeued job waits: two minutes by default.

_SYSTEM_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/local/sbin"
_COMMANDS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scontrol")
_START_S = 30.0


class SlurmMissingError(Exception):
    """Slurm is not installed here, or can't be started; the text says why."""


class PrivateSlurm:
    """Its daemons.

    Args:
        folder: of its files; a short path, as a socket's name has at most 107 characters.
        requeue_exit: whether Slurm itself requeues a job that leaves with 75.
        max_array_size: the most tasks of an array.
    """

    def __init__(self, folder: Path, *, requeue_exit: bool = False, max_array_size: int = 1001) -> None:
        for command in _COMMANDS:
            if shutil.which(command, path=_SYSTEM_PATH) is None:
                raise SlurmMissingError(
                    f"{command} is not installed: apt-get install --no-install-recommends slurmctld slurmd slurm-client munge"
                )
        self.folder, self.config = folder, folder / "slurm.conf"
        for name in ("state", "spool-n1", "spool-n2"):
            (folder / name).mkdir()
        host = socket.gethostname().partition(".")[0]
        further = "RequeueExit=75" if requeue_exit else ""
        values = {
            "host": host,
            "user": getpass.getuser(),
            "folder": folder,
            "ports": _three_ports(),
            "further": further,
        }
        self.config.write_text(_CONFIG.format(**values, max_array_size=max_array_size))
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o600)
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start the daemons, and wait until the nodes are idle."""
        munge = [f"--{name}={self.folder}/munge.{end}" for name, end in (("socket", "socket"), ("key-file", "key"))]
        munge += [f"--{name}={self.folder}/munged.{name}" for name in ("pid-file", "log-file", "seed-file")]
        self._start("munged", "munged", "--force", "--foreground", *munge)
        deadline = time.monotonic() + _START_S
        while not (self.folder / "munge.socket").exists():
            self._wait_on(deadline, "munged")
        self.start_controller()
        for node in ("n1", "n2"):
            self._start(f"slurmd-{node}", "slurmd", "-D", "-N", node, "-f", str(self.config))
        while self.command("sinfo", "--noheader", "--format=%T").split() != ["idle"]:
            self._wait_on(deadline, "slurmctld")

    def start_controller(self) -> None:
        self._start("slurmctld", "slurmctld", "-D", "-f", str(self.config))

    def stop_controller(self) -> None:
        self._stop("slurmctld")

    def stop(self) -> None:
        with contextlib.suppress(subprocess.SubprocessError):
            self.command("scancel", f"--user={getpass.getuser()}")
            deadline = time.monotonic() + 10
            while self.command("squeue", "--noheader").strip() and time.monotonic() < deadline:
                time.sleep(0.2)
        for name in reversed(list(self._daemons)):
            self._stop(name)

    def command(self, *words: str) -> str:
        """What one of Slurm's commands prints."""
        environment = {**os.environ, "SLURM_CONF": str(self.config), "PATH": _SYSTEM_PATH}
        return subprocess.run(words, capture_output=True, text=True, env=environment, timeout=180, check=False).stdout

    def _start(self, name: str, *command: str) -> None:
        environment = {**os.environ, "SLURM_CONF": str(self.config), "PATH": _SYSTEM_PATH}
        with (self.folder / f"{name}.out").open("ab") as out:
            self._daemons[name] = subprocess.Popen(command, stdout=out, stderr=out, env=environment, cwd=self.folder)

    def _stop(self, name: str) -> None:
        daemon = self._daemons.pop(name)
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(timeout=20)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def _wait_on(self, deadline: float, name: str) -> None:
        ended = [daemon for daemon, process in self._daemons.items() if process.poll() is not None]
        if ended or time.monotonic() > deadline:
            name = ended[0] if ended else name
            said = "".join(path.read_text(errors="replace")[-600:] for path in sorted(self.folder.glob(f"{name}*.o*")))
            raise SlurmMissingError(f"Slurm can't be started here: {name}: {' '.join(said.split())[-400:]}")
        time.sleep(0.1)


@contextlib.contextmanager
def private_slurm(*, requeue_exit: bool = False, max_array_size: int = 1001) -> Iterator[PrivateSlurm]:
    """Start a private Slurm for the block; `SlurmMissingError` if that is not possible."""
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        slurm = PrivateSlurm(Path(folder), requeue_exit=requeue_exit, max_array_size=max_array_size)
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.stop()


def _three_ports() -> list[int]:
    """Three ports in a row that are free now."""
    while True:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            for port in (first + 1, first + 2):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
            return [first, first + 1, first + 2]
