"""``--help-config``: each key with its type, value and documentation."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT, load_tool
from ultravid.config import UnknownKeyError
from ultravid.config.command_line import default_argument_parser, load_with_overrides, show_config
from ultravid.config.key_help import help_text, key_helps
from ultravid.utils.tool import run_tool

FILE = '''
from ultravid.config import LazyCall as L, ref

class Net:
    """A net. It is small.

    Args:
        depth: number of layers, of which the first
            is wide. Then some more.
        width: channels of :class:`torch.Tensor`.
    """

    def __init__(self, depth: int, width: float = 8.0, *, name: str = "net", extra=None) -> None: ...

train = dict(
    # how deep
    # the net is
    depth=3,
    rate=0.5,  # of the net
    nothing=None,
)
model = L(Net)(depth=ref("train.depth"), width=4.0)
deep = dict(list=[L(Net)(1), dict(a=2)])
'''


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "net.py"
    path.write_text(FILE)
    return path


def test_a_key_has_type_value_default_documentation_and_place(config):
    cfg = load_with_overrides(config, ["model.width=2"])
    helps = {each.key: each for each in key_helps(cfg)}
    assert list(helps) == [
        *("train", "train.depth", "train.rate", "train.nothing", "model", "model.depth", "model.width"),
        *("deep", "deep.list", "deep.list[0]", "deep.list[1]", "deep.list[1].a"),
    ]
    width = helps["model.width"]
    assert (width.type, width.value, width.default) == ("float", "2.0", "8.0")
    assert (width.doc, width.where) == ("channels of torch.Tensor", "override 1: model.width=2")
    assert helps["model.depth"].value == 'ref("train.depth"), which is 3'
    depth = helps["train.depth"]  # which the model takes
    assert (depth.type, depth.value, depth.doc) == ("int", "3", "number of layers, of which the first is wide")
    assert (depth.comment, depth.where) == ("how deep the net is", f"{config}:18")
    assert (helps["train.rate"].type, helps["train.rate"].comment) == ("float", "of the net")
    assert (helps["model"].doc, helps["model"].also_takes) == ("A net", ('name: str = "net"', "extra = None"))
    assert helps["model"].value == f"{config}:Net(...)"


def test_the_text_is_readable_at_100_columns_and_filtered_by_a_prefix(config, capsys, tmp_path):
    def shown(*arguments):
        args = default_argument_parser().parse_args(["--config-file", str(config), "--help-config", *arguments])
        assert show_config(args)
        return capsys.readouterr().out

    text = shown("model", "train.depth=5")
    assert "train.rate" not in text and 'model.depth = ref("train.depth"), which is 5' in text
    assert "    float, default 8.0\n" in text
    assert [line for line in shown("train.de").splitlines() if line[0] != " "] == ["train.depth = 3"]
    assert shown().startswith("train\n") and "deep.list[1].a = 2" in shown()
    with pytest.raises(UnknownKeyError, match=r"Unknown key 'train\.dept[h]s'\. Did you mean 'train\.depth'\?"):
        shown("train.depths")
    phantom = load_with_overrides(ROOT / "projects/basicdet/configs/phantom.py")
    lines = help_text(phantom).splitlines()
    assert max(map(len, lines)) <= 100 and len(lines) > 300
    assert "optimizer.lr = " in help_text(phantom, "optimizer") and "learning rate" in help_text(
        phantom, "optimizer.lr"
    )


def test_a_launcher_of_yaml_keys_has_it_too(capsys):
    file = str(ROOT / "projects/basicdet/configs/phantom.yaml")
    assert (
        load_tool("train_net").main(["--config-file", file, "--help-config", "SOLVER.BASE", "SOLVER.BASE_LR", "5"]) == 0
    )
    head, *rest = capsys.readouterr().out.splitlines()
    assert head == "SOLVER.BASE_LR = 5.0" and rest[0].startswith("    float, default 0.")
    assert run_tool(load_tool("train_net").main, ["--config-file", file, "--help-config", "SOLVR"]) == 2


def test_help_of_a_config_without_torch_does_not_import_it(tmp_path):
    (tmp_path / "c.yaml").write_text("a: {_target_: datetime.timedelta, days: 1}  # how long\ntrain: {seed: 1}\n")
    code = (
        "import sys; from ultravid.config.command_line import *\n"
        f"show_config(default_argument_parser().parse_args(['--config-file', r'{tmp_path / 'c.yaml'}', '--help-config']))\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "") and "a = datetime.timedelta(...)" in done.stdout


def test_one_command_answers_all_questions_on_a_config(config, tmp_path, capsys, monkeypatch):
    tool = load_tool("config")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["ultravid config"])

    def out(*argv, code=0):
        monkeypatch.setattr(sys, "argv", ["ultravid config"])
        assert run_tool(tool.main, [*argv]) == code
        return capsys.readouterr().out

    assert out("help", "net.py", "model.width", "model.width=3").startswith("model.width = 3.0\n")
    assert "train.depth = 4" in out("print", "net.py", "train.depth=4")
    assert "depth: 3" in out("print", "--format", "yaml", "--resolve", "net.py")
    assert "net.py:18" in out("explain", "net.py", "train.depth")
    assert out("check", "net.py", code=2) == ""  # a run needs more
    assert out("diff", "net.py", "net.py", "--as-overrides", "train.depth=4", code=1) == "train.depth=4\n"
    assert out("graph", "net.py", "--output", "g.svg") == "Wrote g.svg\n" and (tmp_path / "g.svg").is_file()
    assert '"$schema"' in out("schema", "net.py")
    assert out("explian", "net.py", code=2) == "" and out(code=2).startswith("Inspect a config")
