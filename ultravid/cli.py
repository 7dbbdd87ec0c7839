"""The command ``ultravid``: runs every tool of ``tools/`` by a verb, without a checkout.

``ultravid train --config-file F key=value`` runs ``tools/lazyconfig_train.py --config-file F key=value``. Tools are run as the
files that they are, so both ways behave alike. Nothing of torch is imported to find a tool or to print the list of them.
"""

from __future__ import annotations

import ast
import re
import sys
import types
from collections.abc import Sequence
from pathlib import Path

from ultravid.utils.text import nearest
from ultravid.utils.tool import EXIT_USER_ERROR, run_tool, tools_folder

__all__ = ["CONFIG_VERBS", "TOOLS", "main", "summary_of"]

TOOLS = {
    "train": "lazyconfig_train",
    "train-yaml": "train_net",
    "train-plain": "plain_train_net",
    "cross-validate": "cross_validate",
    "experiment": "experiment",
    "summarize": "summarize",
    "predict": "predict",
    "evaluate": "evaluate",
    "compare": "compare",
    "report": "report",
    "audit": "audit_dataset",
    "convert": "convert_dataset",
    "convert-checkpoint": "convert_checkpoint",
    "visualize": "visualize_data",
    "mine": "mine_false_positives",
    "make-phantom": "make_phantom",
    "config": "config",
    "config-diff": "config_diff",
    "config-graph": "config_graph",
    "config-schema": "config_schema",
    "analyze": "analyze_model",
    "replay": "replay",
    "resume-drill": "resume_drill",
    "new-project": "new_project",
    "serve": "serve",
    "export": "export",
    "completion": "completion",
}
"""The file in ``tools/`` (without ``.py``) by its verb; the file's own name is accepted as well."""

CONFIG_VERBS = ("help", "print", "explain", "check", "diff", "graph", "schema")
"""What follows ``ultravid config``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool that the first argument names with the other arguments.

    Returns:
        2 for an unknown verb; a tool that was found ends the process with its own exit code.
    """
    return run_tool(_run, argv)


def _run(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())  # noqa: T201
        return 0 if arguments else EXIT_USER_ERROR
    if arguments[0] in ("-V", "--version", "version"):
        from ultravid import __version__

        print(f"ultravid {__version__}")  # noqa: T201
        return 0
    verb = _verb(arguments[0])
    if verb is None:
        close = nearest(arguments[0], [*TOOLS, *TOOLS.values()])
        hint = f" Did you mean {close!r}?" if close else ""
        print(  # noqa: T201
            f"error: ultravid has no command {arguments[0]!r}.{hint} 'ultravid --help' lists all.", file=sys.stderr
        )
        return EXIT_USER_ERROR
    missing = _missing_project(arguments[1:])
    if missing:
        print(f"error: {missing}", file=sys.stderr)  # noqa: T201
        return EXIT_USER_ERROR
    sys.argv = [f"ultravid {verb}", *arguments[1:]]  # the program's name in a tool's usage and examples
    _run_as_main(tools_folder() / f"{TOOLS[verb]}.py")
    return 0


def _run_as_main(path: Path) -> None:
    """Run a file as ``python FILE`` does. Processes that it spawns import the module ``__main__`` from the same file."""
    module = types.ModuleType("__main__")
    module.__file__ = str(path)
    sys.modules["__main__"] = module
    exec(compile(_with_command_names(path), path, "exec"), module.__dict__)


def _with_command_names(path: Path) -> ast.Module:
    """A tool's code; its docstring, which is its help, names commands as they are called here: ``ultravid train``."""
    tree = ast.parse(path.read_bytes(), path)
    first = tree.body[0] if tree.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        verbs = {tool: verb for verb, tool in TOOLS.items()}
        first.value.value = re.sub(
            r"(?:python )?\btools/(\w+)\.py",
            lambda m: f"ultravid {verbs[m[1]]}" if m[1] in verbs else m[0],
            first.value.value,
        )
    return tree


def _missing_project(arguments: Sequence[str]) -> str:
    """The message on a file in ``projects/`` that an installation without a checkout does not have; "" if there is none."""
    if tools_folder().parent != Path(__file__).resolve().parent:
        return ""
    for path in arguments:
        if path.startswith("projects/") and not Path(path).exists():
            return (
                f"{path} does not exist: the installed package contains no projects. Run the command in a checkout of "
                "ultravid's source, or use your own config ('ultravid new-project NAME' creates one)."
            )
    return ""


def _verb(name: str) -> str | None:
    """The verb that an argument means: one of `TOOLS`, or the name of a tool's file."""
    if name in TOOLS:
        return name
    stem = name.removesuffix(".py").replace("-", "_")
    return next((verb for verb, tool in TOOLS.items() if tool == stem), None)


def _help() -> str:
    width = max(map(len, TOOLS))
    rows = [f"  {verb:<{width}}  {summary_of(verb)}" for verb in TOOLS]
    return "\n".join(
        [
            "usage: ultravid COMMAND [ARGUMENTS]",
            "",
            "Train, evaluate and run detectors of lesions in ultrasound video.",
            "",
            "commands:",
            *rows,
            "",
            "'ultravid COMMAND --help' explains one of them. Each is also a file of the checkout's folder tools/.",
        ]
    )


def summary_of(verb: str) -> str:
    """The first sentence of a tool's docstring, read without running the tool."""
    text = (tools_folder() / f"{TOOLS[verb]}.py").read_text(encoding="utf-8")
    found = re.search(r'"""(.+?)(?:\n\n|""")', text, re.DOTALL)
    return " ".join(found[1].split()).partition(". ")[0].rstrip(".") if found else ""


if __name__ == "__main__":
    sys.exit(main())
