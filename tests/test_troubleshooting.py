"""docs/troubleshooting.md quotes messages that the code has, and advises keys, flags and files that are there."""

import ast
import re

from tests.conftest import ROOT, load_tool
from ultravid.cli import TOOLS
from ultravid.config import ConfigError, load_checked
from ultravid.config.tree import value_at

PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^\*\*`(.+?)`\*\*", PAGE, re.MULTILINE)


def texts_of(node):
    """The text of a string or f-string, values replaced; of one that is named or chosen inside it, its text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    return "".join(texts_of(part) if isinstance(part, ast.Constant) else "\0" for part in node.values)


def messages():
    for folder in ("ultravid", "tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if id(node) in docstrings:
                    continue
                if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str)):
                    yield re.sub(r"%(?:\.\d+)?[srdf]", "\0", texts_of(node))


def test_every_quoted_message_is_in_the_code():
    known = list(messages())
    assert len(QUOTED) > 90
    absent = []
    for quoted in QUOTED:
        parts = [re.escape(part) for part in re.split(r"\.\.\.", quoted) if part.strip()]
        wanted = re.compile(".*?".join(parts), re.DOTALL)
        if not any(wanted.search(text) for text in known):
            absent.append(quoted)
    assert absent == []


def test_no_message_is_quoted_twice():
    assert len(set(QUOTED)) == len(QUOTED)


def test_advised_keys_flags_and_tools_exist():
    advice = re.sub(r"^\*\*`.+?`\*\*", "", PAGE, flags=re.MULTILINE)
    spans = re.findall(r"`([^`]+)`", advice)
    flags = {flag for span in spans for flag in re.findall(r"(?<![\w-])--[a-z][a-z-]+", span)}
    offered = {flag for verb in TOOLS for flag in load_tool("completion").flags_of(verb)} | {"--help"}
    assert {"--check", "--quick", "--allow-change"} <= flags and flags <= offered
    configs = [load_checked(ROOT / f"projects/basicdet/configs/{name}.py") for name in ("phantom", "cva_bus")]
    keys = {
        key for span in spans for key in re.findall(r"\b(?:train|trainer|dataloader|optimizer|data)(?:\.\w+)+", span)
    }
    assert len(keys) > 12 and [key for key in sorted(keys) if not any(has(cfg, key) for cfg in configs)] == []
    for tool in re.findall(r"tools/(\w+)\.py", PAGE):
        assert (ROOT / f"tools/{tool}.py").is_file()
    for page in re.findall(r"docs/\w+\.md", PAGE):
        assert (ROOT / page).is_file()


def has(cfg, key):
    try:
        value_at(cfg, key)
    except ConfigError:
        return False
    return True


def test_every_message_of_the_start_of_a_run_is_explained():
    """What the modules that a user meets first raise; an entry may quote a part of the message."""
    sources = (
        *("engine/defaults.py", "engine/launch.py", "engine/rendezvous.py", "engine/spawn.py", "engine/quick.py"),
        *("engine/model_output.py", "checkpoint/reading.py", "config/resume.py"),
    )
    quoted = [[part.strip() for part in quoted.split("...") if part.strip(" .:'")] for quoted in QUOTED]
    unexplained = []
    for source in sources:
        for node in ast.walk(ast.parse((ROOT / "ultravid" / source).read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args):
                continue
            if not (isinstance(node.exc.func, ast.Name) and node.exc.func.id.endswith("Error")):
                continue
            message = node.exc.args[0]
            if isinstance(message, ast.JoinedStr | ast.Constant):
                text = texts_of(message)
                if not any(all(part in text for part in parts) for parts in quoted):
                    unexplained.append((source, text))
    assert unexplained == []
