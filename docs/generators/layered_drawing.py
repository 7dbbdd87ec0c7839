"""A drawing of a graph without circles in rows: arrows lead down only, and arrows to one box run together.

The steps are those of Sugiyama, Tagawa and Toda (1981): rows, an order within each that has few crossings, then places. All numbers
are computed in the same order each time, so that the same graph gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from generators.svg import CHARACTER, NUM_COLOURS, panel, text

__all__ = ["Box", "draw_layers"]

MOST_WIDTH = 900.0  # px of a row; a longer one is broken
GAP, LANE = 16.0, 10.0  # px between two boxes, and between a box and a line that passes
MARGIN = 20.0  # px around the drawing
LINE, TITLE, ROW_GAP = 15.0, 24.0, 44.0  # heights, px
MOST_CHARACTERS = 40  # characters of a line of a box


@dataclass(frozen=True)
class Box:
    """What a box says.

    Attributes:
        title: its first line.
        items: words below it, which are broken into lines.
        strong: whether the title is bold.
    """

    title: str
    items: tuple[str, ...] = ()
    strong: bool = False

    def lines(self) -> list[str]:
        """The items as lines of about equal length."""
        out: list[str] = []
        for item in self.items:
            if out and len(out[-1]) + len(item) + 1 <= MOST_CHARACTERS:
                out[-1] += f" {item}"
            else:
                out.append(item)
        return out

    def size(self) -> tuple[float, float]:
        """Width and height, px."""
        lines = self.lines()
        width = max(map(len, [self.title, *lines])) * CHARACTER + 18
        return width, TITLE + LINE * len(lines) + (4 if lines else 0)


@dataclass
class _Place:
    """A box, or the place where the arrows to one pass a row.

    Attributes:
        target: the box that it is or leads to.
        width: px.
        is_box: whether it is the box itself.
        x: centre, px.
        top, bottom: y of the box's edges, or of the row's, px.
        above: places of the row above that lead here.
        below: places of the row below that it leads to.
    """

    target: str
    width: float
    is_box: bool
    x: float = 0.0
    top: float = 0.0
    bottom: float = 0.0
    above: list[_Place] = field(default_factory=list)
    below: list[_Place] = field(default_factory=list)


def without_implied(edges: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The edges that no longer way implies.

    Raises:
        ValueError: there is a circle.
    """
    reached: dict[str, set[str]] = {}
    entered: set[str] = set()

    def reach(name: str) -> set[str]:
        if name not in reached:
            if name in entered:
                raise ValueError(f"{name} is part of a circle of imports, which can't be drawn in rows")
            entered.add(name)
            reached[name] = edges[name].union(*(reach(other) for other in sorted(edges[name])))
        return reached[name]

    for name in edges:
        reach(name)
    return {name: {o for o in to if not any(o in reached[p] for p in to - {o})} for name, to in edges.items()}


def rows_by_depth(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """The names in rows, each above all that it leads to, as low as possible; the highest row first."""
    depth: dict[str, int] = {}

    def measure(name: str) -> int:
        if name not in depth:
            depth[name] = 1 + max((measure(other) for other in edges[name]), default=-1)
        return depth[name]

    for name in edges:
        measure(name)
    return [sorted(n for n in edges if depth[n] == level) for level in range(max(depth.values(), default=0), -1, -1)]


def _broken(rows: Iterable[Sequence[str]], boxes: Mapping[str, Box]) -> list[list[str]]:
    """The rows, those that are too long in pieces of about equal length."""
    out: list[list[str]] = []
    for row in rows:
        widths = [boxes[name].size()[0] + GAP for name in row]
        pieces = int(sum(widths) // MOST_WIDTH) + 1
        limit = sum(widths) / pieces
        current: list[str] = []
        filled, number = 0.0, 1
        for name, width in zip(row, widths, strict=True):
            if current and filled + width / 2 > limit * number:
                out.append(current)
                current, number = [], number + 1
            current.append(name)
            filled += width
        out.append(current)
    return [row for row in out if row]


def _places(
    rows: Sequence[Sequence[str]], boxes: Mapping[str, Box], edges: Mapping[str, set[str]]
) -> list[list[_Place]]:
    """Boxes and passages by row, joined; edges to one box share their passages."""
    row_of = {name: number for number, row in enumerate(rows) for name in row}
    grid: list[list[_Place]] = [[_Place(name, boxes[name].size()[0], True) for name in row] for row in rows]
    found = {(number, place.target): place for number, row in enumerate(grid) for place in row}
    for row in rows:
        for name in row:
            for other in sorted(edges[name], key=lambda o: (row_of[o], o)):
                here = found[row_of[name], name]
                for number in range(row_of[name] + 1, row_of[other] + 1):
                    if (number, other) not in found:
                        found[number, other] = _Place(other, 2.0, False)
                        grid[number].append(found[number, other])
                    there = found[number, other]
                    if there not in here.below:
                        here.below.append(there)
                        there.above.append(here)
                    here = there
    return grid


def _crossings(grid: Sequence[Sequence[_Place]]) -> int:
    total = 0
    for upper, lower in pairwise(grid):
        order = {id(place): number for number, place in enumerate(lower)}
        ends = [order[id(b)] for place in upper for b in sorted(place.below, key=lambda b: order[id(b)])]
        total += sum(1 for i, a in enumerate(ends) for b in ends[i + 1 :] if a > b)
    return total


def _order(grid: list[list[_Place]]) -> None:
    """Sort each row by the mean place of what it is joined to, up and down, and keep the order with the fewest crossings."""
    best, fewest = [list(row) for row in grid], _crossings(grid)
    for sweep in range(40):
        upward = sweep % 2 == 1
        for number in range(len(grid) - 2, -1, -1) if upward else range(1, len(grid)):
            other = grid[number + 1 if upward else number - 1]
            order = {id(place): i / max(len(other) - 1, 1) for i, place in enumerate(other)}
            own = {id(place): i / max(len(grid[number]) - 1, 1) for i, place in enumerate(grid[number])}

            def mean(
                place: _Place, order: dict[int, float] = order, own: dict[int, float] = own, up: bool = upward
            ) -> float:
                joined = [order[id(p)] for p in (place.below if up else place.above)]
                return sum(joined) / len(joined) if joined else own[id(place)]

            grid[number].sort(key=mean)
        if (crossings := _crossings(grid)) < fewest:
            best, fewest = [list(row) for row in grid], crossings
    grid[:] = best


def _distance(left: _Place, right: _Place) -> float:
    gap = GAP if left.is_box and right.is_box else LANE
    return (left.width + right.width) / 2 + gap


def _set_x(row: Sequence[_Place], wanted: Sequence[float]) -> None:
    """Put each place as near to where it is wanted as the others allow: a least-squares fit that keeps order and distances."""
    offsets = [0.0]
    for left, right in pairwise(row):
        offsets.append(offsets[-1] + _distance(left, right))
    blocks: list[list[float]] = []  # of places that touch: sum of wishes, weight, number of places
    for place, wish, offset in zip(row, wanted, offsets, strict=True):
        weight = 1.0 if place.is_box else 3.0
        blocks.append([(wish - offset) * weight, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] > blocks[-1][0] / blocks[-1][1]:
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    starts = [total / weight for total, weight, count in blocks for _ in range(int(count))]
    for place, start, offset in zip(row, starts, offsets, strict=True):
        place.x = start + offset


def _arrange_across(grid: list[list[_Place]]) -> None:
    """Give each place its x."""
    for row in grid:
        _set_x(row, [0.0] * len(row))
    for sweep in range(60):
        for row in grid if sweep % 2 == 0 else reversed(grid):
            wanted = []
            for place in row:
                joined = [p.x for p in (*place.above, *place.below)]
                wanted.append(sum(joined) / len(joined) if joined else place.x)
            _set_x(row, wanted)
    left = min(place.x - place.width / 2 for row in grid for place in row)
    for row in grid:
        for place in row:
            place.x += MARGIN - left


def _arrange_down(grid: list[list[_Place]], boxes: Mapping[str, Box]) -> list[tuple[float, float]]:
    """Give each place its top and bottom; returns those of the rows."""
    rows = []
    y = MARGIN
    for row in grid:
        height = max(boxes[place.target].size()[1] for place in row if place.is_box)
        for place in row:
            own = boxes[place.target].size()[1] if place.is_box else height
            place.top = y + (height - own) / 2
            place.bottom = place.top + own
        rows.append((y, y + height))
        y += height + ROW_GAP
    return rows


def _draw_box(box: Box, x: float, y: float, colour: int | None) -> list[str]:
    width, height = box.size()
    edge = f"box s{colour}" if colour is not None else "box"
    weight = ' font-weight="bold"' if box.strong else ""
    out = [
        f'<rect class="{edge}" x="{x - width / 2:.0f}" y="{y:.0f}" width="{width:.0f}" height="{height:.0f}" rx="5" '
        f'stroke-width="{1.4 if colour is not None else 1}"/>',
        text(x, y + 16, box.title, extra=weight),
    ]
    out += [text(x, y + 16 + LINE * n, line, style="faint") for n, line in enumerate(box.lines(), start=1)]
    return out


def _line(start: _Place, end: _Place, row_end: float, next_row: float, colour: int) -> list[str]:
    """The line from a place to one of the next row. It bends between the rows, where it passes behind no box."""
    middle = (row_end + next_row) / 2
    out = [
        f'<path class="s{colour}" fill="none" stroke-width="1.3" d="M {start.x:.0f} {start.bottom:.0f} V {row_end:.0f} '
        f'C {start.x:.0f} {middle:.0f}, {end.x:.0f} {middle:.0f}, {end.x:.0f} {next_row:.0f} V {end.top:.0f}"/>'
    ]
    if end.is_box:
        out.append(f'<path class="f{colour}" d="M {end.x:.0f} {end.top:.0f} l -4 -8 h 8 z"/>')
    return out


def _draw_joined(grid: list[list[_Place]], boxes: Mapping[str, Box]) -> list[str]:
    """The boxes and the lines between them, the lines first: a box covers what passes behind it."""
    rows = _arrange_down(grid, boxes)
    targets = [place.target for row in grid for place in row if place.is_box and place.above]
    colour = {name: number % NUM_COLOURS for number, name in enumerate(targets)}
    lines, shapes = [], []
    for number, row in enumerate(grid):
        for place in row:
            if place.is_box:
                shapes += _draw_box(boxes[place.target], place.x, place.top, colour.get(place.target))
            else:
                passing = f"M {place.x:.0f} {place.top:.0f} V {place.bottom:.0f}"
                lines.append(f'<path class="s{colour[place.target]}" fill="none" stroke-width="1.3" d="{passing}"/>')
            for below in place.below:
                lines += _line(place, below, rows[number][1], rows[number + 1][0], colour[below.target])
    return [*lines, *shapes]


def _draw_alone(names: Sequence[str], boxes: Mapping[str, Box], width: float, y: float) -> tuple[list[str], float]:
    """Boxes without an arrow, in rows; and the y of their end."""
    out = []
    x, height = MARGIN, 0.0
    for name in names:
        box_width, box_height = boxes[name].size()
        if x > MARGIN and x + box_width > width - MARGIN:
            x, y, height = MARGIN, y + height + 12, 0.0
        out += _draw_box(boxes[name], x + box_width / 2, y, None)
        x, height = x + box_width + GAP, max(height, box_height)
    return out, y + height


def draw_layers(
    title: str, boxes: Mapping[str, Box], edges: Mapping[str, set[str]], rows: Sequence[Sequence[str]] | None = None
) -> str:
    """The drawing as SVG.

    Args:
        title: of the drawing.
        boxes: by name.
        edges: the names that an arrow leads to, by the name that it begins at; those that a longer way implies are not drawn.
        rows: the names by row, the highest first; None: each as low as possible, and those without an arrow at the end.

    Raises:
        ValueError: the edges lead in a circle, or up.
    """
    edges = without_implied(edges)
    joined = {name for name, to in edges.items() if to}.union(*edges.values())
    alone = [] if rows else sorted(boxes.keys() - joined)
    rows = _broken(rows or rows_by_depth({name: to for name, to in edges.items() if name in joined}), boxes)
    row_of = {name: number for number, row in enumerate(rows) for name in row}
    if up := [f"{a} -> {b}" for a in row_of for b in edges[a] if row_of[a] >= row_of[b]]:
        raise ValueError(f"arrows that do not lead down: {', '.join(up)}")
    grid = _places(rows, boxes, edges)
    _order(grid)
    _arrange_across(grid)
    body = _draw_joined(grid, boxes)
    width = max((place.x + place.width / 2 for row in grid for place in row), default=0.0) + MARGIN
    y = max((place.bottom for row in grid for place in row), default=0.0) + MARGIN
    if alone:
        width = max(width, 480.0)
        if grid:
            body.append(
                f'<path class="rule" d="M {MARGIN:.0f} {y:.0f} H {width - MARGIN:.0f}" stroke-dasharray="3 4"/>'
            )
            y += MARGIN
        more, y = _draw_alone(alone, boxes, width, y)
        body += more
        y += MARGIN
    return panel(title, width, y, body)
