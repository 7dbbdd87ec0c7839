"""What command-line tools share: where their files are, how they were called, and how they end."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ultravid.utils.errors import StopTraining, UserError

__all__ = [
    "EXIT_INTERRUPTED",
    "EXIT_STOPPED",
    "EXIT_USER_ERROR",
    "command_line",
    "run_tool",
    "seed_argument",
    "tools_folder",
]

EXIT_USER_ERROR = 2
EXIT_STOPPED = 75  # EX_TEMPFAIL: stopped by a signal with a checkpoint; a scheduler may queue the run again
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


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


def run_tool(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None) -> int:
    """Call a tool's ``main`` and return its exit code.

    A `UserError` is printed without a traceback and gives 2, a `FloatingPointError` (a loss or gradient that is not finite) is
    printed without a traceback and gives 1, and a run that was stopped gives 75.
    """
    try:
        return main(argv) or 0
    except StopTraining:
        return EXIT_STOPPED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # `| head` has read enough
        sys.stderr.close()
        return 0
    except FloatingPointError as error:  # the message says which number is not finite; the log has the traceback
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        for note in getattr(error, "__notes__", ()):
            print(f"  {note}", file=sys.stderr)  # noqa: T201
        return EXIT_USER_ERROR


def seed_argument(text: str) -> int:
    """A command-line argument that seeds numpy, for argparse's ``type``: a whole number of at least 0."""
    seed = int(text)
    if seed < 0:
        raise ValueError(f"{seed} is below 0")
    return seed
