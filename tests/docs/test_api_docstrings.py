"""Docstrings of the names that the API pages show: each is there and says what its parameters are."""

import ast
import importlib
import inspect
import re
import sys

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "docs"))
from generators import api

PUBLIC = {
    name.home + "." + name.name: name
    for module in api.public_modules()
    for name in api.public_names(module)
    if not name.is_module
}
OURS = {path: name for path, name in PUBLIC.items() if not name.is_from_elsewhere}


def parameters(node):
    if isinstance(node, ast.ClassDef):
        made = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        if not made and any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
            fields = [
                n for n in node.body if isinstance(n, ast.AnnAssign) and "ClassVar" not in ast.unparse(n.annotation)
            ]
            return [field.target.id for field in fields if not field.target.id.startswith("_")]
        node = made[0] if made else None
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return []
    every = node.args
    found = [*every.posonlyargs, *every.args, *every.kwonlyargs, *filter(None, [every.vararg, every.kwarg])]
    return [argument.arg for argument in found if argument.arg not in ("self", "cls") and argument.arg[0] != "_"]


def texts(public, node):
    inner = (
        [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        if isinstance(node, ast.ClassDef)
        else []
    )
    return "\n".join([api.docstring_of(public), *(ast.get_docstring(n) or "" for n in inner)])


def test_every_public_name_has_a_docstring():
    assert len(OURS) > 500
    assert [path for path, public in OURS.items() if not api.docstring_of(public).strip()] == []


def test_a_docstring_says_what_each_parameter_is():
    unexplained = {}
    for path, public in OURS.items():
        node = api.definition_of(public)
        text = texts(public, node)
        if missing := [name for name in parameters(node) if not re.search(rf"^ +\*?\*?{name}: \S", text, re.MULTILINE)]:
            unexplained[path] = missing
    assert unexplained == {}


def test_sections_of_a_docstring_are_those_that_the_pages_show():
    """Another title, or a section that is indented, is shown as text."""
    known = {"Args", "Attributes", "Raises", "Returns", "Yields", "Example", "Examples", "Note"}
    found = {}
    for path, public in OURS.items():
        titles = set(re.findall(r"^(\w+):\n +\S", api.docstring_of(public), re.MULTILINE))
        if titles - known:
            found[path] = sorted(titles - known)
    assert found == {}


@pytest.mark.parametrize("path", api.FROM_ELSEWHERE)
def test_signatures_of_other_libraries_are_up_to_date(path):
    module, _, name = path.rpartition(".")
    shown = parameters(ast.parse(f"def {name}{api.FROM_ELSEWHERE[path]}: ...").body[0])
    actual = list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
    assert [parameter for parameter in actual if parameter in shown] == shown and path in PUBLIC
