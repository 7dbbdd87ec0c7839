"""The one kind of exception that is told to the user without a traceback."""

from __future__ import annotations

__all__ = ["UserError"]


class UserError(ValueError):
    """A mistake of the user's: the message says what is wrong, where, and what would be right.

    Tools print it alone and exit with 2; anything else that is raised is a fault of the program and keeps its traceback.
    """
