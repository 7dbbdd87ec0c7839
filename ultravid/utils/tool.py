"""Code that command-line tools share: the location of their files, their command lines, and their exit codes."""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ultravid.utils.errors import StopTraining, UserError
from ultravid.utils.text import nearest, visible_lines

__all__ = [
    "EXIT_CODES",
    "EXIT_INCOMPLETE",
    "EXIT_INTERRUPTED",
    "EXIT_STOPPED",
    "EXIT_USER_ERROR",
    "ToolParser",
    "command_line",
    "escape_what_a_terminal_lacks",
    "print_warnings",
    "run_tool",
    "seed_argument",
    "silence_stdout",
    "tools_folder",
]

EXIT_USER_ERROR = 2
"""The exit code of a command that a mistake of the user's ended; one message says what it is."""
EXIT_INCOMPLETE = 3
"""The exit code of a command that is done but had to leave something out, or found something damaged."""
EXIT_STOPPED = 75  # EX_TEMPFAIL
"""The exit code of a command that was stopped and can be resumed: a scheduler may queue it again."""
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
"""The exit code of a command that Ctrl-C interrupted with nothing to resume."""

EXIT_CODES = {
    0: "Done. It is also the code of a command whose output was piped into one that has read enough, as `| head`.",
    1: "Failed: an error, with a traceback unless it is a loss or gradient that is not finite. For commands that compare or check, the "
    "answer is no.",
    EXIT_USER_ERROR: "A mistake of the user's: in the command line, a config, data or a file that can't be read or written. One message "
    "says what is wrong, where, and what would be right.",
    EXIT_INCOMPLETE: "Done, but something was damaged or left out, as the messages list.",
    EXIT_STOPPED: "Stopped by a signal or at the run's own time limit; a training has saved a checkpoint. The same command with "
    "`--resume` continues, so a scheduler may queue it again.",
    EXIT_INTERRUPTED: "Interrupted by Ctrl-C before there was anything to save, or by a second Ctrl-C.",
}
"""What the exit codes of all tools mean."""

# What a file system answers when a file can't be written or read; a bug of ours gives other errors.
_FILE_SYSTEM = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.EIO),
}


def tools_folder() -> Path:
    """The folder of the tools' files: ``tools`` of the checkout, or of the installed package."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / "tools"
    return checkout if (checkout / "lazyconfig_train.py").is_file() else package / "tools"


def command_line() -> str:
    """The command that started this process, quoted for a shell: ``ultravid train ...`` or ``python tools/...``."""
    if sys.argv[0].startswith("ultravid "):  # by `ultravid.cli`
        return shlex.join([*sys.argv[0].split(), *sys.argv[1:]])
    return shlex.join([sys.executable, *sys.argv])


class _Once(logging.Filter):
    """Lets each message pass once."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_new = text not in self.seen
        self.seen.add(text)
        return is_new


class _VisibleFormatter(logging.Formatter):
    """Writes what a terminal would obey as text: a file's name may hold it."""

    def format(self, record: logging.LogRecord) -> str:
        return visible_lines(super().format(record))


def print_warnings() -> None:
    """Print warnings to stderr, each once: a tool reads the same annotations for every run, and again for their pictures."""
    handler = logging.StreamHandler()
    handler.addFilter(_Once())
    handler.setFormatter(_VisibleFormatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def run_tool(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None) -> int:
    """Call a tool's ``main`` and return its exit code.

    A `UserError`, and a file that can't be written as the disk is full or it lies in the way of a folder, are printed without a
    traceback and give 2, a `FloatingPointError` (a loss or gradient that is not finite) is
    printed without a traceback and gives 1, and a run that was stopped gives 75.

    Args:
        main: takes the arguments and returns the exit code; None is 0.
        argv: the arguments after the command; None takes those of this process.

    Returns:
        The exit code: what ``main`` returns, or one of `EXIT_CODES`.
    """
    escape_what_a_terminal_lacks()
    try:
        with _flushed():
            return main(argv) or 0
    except StopTraining:
        return EXIT_STOPPED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `| head` has read enough
        silence_stdout()
        return 0
    except FloatingPointError as error:  # the message says which number is not finite; the log has the traceback
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except UserError as error:
        print(f"error: {visible_lines(str(error))}", file=sys.stderr)  # noqa: T201
        for note in getattr(error, "__notes__", ()):
            print(f"  {visible_lines(note)}", file=sys.stderr)  # noqa: T201
        return EXIT_USER_ERROR
    except OSError as error:
        if not _is_of_file_system(error):
            raise
        name = visible_lines(str(error.filename or "a file"))
        print(f"error: {name}: can't be read or written ({error.strerror}).", file=sys.stderr)  # noqa: T201
        return EXIT_USER_ERROR


def _is_of_file_system(error: OSError) -> bool:
    """Whether an error is what a file system answers to a path of the user's: one in a folder that does not exist, too."""
    if error.errno == errno.ENOENT and isinstance(error.filename, str):
        return not os.path.isdir(os.path.dirname(os.path.abspath(error.filename)))
    return error.errno in _FILE_SYSTEM


@contextlib.contextmanager
def _flushed() -> Any:
    """Write what was printed before the block is left, by an exit as well: only here an error of that can be handled."""
    try:
        yield
    except SystemExit:  # by --help
        if sys.stdout is not None:
            sys.stdout.flush()
        raise
    if sys.stdout is not None:
        sys.stdout.flush()


def silence_stdout() -> None:
    """Discard further output, and what python still buffers, when the reader of a pipe has gone."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def escape_what_a_terminal_lacks() -> None:
    r"""Print characters that a terminal or a pipe has no bytes for as ``\u2192``: under LANG=C, say, or in a Latin-1 terminal."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):  # none, closed, or of another kind
            if stream.errors != "backslashreplace":
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


_KINDS = {"int": "a whole number", "float": "a number", "seed_argument": "a whole number of at least 0"}
_INVALID_VALUE = re.compile(rf"argument (?:\S+/)?(\S+): invalid ({'|'.join(_KINDS)}) value: (.*)", re.DOTALL)
"""Argparse's message on a value, which names the function that converts it."""


class ToolParser(argparse.ArgumentParser):
    """A parser that reports a wrong command line in one message, and names the nearest option for one that it does not know."""

    def error(self, message: str) -> NoReturn:
        """End the process with a message, without the list of all options that argparse prints before it."""
        known = [text for action in self._actions for text in action.option_strings if text.startswith("--")]
        if (unknown := message.partition("unrecognized arguments: ")[2]) and (
            hints := self.hints(unknown.split(), known)
        ):
            message = f"{message}. {' '.join(hints)}"
        text = _INVALID_VALUE.sub(lambda m: f"{m[1]} {m[3]}: is not {_KINDS[m[2]]}", message)
        end = "" if text.endswith((".", "?")) else "."
        self.exit(EXIT_USER_ERROR, f"error: {visible_lines(text)}{end} For all options: {self._help_command()}\n")

    def hints(self, unknown: Sequence[str], known: Sequence[str]) -> list[str]:
        """Suggestions for arguments that the parser does not know.

        Args:
            unknown: the arguments as they were typed.
            known: the long options of the parser, with their two hyphens.

        Returns:
            a sentence for each option that is near to a known one.
        """
        options = [text.partition("=")[0] for text in unknown if text.startswith("-")]
        found = {option: nearest(option.lstrip("-"), [text[2:] for text in known]) for option in options}
        return [f"Did you mean --{near}?" for near in dict.fromkeys(filter(None, found.values()))]

    def _help_command(self) -> str:
        """As it is typed; the program's name is without the folder of the file."""
        program, *command = self.prog.split(" ")  # a sub-command follows the program's name
        called = sys.argv[0]
        if program == os.path.basename(called) and called.endswith(".py"):
            program = f"python {shlex.quote(called)}"
        return " ".join([program, *command, "--help"])


def seed_argument(text: str) -> int:
    """A command-line argument that seeds numpy, for argparse's ``type``: a whole number of at least 0.

    Args:
        text: the argument as it was typed.

    Raises:
        ValueError: it is not a whole number, or is below 0.
    """
    seed = int(text)
    if seed < 0:
        raise ValueError(f"{seed} is below 0")
    return seed
