import subprocess
import sys

import pytest

from tests.conftest import ROOT, load_tool
from tests.quick_python import quick_python
from ultravid.config import load_checked
from ultravid.utils.tool import run_tool


@pytest.mark.slow
def test_a_new_project_is_checked_and_passes_its_own_test_and_the_linter(tmp_path):
    main = load_tool("new_project").main
    assert run_tool(main, ["fresh_idea", "--folder", str(tmp_path)]) == 0
    project = tmp_path / "fresh_idea"
    assert load_checked(project / "configs/phantom.py").model.token_mixer.context_frames == 15
    lint = [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), "--no-cache", str(project)]
    assert subprocess.run([*lint, "--ignore", "D,T20"], check=False).returncode == 0
    layout = [sys.executable, "-m", "ruff", "format", "--check", "--config", str(ROOT / "pyproject.toml"), str(project)]
    assert subprocess.run(layout, check=False).returncode == 0
    test = [quick_python(), "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    ended = subprocess.run([*test, str(project / "tests")], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout
    assert run_tool(main, ["fresh_idea", "--folder", str(tmp_path)]) == 2  # it is there already


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my-idea", "not a package name"),
        ("torch", "is installed already"),
        ("import", "not a package name"),
        ("configs", "every project"),
    ],
)
def test_a_name_that_can_not_be_a_package_is_refused(name, message, tmp_path, capsys):
    assert run_tool(load_tool("new_project").main, [name, "--folder", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
