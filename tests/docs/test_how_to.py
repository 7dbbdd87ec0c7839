"""The pages of docs/how-to: their configs pass the check, their commands parse, their links lead somewhere.

That the messages which they quote are in the code is tested in tests/test_troubleshooting.py.
"""

import ast
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, load_tool
from ultravid.config import ConfigError, importable_project, load_checked
from ultravid.config.check import RUN_KEYS, RUN_OBJECTS

PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs/how-to").glob("*.md"))}
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
MADE_UP = {"outputs/phantom", "recordings"}  # what a reader has, and a test has not
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
    """The name of a page; its files are saved in a checkout that has nothing but two projects."""
    for project in ("basicdet", "one_stage"):
        shutil.copytree(ROOT / "projects" / project, tmp_path / "projects" / project)
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
    assert set(PAGES) >= EXPECTED
    for name, text in PAGES.items():
        headings = re.findall(r"^## (.+)", text, re.MULTILINE)
        assert headings[-3:] == SECTIONS and 30 <= len(text.splitlines()) <= 110, name


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
        arguments = words[words.index(tool) + 1 :]
        with monkeypatch.context() as patch:
            patch.setattr("pathlib.Path.is_dir", lambda path: True)
            args = load_tool(Path(tool).stem).parse_args(arguments) if tool != "tools/lazyconfig_train.py" else None
        if args is None:
            check(arguments[1], [word for word in arguments[2:] if re.match(r"[+~]*[a-z_.]+=", word)])
        elif hasattr(args, "opts") and args.opts:
            check(args.config_file, args.opts)


def test_overrides_in_the_text_of_a_page_name_keys_that_are_there(page):
    text = re.sub(r"```.*?```", "", PAGES[page], flags=re.DOTALL)
    spans = [
        span for span in re.findall(r"(?<!\*)`([^`\n]+)`", text) if re.match(rf"'?[+~]*(?:{'|'.join(KEYS)})\.", span)
    ]
    configs = ("basicdet/configs/phantom.py", "basicdet/configs/cva_bus.py", "one_stage/configs/cva_bus.py")
    wrong = []
    for span in spans:
        overrides = [word for word in shlex.split(span) if "FILE" not in word and "HOST" not in word]
        if not any("=" in word or word.startswith("~") for word in overrides):
            overrides = [f"++{word}=null" for word in overrides if word in ()]
        if not any(accepts(f"projects/{config}", overrides) for config in configs):
            wrong.append(span)
    assert wrong == []


def accepts(config, overrides):
    try:
        load_checked(config, [*ADDED_BEFORE, *overrides])
    except ConfigError:
        return False
    return True


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
