#!/usr/bin/env python
"""Completion of override keys in bash and zsh.

    eval "$(python tools/completion.py bash)"      # in ~/.bashrc; zsh: ... completion.py zsh, in ~/.zshrc
    python tools/lazyconfig_train.py --config-file projects/basicdet/configs/phantom.py train.max<TAB>
    ultravid train --config-file projects/basicdet/configs/phantom.py train.max<TAB>

The keys of a Python config are cached in ~/.cache/ultravid, because reading one may import torch. They are read again when a
config file in its folder or in configs_py has changed.
"""

import argparse
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ultravid.config import LazyConfig, Node
from ultravid.config.loader import importable_project
from ultravid.config.shipped import shipped_root
from ultravid.config.tree import Container, raw_children
from ultravid.utils.file_io import replace_file
from ultravid.utils.tool import ToolParser, run_tool

SCRIPT = """\
_ultravid_complete() {
    local word script="" config="" previous="" current="${COMP_WORDS[COMP_CWORD]}"
    for word in "${COMP_WORDS[@]}"; do
        case "$word" in */lazyconfig_train.py|*/config_diff.py|*/config_graph.py|ultravid|*/ultravid) script="$word" ;; esac
        case "$previous" in --config-file) config="$word" ;; esac
        [ "$word" = "=" ] || previous="$word"
    done
    COMPREPLY=()
    [ -n "$script" ] && [ -n "$config" ] && [ "$current" != "$config" ] || return 0
    case "$current" in -*) return 0 ;; esac
    COMPREPLY=($("PYTHON" "TOOL" keys "$config" "$current" 2>/dev/null))
}
complete -o default -o bashdefault -o nospace -F _ultravid_complete python python3 ultravid
"""


def key_tree(value: Any) -> Any:
    """Dicts and lists of keys, with None for each value."""
    if isinstance(value, Node):
        return {str(k): key_tree(v) for k, v in raw_children(value)}
    if isinstance(value, Container):
        return [key_tree(v) for _, v in raw_children(value)]
    return None


def keys_of(config_file: Path) -> Any:
    """The key tree of a config, from the cache if no config file has changed."""
    if config_file.suffix != ".py":
        return key_tree(LazyConfig.load(config_file))
    files = sorted({*config_file.parent.glob("*.py"), *shipped_root().rglob("*.py")})
    state = json.dumps([(str(f), f.stat().st_mtime_ns) for f in files] + [str(config_file.resolve())])
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ultravid"
    kept = cache / f"keys_{hashlib.sha256(state.encode()).hexdigest()[:16]}.json"
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    with importable_project(config_file):
        tree = key_tree(LazyConfig.load(config_file))
    cache.mkdir(parents=True, exist_ok=True)
    with replace_file(kept) as file:
        file.write(json.dumps(tree).encode())
    return tree


def matches(tree: Any, word: str) -> list[str]:
    """The completions of a word: ``train.`` for a node, ``train.seed=`` for a value."""
    sign = word[: len(word) - len(word.lstrip("+~"))]
    key = word[len(sign) :]
    cut = max(key.rfind("."), key.rfind("[")) + 1
    parent, start = key[:cut], key[cut:]
    for step in parent.replace("[", ".").replace("]", "").strip(".").split("."):
        if step:
            tree = tree[int(step)] if isinstance(tree, list) else tree.get(step, {})
    if isinstance(tree, list):
        children = [(f"{parent}{i}{']' if parent.endswith('[') else ''}", v) for i, v in enumerate(tree)]
    else:
        children = [(f"{parent}{k}", v) for k, v in (tree or {}).items() if not k.startswith("_") or start[:1] == "_"]
    found = [(name, value) for name, value in children if name.startswith(f"{parent}{start}")]
    ends = {dict: ".", list: "."}
    return [f"{sign}{name}{ends.get(type(value), '' if sign == '~' else '=')}" for name, value in found]


def main(argv: Sequence[str] | None = None) -> int:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("bash", help="print the completion for bash")
    commands.add_parser("zsh", help="print the completion for zsh")
    keys = commands.add_parser("keys", help="print the completions of a word")
    keys.add_argument("config_file", type=Path)
    keys.add_argument("word")
    args = parser.parse_args(argv)
    if args.command == "keys":
        with contextlib.suppress(LookupError, ValueError, AttributeError):  # a word that leads nowhere has no matches
            print("\n".join(matches(keys_of(args.config_file), args.word)))
        return 0
    if args.command == "zsh":
        print("autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit")
    print(SCRIPT.replace("PYTHON", sys.executable).replace("TOOL", str(Path(__file__).resolve())), end="")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
