"""No two files import each other, not even inside a function; and a config is read without what is slow to import."""

import ast
import subprocess
import sys
from collections import deque
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("ultravid", "tools", "projects", "configs_py")


@cache
def file_of(root: Path, parts: tuple[str, ...]) -> Path | None:
    """The file of a module, given the parts of its dotted name; None for one from outside of the tree."""
    path = root.joinpath(*parts)
    if parts and path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    return path / "__init__.py" if parts and (path / "__init__.py").is_file() else None


def imported_files(root: Path, file: Path) -> set[Path]:
    """The files of the tree that a file imports, at its top, in a function, or for type checkers."""
    found: set[Path | None] = set()
    package = list(file.parent.relative_to(root).parts)
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {file_of(root, tuple(alias.name.split("."))) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *(node.module.split(".") if node.module else [])]
            for alias in node.names:  # a module of the package, else a name that the package's __init__ has
                found.add(file_of(root, (*module, alias.name)) or file_of(root, tuple(module)))
    return {path for path in found if path is not None and path != file}


def import_graph(root: Path) -> dict[Path, set[Path]]:
    return {file: imported_files(root, file) for folder in FOLDERS for file in sorted((root / folder).rglob("*.py"))}


def circles(graph: dict[Path, set[Path]]) -> list[list[Path]]:
    """For each file that leads back to itself the shortest way there, unless another circle has that file already."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError:
        return shortest_circles(graph)
    return []


def shortest_circles(graph: dict[Path, set[Path]]) -> list[list[Path]]:
    found: list[list[Path]] = []
    for start in graph:
        if any(start in circle for circle in found):
            continue
        reached_from: dict[Path, Path] = {}
        queue = deque([start])
        while queue and start not in reached_from:
            here = queue.popleft()
            for there in sorted(graph.get(here, ())):
                if there not in reached_from:
                    reached_from[there] = here
                    queue.append(there)
        if start in reached_from:
            way = [start, reached_from[start]]
            while way[-1] != start:
                way.append(reached_from[way[-1]])
            found.append(way[::-1])
    return found


def described(graph: dict[Path, set[Path]], root: Path) -> str:
    return "\n".join(" -> ".join(str(f.relative_to(root)) for f in circle) for circle in circles(graph))


def test_no_files_import_each_other_in_a_circle():
    graph = import_graph(ROOT)
    assert len(graph) > 150 and sum(map(len, graph.values())) > 500  # the tree was read at all
    assert (found := described(graph, ROOT)) == "", f"Files import each other:\n{found}"


@pytest.mark.parametrize(
    ("files", "circle"),
    [
        (
            {"a.py": "from ultravid.b import x", "b.py": "def f():\n    import ultravid.a"},
            "ultravid/a.py -> ultravid/b.py",
        ),
        ({"a.py": "from ultravid import b", "b.py": "from .a import x"}, "ultravid/a.py -> ultravid/b.py"),
        (
            {
                "a.py": "import typing\nif typing.TYPE_CHECKING:\n    from ultravid.c import X",
                "b.py": "from . import a",
                "c.py": "from ultravid.b import y",
            },
            "ultravid/a.py -> ultravid/c.py -> ultravid/b.py",
        ),
        (
            {"__init__.py": "from ultravid.a import x", "a.py": "from ultravid import y"},
            "ultravid/__init__.py -> ultravid/a.py",
        ),
        ({"__init__.py": "", "a.py": "from ultravid import b", "b.py": "import ultravid\nimport json"}, ""),
    ],
)
def test_a_circle_is_found_and_shown(tmp_path: Path, files: dict[str, str], circle: str):
    (tmp_path / "ultravid").mkdir()
    for name, text in files.items():
        (tmp_path / "ultravid" / name).write_text(text)
    assert described(import_graph(tmp_path), tmp_path) == (
        f"{circle} -> {circle.partition(' -> ')[0]}" if circle else ""
    )


@pytest.mark.parametrize(
    ("module", "not_needed"),
    [
        ("ultravid.config", "torch torchvision fvcore iopath yacs hydra omegaconf rich"),
        ("ultravid.datasets", "torch torchvision fvcore"),
    ],
)
def test_importing_needs_no_slow_package(module: str, not_needed: str):
    code = f"import sys, {module}; print(*(name for name in {not_needed.split()} if name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
