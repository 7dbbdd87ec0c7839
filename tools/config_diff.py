#!/usr/bin/env python
"""Show the differences between two configs: keys, values and targets, not text.

    python tools/config_diff.py A B [key=value ...]
    python tools/config_diff.py A B --as-overrides [key=value ...]

A and B are config files, checkpoints, or folders in which a run saved its config: the folder of a run, of an attempt or of an
evaluation. Overrides apply to B, so ``A A key=value`` shows what they change. With --as-overrides, each line is an override, quoted
for a shell; applied in this order, they turn A into B. Exit code 0: no difference; 1: some; 2: an error.
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ultravid.config import diff, importable_project
from ultravid.config.command_line import load_with_overrides, print_code
from ultravid.config.override_diff import overrides_between
from ultravid.utils.errors import UserError
from ultravid.utils.run_folder import InferenceFolder, RunFolder
from ultravid.utils.text import shell_line
from ultravid.utils.tool import ToolParser, run_tool


@contextlib.contextmanager
def config_file_of(path: str) -> Iterator[str]:
    """A config file with the config of a run's folder, of an attempt's, or of a checkpoint; a config file is itself.

    Raises:
        UserError: the folder or the checkpoint holds no config.
    """
    given = Path(path)
    if given.suffix in (".pth", ".dcp") and given.exists():
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "config.yaml"
            copy.write_text(config_in_checkpoint(given), encoding="utf-8")
            yield str(copy)
    elif given.is_dir():
        evaluated = InferenceFolder(given).config
        # An attempt's has the name of a run's.
        saved = RunFolder(given).saved_config or (evaluated if evaluated.is_file() else None)
        if saved is None:
            names = f"config.yaml or config_eval.yaml, that of an evaluation of other weights {evaluated.name}"
            raise UserError(f"{path} is a folder without a config: a run's holds {names}.")
        yield str(saved)
    else:
        yield path


def config_in_checkpoint(path: Path) -> str:
    """The config that the run's record put into a checkpoint, as YAML."""
    from ultravid.checkpoint import load_file  # imports torch

    trainer = load_file(path).get("trainer")
    hooks = trainer.get("hooks", {}) if isinstance(trainer, Mapping) else {}
    found = [s["config"] for s in hooks.values() if isinstance(s, Mapping) and isinstance(s.get("config"), str)]
    if not any(found):
        raise UserError(f"{path} holds no config: it was saved by a run without the hook 'record' (RunRecord).")
    return next(filter(None, found))


def main(argv: Sequence[str] | None = None) -> int:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", metavar="A", help="a config (.py or .yaml), a run's folder, or a checkpoint")
    parser.add_argument("new", metavar="B", help="the config to compare it with")
    parser.add_argument("--as-overrides", action="store_true", help="print the overrides that turn A into B")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides of B")
    args = parser.parse_intermixed_args(argv)
    with (
        config_file_of(args.old) as old,
        config_file_of(args.new) as new,
        importable_project(old),
        importable_project(new),
    ):
        first, second = load_with_overrides(old), load_with_overrides(new, args.opts)
        if args.as_overrides:
            overrides = overrides_between(first, second)
            print("".join(f"{shell_line(override)}\n" for override in overrides), end="")
            return 1 if overrides else 0
        differences = diff(first, second)
    print_code("\n".join(map(str, differences)) or "no difference", "diff")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
