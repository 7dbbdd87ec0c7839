"""How a tool meets its terminal: options that it does not know, characters that can't be shown, a pipe that was closed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, load_tool
from ultravid.utils.text import quoted_for_shell, shell_argument

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.mark.parametrize(
    ("option", "meant"),
    {
        "--evalonly": "Did you mean --eval-only?",
        "--num_gpus=2": "Did you mean --num-gpus?",
        "--config=x.py": "Did you mean --config-file?",
        "--train.max_iter=5": "An override has no dashes: write 'train.max_iter=5'.",
        "--output-dir=a": "An override has no dashes: write 'train.output_dir=a'.",
        "--lr": "An override has no dashes: write 'optimizer.lr=VALUE'.",
        "--epochs=3": "write 'train.max_iter=VALUE', in iterations.",
    }.items(),
)
def test_an_unknown_option_of_the_launcher_names_what_was_meant(option, meant, capsys):
    with pytest.raises(SystemExit) as ended:
        load_tool("lazyconfig_train").main(["--config-file", "x.py", option])
    assert ended.value.code == 2 and meant in capsys.readouterr().err


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        (
            "predict",
            ["a.mp4", "--run", ".", "--cnof", "0.5"],
            "unrecognized arguments: --cnof 0.5. Did you mean --conf?",
        ),
        ("predict", ["a.mp4", "--imgsz", "big"], "--imgsz 'big': is not a whole number."),
        ("predict", ["a.mp4", "--conf", "high"], "argument --conf: high is not a number from 0 to 1."),
        ("export", ["--run", "."], "the following arguments are required: --format, --image-size, --output."),
        ("evaluate", [], None),
        ("lazyconfig_train", [], "the following arguments are required: --config-file."),
    ],
)
def test_a_wrong_command_line_is_one_message(tool, arguments, message, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", [f"my tools/{tool}.py"])
    with pytest.raises(SystemExit) as ended:
        load_tool(tool).main(arguments)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith(f"error: {message or ''}") and error.count("\n") == 1
    assert error.endswith(f" For all options: python 'my tools/{tool}.py' --help\n")


TRACE = """
import sys
from ultravid.utils.tool import run_tool
def main(argv):
    print("a \\u2192 b \\udcff" * int(argv[0]))
    if argv[1:] == ["leave"]:
        sys.exit(0)
    return 0
sys.exit(run_tool(main, sys.argv[1:]))
"""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_a_terminal_has_no_bytes_for_is_escaped(encoding):
    environment = {**ENVIRONMENT, "PYTHONIOENCODING": encoding}
    shown = subprocess.run([sys.executable, "-c", TRACE, "1"], env=environment, capture_output=True)
    arrow = "\u2192" if encoding == "utf-8" else "\\u2192"
    assert (shown.returncode, shown.stderr) == (0, b"")
    assert shown.stdout.decode(encoding) == f"a {arrow} b \\udcff\n"


@pytest.mark.parametrize("arguments", ["1", "100000", "1 leave", "100000 leave"])
def test_a_pipe_that_nobody_reads_ends_a_tool_in_silence(arguments):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", TRACE, *arguments.split()]
    ended = subprocess.run(command, env=ENVIRONMENT, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_help_survives_a_closed_pipe_and_ascii():
    script = "".join(
        f"{sys.executable} {tool} --help | head -1; PYTHONIOENCODING=ascii {sys.executable} {tool} --help > /dev/null\n"
        for tool in ("-m ultravid", "tools/lazyconfig_train.py")
    )
    done = subprocess.run(
        ["bash", "-ec", f"set -o pipefail; {script}"], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.count("usage: ") == 2


@pytest.mark.parametrize("path", sorted(Path(ROOT, "tools").glob("*.py")), ids=lambda path: path.stem)
def test_every_tool_is_run_by_the_function_that_sees_to_this(path):
    text = path.read_text(encoding="utf-8")
    assert text.endswith("sys.exit(run_tool(main))\n")
    assert "argparse.ArgumentParser(" not in text


def test_an_argument_that_is_quoted_for_the_shell_arrives_as_it_was():
    texts = [
        "a=b",
        "a='b c'",
        'a="b"',
        "~a.b",
        "a=$HOME",
        "a=`x`",
        "a=!1",
        "a=\\",
        "a=[0]",
        "a={b: c,d}",
        "a=''",
        "=a",
        "",
        "a='$b'",
        "é",
        "a\tb",
        "*",
        "a#b",
    ]
    for quote in (shell_argument, quoted_for_shell):
        line = "printf '%s\\0' " + " ".join(map(quote, texts))
        printed = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True).stdout
        assert printed.split("\0")[:-1] == texts
