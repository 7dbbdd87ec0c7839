"""What a message says to type works when it is typed, in bash and in zsh."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ultravid.config.command_line import default_argument_parser, load_with_overrides
from ultravid.utils.errors import UserError

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
    *("train.note=a,b", "train.note='a, b'", "train.note=", "train.note=''", "'train.note=(a)'", "train.note='[a'"),
    *(
        "train.note=two words",
        "train.note=“two",
        "train.note==x",
        "'train.scale=(1,2)'",
        "train.scale=1,2",
        "train.scale=3",
    ),
    *(
        "train.scale.7=1",
        "+train.scale.-1=1",
        "trainer.names.1=b",
        "+trainer.names.4=b",
        "trainer.names=b",
        "'trainer.names[1]=b'",
    ),
    *("train.max_iter = 5", "train.max_iter= 5", "train.max_iter =5", "train.max_iter 5", "train.max_iter: 5"),
    *("train.max_iter:5", "'train.max_iter = 5'", "'train.max_iter: 5'", "--train.max_iter=5", "-train.max_iter=5"),
    *(
        "--max-iter=5",
        "--max_iter=5",
        "train.max_iter=1e4",
        "train.max_iter=5.0",
        "train.max_iter=\"'5'\"",
        "train.max_iter=many",
    ),
    *("train.max_iter=$'5\\r'", "train.max_iter=[1,2]", "train.max_iter=true", "train.max_iter=", "train.max_iter"),
    *("train.deterministic=no", "train.deterministic=on", "train.deterministic=1", "train.deterministic=maybe"),
    *("train.lr=0,1", "train.lr=−1", "train.lr=1e999", "train.lr=1e-999", "train.lr=fast", "train.lr=\"'1'\""),  # noqa: RUF001
    *("train.max_itr=5", "trian.max_iter=5", "max_iter=5", "iters=5", "train.epochs=5", "model.norm=x", "model.nrom=x"),
    *("model.fast=no", "+model.fast=no", "depth=5", "+train.note=x", "~train.not", "train={max_iter:5,lr:1}"),
    *(
        "model=parts.Wide",
        "model=5",
        "model=depth:5",
        "model={depth:5,width:1}",
        "'model={depth: x}'",
        "model=parts.py",
    ),
    *(
        "trainer.model.depth=5",
        "train.tags.a.b=2",
        "'train.tags.\"a.b\"=2'",
        "train.tags={a.b: 2}",
        "train.hook=a,b",
        "trainer.names+=b",
        "train.note==",
        "++trainer.hooks.more={_target_:parts.Model,depth:3}",
        "train[lr]=5",
        "train/lr=5",
        "train_lr=5",
        "model.depth=none",
    ),
]


def all_shells():
    for name in ("bash", "zsh"):
        absent = pytest.mark.skip(reason=f"there is no {name} here")
        yield pytest.param(name, marks=[] if shutil.which(name) else [absent])


SHELLS = list(all_shells())


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("advice")
    (folder / "run.py").write_text(CONFIG)
    (folder / "parts.py").write_text(PARTS)
    return str(folder / "run.py")


def arguments(shell, lines):
    """What a program gets for each line that is typed after its name."""
    script = "".join(f"printf '%s\\0' {line}\nprintf '\\n\\0'\n" for line in lines)
    printed = subprocess.run([shell, "-c", script], capture_output=True)
    assert (printed.returncode, printed.stderr) == (0, b""), printed.stderr
    return [each.split("\0")[:-1] for each in printed.stdout.decode().split("\n\0")[:-1]]


def refusal(config, typed, capsys):
    """What the launcher says about the arguments; "" if it takes them."""
    try:
        args = default_argument_parser().parse_args(["--config-file", config, *typed])
        load_with_overrides(config, args.opts)
    except UserError as error:
        return str(error)
    except SystemExit:
        return capsys.readouterr().err.strip()
    return ""


WORD = r"""(?:'[^']*'(?:"'"'[^']*')*|"[^"]*")"""
ADVICE = re.compile(rf"(?:[Ww]rite|,|\bor|[Aa]dd it with|: override) ({WORD}(?: {WORD})*)(?= |\.|,|$)")
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


@pytest.mark.parametrize("shell", SHELLS)
def test_what_a_shell_hands_over_is_the_value_that_was_meant(shell, config):
    for given, (typed, value) in zip(arguments(shell, TYPED), TYPED.items(), strict=True):
        assert load_with_overrides(config, given).train.note == value, typed


@pytest.mark.parametrize("shell", SHELLS)
def test_what_a_message_says_to_type_works_when_it_is_typed(shell, config, capsys):
    said = []  # (what was typed, the message, what it says to type)
    for typed, given in zip(MISTYPED, arguments("bash", MISTYPED), strict=True):  # zsh does not even take some of them
        message = refusal(config, given, capsys)
        assert message, typed
        said += [(typed, message, line) for line in advised(typed, message)]
    again = [refusal(config, given, capsys) for given in arguments(shell, [line for _, _, line in said])]
    wrong = ["\n  ".join((*row, why)) for row, why in zip(said, again, strict=True) if why]
    assert not wrong, "\n".join(wrong)
    assert len(said) > 60


def test_null_is_advised_only_where_a_part_may_be_missing(config, capsys):
    assert "FILE.py:NAME" in (message := refusal(config, ["model=5"], capsys)) and "null" not in message
    assert "write 'trainer.hooks.timer=null' for none" in refusal(config, ["trainer.hooks.timer=5"], capsys)
