"""What a message says to type works when it is typed, in bash and in zsh."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import load_tool
from ultravid.config import load_checked
from ultravid.utils.tool import run_tool

CONFIG = """\
from ultravid.config import LazyCall as L, ref
from .parts import Model, Trainer

train = dict(max_iter=10, output_dir="out", deterministic=False, lr=0.1, scale=[1.0, 2.0], note="x", tags={"a.b": 1}, hook=None)
model = L(Model)(depth=18, width=ref("train.scale[0]"))
trainer = L(Trainer)(model=ref("model"), max_iter=ref("train.max_iter"), hooks=dict(timer=L(Model)(depth=1)), names=["a"])
"""
PARTS = """\
class Model:
    def __init__(self, depth: int, width: float = 1.0, norm: str = "", fast: bool = False): ...

class Wide(Model): ...

class Trainer:
    def __init__(self, model: Model, max_iter: int, hooks: dict, names: list[str]): ...
"""

# What is typed, as in a shell, and the value of train.note then.
TYPED = {
    "train.note='a=b'": "a=b",
    "train.note=a=b": "a=b",
    "'train.note=a b'": "a b",
    "train.note='two words'": "two words",
    "train.note=~/runs": str(Path.home() / "runs"),
    "train.note=2024": "2024",
    "'train.note=$HOME'": "$HOME",
    "'train.note=a;b&c'": "a;b&c",
    "'train.note=C:\\new\\x'": "C:\\new\\x",
    "train.note=https://h/x?a=b#c": "https://h/x?a=b#c",
    "\"train.note='a, b'\"": "a, b",
    "train.note=a!b": "a!b",
}

# What is typed, and gets a message; what the message says to type is then typed in its place.
MISTYPED = [
    *("train.note=a,b", "train.note='a, b'", "train.note=", "train.note=''", "train.note=(a)", "train.note='[a'"),
    *("train.note=two words", "train.note=“two", "train.note==x", "train.scale=(1,2)", "train.scale=1,2", "train.scale=3"),
    *("train.scale.7=1", "+train.scale.-1=1", "trainer.names.1=b", "+trainer.names.4=b", "trainer.names=b", "'trainer.names[1]=b'"),
    *("train.max_iter = 5", "train.max_iter= 5", "train.max_iter =5", "train.max_iter 5", "train.max_iter: 5"),
    *("train.max_iter:5", "'train.max_iter = 5'", "'train.max_iter: 5'", "--train.max_iter=5", "-train.max_iter=5"),
    *("--max-iter=5", "--max_iter=5", "train.max_iter=1e4", "train.max_iter=5.0", "train.max_iter=\"'5'\"", "train.max_iter=many"),
    *("train.max_iter=$'5\\r'", "train.max_iter=[1,2]", "train.max_iter=true", "train.max_iter=", "train.max_iter"),
    *("train.deterministic=no", "train.deterministic=on", "train.deterministic=1", "train.deterministic=maybe"),
    *("train.lr=0,1", "train.lr=−1", "train.lr=1e999", "train.lr=1e-999", "train.lr=fast", "train.lr=\"'1'\""),  # noqa: RUF001
    *("train.max_itr=5", "trian.max_iter=5", "max_iter=5", "iters=5", "train.epochs=5", "model.norm=x", "model.nrom=x"),
    *("model.fast=no", "+model.fast=no", "depth=5", "+train.note=x", "~train.not", "train={max_itr:5,lr:1}"),
    *("model=parts.Wide", "model=5", "model=depth:5", "model={depth:5,width:1}", "'model={depth: x}'", "model=parts.py"),
    *("trainer.model.depth=5", "train.tags.a.b=2", "train.tags={a.b: 2}", "~/runs=x", "train.hook=a,b", "model.depth=none"),
]


def shells():
    for name in ("bash", "zsh"):
        absent = pytest.mark.skip(reason=f"there is no {name} here")
        yield pytest.param(name, marks=[] if shutil.which(name) else [absent])


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("advice")
    (folder / "run.py").write_text(CONFIG)
    (folder / "parts.py").write_text(PARTS)
    return str(folder / "run.py")


def arguments(shell, line):
    """What a program gets when a line is typed after its name."""
    printed = subprocess.run([shell, "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True)
    assert printed.returncode == 0, printed.stderr
    return printed.stdout.split("\0")[:-1]


def run(config, typed, capsys):
    """(exit code, standard error) of the launcher that prints the config."""
    try:
        code = run_tool(load_tool("lazyconfig_train").main, ["--config-file", config, "--print", *typed])
    except SystemExit as ended:
        code = ended.code
    return code, capsys.readouterr().err


WORD = r"""(?:'[^']*'(?:"'"'[^']*')*|"[^"]*")"""
ADVICE = re.compile(rf"(?:[Ww]rite|,|or|[Aa]dd it with|override) ({WORD}(?: {WORD})*)(?= |\.|,|$)")
MEANT = re.compile(r"Did you mean ((?:'[\w.]+'(?: or )?)+)\?")


def advised(typed, message):
    """Lines that a message says to type."""
    for line in ADVICE.findall(message.rpartition(" (override ")[0] or message):
        if not re.search(r"VALUE|NAME|'(?:[\w.]+)'$", line) or "~" in line:
            yield line
        elif re.fullmatch(r"'[\w.]+'", line):  # a key
            yield f"{line[1:-1]}={typed.partition('=')[2]}"
    for names in MEANT.findall(message):
        for name in re.findall(r"'([\w.]+)'", names):
            if "." in name and "=" in typed:
                yield f"{name}={typed.partition('=')[2]}"


@pytest.mark.parametrize("shell", shells())
def test_what_a_shell_hands_over_is_the_value_that_was_meant(shell, config):
    for typed, value in TYPED.items():
        assert load_checked(config, arguments(shell, typed)).train.note == value, typed


@pytest.mark.parametrize("shell", shells())
def test_what_a_message_says_to_type_works_when_it_is_typed(shell, config, capsys):
    said, wrong = 0, []
    for typed in MISTYPED:
        try:
            given = arguments("bash", typed)  # what zsh does not even take is not the question
        except AssertionError:
            continue
        code, message = run(config, given, capsys)
        if code == 0:
            continue
        assert code == 2, (typed, message)
        for line in advised(typed, message):
            said += 1
            code, again = run(config, arguments(shell, line), capsys)
            if code:
                wrong.append(f"{typed}\n  {message}  {line}\n  {again}")
    assert not wrong, "\n".join(wrong)
    assert said > 60
