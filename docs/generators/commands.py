"""The page of all commands: what each is for, and its ``--help`` as it prints."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator

from generators.markdown import plain
from ultravid.cli import TOOLS, main, summary_of

__all__ = ["files", "help_of", "why_not"]

WIDTH = 100  # characters of a terminal
PYTHON = (3, 11)  # argparse of other versions prints usage and options differently

INTRODUCTION = """\
# Commands

Each command is a file of `tools/`. In a checkout call it by its path, with the package installed call it by its verb; both ways take the
same arguments:

    python tools/lazyconfig_train.py --config-file F
    ultravid train --config-file F

Each section has the description of `--help`, then usage and options as they are printed on a terminal of 100 columns. `ultravid --help`
lists the verbs, and [exit_codes.md](exit_codes.md) has what the commands return to a shell. Paths of projects
(`projects/...`) exist in a checkout only.
"""


def why_not() -> str:
    """The reason why the page can't be made by this interpreter; "" if it can."""
    if sys.version_info[:2] == PYTHON:
        return ""
    return f"argparse prints help differently in Python {sys.version_info[0]}.{sys.version_info[1]} than in {PYTHON[0]}.{PYTHON[1]}"


def files() -> dict[str, str]:
    """The page, by path from ``docs/``."""
    rows = [
        f"| [`ultravid {verb}`](#ultravid-{verb}) | `tools/{tool}.py` | {summary_of(verb)} |"
        for verb, tool in TOOLS.items()
    ]
    parts = [INTRODUCTION, "\n".join(["| verb | file | what it does |", "|---|---|---|", *rows, ""])]
    for verb, tool in TOOLS.items():
        description, options = _parts(help_of(verb))
        parts.append(f"## ultravid {verb}\n\nIn a checkout: `python tools/{tool}.py`.\n")
        parts.append(description or f"{plain(summary_of(verb))}.\n")
        parts += [f"```text\n{options}```\n"] if options else []
    return {"reference/commands.md": "\n".join(parts)}


def _parts(text: str) -> tuple[str, str]:
    """The description of a help text as Markdown, and its usage and options as they are; either may be ""."""
    blocks = text.rstrip("\n").split("\n\n")
    usage = [blocks.pop(0)] if blocks[0].startswith("usage:") else []
    first = next(
        (n for n, block in enumerate(blocks) if block.startswith(("positional arguments:", "options:"))), len(blocks)
    )
    description = [block if block.startswith("    ") else plain(" ".join(block.split())) for block in blocks[:first]]
    options = [*usage, *blocks[first:]]
    return "".join(f"{block}\n\n" for block in description)[:-1], "\n\n".join(options) + "\n" if options else ""


def help_of(verb: str) -> str:
    """What ``ultravid VERB --help`` prints on a terminal of `WIDTH` columns, without colours."""
    printed = io.StringIO()
    with _restored(), contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        os.environ["COLUMNS"] = str(WIDTH)
        main([verb, "--help"])
    return re.sub(r"[ \t]+$", "", printed.getvalue(), flags=re.MULTILINE)


@contextlib.contextmanager
def _restored() -> Iterator[None]:
    """Restore what a command changes in the process."""
    argv, main_module, columns = sys.argv, sys.modules["__main__"], os.environ.get("COLUMNS")
    try:
        yield
    finally:
        sys.argv, sys.modules["__main__"] = argv, main_module
        if columns is None:
            os.environ.pop("COLUMNS", None)
        else:
            os.environ["COLUMNS"] = columns
