"""What a tool ends with other than a result: a mistake that is told without a traceback, and a stop that was asked for."""

from __future__ import annotations

__all__ = ["StopTraining", "UserError"]


class UserError(ValueError):
    """A mistake of the user's: the message says what is wrong, where, and what would be right.

    Tools print it alone and exit with 2; anything else that is raised is a fault of the program and keeps its traceback.
    """


class StopTraining(Exception):  # noqa: N818  # a request, not an error
    """Raised by a hook to end the run early and in order: no error, but no end of training either."""
