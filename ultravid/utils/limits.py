"""Limits of a value besides its type, written in a signature, so that a config is checked before anything is built.

    def __init__(self, period: NotNegative, share: Share, device: Annotated[str, Accepts(is_device, "'auto', 'cpu' or 'cuda'")])

``--check`` reads these annotations; the bounds of the package ``annotated-types`` (``Ge``, ``Interval``, ...) are read as well.
Nothing is enforced when the function is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

__all__ = ["Accepts", "EitherThisOr", "Hint", "Limits", "NotNegative", "Positive", "Share", "as_limits"]


@dataclass(frozen=True)
class Limits:
    """The bounds of a number; nan is outside of all.

    Attributes:
        ge: the number is at least this.
        gt: it is above this.
        le: it is at most this.
        lt: it is below this; the name of another argument of the same call means that argument's value.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | str | None = None

    def allow(self, value: float) -> bool:
        """Whether ``value`` is within the bounds; a bound that names an argument is not checked here."""
        if math.isnan(value):
            return False
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or isinstance(self.lt, str) or value < self.lt)
        )

    def described(self, what: str) -> str:
        """The bounds as text: of ``what="int"`` ``"int >= 0"``, of ``what="float"`` ``"float in [0, 1)"``."""
        low = self.ge if self.ge is not None else self.gt
        high = self.le if self.le is not None else self.lt
        if high is None or high == math.inf:
            finite = " and finite" if high == math.inf else ""
            return f"{what} {'>=' if self.ge is not None else '>'} {low}{finite}" if low is not None else f"{what}"
        if low is None:
            return f"{what} {'<=' if self.le is not None else '<'} {high}"
        return f"{what} in {'[' if self.ge is not None else '('}{low}, {high}{']' if self.le is not None else ')'}"


@dataclass(frozen=True)
class Accepts:
    """A test that a value has to pass.

    Attributes:
        test: called with the value as the config has it.
        text: what passes it, for a message: ``"'auto', 'cpu' or 'cuda'"``.
    """

    test: Callable[[Any], bool]
    text: str


@dataclass(frozen=True)
class EitherThisOr:
    """Exactly one of two arguments of a call is given; the other is None.

    Attributes:
        other: name of the other argument.
    """

    other: str


@dataclass(frozen=True)
class Hint:
    """An additional hint in the message about a value of the wrong type.

    Attributes:
        text: one or more sentences.
        of_functions: whether it is only about functions.
    """

    text: str
    of_functions: bool = False


NotNegative = Annotated[int, Limits(ge=0)]
"""A whole number that is 0 or more."""
Positive = Annotated[int, Limits(ge=1)]
"""A whole number that is 1 or more."""
Share = Annotated[float, Limits(ge=0, le=1)]
"""A number from 0 to 1, both included."""


def as_limits(metadata: Any) -> Limits | None:
    """The bounds that an item of an ``Annotated`` states, in ultravid's form or that of ``annotated-types``; None if none.

    Args:
        metadata: one item of ``Annotated[int, ...].__metadata__``.
    """
    if isinstance(metadata, Limits):
        return metadata
    if isinstance(metadata, type) or not type(metadata).__module__.startswith("annotated_types"):
        return None
    bounds = {name: getattr(metadata, name, None) for name in ("ge", "gt", "le", "lt")}
    return Limits(**bounds) if any(isinstance(b, int | float) for b in bounds.values()) else None
