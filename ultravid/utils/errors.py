"""The ways in which a tool ends without a result: an error of the user, and a requested stop."""

from __future__ import annotations

__all__ = ["StopTraining", "StoppedBySignal", "UserError"]


class UserError(ValueError):
    """An error that the user can correct: the message says what is wrong, where, and what would be right.

    Tools print its message without a traceback and exit with 2. Any other exception is a bug in the program and keeps its
    traceback.
    """


class StopTraining(Exception):  # noqa: N818  # a request, not an error
    """Raised by a hook to stop the run early but cleanly: it is not an error, and training is not finished."""


class StoppedBySignal(SystemExit):
    """Raised in the handler of a signal that asks the process to end; its code is the process's exit code."""
