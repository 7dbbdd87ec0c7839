"""Which files of a folder docs/reference/run_folder.md does not name."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import ROOT

__all__ = ["unnamed_files"]

PAGE = ROOT / "docs/reference/run_folder.md"
RUN, ATTEMPT, EVALUATION = "The folder of a run", "The folder of an attempt", "The folder of an evaluation"


def named(section: str) -> list[str]:
    """Regular expressions of the files that a table of the page names; what is in a folder of its own follows after a slash."""
    part = PAGE.read_text(encoding="utf-8").partition(f"## {section}\n")[2].partition("\n## ")[0]
    names = [name.rstrip("/") for name in re.findall(r"^\| `([^`]+)` \|", part, re.MULTILINE)]
    assert names, f"the page has no table {section!r}"
    found = []
    for name in names:
        pattern = re.sub(
            r"<[^>]+>", "[^/]+", re.escape(name).replace(r"\ ", " ").replace(r"\<", "<").replace(r"\>", ">")
        )
        found.append(re.sub(r"(?<=model_)\d+", r"(\\d+|final|best)", pattern))
    return found


def unnamed_files(run: Path) -> list[str]:
    """The files of a run's folder that the page does not name, in the folders of attempts and evaluations too."""
    folders = [(r"attempts/\d+/", ATTEMPT), (r"inference[^/]*/", EVALUATION)]
    patterns = [f"{prefix}{name}(/.+)?" for prefix, section in folders for name in named(section)]
    patterns += [name if re.match("attempts|inference", name) is None else f"{name}$^" for name in named(RUN)]
    patterns += [r"(step_dumps|quick)/.+"]
    files = [path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()]
    assert files, f"{run} holds no file"
    return sorted(file for file in files if not any(re.fullmatch(pattern, file) for pattern in patterns))
