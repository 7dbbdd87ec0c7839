"""Drawings of the import graph: the layers of the package, who imports from whom, and the modules of each package with a page of them."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path

import grimp

from generators.layered_drawing import Box, draw_layers
from generators.matrix_drawing import draw_matrix

__all__ = ["files"]

ROOT = Path(__file__).resolve().parents[2]
USERS = ("tools", "projects", "configs_py")

INTRODUCTION = """\
# Modules

What each package is made of, from the highest layer to the lowest ([architecture](../architecture.md)). In the drawings an arrow leads from a
module to one that it imports, and lines to the same module run together. An import that a longer way implies is not drawn. A folder is one box. Below the
dashed line are modules that neither import another one of the package nor are imported by one.
"""

Edges = dict[str, set[str]]
"""The names that each name imports; every name is a key."""


def files() -> dict[str, str]:
    """The drawings and the page, by path from ``docs/``."""
    graph = grimp.build_graph("ultravid", *USERS, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in sorted(graph.modules)}
    layers = read_layers()
    packages = [name for row in layers for name in row if (ROOT / "ultravid" / name).is_dir()]
    drawn = {
        "images/imports.svg": draw_package_layers(imports, layers),
        "images/imports_matrix.svg": draw_counts(imports, packages),
        "explanation/modules.md": page_of_modules(sorted(imports), packages),
    }
    return drawn | {f"images/imports_{name}.svg": draw_package(imports, name) for name in packages}


def read_layers() -> list[list[str]]:
    """The layers that `lint-imports` enforces, the highest first; packages of one layer do not import each other."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(contract["layers"] for contract in contracts if contract["name"] == "layers of the package")
    return [[name.strip() for name in layer.split("|")] for layer in layers]


def package_of(module: str) -> str:
    """The package below ``ultravid`` that a module belongs to, or the folder of a module from outside of it."""
    top, _, rest = module.partition(".")
    return rest.partition(".")[0] if top == "ultravid" else top


def draw_package_layers(imports: Edges, layers: list[list[str]]) -> str:
    """One box for each package in its layer, and an arrow for each import that no longer way through others implies."""
    rows = [list(USERS), *([name for name in row if name != "__main__"] for row in layers)]
    edges: Edges = {name: set() for row in rows for name in row}
    modules = Counter(package_of(module) for module in imports)
    for module, others in imports.items():
        if (own := package_of(module)) in edges:
            edges[own] |= {package_of(other) for other in others} & edges.keys() - {own}
    boxes = {
        name: Box(f"{name}/", (f"{modules[name]} modules",))
        if name in USERS
        else Box(f"ultravid.{name}", tuple(purpose(f"ultravid.{name}").replace("`", "").split()), strong=True)
        for name in edges
    }
    return draw_layers("The layers of ultravid", boxes, edges, rows)


def purpose(module: str) -> str:
    """The first sentence of a module's docstring, as Markdown."""
    path = ROOT.joinpath(*module.split("."))
    code = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    found = re.match(
        r'[rR]?"""(.*?)"""', code.read_text(encoding="utf-8"), re.DOTALL
    )  # parsing all files takes two seconds
    doc = found[1] if found else ""
    text = " ".join(doc.partition("\n\n")[0].replace("``", "`").split())
    return re.split(r"(?<=[a-z0-9)\]'\"`])\. (?=[A-Z`])", text, maxsplit=1)[0].rstrip(".")


def page_of_modules(modules: list[str], packages: list[str]) -> str:
    """A section for each package: its drawing, and what each of its modules is."""
    sections = [INTRODUCTION]
    for package in packages:
        start = f"ultravid.{package}."
        rows = [_row(module.removeprefix(start), module) for module in modules if module.startswith(start)]
        drawing = f"../images/imports_{package}.svg"
        lines = [
            *(f"## ultravid.{package}", "", f"{purpose(f'ultravid.{package}')}.", ""),
            *(f"[![What the modules of ultravid.{package} import of each other]({drawing})]({drawing})", ""),
            *("| module | what it is |", "|---|---|", *rows, ""),
        ]
        sections.append("\n".join(lines))
    return "\n".join(sections)


def _row(name: str, module: str) -> str:
    shown = f"{name}/" if ROOT.joinpath(*module.split(".")).is_dir() else name.replace(".", "/")
    return f"| `{shown}` | {purpose(module)} |".replace("<", "&lt;")


def draw_counts(imports: Edges, packages: list[str]) -> str:
    """How many modules of each package import from each other one."""
    counts: Counter[tuple[str, str]] = Counter()
    for module, others in imports.items():
        counts.update((package_of(module), other) for other in {package_of(other) for other in others})
    names = [*USERS, *packages]
    cells = {pair: number for pair, number in counts.items() if pair[0] != pair[1] and set(pair) <= set(names)}
    return draw_matrix("How many modules of a row import from a column", names, packages, cells)


def draw_package(imports: Edges, package: str) -> str:
    """A box for each module of a package; a folder within it is one box that lists its modules."""
    start = f"ultravid.{package}."

    def node_of(module: str) -> str:
        return module.removeprefix(start).partition(".")[0]

    members = [module for module in imports if module.startswith(start)]
    edges: Edges = {node_of(module): set() for module in members}
    inside: dict[str, list[str]] = {}
    for module in members:
        node = node_of(module)
        below = module.removeprefix(start).partition(".")[2]
        if below:
            inside.setdefault(node, []).append(below)
        edges[node] |= {node_of(other) for other in imports[module] if other.startswith(start)} - {node}
    boxes = {
        node: Box(f"{node}/", _listed(inside[node]), strong=True) if node in inside else Box(node) for node in edges
    }
    return draw_layers(f"The modules of ultravid.{package}", boxes, edges)


def _listed(names: list[str]) -> tuple[str, ...]:
    return (*(f"{name}," for name in names[:-1]), names[-1])
