#!/usr/bin/env python
"""Draw the objects of a config and what they share, as SVG.

    python tools/config_graph.py --config-file FILE [--output graph.svg] [key=value ...]

Each row is an object that the config describes, indented below the object that it belongs to. An arc leads from a reference
to the object that it refers to. An object with several arcs is built once and shared. Hover over a row to see where it was
set.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from ultravid.config import ConfigError, Node, importable_project
from ultravid.config.command_line import load_with_overrides
from ultravid.config.provenance import where
from ultravid.config.references import is_reference
from ultravid.config.serialize import target_text
from ultravid.config.tree import Container, full_key, raw_child, raw_children
from ultravid.utils.file_io import replace_file
from ultravid.utils.tool import ToolParser, run_tool

ROW, INDENT, CHARACTER = 20, 18, 6.6  # px
COLOURS = ("#1b6ca8", "#c0392b", "#1e8449", "#8e44ad", "#b9770e", "#117a65", "#7b241c", "#2c3e50")


@dataclass
class Row:
    """An object, or a dict or list with objects in it."""

    node: Container
    depth: int
    key: str
    target: str  # "" for a dict or list


def has_objects(container: Container) -> bool:
    if isinstance(container, Node) and "_target_" in container:
        return True
    return any(has_objects(v) if isinstance(v, Container) else False for _, v in raw_children(container))


def rows_of(container: Container, depth: int = 0) -> Iterator[Row]:
    """Every object below a container, each after the one that it is a part of."""
    for key, value in raw_children(container):
        if isinstance(value, Container) and has_objects(value):
            is_call = isinstance(value, Node) and "_target_" in value
            yield Row(value, depth, str(key), target_text(raw_child(value, "_target_")) if is_call else "")
            yield from rows_of(value, depth + 1)


def arcs_of(rows: Sequence[Row]) -> list[tuple[int, int, str]]:
    """(row with a reference, row of the object that it refers to, the argument's name)."""
    place = {id(row.node): number for number, row in enumerate(rows)}
    arcs = []
    for number, row in enumerate(rows):
        stack = [(str(key), row.node, key, value) for key, value in raw_children(row.node)]
        while stack:
            name, container, key, value = stack.pop()
            if isinstance(value, Container) and id(value) not in place:  # a dict or list with no object in it
                stack += [(name, value, k, v) for k, v in raw_children(value)]
            elif is_reference(value):
                try:
                    owner = container[key]
                except ConfigError:  # --check reports it
                    continue
                if id(owner) in place:
                    arcs.append((number, place[id(owner)], name))
    return arcs


def draw(cfg: Node) -> str:
    """The SVG text."""
    rows = list(rows_of(cfg))
    arcs = arcs_of(rows)
    users = Counter(owner for _, owner, _ in arcs)
    colour = {owner: COLOURS[i % len(COLOURS)] for i, owner in enumerate(sorted(users))}
    labels = []
    for number, row in enumerate(rows):
        name = ".".join(row.target.split(".")[-1:])
        shared = f" (shared by {users[number]})" if users[number] > 1 else ""
        labels.append((row.key, name, shared))
    ends = [12 + r.depth * INDENT + CHARACTER * len(f"{k}  {n}{s}") for r, (k, n, s) in zip(rows, labels, strict=True)]
    right = max(ends, default=0) + 20
    reach = max((abs(a - b) for a, b, _ in arcs), default=0)
    width, height = right + 60 + 3.2 * reach, ROW * (len(rows) + 1)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}" font-family="monospace" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for number, (row, (key, name, shared)) in enumerate(zip(rows, labels, strict=True)):
        x, y = 12 + row.depth * INDENT, ROW * (number + 1)
        tip = escape(f"{full_key(row.node)}\n{row.target}\n{where(row.node)}")
        tone = colour.get(number, "#222222")
        out.append(
            f'<g><title>{tip}</title><text x="{x}" y="{y}" xml:space="preserve"><tspan fill="#777777">{escape(key)}  '
            f'</tspan><tspan fill="{tone}" font-weight="{"bold" if users[number] else "normal"}">{escape(name)}</tspan>'
            f'<tspan fill="{tone}">{shared}</tspan></text></g>'
        )
    for user, owner, name in arcs:
        y1, y2 = ROW * (user + 1) - 4, ROW * (owner + 1) - 4
        bend = right + 24 + 4 * abs(user - owner)
        out.append(
            f"<g><title>{escape(f'{full_key(rows[user].node)}.{name} is {full_key(rows[owner].node)}')}</title>"
            f'<path d="M {ends[user] + 6:.0f} {y1} L {right} {y1} C {bend:.0f} {y1}, {bend:.0f} {y2}, {right} {y2} '
            f'L {ends[owner] + 8:.0f} {y2}" fill="none" stroke="{colour[owner]}" stroke-width="1.2" opacity="0.7"/>'
            f'<path d="M {ends[owner] + 6:.0f} {y2} l 7 -3.5 v 7 z" fill="{colour[owner]}"/></g>'
        )
    return "\n".join([*out, "</svg>"]) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = ToolParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="a config, .py or .yaml")
    parser.add_argument("--output", type=Path, default=Path("config_graph.svg"), metavar="SVG", help="file to write")
    parser.add_argument("opts", nargs="*", metavar="key=value", help="overrides")
    args = parser.parse_intermixed_args(argv)
    with importable_project(args.config_file):
        text = draw(load_with_overrides(args.config_file, args.opts))
    with replace_file(args.output) as file:
        file.write(text.encode())
    print(f"Wrote {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
