"""What docs/generate.py writes: each part is a function that returns files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from generators import api, commands, config_keys, exit_codes, import_graph, run_folder

__all__ = ["PARTS", "Part"]


@dataclass(frozen=True)
class Part:
    """Pages or drawings that are made together.

    Attributes:
        about: what they are, for the help.
        files: returns their content by path from ``docs/``.
        owns: glob patterns from ``docs/`` of files that nothing else writes; one that is no longer made is deleted.
        why_not: returns the reason why they can't be made by this interpreter; "" if they can.
    """

    about: str
    files: Callable[[], dict[str, str]]
    owns: tuple[str, ...] = ()
    why_not: Callable[[], str] = str


PARTS = {
    "api": Part("one page for each public package, with its names", api.files, ("reference/api/*.md",)),
    "imports": Part(
        "drawings of what imports what, and a page of all modules", import_graph.files, ("images/imports*.svg",)
    ),
    "commands": Part("every command with its --help", commands.files, why_not=commands.why_not),
    "config_keys": Part("every key of a run's config", config_keys.files),
    "exit_codes": Part("exit codes of the commands", exit_codes.files),
    "run_folder": Part("files of a run's folder", run_folder.files),
}
"""By name, in the order in which they are written."""
