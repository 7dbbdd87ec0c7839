"""The log of a run: on the terminal and in ``log.txt``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ultravid.utils.run_folder import RunFolder
from ultravid.utils.tool import escape_what_a_terminal_lacks

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["TerminalHandler", "setup_logger", "terminal_handler"]


class TerminalHandler(logging.StreamHandler[Any]):
    """Writes lines to a stream; while ``console`` is set, above what it draws at the bottom of the terminal.

    Args:
        stream: where lines are written; None is the standard error.

    Attributes:
        console: what draws something that stays at the bottom of the terminal, as a progress bar; None: lines are just written.
    """

    def __init__(self, stream: Any = None) -> None:
        super().__init__(stream)
        self.console: Console | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """As `logging.StreamHandler.emit`: write the line of ``record``, above what ``console`` draws."""
        if self.console is None:
            super().emit(record)
            return
        try:
            self.console.print(self.format(record), markup=False, emoji=False, highlight=False, soft_wrap=True)
        except Exception:
            self.handleError(record)


def setup_logger(
    output: str | Path | None = None, distributed_rank: int = 0, *, name: str = "ultravid"
) -> logging.Logger:
    """Send the lines of a logger to the terminal (rank 0 only) and to a file.

    Args:
        output: a local folder, which gets ``log.txt``, or a file; ranks above 0 append ``.rank<r>``. None: terminal only.
        distributed_rank: the rank of this process.
        name: the name of the logger; those below it are included.

    Returns:
        the logger. A second call replaces the set-up of the first.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    for handler in list(logger.handlers):
        handler.close()
        logger.removeHandler(handler)
    formatter = logging.Formatter("[%(asctime)s %(name)s] %(levelname)s: %(message)s", datefmt="%m-%d %H:%M:%S")
    handlers: list[logging.Handler] = []
    if distributed_rank == 0:
        escape_what_a_terminal_lacks()
        handlers.append(TerminalHandler(sys.stdout))
        handlers[0].setLevel(
            logging.INFO
        )  # tracebacks go to stderr by themselves; the log repeats them in the file only
    if output is not None:
        path = Path(output)
        if path.suffix not in {".txt", ".log"}:
            path = RunFolder(path).log
        if distributed_rank > 0:
            path = path.with_name(f"{path.name}.rank{distributed_rank}")
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path, encoding="utf-8", errors="backslashreplace"))
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    return logger


def terminal_handler(name: str = "ultravid") -> TerminalHandler | None:
    """The handler that `setup_logger` made for the terminal; None before it was called, and in any but the main process.

    Args:
        name: the name of the logger.
    """
    handlers = logging.getLogger(name).handlers
    return next((h for h in handlers if isinstance(h, TerminalHandler)), None)
