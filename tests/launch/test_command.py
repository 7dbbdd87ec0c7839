"""The command `ultravid`, from a wheel that is installed in an environment of its own."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT
from ultravid.cli import TOOLS


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The project's wheel, built from a copy so that no build folder is left in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("ultravid", "configs_py", "tools"):
        subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "THIRD_PARTY_NOTICES.md"):
        subprocess.run(["cp", str(ROOT / name), str(source)], check=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(out)]
    subprocess.run([*pip, str(source)], check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment with the wheel; the libraries it needs are those of this one. Gives a function that runs a command."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    (site,) = (folder / "venv/lib").glob("python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "venv/bin/python"), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    # At the end of the path, and without the files that point an editable installation at the checkout.
    libraries = next(p for p in sys.path if p.endswith("site-packages"))
    (site / "libraries.pth").write_text(f"{libraries}\n", encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    work = folder / "empty"
    work.mkdir()

    def run(*command):
        program = folder / "venv/bin" / command[0]
        return subprocess.run([program, *command[1:]], cwd=work, env=environment, capture_output=True, text=True)

    run.folder = work
    return run


def test_a_wheel_installs_one_package_with_configs_tools_types_and_license(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = [archive.read(n).decode() for n in names if n.endswith("METADATA")]
    assert {n.split("/")[0] for n in names if ".dist-info" not in n} == {"ultravid"}
    assert {"ultravid/py.typed", "ultravid/configs_py/common/train.py", "ultravid/tools/lazyconfig_train.py"} <= {
        *names
    }
    assert [n for n in names if n.endswith("licenses/LICENSE")]
    assert "License-Expression: Apache-2.0" in metadata


def test_every_tool_has_a_verb_and_its_line_in_the_help(installed):
    assert set(TOOLS.values()) == {p.stem for p in (ROOT / "tools").glob("*.py")}
    shown = installed("ultravid", "--help")
    assert shown.returncode == 0
    rows = dict(line.split(None, 1) for line in shown.stdout.split("commands:\n")[1].split("\n\n")[0].splitlines())
    assert rows.keys() == TOOLS.keys() and all(len(text) > 10 for text in rows.values())


def test_an_unknown_verb_names_the_nearest(installed):
    shown = installed("ultravid", "evalute")
    assert shown.returncode == 2
    assert "no command 'evalute'. Did you mean 'evaluate'?" in shown.stderr


def test_a_project_that_only_a_checkout_has_is_named_as_such(installed):
    shown = installed("ultravid", "train", "--config-file", "projects/basicdet/configs/phantom.py", "--check")
    assert shown.returncode == 2 and shown.stderr.count("\n") == 1
    assert "phantom.py does not exist: the installed package contains no projects" in shown.stderr


def test_a_tools_usage_names_the_verb():
    command = [sys.executable, "-m", "ultravid", "config-diff", "--help"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    shown = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert shown.returncode == 0 and shown.stdout.startswith("usage: ultravid config-diff ")
    assert "\n    ultravid config-diff A B [key=value ...]\n" in shown.stdout and "tools/" not in shown.stdout


def test_help_imports_no_torch():
    code = "import sys, ultravid.cli as c; c.main(['--help']); sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True).returncode == 0


@pytest.mark.slow_models
def test_an_installed_command_trains_a_config_without_a_checkout(installed):
    made = installed(
        *("ultravid", "make-phantom", "--output", "phantom", "--videos", "4", "--frames", "6", "--size", "64"),
        *("--workers", "1", "--test-fraction", "0.25"),
    )
    assert made.returncode == 0, made.stderr
    config = Path(ROOT / "projects/basicdet/configs/phantom.py").read_text(encoding="utf-8")
    (installed.folder / "mine.py").write_text(config, encoding="utf-8")
    overrides = [
        *("data.root=phantom", "train.output_dir=run", "train.max_iter=2", "train.log_period=1"),
        *(
            "dataloader.train.frame_sampler.num_frames=2",
            "dataloader.train.num_workers=0",
            "dataloader.test.num_workers=0",
        ),
    ]
    trained = installed("ultravid", "train", "--config-file", "mine.py", *overrides)
    assert trained.returncode == 0, trained.stderr
    assert (installed.folder / "run/model_final.pth").is_file()
    record = (installed.folder / "run/attempts/1/record.json").read_text(encoding="utf-8")
    assert '"command": "ultravid train --config-file mine.py data.root=phantom' in record
    wrong = installed("python", "-m", "ultravid", "train", "--config-file", "mine.py", "train.max_itr=5")
    assert wrong.returncode == 2
    assert "Did you mean 'train.max_iter'?" in wrong.stderr
