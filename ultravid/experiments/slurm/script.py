"""The job script of an array and the list of its commands, readable and fit to be submitted by hand."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

import ultravid
from ultravid.experiments.plan import PlannedJob
from ultravid.experiments.slurm.options import SlurmOptions, sbatch_value

__all__ = ["command_line_of", "job_script", "shell_line"]

_MODULE = "ultravid.experiments.slurm.task"
_RENDEZVOUS = "ULTRAVID_RENDEZVOUS"


def shell_line(words: Sequence[str]) -> str:
    """A command as one line for bash, whatever its words hold."""
    return " ".join(_quoted(word) for word in words)


def command_line_of(job: PlannedJob, config_file: str, python: str, options: SlurmOptions, *further: str) -> str:
    """The line of bash that runs a job in its allocation: the launcher; on several nodes torchrun on each of them.

    Args:
        job: what runs.
        config_file: the config file of all jobs.
        python: the interpreter.
        options: what the job asks of Slurm.
        further: options of the launcher.
    """
    gpus = options.gpus_per_node
    if options.nodes == 1:
        return shell_line(job.command(config_file, python, *further, *(["--num-gpus", str(gpus)] if gpus > 1 else [])))
    launcher = job.command(config_file, python, *further)[1:]
    cores = [f"--cpus-per-task={options.cpus_per_node}"] if options.cpus_per_node else []  # srun does not take sbatch's
    srun = ["srun", f"--nodes={options.nodes}", f"--ntasks={options.nodes}", "--ntasks-per-node=1", *cores]
    torchrun = [python, "-m", "torch.distributed.run", f"--nnodes={options.nodes}", f"--nproc-per-node={max(1, gpus)}"]
    meeting = f'--rdzv-backend=c10d --rdzv-endpoint="${_RENDEZVOUS}" --rdzv-id="$SLURM_JOB_ID"'
    return f"{shell_line([*srun, *torchrun])} {meeting} {shell_line(launcher)}"


def job_script(
    folder: Path, name: str, num_tasks: int, options: SlurmOptions, at_once: int | None, working_dir: Path, python: str
) -> str:
    """The text of a job script.

    Args:
        folder: the folder of the array's files.
        name: the name of the array; no other one has it.
        num_tasks: its size.
        options: what each job asks of Slurm.
        at_once: the most tasks of this array that run at a time; None is no limit.
        working_dir: where the commands run.
        python: the interpreter of the launcher.
    """
    limit = "" if at_once is None else f"%{at_once}"
    own = [
        *(f"--job-name={name}", f"--array=0-{num_tasks - 1}{limit}", f"--chdir={sbatch_value(str(working_dir))}"),
        f"--output={sbatch_value(str(folder / 'task-%a.txt').replace('%', '%%').replace('%%a.txt', '%a.txt'))}",
        *("--open-mode=append", "--requeue", f"--signal=B:TERM@{options.lead_s}"),
    ]
    setup = ["# The environment (--setup)", *options.setup, *_CHECK_OF_SETUP, ""] if options.setup else []
    return "\n".join(
        [
            "#!/bin/bash",
            f"# {num_tasks} jobs of {_comment(folder.parent.parent)}, by ultravid {ultravid.__version__}.",
            "# Line N + 1 of commands.txt beside this file is the command of task N; its output goes to terminal.txt in the job's folder.",
            *(f"#SBATCH {line}" for line in [*own, *options.lines()]),
            "",
            *_threads(options),
            *setup,
            *(_rendezvous(options) if options.nodes > 1 else ()),
            f"# Slurm sends SIGTERM {options.lead_s} seconds before the time limit: the job saves a checkpoint, leaves with exit code 75, and",
            "# this task alone is requeued, which resumes it.",
            f'exec {shell_line([python, "-P", "-m", _MODULE, str(folder)])} "$SLURM_ARRAY_TASK_ID"',
            "",
        ]
    )


_CHECK_OF_SETUP = (
    "status=$?",
    "if [ $status -ne 0 ]; then",
    '    echo "error: the last line of --setup ended with exit code $status." >&2',
    "    exit 1",
    "fi",
)


def _threads(options: SlurmOptions) -> list[str]:
    if options.threads is not None:
        return [
            "# The last digits of a training on the processor depend on the number of threads (--threads).",
            f"export OMP_NUM_THREADS={options.threads}",
            "",
        ]
    if (
        options.cpus_per_node is None or options.nodes > 1 or options.gpus_per_node > 1
    ):  # several processes share the cores
        return []
    return [
        "# As many threads as the job has cores, unless the environment that it was submitted in says otherwise.",
        f'export OMP_NUM_THREADS="${{OMP_NUM_THREADS:-{options.cpus_per_node}}}"',
        "",
    ]


def _rendezvous(options: SlurmOptions) -> list[str]:
    return [
        "# The processes of all nodes meet on the first one, where this script runs; each job has a port of its own.",
        f'export {_RENDEZVOUS}="$(hostname):$((20000 + SLURM_JOB_ID % 20000))"',
        "# torchrun passes the signal on, and waits for the checkpoint. (The second name is that of PyTorch before --signals-to-handle.)",
        "export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1",
        'export TORCHELASTIC_SIGNALS_TO_HANDLE="$PET_SIGNALS_TO_HANDLE"',
        f"export TORCH_ELASTIC_SHUTDOWN_TIMEOUT={options.lead_s}",
        "",
    ]


def _comment(path: Path) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(path))


def _quoted(word: str) -> str:
    if all(c.isprintable() for c in word):
        return shlex.quote(word)
    escapes = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    text = "".join(c if c.isprintable() and c not in escapes else escapes.get(c, _byte_escape(c)) for c in word)
    return f"$'{text}'"


def _byte_escape(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
