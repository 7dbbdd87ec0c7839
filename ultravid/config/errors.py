"""Errors and faults of configs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ultravid.config.synonyms import same_meaning
from ultravid.utils.errors import UserError
from ultravid.utils.text import nearest

__all__ = [
    "ConfigError",
    "ConfigImportError",
    "Fault",
    "FaultyConfigError",
    "InterpolationError",
    "OverrideError",
    "UnknownKeyError",
    "UnknownOverrideError",
    "did_you_mean",
]


class ConfigError(UserError):
    """A mistake in a config or an override."""


class InterpolationError(ConfigError):
    """A reference that leads nowhere or in a circle.

    Attributes:
        found: type of what the config file defines under the name, though it is not part of the config, as "function"; else "".
    """

    found: str = ""


class FaultyConfigError(ConfigError):
    """A config that was checked and has faults.

    Attributes:
        faults: each of them; none is a note.
    """

    def __init__(self, message: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class OverrideError(ConfigError):
    """An override that does not parse or does not fit the config."""


class ConfigImportError(ConfigError, ImportError):
    """A config file or a target that can't be imported."""


class UnknownKeyError(ConfigError, KeyError, AttributeError):
    """A key that a node does not have."""

    def __str__(self) -> str:
        return str(self.args[0])


class UnknownOverrideError(OverrideError, UnknownKeyError):
    """An override of a key that the config does not have."""


@dataclass(frozen=True)
class Fault:
    """One fault of a config.

    Attributes:
        key: full key, as ``model.backbone.depth``.
        message: what is wrong and what would be right.
        where: ``file:line`` or the override that set it; "" if it is not known.
        fatal: whether it keeps a run from starting. A note is not fatal.
        about: what the fault is about. Of several faults of one key about the same thing only the first is reported; with ""
            faults are the same if their messages are.
    """

    key: str
    message: str
    where: str = ""
    fatal: bool = True
    about: str = ""

    def __str__(self) -> str:
        return f"{self.key}: {self.message}{f' ({self.where})' if self.where else ''}"


def did_you_mean(name: object, known: Iterable[object], prefix: str = "", others: str = "Known here") -> str:
    """The nearest known name ("Did you mean 'x'?"), else a list of the known ones, else nothing; begins with a space.

    What people type for it in other frameworks (``learning_rate``) is near too. ``others`` begins the list.
    """
    names = [str(k) for k in known]
    lower = {each.lower(): each for each in names}
    means = [lower[each] for each in same_meaning(str(name)) if each in lower]
    close = means[0] if means else nearest(str(name), names)
    if close:
        return f" Did you mean {prefix + close!r}?"
    return f" {others}: {_listed(sorted(names))}." if names else ""


def _listed(names: Sequence[str], most: int = 12) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
