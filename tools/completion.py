#!/usr/bin/env python
"""Completion in bash and zsh: commands, flags, config files and the keys of overrides.

    eval "$(python tools/completion.py bash)"      # in ~/.bashrc; zsh: ... completion.py zsh, in ~/.zshrc
    python tools/lazyconfig_train.py --config-file projects/basicdet/configs/phantom.py train.max<TAB>
    ultravid train --config-file projects/basicdet/configs/phantom.py train.max<TAB>
    ultravid <TAB>

The keys of a Python config are cached in ~/.cache/ultravid, because reading one may import torch. They are read again when a
config file in its folder or in configs_py has changed.
"""

import argparse
import ast
import contextlib
import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ultravid.cli import CONFIG_VERBS, TOOLS
from ultravid.config import LazyConfig, Node
from ultravid.config.command_line import default_argument_parser, yaml_argument_parser
from ultravid.config.loader import importable_project
from ultravid.config.shipped import shipped_root
from ultravid.config.tree import Container, raw_children
from ultravid.utils.file_io import replace_file
from ultravid.utils.tool import ToolParser, run_tool, tools_folder

SCRIPT = """\
_ultravid_complete() {
    local word line is_ours=""
    COMPREPLY=()
    for word in "${COMP_WORDS[@]}"; do
        case "$word" in ultravid|*/ultravid|TOOLS) is_ours=1 ;; esac
    done
    [ -n "$is_ours" ] || return 0
    while IFS= read -r line; do
        case "$line" in *[=./[]) ;; *) [ -n "${ZSH_VERSION-}" ] || line="$line " ;; esac
        COMPREPLY+=("$line")
    done < <("PYTHON" "TOOL" words "$COMP_CWORD" "${COMP_WORDS[@]}" 2>/dev/null)
}
complete -o default -o bashdefault -o nospace -F _ultravid_complete python python3 ultravid
"""

CONFIG_SUFFIXES = (".py", ".yaml", ".yml")
CHOICES = {  # values of a flag, by verb, beside those that its tool states
    "--format": {"train": ("py", "yaml"), "train-plain": ("py", "yaml")},
}


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


def completions(words: Sequence[str], current: int) -> list[str]:
    """The completions of one word of a command line, as bash splits it.

    Args:
        words: of the command line, ``=`` between two of them is one too.
        current: index of the word.
    """
    word = words[current] if current < len(words) else ""
    verb, start = _tool_of(words[:current])
    if verb is None:
        return sorted(v for v in TOOLS if v.startswith(word)) if start is not None else []
    given = [w for w in words[start:] if w != "="]
    before = next((w for w in reversed(words[:current]) if w != "="), "")
    if word == "=":
        word = ""
    if verb == "config":
        return _of_config(given, word, is_value=(current > 0 and words[current - 1] == "=") or "=" in word)
    if before == "--config-file" or (verb == "config-diff" and len(given) <= 2 and not word.startswith("-")):
        return _config_files(word)
    if before.startswith("--") and (choices := choices_of(verb, before)):
        return [choice for choice in choices if choice.startswith(word)]
    if word.startswith("-"):
        return [flag for flag in flags_of(verb) if flag.startswith(word)]
    config = _config_among(given, verb)
    if config is None or (current > 0 and words[current - 1] == "=") or "=" in word:
        return []
    if verb == "train-yaml":
        return [name.rstrip("=") for name in matches(_yaml_keys(), word)]
    if verb in WITH_OVERRIDES:
        found = matches(keys_of(config), word)
        return [name.rstrip("=") for name in found] if "--explain" in given else found
    return []


def _of_config(given: Sequence[str], word: str, is_value: bool) -> list[str]:
    """The completions of a word behind ``config``: a verb, then files, then keys of the last file."""
    if len(given) <= 1:
        return [each for each in CONFIG_VERBS if each.startswith(word)]
    num_files = 2 if given[0] == "diff" else 1
    if len(given) <= 1 + num_files and not word.startswith("-"):
        return _config_files(word)
    if word.startswith("-"):
        return [flag for flag in flags_of("config") if flag.startswith(word)]
    if is_value or not given[num_files].endswith(CONFIG_SUFFIXES):
        return []
    found = matches(keys_of(Path(given[num_files]).expanduser()), word)
    return [name.rstrip("=") for name in found] if given[0] in ("explain", "help") else found


WITH_OVERRIDES = frozenset(
    v for v, tool in TOOLS.items() if "key=value" in (tools_folder() / f"{tool}.py").read_text(encoding="utf-8")
)
"""The verbs of tools that take overrides."""


def _tool_of(words: Sequence[str]) -> tuple[str | None, int | None]:
    """(verb, index of its first argument); (None, index) after ``ultravid`` alone, (None, None) for another command."""
    for index, word in enumerate(words):
        path = Path(word)
        if path.suffix == ".py" and path.stem in TOOLS.values():
            return next(v for v, tool in TOOLS.items() if tool == path.stem), index + 1
        if path.name == "ultravid":
            verb = words[index + 1] if index + 1 < len(words) else None
            known = verb if verb in TOOLS else None
            return known, index + 2 if known else index + 1
    return None, None


def flags_of(verb: str) -> list[str]:
    """The flags of a tool, read from its code: importing it may take seconds."""
    text = _text_of(verb)
    found = {"--help", *(flag for flag, _ in _arguments_in(text))}
    for name, parser in (
        ("default_argument_parser(", default_argument_parser),
        ("yaml_argument_parser(", yaml_argument_parser),
    ):
        if name in text:
            found |= {flag for action in parser()._actions for flag in action.option_strings if flag.startswith("--")}
    if "default_argument_parser(quick=True" in text:
        found.add("--quick")
    if "dataclasses.fields(PageBounds)" in text:
        from ultravid.serving.page.bounds import PageBounds  # no other tool needs it

        found |= {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(PageBounds)}
    return sorted(found)


def choices_of(verb: str, flag: str) -> Sequence[str]:
    """The values that a flag of a tool may have, if they are stated."""
    known = CHOICES.get(flag, {}).get(verb)
    return known or next((choices for name, choices in _arguments_in(_text_of(verb)) if name == flag), ())


def _text_of(verb: str) -> str:
    return (tools_folder() / f"{TOOLS[verb]}.py").read_text(encoding="utf-8")


def _arguments_in(text: str) -> Iterator[tuple[str, Sequence[str]]]:
    """Flag and choices of each call of ``add_argument`` in a tool's code."""
    for node in ast.walk(ast.parse(text)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
            continue
        flag = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
        if node.func.attr != "add_argument" or not isinstance(flag, str) or not flag.startswith("--"):
            continue
        more = {keyword.arg: keyword.value for keyword in node.keywords}
        choices: Sequence[str] = ()
        with contextlib.suppress(ValueError, KeyError):  # there are none, or they are computed
            choices = [str(choice) for choice in ast.literal_eval(more["choices"])]
        yield flag, choices
        if "action" in more and "BooleanOptionalAction" in ast.unparse(more["action"]):
            yield f"--no-{flag[2:]}", ()


def _config_files(word: str) -> list[str]:
    """Folders, and files that may be configs, whose paths begin with a word."""
    folder, start = os.path.split(word)
    try:
        entries = sorted(os.scandir(os.path.expanduser(folder) or "."), key=lambda entry: entry.name)
    except OSError:
        return []
    shown = [e for e in entries if e.name.startswith(start) and (start or not e.name.startswith((".", "__")))]
    names = [f"{e.name}/" if e.is_dir() else e.name for e in shown if e.is_dir() or e.name.endswith(CONFIG_SUFFIXES)]
    return [os.path.join(folder, name) for name in names]


def _config_among(given: Sequence[str], verb: str) -> Path | None:
    """The config that a command line names."""
    if "--config-file" in given:
        place = given.index("--config-file") + 1
        return Path(given[place]).expanduser() if place < len(given) else None
    paths = [Path(w).expanduser() for w in given if w.endswith(CONFIG_SUFFIXES)]
    return paths[-1] if paths and verb == "config-diff" else None


def _yaml_keys() -> Any:
    from ultravid.config.cfg_defaults import get_cfg

    return _plain_tree(get_cfg())


def _plain_tree(value: Any) -> Any:
    return {k: _plain_tree(v) for k, v in value.items()} if isinstance(value, dict) else None


def main(argv: Sequence[str] | None = None) -> int:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("bash", help="print the completion for bash")
    commands.add_parser("zsh", help="print the completion for zsh")
    keys = commands.add_parser("keys", help="print the completions of a word")
    keys.add_argument("config_file", type=Path)
    keys.add_argument("word")
    commands.add_parser("words", help="print the completions of word N of a command line: words N WORD ...")
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["words"]:  # not by the parser: the words may look like flags
        with contextlib.suppress(LookupError, ValueError, AttributeError):
            print("\n".join(completions(given[2:], int(given[1]))))
        return 0
    args = parser.parse_args(given)
    if args.command == "keys":
        with contextlib.suppress(LookupError, ValueError, AttributeError):  # a word that leads nowhere has no matches
            print("\n".join(matches(keys_of(args.config_file), args.word)))
        return 0
    if args.command == "zsh":
        print("autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit")
    files = "|".join(f"{tool}.py|*/{tool}.py" for tool in TOOLS.values())
    script = SCRIPT.replace("TOOLS", files).replace("PYTHON", sys.executable)
    print(script.replace('"TOOL"', f'"{Path(__file__).resolve()}"'), end="")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
