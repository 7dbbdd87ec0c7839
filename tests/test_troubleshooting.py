"""Pages quote messages that the code has; docs/troubleshooting.md advises keys, flags and files that are there."""

import ast
import collections
import itertools
import re

from tests.conftest import ROOT, load_tool
from ultravid.cli import TOOLS
from ultravid.config import ConfigError, load_checked
from ultravid.config.tree import value_at

PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^\*\*`(.+?)`\*\*", PAGE, re.MULTILINE)
HOW_TO = [path for path in sorted((ROOT / "docs/how-to").glob("*.md")) if path.stem != "index"]
OTHER_PAGES = [ROOT / "docs/reference/contracts.md", *HOW_TO]


def texts_of(node, named):
    """The texts that an expression may be, with "\0" for what differs.

    Args:
        node: a string, an f-string, a choice or a sum of them, or the name of one.
        named: expressions by the name that they are assigned to.
    """
    if isinstance(node, ast.Constant):
        return [re.sub(r"%(?:\.\d+)?[srdf]", "\0", node.value)] if isinstance(node.value, str) else []
    if isinstance(node, ast.JoinedStr):
        return joined(
            [
                texts_of(getattr(part, "value", None) if isinstance(part, ast.FormattedValue) else part, named)
                for part in node.values
            ]
        )
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return joined([texts_of(node.left, named), texts_of(node.right, named)])
    if isinstance(node, ast.IfExp):
        return texts_of(node.body, named) + texts_of(node.orelse, named)
    if isinstance(node, ast.Name):  # of a local, the last steps are not followed
        return [text for value in named.get(node.id, ()) for text in texts_of(value, {})]
    return []


def joined(parts):
    """Each way to choose one text of each part, 32 of them at most."""
    found = itertools.product(*(part or ["\0"] for part in parts))
    return ["".join(way) for way in itertools.islice(found, 32)]


def names_in(nodes):
    named = collections.defaultdict(list)
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            named[node.targets[0].id].append(node.value)
    return named


def messages():
    for folder in ("ultravid", "tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            named = names_in(tree.body)
            for node in ast.walk(tree):
                if id(node) not in docstrings and isinstance(node, ast.JoinedStr | ast.Constant):
                    yield from texts_of(node, named)
            yield from reported_by(tree)


def test_every_quoted_message_is_in_the_code():
    known = set(messages())
    others = [re.findall(r"\*\*`(.+?)`\*\*", page.read_text(encoding="utf-8")) for page in OTHER_PAGES]
    assert len(QUOTED) > 90 and all(others)
    absent = []
    for quoted in dict.fromkeys(itertools.chain(QUOTED, *others)):
        parts = [part for part in quoted.split("...") if part.strip()]
        longest = max(parts, key=len)  # a search for it alone is quicker
        wanted = re.compile(".*?".join(map(re.escape, parts)), re.DOTALL)
        if not any(longest in text and wanted.search(text) for text in known):
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


# What is raised or reported when a run is set up and makes its first step.
AT_THE_START = (
    *("engine/defaults.py", "engine/launch.py", "engine/rendezvous.py", "engine/spawn.py", "engine/quick.py"),
    *(
        "engine/model_output.py",
        "engine/hook_checks.py",
        "engine/failures.py",
        "engine/train_loop.py",
        "engine/hooks/*.py",
    ),
    *("checkpoint/reading.py", "checkpoint/weights.py", "solver/schedules.py", "solver/saved_schedule.py"),
    *("config/resume.py", "config/override*.py", "config/mistyped.py", "config/loader.py", "config/check.py"),
    *(
        "config/call_faults.py",
        "config/instantiate.py",
        "utils/folder_lock.py",
        "utils/events.py",
        "evaluation/recording.py",
    ),
)
# Parts of messages, or what only the code around them reads.
NOT_A_MESSAGE = {
    "\0: \0 fault\n\0",
    "\0: \0 faults\n\0",
    "there is no average of \0",
    "train.device=\0 \0 (\0).",  # the rest is of `device_fault`
}


def own_nodes(function):
    """The nodes of a function, or of a module, without those of the functions in it."""
    waiting = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        if not isinstance(node, ast.FunctionDef):
            yield node
            waiting += ast.iter_child_nodes(node)


def reported_by(tree, returned=False):
    """The texts that a module raises as an error or reports as a fault, those in variables too; or that its functions return, if ``returned``."""
    constants = names_in(tree.body)
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
        nodes = list(own_nodes(function))
        named = {**constants, **names_in(nodes)}
        for node in nodes:
            if isinstance(node, ast.Return) and returned:
                yield from texts_of(node.value.elts[0] if isinstance(node.value, ast.Tuple) else node.value, named)
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
                continue
            if node.func.id == "Fault":
                yield from texts_of(node.args[1], named)
            elif node.func.id.endswith("Error") and node.args:
                yield from texts_of(node.args[0], named)


def test_every_message_of_the_start_of_a_run_is_explained():
    """An entry may quote the common part of several messages."""
    entries = [[part.strip() for part in quoted.split("...") if part.strip(" .:'")] for quoted in QUOTED]
    unexplained = []
    for pattern in AT_THE_START:
        paths = sorted((ROOT / "ultravid").glob(pattern))
        assert paths
        for path in paths:
            for text in reported_by(ast.parse(path.read_text(encoding="utf-8")), returned=path.name == "mistyped.py"):
                is_message = re.search("[a-z]{3}", text) and text not in NOT_A_MESSAGE
                if is_message and not any(all(part in text for part in parts) for parts in entries):
                    unexplained.append((path.name, text))
    assert unexplained == []
