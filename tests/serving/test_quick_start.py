"""docs/quick_start.ipynb runs as it stands, without Jupyter."""

import json
import os
import subprocess
import sys

from tests.conftest import ROOT
from tests.serving.small_run import write_run

RUN_CELLS = """
import json, sys
names = {"__name__": "notebook"}
for cell in json.loads(open(sys.argv[1], encoding="utf-8").read())["cells"]:
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), "quick_start.ipynb", "exec"), names)
assert names["instances"].has("track_ids") and names["pictures"][0].shape == (128, 128, 3)
"""


def test_the_notebook_runs_in_a_checkout_that_has_trained_the_phantom(tmp_path):
    write_run(tmp_path / "outputs/phantom")
    (tmp_path / "docs").mkdir()
    notebook = ROOT / "docs/quick_start.ipynb"
    assert all(not cell.get("outputs") for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"])
    done = subprocess.run(
        [sys.executable, "-c", RUN_CELLS, str(notebook)],
        cwd=tmp_path / "docs",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "50 frames" in done.stdout and (tmp_path / "outputs/quick_start.mp4").is_file()
