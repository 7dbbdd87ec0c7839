"""`ProgressBar`, under the name of its module in version 0.1; it is in `ultravid.engine.hooks`."""

from ultravid.engine.hooks.progress import ProgressBar

__all__ = ["ProgressBar"]
