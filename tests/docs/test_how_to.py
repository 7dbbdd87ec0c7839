"""The pages of docs/how-to: their configs pass the check, their commands parse, their links lead somewhere.

That the messages which they quote are in the code is tested in tests/test_troubleshooting.py.
"""

import ast
import contextlib
import copy
import functools
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, load_tool
from ultravid.config import ConfigError, LazyConfig, importable_project, load_checked
from ultravid.config.check import RUN_KEYS, RUN_OBJECTS

PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs/how-to").glob("*.md"))}
INDEX = PAGES.pop("index")
EXPECTED = {
    *(
        "resume_and_preemption",
        "several_gpus_and_nodes",
        "slurm",
        "mixed_precision",
        "nan",
        "own_metric",
        "own_loss",
        "freezing",
    ),
    *(
        "ema",
        "imbalance_and_negatives",
        "export",
        "privacy",
        "own_augmentation",
        "gradient_accumulation",
        "out_of_memory",
    ),
    *("data_loading_speed", "pretrained_weights", "learning_rate", "logging"),
}
SECTIONS = ["How to see that it works", "Error messages", "More"]
ADDED_BEFORE = [
    *("trainer.hooks.ema=common/hooks.py:EMA", "+trainer.hooks.writer.writers.wandb=common/writers.py:wandb"),
    "+trainer.hooks.writer.writers.mlflow=common/writers.py:mlflow",
]
KEYS = (
    "train",
    "trainer",
    "model",
    "prepared_model",
    "optimizer",
    "lr_multiplier",
    "dataloader",
    "checkpointer",
    "data",
)


def blocks(page, kind):
    """(title, or "", and text) of the fenced blocks of a language."""
    return re.findall(rf'^```{kind}(?: title="(.+?)")?\n(.*?)^```', PAGES[page], re.MULTILINE | re.DOTALL)


def commands(page):
    """The words of each command of the page, those in its shell scripts too."""
    scripts = "".join(f"    {line}\n" for _, text in blocks(page, "bash") for line in text.splitlines())
    found = re.findall(r"^ {4,}((?:python|torchrun) (?:.+\\\n)*.+)", PAGES[page] + scripts, re.MULTILINE)
    return [shlex.split(line.replace("\\\n", " ").removesuffix("&")) for line in found]


@pytest.fixture(params=PAGES)
def page(request, tmp_path, monkeypatch):
    """The name of a page; its files are saved in a checkout that has nothing but one project."""
    shutil.copytree(ROOT / "projects/basicdet", tmp_path / "projects/basicdet")
    monkeypatch.chdir(tmp_path)
    for kind in ("python", "yaml", "bash"):
        for title, text in blocks(request.param, kind):
            if title:
                Path(title).write_text(text, encoding="utf-8")
    return request.param


def check(path, overrides=()):
    with importable_project(path):
        return load_checked(path, list(overrides), required=RUN_KEYS, objects=RUN_OBJECTS)


def test_the_pages_are_those_that_people_search_for():
    assert set(PAGES) >= EXPECTED and sorted(re.findall(r"\((\w+)\.md\) \|$", INDEX, re.MULTILINE)) == sorted(PAGES)
    for name, text in PAGES.items():
        headings = re.findall(r"^## (.+)", text, re.MULTILINE)
        assert headings[-3:] == SECTIONS and 30 <= len(text.splitlines()) <= 110, name


@functools.cache
def tool_module(name):
    return load_tool(name)


def test_configs_of_a_page_pass_the_check_and_its_commands_are_accepted(page, monkeypatch):
    for title, text in blocks(page, "python"):
        ast.parse(text)
        if "/configs/" in title:
            check(title)
    for title, _ in blocks(page, "bash"):
        assert subprocess.run(["bash", "-n", title], check=False).returncode == 0
    for words in commands(page):
        tool = next((word for word in words if word.startswith("tools/")), None)
        if tool is None:  # python -c, python -m, an example
            assert words[1] in ("-c", "-m") or (ROOT / words[1]).is_file()
            continue
        name, arguments = Path(tool).stem, words[words.index(tool) + 1 :]
        if name == "lazyconfig_train":
            check(arguments[1], [word for word in arguments[2:] if re.match(r"[+~]*[a-z_.]+=", word)])
        elif name == "experiment":
            args = tool_module(name).parse_args(arguments)
            args.output_dir, args.dry_run = Path("out"), True
            assert args.status or tool_module(name).make_plan(args).jobs
        elif hasattr(tool_module(name), "parse_args"):
            with monkeypatch.context() as patch:
                patch.setattr("pathlib.Path.is_dir", lambda path: True)  # outputs/phantom
                args = tool_module(name).parse_args(arguments)
            if getattr(args, "config_file", None):
                check(args.config_file, getattr(args, "opts", ()))


@functools.cache
def shipped(name):
    return LazyConfig.load(ROOT / f"projects/{name}.py")


def test_overrides_in_the_text_of_a_page_name_keys_that_are_there(page):
    text = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    spans = re.findall(rf"(?<!\*)`('?[+~]*(?:{'|'.join(KEYS)})\.[^`\n]*[=~][^`\n]*)`", text)
    assert [span for span in spans if not is_accepted(span)] == []


def is_accepted(span):
    """Whether one of a few shipped configs takes the overrides, as they are or after those that add what they set."""
    overrides = [re.sub(r"=(FILE|https://\.\.\.)", "=x", word) for word in shlex.split(span)]
    if any(re.search(r"=(range\(|\.\.\.)", word) for word in overrides):  # of an experiment; not a whole override
        return True
    for name in ("basicdet/configs/phantom", "basicdet/configs/cva_bus", "one_stage/configs/phantom_fcos"):
        for before in ([], ADDED_BEFORE):
            with contextlib.suppress(ConfigError):
                LazyConfig.apply_overrides(copy.deepcopy(shipped(name)), [*before, *overrides])
                return True
    return False


def slug(heading):
    """The anchor that GitHub and the site give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower().replace("`", "")).strip().replace(" ", "-")


def test_links_lead_to_pages_and_headings():
    broken = []
    for source in [*sorted((ROOT / "docs/how-to").glob("*.md")), ROOT / "docs/reference/contracts.md"]:
        text = re.sub(r"```.*?```", "", source.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            file, _, anchor = target.partition("#")
            path = source if not file else (source.parent / file).resolve()
            headings = re.findall(r"^#+ (.+)", path.read_text(encoding="utf-8"), re.MULTILINE) if path.is_file() else []
            if not path.is_file() or (anchor and anchor not in map(slug, headings)):
                broken.append((source.name, target))
    assert broken == []
