"""A config in which time and chance have a say: each process that reads it gets another run."""

from pathlib import Path

from tests.conftest import PHANTOM_CONFIG

CONFIG = """
import random, time
from ultravid.config import LazyCall as L, LazyConfig
from note import Note

_base = LazyConfig.load({base!r})
globals().update({{k: _base[k] for k in _base if k != "project_folders"}})
train.output_dir = f"{folder}/run_{{time.time_ns()}}"
trainer.hooks.note = L(Note)(value=random.random(), folder="{folder}")
"""

NOTE = """
from pathlib import Path
from ultravid.engine import HookBase
from ultravid.utils import comm

class Note(HookBase):
    def __init__(self, value, folder):
        (Path(folder) / f"drawn_{comm.get_rank()}.txt").write_text(repr(value))
"""


def timed_config(folder: Path) -> Path:
    """Write the config; its run is in ``<folder>/run_<time>``, and each rank writes ``drawn_<rank>.txt``."""
    (folder / "note.py").write_text(NOTE)
    path = folder / "timed.py"
    path.write_text(CONFIG.format(base=str(PHANTOM_CONFIG), folder=folder))
    return path
