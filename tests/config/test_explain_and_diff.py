import copy
import pickle

import pytest

from ultravid.config import LazyConfig, Node, UnknownKeyError, diff, explain, explain_text

BASE = """\
from ultravid.config import LazyCall as L, ref
from fractions import Fraction
train = dict(
    max_iter=10,
    amp=dict(enabled=False),
)
number = L(Fraction)(numerator=ref("train.max_iter"), denominator=3)
user = dict(number=ref("number"))
"""
TOP = """\
from .base import *

train.max_iter = 20
number.denominator = 4
"""
OTHER = """\
from ultravid.config import LazyCall as L
from fractions import Fraction
half = L(Fraction)(numerator=1, denominator=2)
"""


@pytest.fixture
def cfg(tmp_path):
    for name, text in (("base", BASE), ("top", TOP), ("other", OTHER)):
        (tmp_path / f"{name}.py").write_text(text)
    return LazyConfig.load(tmp_path / "top.py")


def told(cfg, key, folder):
    """(value, place, ways) of each setting, without the folder."""
    return [
        (s.value, s.where.replace(f"{folder}/", ""), [v.replace(f"{folder}/", "") for v in s.via])
        for s in explain(cfg, key)
    ]


def test_each_setting_is_told_in_order_with_its_file_import_and_override(cfg, tmp_path):
    LazyConfig.apply_overrides(cfg, ["train.max_iter=30", "train.amp.enabled=true"])
    expected = [
        (10, "base.py:4", ["top.py:1"]),
        (20, "top.py:3", []),
        (30, "override 1: train.max_iter=30", []),
    ]
    assert told(cfg, "train.max_iter", tmp_path) == expected
    assert told(copy.deepcopy(cfg), "train.max_iter", tmp_path) == expected
    assert told(pickle.loads(pickle.dumps(cfg)), "train.max_iter", tmp_path) == expected
    assert told(cfg, "train.amp.enabled", tmp_path)[-1][1] == "override 2: train.amp.enabled=true"


def test_edits_in_python_are_told_with_the_line_of_the_edit(cfg):
    cfg.train.max_iter = 7
    del cfg.train.amp
    assert explain(cfg, "train.max_iter")[-1].where.startswith(__file__)
    assert [s.where.startswith(__file__) for s in explain(cfg, "train.amp")] == [False, True]
    assert "(deleted)" in explain_text(cfg, "train.amp")


def test_a_swapped_object_keeps_the_settings_of_the_one_before(cfg, tmp_path):
    override = f"number={tmp_path / 'other.py'}:half"
    LazyConfig.apply_overrides(cfg, [override, "number.denominator=9"])
    assert told(cfg, "number.denominator", tmp_path) == [
        (3, "base.py:7", ["top.py:1"]),
        (4, "top.py:4", []),
        (2, "other.py:3", [f"override 1: {override}".replace(f"{tmp_path}/", "")]),
        (9, "override 2: number.denominator=9", []),
    ]


def test_a_reference_is_followed_to_its_owner(cfg, tmp_path):
    assert told(cfg, "user.number.denominator", tmp_path) == [
        ("${number}", "base.py:8", ["top.py:1"]),
        (3, "base.py:7", ["top.py:1"]),
        (4, "top.py:4", []),
    ]
    assert [s[0] for s in told(cfg, "number.numerator", tmp_path)] == ["${train.max_iter}", 10, 20]


def test_the_text_shows_the_value_that_won_and_the_parts_of_a_node(cfg):
    lines = explain_text(cfg, "number").splitlines()
    assert lines[0] == 'number = fractions.Fraction(numerator=ref("train.max_iter"), denominator=4)'
    assert any(line.strip().startswith("denominator = 4  from") and line.endswith("top.py:4") for line in lines)


def test_an_unknown_key_names_the_nearest(cfg):
    with pytest.raises(UnknownKeyError, match=r"Did you mean 'train\.max_iter'"):
        explain(cfg, "train.max_itr")
    with pytest.raises(UnknownKeyError, match="which has no keys"):
        explain(cfg, "train.max_iter.deep")


def test_yaml_files_have_lines_too(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("a:\n  b: 1\n  c:\n  - x\n  - _tuple_: [1, {d: 2}]\n")
    cfg = LazyConfig.load(path)
    assert [explain(cfg, k)[0].where.rpartition(":")[2] for k in ("a.b", "a.c[0]", "a.c[1][1].d")] == ["2", "4", "5"]


def test_a_list_that_was_rearranged_tells_where_and_not_a_line_of_before():
    cfg = Node(items=[1, 2, 3])
    items = cfg["items"]
    items[1] = 5
    items.append(6)
    assert [len(explain(cfg, f"items[{i}]")) for i in (0, 1, 3)] == [1, 2, 1]
    items.insert(0, 0)
    (setting,) = explain(cfg, "items[2]")
    assert setting.value == 5 and setting.where.startswith(__file__)


def test_differences_are_of_keys_values_and_targets(cfg, tmp_path):
    LazyConfig.save(cfg, tmp_path / "saved.yaml")
    assert diff(cfg, LazyConfig.load(tmp_path / "saved.yaml")) == []  # a class and its name are one target
    other = LazyConfig.apply_overrides(
        copy.deepcopy(cfg),
        [
            *("train.max_iter=5", "~train.amp", "+new=[1,2]", "number._target_=decimal.Decimal"),
            *("~user.number", "+user.number=3"),
        ],
    )
    assert [str(d) for d in diff(cfg, other)] == [
        "~ train.max_iter: 20 -> 5",
        '- train.amp = {"enabled": False}',
        "~ number._target_: fractions.Fraction -> decimal.Decimal",
        '~ user.number: ref("number") -> 3',
        "+ new = [1, 2]",
    ]


def test_what_was_put_in_from_outside_was_imported_by_nobody(cfg):
    cfg.number = Node(denominator=5)
    assert [s.via for s in explain(cfg, "number.denominator")][-1] == ()
    assert explain(cfg, "number.denominator")[-1].where.startswith(__file__)


def test_a_pickled_config_explains_itself_as_before_however_it_was_edited():
    cfg = Node(train=dict(y=[1, 2, {"z": 3}], q=1))
    LazyConfig.apply_overrides(cfg, ["train.y=[9,{z: 1}]", "train.y.1.z=3", "+train.n.d=5", "~train.q"])
    again = pickle.loads(pickle.dumps(cfg))
    for key in ("train.y", "train.y.1.z", "train.n", "train.n.d", "train.q", "train"):
        assert explain_text(again, key) == explain_text(cfg, key)
    assert str(explain(cfg, "train.n")[-1]) == "override 3: +train.n.d=5"
    assert explain_text(cfg.train, "y").startswith('y = [9, {"z": 3}]')


def test_merging_with_an_operator_is_told_with_its_line():
    cfg = Node(a=1)
    cfg |= {"b": 2}
    merged = cfg | {"c": 3}
    assert explain(cfg, "b")[-1].where.startswith(__file__) and explain(merged, "c")[-1].where.startswith(__file__)


def test_an_item_of_an_imported_list_remembers_the_import(tmp_path):
    (tmp_path / "base.py").write_text("from ultravid.config import LazyCall as L\nhooks = [L(dict)(a=1)]\n")
    (tmp_path / "run.py").write_text("from .base import *\nseq = dict(first=hooks[0])\n")
    (setting,) = explain(LazyConfig.load(tmp_path / "run.py"), "seq.first.a")
    assert setting.where.endswith("base.py:2") and setting.via == (f"{tmp_path / 'run.py'}:1",)


def test_an_item_that_a_file_adds_to_its_plain_dict_has_its_own_line(tmp_path):
    (tmp_path / "c.py").write_text('train: dict = dict(\n    a=1,\n)\ntrain["b"] = 2\n')
    cfg = LazyConfig.load(tmp_path / "c.py")
    assert [explain(cfg, f"train.{k}")[0].where for k in "ab"] == [f"{tmp_path / 'c.py'}:{n}" for n in (2, 4)]
