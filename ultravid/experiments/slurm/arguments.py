"""The options of Slurm on the command line, and checks that they fit the launcher."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from ultravid.utils.errors import UserError

__all__ = ["check_slurm_arguments", "given_options", "with_dashed_values"]

_OF_OPTIONS = ("partition", "time", "nodes", "gpus_per_job", "cpus_per_job", "mem", "account", "qos", "constraint")
_OF_HERE = ("gpus", "per_gpu", "slots")
_WITH_DASHES = ("--sbatch", "--setup")


def with_dashed_values(argv: Sequence[str]) -> list[str]:
    """Arguments in which ``--sbatch --exclusive`` is ``--sbatch=--exclusive``, as argparse wants it."""
    joined: list[str] = []
    for argument in argv:
        if joined and joined[-1] in _WITH_DASHES and argument.startswith("-"):
            joined[-1] = f"{joined[-1]}={argument}"
        else:
            joined.append(argument)
    return joined


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """What was given on the command line, for `ultravid.experiments.slurm.options.SlurmOptions.of`."""
    return {
        name: getattr(args, name) for name in (*_OF_OPTIONS, "sbatch", "setup", "threads", "at_once", "save_seconds")
    }


def check_slurm_arguments(args: argparse.Namespace) -> None:
    """Refuse options of one launcher that were given to the other.

    Raises:
        UserError: one was.
    """
    if args.launcher == "slurm":
        if getattr(args, "search", None) is not None:
            raise UserError(
                f"--search {args.search}: a search starts its jobs on the machine on which the command runs. Leave out --launcher slurm, and "
                "submit the same command with sbatch, as often as you like: all these commands work on one study."
            )
        for name in _OF_HERE:
            if (value := getattr(args, name, None)) is not None:
                right = "--at-once N" if name == "slots" else "--gpus-per-job N"
                raise UserError(
                    f"--{name.replace('_', '-')} {value}: is of jobs on this machine; with --launcher slurm, say {right}."
                )
        return
    given = {**given_options(args), "no_wait": args.no_wait or None, "threads": None}
    for name, value in given.items():
        if value not in (None, []):
            raise UserError(f"--{name.replace('_', '-')}: is an option of Slurm; add --launcher slurm.")
