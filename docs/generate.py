#!/usr/bin/env python
"""Write the pages and drawings of docs/ that are made from the code, or check that they are up to date.

    python docs/generate.py                     # write all of them
    python docs/generate.py commands imports    # write these parts
    python docs/generate.py --check             # write nothing; name what is out of date

What it writes is committed, so that a reader on GitHub sees it and a build of the site needs nothing of the package. Exit codes:
0 done or up to date, 1 something is out of date.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

DOCS = Path(__file__).resolve().parent
for folder in (DOCS.parent, DOCS):  # the package of this checkout, and the folder `generators`
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from generators.parts import PARTS, Part  # noqa: E402

__all__ = ["PARTS", "Part", "apply", "main", "outdated"]


def outdated(part: str) -> dict[str, str | None]:
    """What a part would change: the content by path from ``docs/``; None for a file that it no longer writes."""
    files = PARTS[part].files()
    owned = {path.relative_to(DOCS).as_posix() for pattern in PARTS[part].owns for path in DOCS.glob(pattern)}
    changes: dict[str, str | None] = dict.fromkeys(sorted(owned - files.keys()))
    for name, content in files.items():
        path = DOCS / name
        if not path.is_file() or path.read_bytes() != content.encode():
            changes[name] = content
    return changes


def apply(changes: dict[str, str | None]) -> None:
    """Write or delete the files of `outdated`."""
    for name, content in changes.items():
        path = DOCS / name
        if content is None:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = "\n".join(f"  {name:<12} {part.about}" for name, part in PARTS.items())
    parser.epilog = f"parts:\n{names}"
    parser.add_argument("parts", nargs="*", metavar="PART", help="parts to write or check (default: all)")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if something is out of date")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.parts if name not in PARTS]:
        parser.error(f"there is no part {unknown[0]!r}; the parts are {', '.join(PARTS)}")
    stale = False
    for name in args.parts or PARTS:
        if reason := PARTS[name].why_not():
            print(f"{name}: skipped, {reason}")
            continue
        changes = outdated(name)
        stale |= bool(changes)
        for path, content in changes.items():
            if args.check:
                state = "is no longer written" if content is None else "is out of date"
                print(f"docs/{path} {state}: run `python docs/generate.py {name}`")
            else:
                print(f"{'Deleted' if content is None else 'Wrote'} docs/{path}")
        if not args.check:
            apply(changes)
    if args.check and not stale:
        print("Everything is up to date.")
    return int(args.check and stale)


if __name__ == "__main__":
    sys.exit(main())
