"""Code and commands in docs/ run as they stand, and the names and files that they promise are there."""

import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import yaml

import ultravid
from tests.conftest import ROOT, load_tool
from ultravid.cli import TOOLS
from ultravid.config import get_config
from ultravid.datasets import bounds
from ultravid.experiments.settings import read_jobs
from ultravid.utils.tool import run_tool

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


def test_every_folder_of_the_package_is_in_a_layer_of_the_architecture():
    folders = {p.parent.name for p in (ROOT / "ultravid").glob("*/__init__.py")}
    layers = {
        name for row in ARCHITECTURE.splitlines() for name in re.findall(r"`ultravid/(\w+)`", row.partition("|")[2])
    }
    assert folders == layers


@pytest.mark.parametrize("name", ["data", "dicom", "models", "patients", "times", "troubleshooting"])
def test_pages_on_data_name_keys_of_shipped_configs_and_files_that_exist(name):
    page = (ROOT / f"docs/{name}.md").read_text(encoding="utf-8")
    shipped = [path.name for path in (ROOT / "configs_py/common/data").glob("*.py") if path.name != "augmentation.py"]
    known = {key for file in shipped for key in get_config(f"common/data/{file}").data}
    assert set(re.findall(r"(?<![\w.])data\.([a-z_]+)(?:=|\.[a-z_]+=)", page)) <= known
    files = re.findall(r"\b(?:tools|configs_py|projects)/[\w/]+\.py\b", page)
    assert [file for file in files if not (ROOT / file).is_file()] == []


OWN_SCANS = (ROOT / "docs/own_scans.md").read_text(encoding="utf-8")


def test_the_page_on_own_scans_has_commands_that_parse_and_files_that_exist(monkeypatch):
    commands = [shlex.split(line) for line in re.findall(r"^    (python .+)$", OWN_SCANS, re.MULTILINE)]
    assert {command[1] for command in commands} == {"tools/predict.py", "tools/serve.py"}
    monkeypatch.setattr("pathlib.Path.is_dir", lambda path: True)  # outputs/phantom
    for command in commands:
        load_tool(Path(command[1]).stem).parse_args(command[2:])
    monkeypatch.undo()
    flags = {flag for verb in TOOLS for flag in load_tool("completion").flags_of(verb)}
    assert set(re.findall(r"`(--[a-z-]+)", OWN_SCANS)) <= flags
    files = set(re.findall(r"(?:docs|tools|examples)/\w+\.(?:py|ipynb)\b", OWN_SCANS))
    assert len(files) > 4 and [file for file in files if not (ROOT / file).is_file()] == []


def test_commands_of_the_page_on_experiments_plan_the_jobs_that_it_says(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs/experiments.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [shlex.split(line) for line in re.findall(r"^    (python tools/experiment.py .+)$", page, re.MULTILINE)]
    monkeypatch.chdir(ROOT)
    tool, numbers = load_tool("experiment"), []
    for _, _, *arguments in commands:
        args = tool.parse_args(arguments)
        if args.search:
            assert run_tool(tool.main, [*arguments, "--dry-run"]) == 0
        elif not args.status and "FILE" not in arguments:
            args.output_dir, args.dry_run = tmp_path / "out", True
            numbers.append(len(tool.make_plan(args).jobs))
    assert numbers[:4] == [6, 6, 8, 9] and all(numbers) and not (tmp_path / "out").exists()
    listed = re.search(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[1]
    (tmp_path / "jobs.yaml").write_text(listed)
    assert len(read_jobs(tmp_path / "jobs.yaml")) == 3


def test_messages_of_the_page_on_own_scans_are_explained_in_troubleshooting():
    explained = re.findall(
        r"^\*\*`(.+?)`\*\*", (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    quoted = re.findall(r"^\| `(.+?)` \|", OWN_SCANS.partition("## If something goes wrong")[2], re.MULTILINE)
    assert len(quoted) > 4 and set(quoted) <= set(explained)


README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_short_and_leads_to_files_that_exist():
    assert len(README.splitlines()) < 150
    linked = re.findall(r"\]\(([^)#:]+)\)|src=\"([^\"]+)\"", README)
    named = re.findall(r"`((?:docs|projects|tools)/[\w/.]*)`", README.replace("configs/mine.py", ""))
    paths = [path for pair in linked for path in pair if path] + named
    assert len(paths) > 20 and [p for p in paths if not (ROOT / p).exists()] == []


def test_the_config_in_the_readme_passes_the_check_and_the_mistake_is_reported_as_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "projects/basicdet/configs"
    folder.mkdir(parents=True)
    (folder / "phantom.py").write_text((ROOT / "projects/basicdet/configs/phantom.py").read_text())
    (folder / "mine.py").write_text(re.search(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[1])
    launch = load_tool("lazyconfig_train").main
    assert run_tool(launch, ["--config-file", "projects/basicdet/configs/mine.py", "--check"]) == 0
    capsys.readouterr()
    mistake = re.search(r"^    \$ python tools/lazyconfig_train.py (.+)\n((?:    .+\n)+)", README, re.MULTILINE)
    assert run_tool(launch, shlex.split(mistake[1])) == 2
    assert capsys.readouterr().err == re.sub(r"^    ", "", mistake[2], flags=re.MULTILINE)


def test_commands_in_the_readme_parse(monkeypatch):
    commands = re.findall(r"^    (python tools/.+)$", README.replace("\\\n", " "), re.MULTILINE)
    monkeypatch.setattr("pathlib.Path.is_dir", lambda path: True)  # outputs/phantom
    for command in commands:
        _, tool, *arguments = shlex.split(command, comments=True)
        if tool != "tools/lazyconfig_train.py":  # the test above runs the launcher
            load_tool(Path(tool).stem).parse_args(arguments)
    assert len(commands) > 6


def test_the_citation_names_the_version_of_the_package_and_no_person():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["version"] == ultravid.__version__
    assert {"message", "title", "authors"} <= set(citation) and citation["license"] == "Apache-2.0"
    assert citation["authors"] == [{"name": "The ultravid authors"}]


def test_commands_of_the_model_card_and_of_the_security_policy_exist():
    text = (ROOT / "docs/model_card_template.md").read_text() + (ROOT / "SECURITY.md").read_text()
    tools = set(re.findall(r"python (tools/\w+\.py)", text))
    assert len(tools) > 6 and [tool for tool in tools if not (ROOT / tool).is_file()] == []
    flags = {flag for verb in TOOLS for flag in load_tool("completion").flags_of(verb)}
    assert set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", text)) - {"--run"} <= flags | {"--version"}
