"""The kind of an overridden value: what is kept as typed, what is converted, what is refused, and what the message says to type."""

import datetime
import enum
import math
import pathlib

import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser

from ultravid.config import LazyCall, LazyConfig, Node, OverrideError, instantiate, ref
from ultravid.config.override_values import _PATH
from ultravid.config.tree import value_at
from ultravid.utils.file_io import AddressError, require_local


class Mode(enum.Enum):
    FAST = 1
    SLOW = 2


def build(
    rate: float = 0,
    count: int | None = None,
    name: str | None = None,
    device: str | int = "x",
    flag: bool = False,
    names: list[str] | None = None,
    pair: tuple[int, str] | None = None,
    clip: float | dict[str, float] | None = None,
    schedule: float | torch.nn.Module = 1.0,
): ...


def make():
    return Node(
        train=dict(
            **dict(max_iter=10, output_dir="out", deterministic=False, lr=0.1, wall=None, path=pathlib.Path("x")),
            **dict(
                mode=Mode.FAST, scale=[1.0, 2.0], names=["a"], betas=(0.9, 0.99), dtype=torch.float32, act=torch.nn.ReLU
            ),
            **dict(date=datetime.date(2024, 1, 1), flags=[True, False], sizes=[1, 2], tags=dict(a="x"), nested=[[1.0]]),
            **dict(missing="???", file="${train.output_dir}/x.json", run_name=None, period=5, budget=None, weight=1),
        ),
        call=LazyCall(build)(
            rate=0, count=None, name=None, device="cpu", schedule=LazyCall(torch.nn.ReLU)(), clip=None
        ),
        user=LazyCall(build)(name=ref("train.run_name"), count=ref("train.period"), flag=ref("train.budget")),
        loop=LazyCall(build)(count=ref("train.max_iter")),
    )


# override: the value that its key has then
SET = {
    # text stays as it was typed
    "train.output_dir=2024": "2024",
    "train.output_dir=007": "007",
    "train.output_dir=1e3": "1e3",
    "train.output_dir=1.10": "1.10",
    "train.output_dir=12_000": "12_000",
    "train.output_dir=true": "true",
    "train.output_dir=nan": "nan",
    "train.output_dir=99999999999999999999999": "99999999999999999999999",
    "train.output_dir=a=b": "a=b",
    "train.output_dir=s3://b/x?v=1&w=2#p": "s3://b/x?v=1&w=2#p",
    "train.output_dir='x, y'": "x, y",
    "train.output_dir=null": None,
    "train.output_dir='None'": "None",
    "train.output_dir=none": "none",
    "train.run_name=str(None)": "None",
    "train.output_dir=~/runs": str(pathlib.Path.home() / "runs"),
    "train.output_dir=a~b": "a~b",
    "train.file=2024": "2024",
    "train.path=2024": pathlib.Path("2024"),
    "train.names=[007,1e3,true]": ["007", "1e3", "true"],
    "train.names.0=5": ["5"],
    "+train.names.1=007": ["a", "007"],
    "train={tags: {a: 007}}": dict(a="007"),
    "++train={output_dir: 2024}": "2024",
    # numbers
    "train.lr=1": 1.0,
    "train.lr=inf": math.inf,
    "train.scale=[1,3]": [1.0, 3.0],
    "train.betas=[0,1]": (0.0, 1.0),
    "train.betas.0=1": (1.0, 0.99),
    "+train.betas.2=1": (0.9, 0.99, 1.0),
    "train.nested=[[1,2],[3]]": [[1.0, 2.0], [3.0]],
    # an int without an annotation: nothing says that it is whole, so each value of a sweep is taken
    **{f"train.weight={typed}": float(typed) for typed in ("0.5", "2.0", "0.0", "1e1", "inf")},
    "train.weight=2": 2,
    "train.sizes=[0.5,2]": [0.5, 2],
    "train.sizes=[1.0,2.0]": [1.0, 2.0],
    "train.sizes=[1e3,2]": [1000.0, 2],
    "train.max_iter=null": None,
    "train.max_iter=${train.period}": 5,
    # others
    "train.deterministic=TRUE": True,
    "train.deterministic=True": True,
    "+train.new=False": False,
    "train.mode=SLOW": Mode.SLOW,
    "train.mode=2": Mode.SLOW,
    "train.dtype=float16": torch.float16,
    "train.act={_object_: torch.nn.GELU}": {"_object_": "torch.nn.GELU"},
    "train.wall=3600": 3600,
    # the annotation decides where no value was, and allows another kind
    "call.rate=1.0": 1.0,
    "call.name=2024": "2024",
    "train.run_name=2024": "2024",
    "call.count=3": 3,
    "call.device=0": 0,
    "+call.names=[007,1]": ["007", "1"],
    "+call.pair=[1,2]": [1, "2"],
    "call.schedule=0.5": 0.5,
    "call.schedule=null": None,
    "call.clip={a: 1.5}": dict(a=1.5),
    "call={_target_: builtins.str.join, name: 2}": {"_target_": "builtins.str.join", "name": 2},
    "train.deterministic=str(no)": "no",  # a kind that is named
    "train.max_iter=int(1e3)": 1000,
}

# override: what the message says
REFUSED = {
    **{f"train.deterministic={word}": "Write 'train.deterministic=false'" for word in ("no", "off", "0", "'false'")},
    **{f"train.deterministic={word}": "Write 'train.deterministic=true'" for word in ("yes", "on", "1")},
    "train.deterministic=maybe": "'train.deterministic' is false, a bool; 'maybe' is text.",
    "++train.deterministic=no": "Write 'train.deterministic=false'",
    "train={deterministic: no}": "Write 'train.deterministic=false'",
    "train.flags=[no,true]": "'train.flags[0]' is true, a bool; 'no' is text. Write false.",
    "+call.flag=no": "takes bool for 'flag'. Write '+call.flag=false'",
    "train.budget=no": "takes bool for 'flag'. Write 'train.budget=false'",
    "train.lr=3e563": "beyond the largest float",
    "train.lr=1e-400": "below the smallest float",
    "train.scale=[1,-2e999]": "'train.scale[1]': -2e999 is beyond the largest float (1.8e308); write -inf for",
    "train.lr='1e-3'": "Write 'train.lr=0.001'",
    "train.lr=fast": "is 0.1, a float; 'fast' is text",
    "train.lr=true": "is 0.1, a float; 'true' is a bool",
    "train.lr=[1,2]": "is 0.1, a float, not a list",
    "train.lr=0,5": "Write 'train.lr=0.5'",
    "train.lr=−1": "write 'train.lr=-1.0'",  # noqa: RUF001
    "train.lr=1/3": "'1/3' is text",
    "train.max_iter=1e4": "Write 'train.max_iter=10000'",
    "train.max_iter=3.0": "Write 'train.max_iter=3'",
    "train.max_iter='5'": "Write 'train.max_iter=5'",
    "train.max_iter=true": "is 10, an int; 'true' is a bool",
    "train.max_iter={a: 1}": "is 10, an int, not a dict",
    "train.max_iter=99999999999999999999": "beyond the 64 bits",
    f"train.max_iter=1{'0' * 5000}": "beyond the",
    "train.period=2.5": "takes int | None for 'count'",
    "call.count=1e3": "Write 'call.count=1000'",
    "train.weight=fast": "is 1, an int; 'fast' is text",
    "train.output_dir=None": """Write 'train.output_dir=null' for None, or "train.output_dir='None'" for the text""",
    "train.run_name=None": "Write 'train.run_name=null' for None",
    "+train.new=None": "Write '+train.new=null' for None",
    "train.names=[None]": "'train.names[0]': 'None' would be text. Write null for None, or 'None' for the text.",
    "call.name=None": "Write 'call.name=null' for None",
    "train.max_iter=None": "Write 'train.max_iter=null' for None",
    "train.scale=3": "Write 'train.scale=[3]'",
    "train.names=x": "Write 'train.names=[x]'",
    "train.nested=[1]": "is a list; '1' is an int",
    "train.output_dir=[a]": "is 'out', text, not a list",
    "train.act=torch.nn.GELU": "write 'train.act={_object_: torch.nn.GELU}'",
    "train.date=2024-02-02": "_args_: ['2024-02-02']",
    "train.mode=fats": "Did you mean 'FAST'?",
    "call=5": "is a call of",
    "call=torch.nn.ReLU": "write 'call._target_=torch.nn.ReLU'",
    "call=rate:5": "write 'call={rate:5}'",
    "call=common/optim.py": "write 'call=common/optim.py:NAME'",
    "train=5": "is a dict; '5' is an int",
}


@pytest.mark.parametrize("override", SET)
def test_a_value_keeps_the_kind_that_its_key_has(override):
    cfg = LazyConfig.apply_overrides(make(), [override])
    key = override.split("=")[0].lstrip("+")
    if key == "train":
        key = "train.tags" if "tags" in override else "train.output_dir"
    value = value_at(cfg, key.rsplit(".", 1)[0] if key[-1].isdigit() else key)
    assert value == SET[override] and kinds(value) == kinds(SET[override])


def kinds(value):
    """The type of a value, or of each item of a list or tuple."""
    return (
        [kinds(item) for item in value] if isinstance(value, list | tuple) else isinstance(value, dict) or type(value)
    )


@pytest.mark.parametrize("override", REFUSED)
def test_a_value_of_another_kind_is_refused_with_what_to_type(override):
    cfg = make()
    with pytest.raises(OverrideError) as caught:
        LazyConfig.apply_overrides(cfg, [override])
    assert REFUSED[override] in str(caught.value)
    assert cfg == make()


def test_a_key_gets_a_value_of_another_kind_after_it_was_deleted():
    cfg = LazyConfig.apply_overrides(make(), ["~train.lr", "+train.lr=[1,fast]", "~call", "+call=5"])
    assert cfg.train.lr == [1, "fast"] and cfg.call == 5


def test_an_object_of_a_file_is_of_the_same_kind_too(tmp_path):
    (tmp_path / "c.py").write_text("word = 'no'\nnumber = 3\nrate = 2.0\n")
    cfg = make()
    with pytest.raises(OverrideError, match="is false, a bool; 'no' is text"):
        LazyConfig.apply_overrides(cfg, [f"train.deterministic={tmp_path / 'c.py'}:word"])
    assert LazyConfig.apply_overrides(cfg, [f"train.max_iter={tmp_path / 'c.py'}:number"]).train.max_iter == 3
    assert LazyConfig.apply_overrides(cfg, [f"train.weight={tmp_path / 'c.py'}:rate"]).train.weight == 2.0
    with pytest.raises(OverrideError, match=r"is 3, an int; 2\.0 is a float"):
        LazyConfig.apply_overrides(cfg, [f"train.max_iter={tmp_path / 'c.py'}:rate"])


def test_an_object_of_a_file_may_be_in_a_class_and_under_any_path(tmp_path):
    folder = tmp_path / "lr=0.1, it's"
    folder.mkdir()
    (folder / "c.py").write_text("class Net:\n    class Inner: pass\n")
    cfg = LazyConfig.apply_overrides(make(), [f"call._target_={folder}/c.py:Net.Inner"])
    assert cfg.call._target_.__qualname__ == "Net.Inner"
    with pytest.raises(OverrideError, match=r"does not exist.* For this text write \"train.output_dir='x.py:y'\""):
        LazyConfig.apply_overrides(make(), ["train.output_dir=x.py:y"])


def test_what_text_was_typed_is_what_is_built_and_saved(tmp_path):
    cfg = LazyConfig.apply_overrides(
        Node(p=LazyCall(pathlib.PurePosixPath)(), t=dict(a="x")), ["t.a=1e3", "+p._args_=[a]"]
    )
    LazyConfig.save(cfg, tmp_path / "c.yaml")
    assert LazyConfig.load(tmp_path / "c.yaml").t.a == "1e3"
    assert instantiate(cfg.p) == pathlib.PurePosixPath("a")


@pytest.mark.parametrize(
    "text", ["a/b.c", "./x", "../y-1", "https://h:80/x", "s3://b/k@v", "/abs", "a:b", "inf/x", "true/x"]
)
def test_a_path_is_read_without_the_grammar_as_the_grammar_reads_it(text):
    assert _PATH.fullmatch(text) and OverridesParser.create().parse_override(f"key={text}").value() == text
    assert LazyConfig.apply_overrides(make(), [f"+train.new={text}"]).train.new == text


def test_a_home_folder_that_no_shell_put_in_is_refused_where_files_would_be_written():
    with pytest.raises(AddressError, match=r"is '~/runs', and only a shell reads ~ as a folder: write /"):
        require_local("~/runs", "train.output_dir")
