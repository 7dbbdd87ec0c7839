"""The page of exit codes: what they mean for all commands, and what single commands say of theirs."""

from __future__ import annotations

import ast
import re

from ultravid.cli import TOOLS
from ultravid.utils.tool import EXIT_CODES, tools_folder

__all__ = ["files", "stated"]

INTRODUCTION = """\
# Exit codes

What a command returns to the shell, `$?` in bash. All commands share these codes:
"""

SIGNALS = """\
A process that a signal kills returns nothing itself; a shell shows 128 plus the signal's number: 137 for SIGKILL, with which the
kernel ends a process when memory runs out. A run that was killed resumes from its newest checkpoint (`--resume`).

Under torchrun the processes return these codes to torchrun, which itself returns 1 for each that is not 0.

In a script:

```bash
python tools/lazyconfig_train.py --config-file FILE --resume
case $? in
    0) echo "finished" ;;
    75) echo "stopped with a checkpoint: the same command continues" ;;
    *) echo "failed, see the message above" ;;
esac
```

## Single commands

What the help of a command says of its codes; the others return 0, 1 and 2 as above.
"""


def files() -> dict[str, str]:
    """The page, by path from ``docs/``."""
    rows = [f"| {code} | {text} |" for code, text in sorted(EXIT_CODES.items())]
    own = [f"| [`ultravid {verb}`](commands.md#ultravid-{verb}) | {text} |" for verb in TOOLS if (text := stated(verb))]
    parts = [
        *(INTRODUCTION, "\n".join(["| code | meaning |", "|---|---|", *rows, ""])),
        *(SIGNALS, "\n".join(["| command | codes |", "|---|---|", *own, ""])),
    ]
    return {"reference/exit_codes.md": "\n".join(parts)}


def stated(verb: str) -> str:
    """The part on exit codes of a tool's docstring; "" if there is none."""
    code = (tools_folder() / f"{TOOLS[verb]}.py").read_text(encoding="utf-8")
    found = re.search(r"Exit codes?:? (.+?)(?:\n\n|\Z)", ast.get_docstring(ast.parse(code)) or "", re.DOTALL)
    return " ".join(found[1].split()).replace("|", "\\|") if found else ""
