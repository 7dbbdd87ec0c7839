#!/usr/bin/env python
"""Write a JSON Schema of a config's YAML form, with which editors complete keys and underline mistakes.

    python tools/config_schema.py FILE [--output schema.json] [key=value ...]

FILE is a config, .py or .yaml. Without --output the schema is printed. In an editor with a YAML language server (VS Code, PyCharm,
Neovim) this first line of a YAML config names its schema:

    # yaml-language-server: $schema=schema.json
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ultravid.config import importable_project
from ultravid.config.command_line import load_with_overrides
from ultravid.config.json_schema import json_schema
from ultravid.utils.file_io import replace_file
from ultravid.utils.tool import ToolParser, run_tool


def main(argv: Sequence[str] | None = None) -> int:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config_file", metavar="FILE", help="a config, .py or .yaml")
    parser.add_argument("--output", type=Path, metavar="JSON", help="file to write")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides")
    args = parser.parse_intermixed_args(argv)
    with importable_project(args.config_file):
        schema = json_schema(load_with_overrides(args.config_file, args.opts), title=Path(args.config_file).name)
    text = json.dumps(schema, indent=2, allow_nan=False) + "\n"
    if args.output is None:
        print(text, end="")
        return 0
    with replace_file(args.output) as file:
        file.write(text.encode())
    print(f"Wrote {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
