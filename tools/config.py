#!/usr/bin/env python
"""Inspect a config without running it: the meaning of its keys, its errors, and its differences from another config.

    python tools/config.py help FILE [KEY ...] [key=value ...]           every key, or those below KEY: type, default, documentation
    python tools/config.py print FILE [--format yaml] [--resolve] [key=value ...]
    python tools/config.py explain FILE KEY ... [key=value ...]          every place that set a key, in order
    python tools/config.py check FILE [key=value ...]                    all errors at once; exit code 2
    python tools/config.py diff A B [--as-overrides] [key=value ...]     keys, values and targets; exit code 1 if they differ
    python tools/config.py graph FILE [--output graph.svg] [key=value ...]
    python tools/config.py schema FILE [--output schema.json] [key=value ...]

FILE is a config (.py or .yaml), a run's folder, or a checkpoint. Exit codes: 0 done, 1 diff found a difference, 2 check found an error, or
an argument is wrong.
"""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType

from ultravid.cli import CONFIG_VERBS
from ultravid.config.check import RUN_KEYS, RUN_OBJECTS
from ultravid.config.command_line import show_config
from ultravid.utils.text import nearest
from ultravid.utils.tool import EXIT_USER_ERROR, ToolParser, run_tool, tools_folder


def tool(name: str) -> ModuleType:
    """Another file of this folder."""
    spec = importlib.util.spec_from_file_location(f"ultravid_tool_{name}", tools_folder() / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def show(verb: str, argv: Sequence[str]) -> int:
    """The verbs that the launcher has as options."""
    parser = ToolParser(
        prog=f"{sys.argv[0]} {verb}", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", metavar="FILE", help="a config (.py or .yaml), a run's folder, or a checkpoint")
    if verb == "print":
        parser.add_argument("--format", choices=("py", "yaml"), help="as Python-like code (the default) or YAML")
        parser.add_argument("--resolve", action="store_true", help="with references replaced by their values")
    keys = "KEY ... " if verb in ("help", "explain") else ""
    parser.add_argument("rest", nargs="*", metavar=f"{keys}key=value", help=f"{keys and 'keys, then '}overrides")
    args = parser.parse_intermixed_args(argv)
    named = [] if not keys else [text for text in args.rest if text and "=" not in text and text[0] not in "+~"]
    if verb == "explain" and not named:
        parser.error("expected at least one KEY")
    with tool("config_diff").config_file_of(args.file) as file:
        asked = argparse.Namespace(
            config_file=file,
            opts=[text for text in args.rest if text not in named],
            print=verb == "print",
            format=getattr(args, "format", None),
            resolve=getattr(args, "resolve", False),
            explain=named if verb == "explain" else None,
            check=verb == "check",
            help_config=named if verb == "help" else None,
        )
        show_config(asked, RUN_KEYS, RUN_OBJECTS)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    verb, *rest = [*(sys.argv[1:] if argv is None else argv), ""]
    rest = rest[:-1]
    if verb in ("-h", "--help") or not verb:
        print(__doc__.strip())
        return 0 if verb else EXIT_USER_ERROR
    if verb not in CONFIG_VERBS:
        close = nearest(verb, CONFIG_VERBS)
        hint = f"Did you mean {close!r}?" if close else f"It has {', '.join(CONFIG_VERBS)}."
        print(f"error: {sys.argv[0]} has no verb {verb!r}. {hint}", file=sys.stderr)
        return EXIT_USER_ERROR
    if verb not in ("diff", "graph", "schema"):
        return show(verb, rest)
    sys.argv[0] = f"{sys.argv[0]} {verb}"  # the program's name in messages
    if verb == "graph" and rest and not rest[0].startswith("-"):
        rest = ["--config-file", *rest]
    return int(tool(f"config_{verb}").main(rest))


if __name__ == "__main__":
    sys.exit(run_tool(main))
