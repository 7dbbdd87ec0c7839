"""Code in docs/migrating.md runs as it stands, and the names and files that it promises are there."""

import importlib
import importlib.util
import re

import pytest

from tests.conftest import ROOT
from ultravid.config import get_config
from ultravid.datasets import bounds

MIGRATING = (ROOT / "docs/migrating.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", MIGRATING, re.MULTILINE | re.DOTALL)
ROWS = [row.split("|")[1:-1] for row in MIGRATING.splitlines() if row.startswith("| `")]
DETECTRON2_ALONE = {"COCOEvaluator", "DictConfig", "OmegaConf", "WEIGHTS"}


def title(block):
    return re.findall(r"^## (.+)$", MIGRATING[: MIGRATING.index(block)], re.MULTILINE)[-1]


@pytest.mark.parametrize("block", BLOCKS, ids=title)
def test_a_block_runs(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "docs/migrating.md", "exec"), {"__name__": "migrating"})


def test_the_bounds_on_the_page_are_those_of_the_code():
    page = (ROOT / "docs/data.md").read_text().partition("| | at most |")[2].partition("## ")[0]
    rows = dict(line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| "))
    giga, mega = 1 << 30, 1 << 20
    said = {
        "frame": f"{bounds.MAX_SIDE:,} px a side, {round(bounds.MAX_PIXELS / 1e6)} million px",
        "file of an image": f"{bounds.MAX_IMAGE_BYTES // mega} MB",
        "frames of a video": f"{bounds.MAX_FRAMES:,}",
        "frame rate": f"{bounds.MAX_FPS:,.0f} a second",
        "file of annotations": f"{bounds.MAX_ANNOTATION_BYTES // giga} GB, {bounds.MAX_DEPTH} levels deep",
        "ids and other whole numbers": f"{bounds.MAX_WHOLE.bit_length() + 1} bits",
        "sidecar or table of masks": f"{bounds.MAX_SIDECAR_BYTES // mega} MB",
        "prediction file of a video": f"{bounds.MAX_PREDICTION_BYTES // giga} GB unpacked",
    }
    assert rows.keys() == said.keys()
    assert {name: rows[name][: len(text)] for name, text in said.items()} == said


def promised():
    """(module, name) of imports in the right column, and of what is "the same, from `module`" as the left column's names."""
    for left, right in ROWS:
        for module, names in re.findall(r"from (ultravid[\w.]*) import ([\w, ]+)", right):
            yield from ((module, name.split(" as ")[0]) for name in names.split(", "))
        if same := re.search(r"the same.*?, from `(ultravid[\w.]*)`", right):
            called = re.findall(r"\b(?:[A-Z]\w+|(?:default|create|print|get|pairwise)_\w+)\b(?=[(,`. ])", left)
            yield from ((same[1], name) for name in called if name not in DETECTRON2_ALONE)


def test_names_are_where_it_says():
    names = list(promised())
    assert ("ultravid.engine.hooks", "AutogradProfiler") in names and ("ultravid.solver", "LRMultiplier") in names
    assert [f"{m}.{n}" for m, n in names if not hasattr(importlib.import_module(m), n)] == []


def test_tools_are_where_it_says():
    files = {file for _, right in ROWS for file in re.findall(r"(?:tools|benchmarks)/\w+\.py", right)}
    assert "tools/analyze_model.py" in files and [file for file in files if not (ROOT / file).is_file()] == []


ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def test_the_walk_through_the_code_names_existing_files_and_never_turns_back():
    walk = ARCHITECTURE.split("## From the config to the metric")[1].split("\n## ")[0]
    files = re.findall(r"`((?:ultravid|tools|projects|configs_py)/[\w/.]+)", walk)
    assert files[0] == "projects/basicdet/configs/phantom.py" and len(files) > 30
    assert [f for f in files if not (ROOT / f).exists()] == []
    assert [f for f in files if files.count(f) > 1] == []


def test_every_folder_of_the_package_is_a_floor_of_the_architecture():
    folders = {p.parent.name for p in (ROOT / "ultravid").glob("*/__init__.py")}
    floors = {
        name for row in ARCHITECTURE.splitlines() for name in re.findall(r"`ultravid/(\w+)`", row.partition("|")[2])
    }
    assert folders == floors


@pytest.mark.parametrize("name", ["data", "dicom", "models", "patients", "times", "troubleshooting"])
def test_pages_on_data_name_keys_of_shipped_configs_and_files_that_exist(name):
    page = (ROOT / f"docs/{name}.md").read_text(encoding="utf-8")
    shipped = [path.name for path in (ROOT / "configs_py/common/data").glob("*.py") if path.name != "augmentation.py"]
    known = {key for file in shipped for key in get_config(f"common/data/{file}").data}
    assert set(re.findall(r"(?<![\w.])data\.([a-z_]+)(?:=|\.[a-z_]+=)", page)) <= known
    files = re.findall(r"\b(?:tools|configs_py|projects)/[\w/]+\.py\b", page)
    assert [file for file in files if not (ROOT / file).is_file()] == []
