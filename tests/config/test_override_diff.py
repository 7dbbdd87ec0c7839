"""``config_diff --as-overrides`` prints overrides that turn one config into the other."""

import datetime
import json
import shlex
import subprocess
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, load_tool
from ultravid.config import ConfigError, LazyCall, LazyConfig, Node, diff
from ultravid.config.command_line import load_with_overrides
from ultravid.config.override_diff import overrides_between
from ultravid.config.serialize import resolved

SGD, ADAM = LazyCall(torch.optim.SGD), LazyCall(torch.optim.AdamW)
BEFORE = Node(
    train=Node(seed=1, lr=1.0, note="x", amp=False, none=None, path=Path("a"), gone=5, dtype=torch.float32),
    optimizer=SGD(params=None, lr=0.1, momentum=0.9),
    other=SGD(params=None, lr=0.1),
    hooks=[LazyCall("builtins.dict")(a=1), LazyCall("builtins.dict")(a=2)],
    sizes=[1, 2, 3],
    betas=(0.9, 0.99),
    pairs=[(1, 2), (3, 4)],
    tags={"a.b": 1, "plain": 2, 3: "three"},
    single="${train.seed}",
    nested=Node(a=Node(b=Node(c=1))),
)
AFTER = [
    ("train.lr", 1e-5),
    ("train.lr", 3),  # an int where a float was
    ("train.lr", float("inf")),
    ("train.lr", float("nan")),
    ("train.lr", "1e-5"),
    ("train.seed", 2.5),
    ("train.seed", None),
    ("train.seed", True),
    ("train.note", "two words, 'single' and \"double\" quotes = $HOME ${not} \\ \\' !"),
    ("train.note", ""),
    ("train.note", "None"),
    ("train.note", "null"),
    ("train.note", "007"),
    ("train.note", 7),
    ("train.note", "~/runs"),
    ("train.note", "line one\nline two\ttab"),
    ("train.note", "ultraschall-ä ${train.seed}"),
    ("train.note", ["a", 1, None, 1.5, True, "true", [], {"k": [1]}]),
    ("train.none", "a b"),
    ("train.none", {"a": {"b": [1, "x y"]}}),
    ("train.amp", "yes"),
    ("train.path", Path("b c")),
    ("train.dtype", torch.float16),
    ("train.when", datetime.date(2026, 1, 2)),
    ("train.added", Node(a=None, b=[1e-5, "it's"])),
    ("optimizer", ADAM(params=None, lr=1e-4, betas=(0.9, 0.95))),
    ("optimizer", Node(lr=0.1)),
    ("optimizer", None),
    ("optimizer", "${other}"),
    ("other._target_", torch.optim.Adam),
    ("hooks", [LazyCall("builtins.dict")(a=1), LazyCall("builtins.dict")(a=5), LazyCall("builtins.list")()]),
    ("hooks", [LazyCall("builtins.dict")(a=2)]),
    ("hooks", []),
    ("hooks", {"first": LazyCall("builtins.dict")(a=1)}),
    ("sizes", [3, 2]),
    ("sizes", [1.0, 2.0, 3.0]),
    ("sizes", (1, 2, 3)),
    ("sizes", [1, 2, 3, "four"]),
    ("betas", (0.9, 0.95)),
    ("betas", [0.9, 0.95]),
    ("betas", (0.5,)),
    ("pairs", [(1, 2), (3, 5)]),
    ("pairs", [[1, 2]]),
    ("tags", {"a.b": 2, "plain": 2, 3: "three"}),
    ("tags", {"plain": 2, 3: "drei", "x y": 0, "a:b": 1}),
    ("single", "${train.lr}"),
    ("single", 4),
    ("nested.a.b", Node(d=2)),
    ("nested", "text"),
    ("project_folders", ["/elsewhere"]),
]


@pytest.mark.parametrize("together", [False, True])
def test_the_overrides_give_the_other_config(together):
    changed = Node(BEFORE)
    for key, value in AFTER:
        after = changed if together else Node(BEFORE)
        *above, last = key.split(".")
        node = after
        for step in above:
            node = node[step]
        node[last] = value
        if not together:
            _round_trip(after)
    if together:
        del changed.train.gone, changed.hooks
        _round_trip(changed)


def _round_trip(after):
    overrides = overrides_between(BEFORE, after)
    got = LazyConfig.apply_overrides(BEFORE.copy(), overrides)
    assert diff(got, after) == [], overrides
    return overrides


def test_they_are_short_where_they_can_be():
    after = LazyConfig.apply_overrides(
        BEFORE.copy(), ["train.lr=1e-05", "train.note=abc/d.e", "~train.gone", "++train.new=[1, a]", "hooks.1.a=7"]
    )
    after.hooks.append({"_target_": "builtins.list"})
    assert overrides_between(BEFORE, after) == [
        *("train.lr=1e-05", "train.note=abc/d.e", "~train.gone", "++train.new=[1, a]"),
        *("hooks.1.a=7", "++hooks.2={_target_: builtins.list}"),
    ]
    assert overrides_between(BEFORE, BEFORE) == []


def test_what_no_override_can_say_is_refused_by_its_key():
    after = Node(BEFORE)
    after.train.note = lambda: 1
    with pytest.raises(ConfigError, match=r"This difference can't be written as overrides:\n  ~ train\.note: "):
        overrides_between(BEFORE, after)


def test_the_tool_prints_a_line_each_as_a_shell_reads_it(tmp_path, capsys):
    a, b = (str(ROOT / f"projects/basicdet/configs/{name}.py") for name in ("phantom", "phantom_one_frame"))
    opts = ["train.output_dir=it's/here", "optimizer.lr=1e-5", "~trainer.hooks.eval", "+train.lines='one\ntwo'"]
    assert load_tool("config_diff").main([a, b, "--as-overrides", *opts]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "optimizer.lr=1e-05" in lines and "'~trainer.hooks.eval'" in lines
    script = "python3 -c 'import json, sys; print(json.dumps(sys.argv[1:]))' " + " ".join(lines)
    typed = json.loads(subprocess.run(["bash", "-c", script], capture_output=True, check=True, text=True).stdout)
    assert len(typed) == len(lines) and any("\n" in text for text in typed)
    got, wanted = load_with_overrides(a, typed), load_with_overrides(b, opts)
    assert diff(got, wanted) == [] == diff(resolved(got), resolved(wanted))
    assert load_tool("config_diff").main([a, a, "--as-overrides"]) == 0 and capsys.readouterr().out == ""
    assert all(shlex.split(line) for line in lines if "$'" not in line)
