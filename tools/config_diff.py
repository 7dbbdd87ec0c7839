#!/usr/bin/env python
"""Show the differences between two configs: keys, values and targets, not text.

    python tools/config_diff.py A B [key=value ...]

Overrides apply to B, so ``config_diff.py A A key=value`` shows what they change. Exit code 0: no difference; 1: some; 2: an
error.
"""

import argparse
import sys
from collections.abc import Sequence

from ultravid.config import diff, importable_project
from ultravid.config.command_line import load_with_overrides, print_code
from ultravid.utils.tool import run_tool


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", metavar="A", help="a config, .py or .yaml")
    parser.add_argument("new", metavar="B", help="the config to compare it with")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of B")
    args = parser.parse_intermixed_args(argv)
    with importable_project(args.old), importable_project(args.new):
        differences = diff(load_with_overrides(args.old), load_with_overrides(args.new, args.opts))
    print_code("\n".join(map(str, differences)) or "no difference", "diff")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
