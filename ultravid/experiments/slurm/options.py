"""The resources that a job asks Slurm for (partition, time, nodes, GPUs), and the set-up of its environment."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ultravid.utils.errors import UserError
from ultravid.utils.text import nearest

__all__ = ["CONFIG_KEY", "SlurmOptions", "seconds_of"]

CONFIG_KEY = "slurm"
"""The node of a config that may hold the options, by their names with underscores; the command line replaces them one by one."""

_OURS = {
    **dict.fromkeys(
        ("--array", "-a", "--job-name", "-J", "--output", "-o", "--error", "-e"), "is set for each array of jobs"
    ),
    **dict.fromkeys(("--chdir", "-D", "--open-mode"), "is the folder that this command was started in"),
    **dict.fromkeys(
        ("--requeue", "--no-requeue", "--signal"), "is how jobs stop at their time limit; see --save-seconds"
    ),
    **dict.fromkeys(("--dependency", "-d"), "is used for --at-once"),
    **dict.fromkeys(("--wrap", "--parsable", "--test-only", "--wait", "-W"), "changes what sbatch submits or prints"),
    **dict.fromkeys(("--ntasks", "-n", "--ntasks-per-node"), "is a task on each node; see --nodes and --gpus-per-job"),
}
_ALSO_OPTIONS = dict(
    [
        *(
            ("--partition", "--partition"),
            ("-p", "--partition"),
            ("--time", "--time"),
            ("-t", "--time"),
            ("--mem", "--mem"),
        ),
        *(
            ("--nodes", "--nodes"),
            ("-N", "--nodes"),
            ("--account", "--account"),
            ("-A", "--account"),
            ("--qos", "--qos"),
        ),
        *(("-q", "--qos"), ("--constraint", "--constraint"), ("-C", "--constraint"), ("-c", "--cpus-per-job")),
        *(("--cpus-per-task", "--cpus-per-job"), ("--gpus", "--gpus-per-job"), ("-G", "--gpus-per-job")),
        ("--gpus-per-node", "--gpus-per-job"),
    ]
)
_VARIABLES = {
    **{name: f"SBATCH_{name.upper()}" for name in ("partition", "account", "qos", "constraint")},
    "time": "SBATCH_TIMELIMIT",
    "mem": "SBATCH_MEM_PER_NODE",
    "gpus_per_job": "SBATCH_GPUS_PER_NODE",
    "cpus_per_job": "SBATCH_CPUS_PER_TASK",
}
_OUR_VARIABLES = (
    *("ARRAY_INX", "JOB_NAME", "OUTPUT", "ERROR", "OPEN_MODE", "REQUEUE", "NO_REQUEUE", "SIGNAL", "WAIT", "GPUS"),
    *("NUM_NODES", "NNODES"),
)
_TIME = re.compile(r"(?:(?P<days>\d+)-(?P<day>\d+(?::\d+){0,2}))|(?P<clock>\d+(?::\d+){0,2})")
_WITHOUT_LIMIT = ("UNLIMITED", "INFINITE")
_SAVE_S, _SLURMS_PRECISION_S = 120, 60


@dataclass(frozen=True)
class SlurmOptions:
    """What each job asks of Slurm.

    Attributes:
        partition: one, or several with commas; "" is Slurm's default.
        time: the limit of a job, as Slurm writes it: ``2:00:00``, ``1-12`` (days and hours), ``90`` (minutes); "" is the partition's.
        nodes: the number of nodes of a job.
        gpus_per_job: on all its nodes together.
        cpus_per_job: likewise; None is Slurm's default.
        mem: memory on each node, as ``32G``.
        account: as sbatch has it.
        qos: as sbatch has it.
        constraint: as sbatch has it.
        sbatch: further options of sbatch, each as ``--name=value``.
        setup: lines of bash that are run before a job's command: modules, a virtual environment, variables.
        threads: the number of threads of a job on the processor; None is its cores (``cpus_per_job``), or what torch takes.
        at_once: the most jobs that run at a time; None is no limit but Slurm's.
        save_seconds: how long before its time limit a job gets SIGTERM; None is two minutes, or a quarter of a shorter limit.

    Raises:
        UserError: a value that Slurm would not take, or not so.
    """

    partition: str = ""
    time: str = ""
    nodes: int = 1
    gpus_per_job: int = 0
    cpus_per_job: int | None = None
    mem: str = ""
    account: str = ""
    qos: str = ""
    constraint: str = ""
    sbatch: Sequence[str] = ()
    setup: Sequence[str] = ()
    threads: int | None = None
    at_once: int | None = None
    save_seconds: int | None = None

    def __post_init__(self) -> None:
        for name in ("partition", "time", "mem", "account", "qos", "constraint"):
            value = getattr(self, name)
            if not isinstance(value, str) or not re.fullmatch(r"[^\x00-\x1f\"\\]*", value):
                raise UserError(f"{_option(name)} {value!r}: must be a text without quotes and line ends.")
        for name, least in (
            ("nodes", 1),
            ("gpus_per_job", 0),
            ("cpus_per_job", 1),
            ("threads", 1),
            ("at_once", 1),
            ("save_seconds", 1),
        ):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise UserError(f"{_option(name)} {value}: must be a whole number of at least {least}.")
        for name in ("sbatch", "setup"):
            if isinstance(getattr(self, name), str) or not all(isinstance(line, str) for line in getattr(self, name)):
                raise UserError(f"{CONFIG_KEY}.{name}: must be a list of texts.")
        self._check_time()
        self._check_counts()
        for line in self.sbatch:
            _check_further(line)

    @classmethod
    def of(cls, config: Any, given: Mapping[str, Any]) -> SlurmOptions:
        """The options of a config's node, replaced by those of the command line.

        Args:
            config: the node; None if the config has none.
            given: those that were given on the command line, by name; None and an empty list stand for those that were not.

        Raises:
            UserError: the node has other keys, or a value is wrong.
        """
        names = [field.name for field in fields(cls)]
        values: dict[str, Any] = {}
        if config is not None:
            if not isinstance(config, Mapping):
                raise UserError(f"{CONFIG_KEY}: must hold options by name, as partition and time.")
            for key in config:
                if key not in names:
                    near = nearest(str(key), names)
                    hint = f" Did you mean {CONFIG_KEY}.{near}?" if near else f" There are {', '.join(names)}."
                    raise UserError(f"{CONFIG_KEY}.{key}: there is no such option.{hint}")
            values = {key: value for key, value in config.items() if value is not None}
            for name in ("sbatch", "setup"):
                if name in values:
                    values[name] = [values[name]] if isinstance(values[name], str) else list(values[name])
            if isinstance(values.get("time"), int):
                values["time"] = str(values["time"])
        values.update({name: value for name, value in given.items() if value not in (None, [])})
        for name in ("sbatch", "setup"):
            values[name] = tuple(values.get(name, ()))
        return cls(**values)

    @property
    def gpus_per_node(self) -> int:
        """GPUs of a job on each of its nodes."""
        return self.gpus_per_job // self.nodes

    @property
    def cpus_per_node(self) -> int | None:
        """Cores of a job on each of its nodes."""
        return None if self.cpus_per_job is None else self.cpus_per_job // self.nodes

    @property
    def lead_s(self) -> int:
        """How many seconds before the time limit a job gets SIGTERM."""
        if self.save_seconds is not None:
            return self.save_seconds
        limit = seconds_of(self.time) if self.time else None
        return _SAVE_S if limit is None else max(1, min(_SAVE_S, limit // 4))

    def lines(self) -> list[str]:
        """What the options are to sbatch, without the name of the job, its folders and the array."""
        gpus, cpus = self.gpus_per_node, self.cpus_per_node
        known = [
            *(("partition", self.partition), ("time", self.time), ("nodes", str(self.nodes)), ("ntasks-per-node", "1")),
            *(("gpus-per-node", str(gpus) if gpus else ""), ("cpus-per-task", str(cpus) if cpus else "")),
            *(("mem", self.mem), ("account", self.account), ("qos", self.qos), ("constraint", self.constraint)),
        ]
        return [*(f"--{name}={sbatch_value(value)}" for name, value in known if value), *self.sbatch]

    def replaced_variables(self) -> set[str]:
        """Variables of the environment that sbatch would prefer to what the job script says."""
        names = {name for option, name in _VARIABLES.items() if getattr(self, option)}
        return names | {f"SBATCH_{name}" for name in _OUR_VARIABLES}

    def _check_time(self) -> None:
        if not self.time:
            return
        limit = seconds_of(self.time)
        if limit is not None and limit < _SLURMS_PRECISION_S:
            raise UserError(f"--time {self.time}: is less than a minute, the least that Slurm knows.")
        if limit is not None and self.save_seconds is not None and self.save_seconds >= limit:
            raise UserError(
                f"--save-seconds {self.save_seconds}: is not less than --time {self.time}; no job would train."
            )
        if self.save_seconds is not None and self.save_seconds > 65535:
            raise UserError(f"--save-seconds {self.save_seconds}: Slurm knows at most 65535.")

    def _check_counts(self) -> None:
        for name in ("gpus_per_job", "cpus_per_job"):
            if (value := getattr(self, name)) and value % self.nodes:
                raise UserError(
                    f"{_option(name)} {value}: can't be divided among --nodes {self.nodes}; it counts those of all nodes."
                )


def seconds_of(time: str) -> int | None:
    """The seconds of a time limit as Slurm writes it; None for no limit.

    Raises:
        UserError: it is none.
    """
    if time.upper() in _WITHOUT_LIMIT:
        return None
    match = _TIME.fullmatch(time)
    if match is None:
        raise UserError(
            f"--time {time}: is not a time limit of Slurm's; write HOURS:MINUTES:SECONDS as 2:00:00, DAYS-HOURS as 1-12, or MINUTES as 90."
        )
    parts = [int(part) for part in (match["day"] or match["clock"]).split(":")]
    if match["days"] is not None:
        hours, minutes, seconds = [*parts, 0, 0][:3]
        return int(match["days"]) * 86400 + hours * 3600 + minutes * 60 + seconds
    if len(parts) == 3:
        return parts[0] * 3600 + parts[1] * 60 + parts[2]
    return parts[0] * 60 + (parts[1] if len(parts) == 2 else 0)


def sbatch_value(value: str) -> str:
    """A value in a line of a job script that begins with ``#SBATCH``, where sbatch knows quotes and backslashes."""
    if re.fullmatch(r"[\w./:,%@=+-]+", value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _check_further(line: str) -> None:
    """Refuse an option of sbatch that is set otherwise."""
    text = f"--sbatch {shlex.quote(line)}"
    if not line.startswith("-") or re.search(r"[\x00-\x1f]", line):
        raise UserError(f"{text}: is not an option of sbatch; write it as in a job script, --sbatch '--exclusive'.")
    name = re.split(r"[=\s]", line, maxsplit=1)[0]
    if name in _ALSO_OPTIONS:
        raise UserError(f"{text}: say {_ALSO_OPTIONS[name]} instead.")
    if name in _OURS:
        raise UserError(f"{text}: can't be set, {name} {_OURS[name]}.")


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
