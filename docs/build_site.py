#!/usr/bin/env python
"""Build the documentation with both builders and check what they wrote; `make docs` runs this in an environment of its own.

    python docs/build_site.py                 # zensical writes site/; mkdocs writes to a temporary folder, as a check
    python docs/build_site.py --only zensical

Nothing is loaded from a network, neither here nor by the pages. Exit codes: 0 built without a warning and no fault was found, 1 otherwise.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from check_site import check

ROOT = Path(__file__).resolve().parents[1]
HOW_TO_READ = """\
To read it: python3 -m http.server --directory site, then open http://127.0.0.1:8000
Opened as files, from site/index.html, the pages can be read as well, but not searched."""
ENVIRONMENT = os.environ | {
    "NO_COLOR": "1",
    "NO_MKDOCS_2_WARNING": "1",  # mkdocs-material prints that its successor is the other builder
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["zensical", "mkdocs"], help="build with this one alone")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="ultravid-docs-") as scratch:
        commands = {
            "zensical": (["zensical", "build", "--strict", "--clean"], ROOT / "site"),
            # not --quiet: then warnings are not counted
            "mkdocs": (["mkdocs", "build", "--strict", "--site-dir", scratch], Path(scratch)),
        }
        chosen = {name: command for name, command in commands.items() if args.only in (None, name)}
        shutil.rmtree(ROOT / "site", ignore_errors=True)  # zensical leaves pages there that are no longer written
        started = {name: start(command) for name, (command, _) in chosen.items()}
        code = max([finish(name, process, chosen[name][1]) for name, process in started.items()])
    if not code and "zensical" in chosen:
        print(HOW_TO_READ)
    return code


def start(command: list[str]) -> "subprocess.Popen[str]":
    """Start a builder of this interpreter's environment."""
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(name: str, process: "subprocess.Popen[str]", site: Path) -> int:
    """Wait for a builder and check its site; 0 if all is well."""
    output = re.sub(r"\x1b\[[\d;]*m", "", process.communicate()[0])
    if process.returncode or re.search(r"\bwarning\b", output, re.IGNORECASE):
        print(f"{name} failed or warned:\n{output}")
        return 1
    faults = check(site)
    for fault in faults:
        print(f"{name}: {fault}")
    pages = len(list(site.rglob("*.html")))
    print(f"{name}: {pages} pages, {len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
