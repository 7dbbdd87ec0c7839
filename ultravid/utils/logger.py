"""The run's log: to the terminal and to ``log.txt``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

__all__ = ["setup_logger"]


def setup_logger(
    output: str | Path | None = None, distributed_rank: int = 0, *, name: str = "ultravid"
) -> logging.Logger:
    """Send a logger's lines to the terminal (rank 0) and to a file.

    Args:
        output: a folder, which gets ``log.txt``, or a file; ranks above 0 append ``.rank<r>``. None: terminal only.
        distributed_rank: this process.
        name: the logger and all below it.

    Returns:
        the logger. Calling again replaces what an earlier call set up.
    """
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in list(logger.handlers):
        handler.close()
        logger.removeHandler(handler)
    formatter = logging.Formatter("[%(asctime)s %(name)s] %(levelname)s: %(message)s", datefmt="%m-%d %H:%M:%S")
    handlers: list[logging.Handler] = []
    if distributed_rank == 0:
        handlers.append(logging.StreamHandler(sys.stdout))
    if output is not None:
        path = Path(output)
        path = path if path.suffix in {".txt", ".log"} else path / "log.txt"
        if distributed_rank > 0:
            path = path.with_name(f"{path.name}.rank{distributed_rank}")
        path.parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(path, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    return logger
