"""Text for people: the nearest of several names, and arguments quoted for a shell."""

from __future__ import annotations

import difflib
import re
import reprlib
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Any

__all__ = [
    "counted",
    "latex_text",
    "likeness",
    "nearest",
    "quoted_for_shell",
    "rounded",
    "shell_argument",
    "shell_line",
    "shown",
    "spelling_key",
    "visible",
    "visible_lines",
]

_NEEDS_NO_QUOTES = re.compile(r"[A-Za-z0-9@%+:,./_-][A-Za-z0-9@%+=:,./_-]*")  # zsh reads a "=" at the beginning
_WORD_ENDS = re.compile(r"[_/. ]")
_ACTS_IN_DOUBLE_QUOTES = frozenset('"$`\\!')

_FLOAT = re.compile(r"[+-]?(?=\d|\.\d)(?P<mantissa>\d*\.?\d*)(?:[eE][+-]?\d+)?")
_ALL_DIGITS = 17  # of a float

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 4, 120, 120, 60


_IN_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",
    "*": "{*}",
}
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def counted(number: int, noun: str) -> str:
    """A number of things in words: ``1 video``, ``2 videos``. Of ``box`` and ``class`` the plural ends in ``es``.

    Args:
        number: how many there are.
        noun: what they are, in the singular.
    """
    ending = "" if number == 1 else "es" if noun.endswith(("x", "s")) else "s"
    return f"{number} {noun}{ending}"


def latex_text(text: str) -> str:
    r"""A text for a cell of a LaTeX table, which may be the first one of its row: ``\\`` would take a bracket or star there for its own.

    Args:
        text: the text.
    """
    return "".join(_IN_LATEX.get(char, f"\\{char}" if char in "&%$#_{}" else char) for char in visible(text))


def visible(text: str) -> str:
    r"""A text on one line in which what a terminal would obey is written as ``\x1b``: a file's name may hold it.

    Args:
        text: the text.
    """
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def visible_lines(text: str) -> str:
    """As `visible`, of a text that may have several lines.

    Args:
        text: the text.
    """
    return "\n".join(visible(line) for line in text.split("\n"))


def shown(value: Any) -> str:
    """A value for a message, as ``repr`` gives it, with the middle of what is long and the inside of what is deep left out.

    ``repr`` of a list that holds another twice, which holds a third twice, and so on, has no end.

    Args:
        value: any value.
    """
    try:
        return _SHORT.repr(value)
    except ValueError:  # a whole number of more than 4,300 digits
        return f"a {type(value).__name__} too long to show"


def rounded(texts: Iterable[str], digits: int = 4) -> dict[str, str]:
    """The texts of a column of a table, by themselves, in which numbers that are not whole have so many significant digits.

    One that would look like another has more. Whole numbers and other texts stay.

    Args:
        texts: the column.
        digits: significant digits.
    """
    column = list(dict.fromkeys(texts))
    found = {text: text for text in column}
    long = [text for text in column if _significant_digits(text) > digits]
    numbers = {float(text) for text in column if _FLOAT.fullmatch(text)} if long else set()
    while long:
        like = Counter(f"{number:.{digits}g}" for number in numbers)
        found |= {text: f"{float(text):.{digits}g}" for text in long}
        long = [text for text in long if like[found[text]] > 1 and digits < _ALL_DIGITS]
        digits += 1
    return found


def _significant_digits(text: str) -> int:
    """The number of significant digits of a number that is not written as a whole number; 0 of any other text."""
    match = _FLOAT.fullmatch(text)
    if match is None or text.lstrip("+-").isdecimal():
        return 0
    return len(match["mantissa"].replace(".", "").strip("0"))


def spelling_key(name: str) -> str:
    """What two spellings of one name share: it is trimmed, inner blanks count as one, and case does not count.

    Nor do signs that can't be seen, and whether an accent is a character by itself.

    Args:
        name: a name as someone wrote it.
    """
    if not name.isascii():
        name = "".join(c for c in unicodedata.normalize("NFC", name) if unicodedata.category(c) != "Cf")
    return " ".join(name.split()).casefold()


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that is most like a mistyped one; None if none of them is like it.

    Two letters in the wrong order count as half a mistake: ``rl`` is like ``lr``. Of names that are equally like it the first
    one in the alphabet is taken.

    Args:
        name: the mistyped name.
        known: the names to choose from.
        cutoff: the lowest `likeness` that counts.
    """
    scored = sorted((-likeness(name, each), each) for each in set(known) if _may_be_like(name, each, cutoff))
    return scored[0][1] if scored and -scored[0][0] >= cutoff else None


def _may_be_like(a: str, b: str, cutoff: float) -> bool:
    """Whether `likeness` can reach the cutoff, by the letters that two names share in any order; a hundred times as fast."""
    left, right = _plain(a), _plain(b)
    shared = sum(min(left.count(letter), right.count(letter)) for letter in set(left))
    return 2 * shared >= cutoff * (len(left) + len(right)) or _is_part(left, right) or _is_part(right, left)


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def likeness(a: str, b: str) -> float:
    """How much two names are alike, from 0 to 1, whatever the case of their letters; ``-`` and ``_`` are the same.

    Args:
        a: one name.
        b: the other name.
    """
    left, right = _plain(a), _plain(b)
    if left == right:
        return 1.0
    longest = max(len(left), len(right))
    edits = 1 - _edits(left, right) / longest
    pieces = difflib.SequenceMatcher(None, left, right).ratio()
    words = 0.65 if _is_part(left, right) or _is_part(right, left) else 0.0
    return min(max(edits, pieces, words), 0.99)


def _is_part(a: str, b: str) -> bool:
    """Whether all words of a name are words of the other: ``iter`` and ``max_iter``."""
    return len(a) > 1 and set(_WORD_ENDS.split(a)) <= set(_WORD_ENDS.split(b))


def _edits(a: str, b: str) -> float:
    """Letters to insert, delete or replace to turn a text into another; letters that changed places count as a half.

    This is the "optimal string alignment" form of Damerau's and Levenshtein's distance.
    """
    before: list[float] = []
    last = [float(i) for i in range(len(b) + 1)]
    for i, x in enumerate(a, start=1):
        row = [float(i)]
        for j, y in enumerate(b, start=1):
            cost = min(row[-1] + 1, last[j] + 1, last[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y and x != y:
                cost = min(cost, before[j - 2] + 0.5)
            row.append(cost)
        before, last = last, row
    return last[-1]


def shell_argument(text: str) -> str:
    """A text as one argument of a command in bash and zsh; in quotes only if it needs them.

    Args:
        text: the text.
    """
    return text if _NEEDS_NO_QUOTES.fullmatch(text) else quoted_for_shell(text)


def shell_line(text: str) -> str:
    r"""A text as one argument of a command in bash and zsh, on one line: ``$'one\ntwo'`` if it has line ends or the like.

    Args:
        text: the text.
    """
    if text.isprintable():
        return shell_argument(text)
    quoted = text.replace("\\", "\\\\").replace("'", "\\'")
    escaped = (c if c.isprintable() else f"\\x{ord(c):02x}" if ord(c) < 128 else f"\\U{ord(c):08x}" for c in quoted)
    return f"$'{''.join(escaped)}'"


def quoted_for_shell(text: str) -> str:
    """A text in quotes that bash and zsh take off again, so that a message can show what to type.

    Single quotes unless there are some in the text; ``!`` in double quotes would act at a prompt.

    Args:
        text: the text.
    """
    if "'" not in text:
        return f"'{text}'"
    return shlex.quote(text) if _ACTS_IN_DOUBLE_QUOTES.intersection(text) else f'"{text}"'
