"""The pages of docs/reference/ are complete: every command, exit code, key and file has its line."""

import inspect
import re
import typing
from collections import Counter
from pathlib import Path

from tests.conftest import ROOT
from tests.docs.run_files import unnamed_files
from ultravid.cli import TOOLS
from ultravid.config import get_config
from ultravid.config.tree import walk
from ultravid.utils import tool

PAGES = ROOT / "docs/reference"


def page(name):
    return (PAGES / f"{name}.md").read_text(encoding="utf-8")


def words(text):
    return text.replace("&lt;", "<").replace(r"\*", "*").split()


def test_every_command_has_its_line_its_section_and_its_help(generate):
    from generators import commands

    text = page("commands")
    for verb, file in TOOLS.items():
        assert f"| [`ultravid {verb}`](#ultravid-{verb}) | `tools/{file}.py` |" in text
        section = text.partition(f"\n## ultravid {verb}\n")[2].partition("\n## ")[0]
        assert f"python tools/{file}.py" in section and (verb == "config" or f"\nusage: ultravid {verb} " in section), (
            verb
        )
        if not commands.why_not() and verb in ("predict", "config", "train"):
            assert Counter(words(commands.help_of(verb))) <= Counter(words(section)), verb
    assert not re.search(r"/(?:home|tmp|root)/", text)  # of the machine on which the page was made


def test_every_exit_code_of_the_tools_is_explained():
    codes = {value for name, value in vars(tool).items() if name.startswith("EXIT_") and isinstance(value, int)}
    assert codes | {0, 1} == tool.EXIT_CODES.keys()
    text = page("exit_codes")
    assert all(f"| {code} | {meaning} |" in text for code, meaning in tool.EXIT_CODES.items())


def test_every_key_of_a_run_is_described(generate):
    from generators import config_keys

    assert config_keys.without_description() == []
    text = page("config_keys")
    train = get_config("common/train.py")
    keys = {
        f"{name}.{key}" for name in ("train", "checkpointer", "prepared_model") for key in train[name] if key[0] != "_"
    }
    keys |= {f"trainer.hooks.{name}" for name in train.trainer.hooks}
    assert len(keys) > 25 and [key for key in sorted(keys) if f"\n- **`{key}`**" not in text] == []
    assert sum(1 for _ in walk(train)) > 20  # the file was read at all


def test_every_path_that_the_folders_classes_know_is_on_the_page_or_said_to_be_elsewhere(generate):
    from generators import run_folder

    for table in run_folder.TABLES:
        listed = run_folder.paths(table)
        for name, member in vars(type(table.folder)).items():
            function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if name.startswith("_") or not inspect.isfunction(function):
                continue
            returned = str(typing.get_type_hints(function).get("return"))
            if re.search(r"Path|InferenceFolder|Attempt|RunFolder", returned):
                assert (name in listed) != (name in table.elsewhere), f"{type(table.folder).__name__}.{name}"
        assert len(set(listed.values())) == len(listed)


def test_a_file_that_the_page_does_not_name_is_found(tmp_path):
    for name in (
        "config.yaml",
        "model_0000004.pth",
        "attempts/2/record.json",
        "inference/predictions/a.npz",
        "inference_x_1/metrics.json",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert unnamed_files(tmp_path) == []
    for name in ("notes.txt", "attempts/2/notes.txt", "inference/notes.txt", "model_x.pth"):
        Path(tmp_path, name).touch()
    assert unnamed_files(tmp_path) == ["attempts/2/notes.txt", "inference/notes.txt", "model_x.pth", "notes.txt"]
