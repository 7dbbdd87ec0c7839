"""A table of counts as a drawing: rows import, columns are imported; what lies above the diagonal would break the order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from generators.svg import CHARACTER, panel, text

__all__ = ["draw_matrix"]

CELL = 34


def draw_matrix(title: str, rows: Sequence[str], columns: Sequence[str], cells: Mapping[tuple[str, str], int]) -> str:
    """The drawing.

    Args:
        title: of the drawing.
        rows: names down the left side.
        columns: names along the top.
        cells: number by (row, column); where there is none the cell is empty.
    """
    left = max(map(len, rows)) * CHARACTER + 28
    top = max(map(len, columns)) * CHARACTER * 0.72 + 34
    most = max(cells.values(), default=1)
    out = []
    for number, name in enumerate(columns):
        x = left + CELL * (number + 0.5)
        turn = f' transform="rotate(-45 {x:.0f} {top - 8:.0f})"'
        out.append(text(x, top - 8, name, anchor="start", extra=turn))
    for number, name in enumerate(rows):
        y = top + CELL * (number + 0.5)
        out.append(text(left - 12, y + 4, name, anchor="end"))
        for place, other in enumerate(columns):
            x = left + CELL * place
            count = cells.get((name, other), 0)
            out.append(
                f'<rect class="box" x="{x + 1:.0f}" y="{y - CELL / 2 + 1:.0f}" width="{CELL - 2}" height="{CELL - 2}" rx="3" '
                f'stroke-width="{0.6 if name != other else 0}"/>'
            )
            if count:
                strength = 0.12 + 0.5 * (count / most) ** 0.5
                out.append(
                    f'<rect class="f0" x="{x + 1:.0f}" y="{y - CELL / 2 + 1:.0f}" width="{CELL - 2}" height="{CELL - 2}" rx="3" '
                    f'opacity="{strength:.2f}"/>'
                )
                out.append(text(x + CELL / 2, y + 4, str(count)))
    width = left + CELL * len(columns) + max(len(columns[-1]) * CHARACTER * 0.72 - CELL / 2 + 20, 20)
    return panel(title, width, top + CELL * len(rows) + 16, out)
