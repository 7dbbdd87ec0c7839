"""What is built of a config and what is kept of it in a file: who may be imported, who is pickled, what is equal."""

import abc
import argparse
import array
import collections
import contextlib
import copy
import dataclasses
import decimal
import enum
import fractions
import os
import pickle
import subprocess
import sys
import types

import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from ultravid.config import (
    MISSING,
    Builder,
    ConfigError,
    LazyCall,
    LazyConfig,
    LazyPartial,
    Node,
    OverrideError,
    check,
    config_hash,
    diff,
    explain,
    instantiate,
    load_checked,
    ref,
    to_omegaconf,
)


class Level(enum.Enum):
    LOW = 1
    HIGH = 2


class Holder:
    def __init__(self, value=None):
        self.value = value

    def method(self):
        return self.value


def make():
    return Node(n=3, number=LazyCall(fractions.Fraction)(numerator=ref("n"), denominator=(4)), pair=(1, ["${n}"]))


# --- what may be imported ---------------------------------------------------------------------------------------------


def test_only_targets_of_allowed_packages_are_imported():
    good = LazyCall("fractions.Fraction")(1)
    assert instantiate(good, allowed_packages=["fractions"]) == 1
    assert Builder(Node(a=good), allowed_packages=["fractions"]).build("a") == 1
    for name in ("os.system", "fractions.re.compile", "fractionsx.y", "subprocess.run"):
        node = Node(a={"_target_": name, "_args_": ["true"]})
        with pytest.raises(ConfigError, match="not in an allowed package"):
            instantiate(node, allowed_packages=["fractions"])
        (fault,) = check(node, allowed_packages=["fractions"])
        assert fault.key == "a" and "not in an allowed package" in fault.message
    with pytest.raises(ConfigError, match="not in an allowed package"):
        instantiate({"_object_": "os.system"}, allowed_packages=["fractions"])
    with pytest.raises(ConfigError, match="not in an allowed package"):  # a live target too
        instantiate(LazyCall(os.getcwd)(), allowed_packages=["fractions"])


def test_a_module_outside_of_the_allowed_packages_is_not_even_run(tmp_path, monkeypatch):
    text = f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\nclass A: ...\n"
    (tmp_path / "ultravid_test_side_effect.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    node = {"_target_": "ultravid_test_side_effect.A"}
    with pytest.raises(ConfigError, match="not in an allowed package"):
        instantiate(node, allowed_packages=["fractions"])
    assert check(Node(a=node), allowed_packages=["fractions"])
    assert not (tmp_path / "ran").exists()
    instantiate(node)
    assert (tmp_path / "ran").exists()


def test_reading_printing_and_comparing_import_nothing(tmp_path):
    (tmp_path / "c.yaml").write_text("a: {_target_: no_such_module.A}\nb: {_object_: no_such_module.B}\n")
    cfg = LazyConfig.load(tmp_path / "c.yaml")
    assert "no_such_module.A()" in LazyConfig.to_py(cfg)
    LazyConfig.save(cfg, tmp_path / "d.yaml")
    assert LazyConfig.load(tmp_path / "d.yaml") == cfg
    assert [f.key for f in check(cfg)] == ["a", "b"]


# --- what can be saved ------------------------------------------------------------------------------------------------


def local_things():
    class Local: ...

    return {
        "a lambda": lambda x: x,
        "a local class": Local,
        "an object": Holder(),
        "a bound method": Holder().method,
        "a lambda of a module": Holder.__dict__["method"].__get__(Holder(3)),
    }


@pytest.mark.parametrize("name", local_things())
@pytest.mark.parametrize("as_target", [False, True])
def test_what_has_no_name_is_refused_with_its_key_unless_pickling_is_asked_for(name, as_target, tmp_path):
    value = local_things()[name]
    node = Node(a=dict(b=Node(_target_=value) if as_target else LazyCall(Holder)(value)))
    key = r"a\.b\._target_" if as_target else r"a\.b\._args_\[0\]"
    with pytest.raises(ConfigError, match=rf"^{key} .*allow_pickle=True"):
        LazyConfig.save(node, tmp_path / "c.yaml")
    assert not (tmp_path / "c.yaml").exists()
    LazyConfig.save(node, tmp_path / "c.yaml", allow_pickle=True)
    yaml.safe_load((tmp_path / "c.yaml").read_text())
    with pytest.raises(ConfigError, match="is a pickle, which may run any code"):
        LazyConfig.load(tmp_path / "c.yaml")
    read = LazyConfig.load(tmp_path / "c.yaml", allow_pickle=True)
    found = read.a.b.raw["_target_"] if as_target else read.a.b._args_[0]
    assert type(found).__name__ == type(value).__name__


def test_a_lambda_with_a_name_of_its_own_is_saved_by_it_and_one_with_a_stolen_name_is_not(tmp_path):
    stolen = lambda: None  # noqa: E731
    stolen.__module__, stolen.__qualname__ = "fractions", "Fraction"
    with pytest.raises(ConfigError, match="can't be written as data"):
        LazyConfig.save(Node(a=stolen), tmp_path / "c.yaml")


@pytest.mark.parametrize("words", [{"_tuple_": [1]}, {"_pickle_": "x"}, {"_object_": 3}])
def test_the_words_of_the_file_format_are_no_keys_of_a_config(words, tmp_path):
    with pytest.raises(ConfigError, match="reserved word"):
        LazyConfig.save(Node(a=words), tmp_path / "c.yaml")


def test_keys_that_a_file_can_not_hold_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"a has the key \(1, 2\)"):
        LazyConfig.save(Node(a={(1, 2): 3}), tmp_path / "c.yaml")


def test_the_hash_is_the_same_in_every_process():
    code = (
        "from ultravid.config import *; import fractions; "
        "print(config_hash(Node(z={'b': 1, 'a': (1, fractions.Fraction)}, n=LazyCall(fractions.Fraction)(1, 2))))"
    )
    environments = [{**os.environ, "PYTHONHASHSEED": seed} for seed in ("1", "2")]
    hashes = {subprocess.check_output([sys.executable, "-c", code], env=e, text=True).strip() for e in environments}
    assert hashes == {config_hash(Node(n=LazyCall("fractions.Fraction")(1, 2), z=dict(a=(1, fractions.Fraction), b=1)))}


def test_equality_is_of_what_was_written():
    assert make() == make() and make() != Node(n=3)
    assert Node(a=1) != Node(a=True) and Node(a=1) != Node(a=1.0) and Node(a="${n}", n=3) != Node(a=3, n=3)
    assert Node(a=float("nan")) == Node(a=float("nan"))
    assert Node(a=[1, 2]) != Node(a=(1, 2)) and Node(a=dict(x=1, y=2)) == {"a": {"y": 2, "x": 1}}
    assert LazyCall(fractions.Fraction)(1) == LazyCall("fractions.Fraction")(1) != LazyCall("decimal.Decimal")(1)
    assert Node(a="fractions.Fraction") != Node(a=fractions.Fraction)


# --- OmegaConf at the edge --------------------------------------------------------------------------------------------


def test_an_omegaconf_config_is_taken_and_given(tmp_path):
    made = to_omegaconf(make())
    assert isinstance(made, DictConfig) and made.number.numerator == 3
    assert instantiate(made.number) == fractions.Fraction(3, 4)
    changed = LazyConfig.apply_overrides(made, ["n=5"])
    assert isinstance(changed, DictConfig) and changed.number.numerator == 5
    LazyConfig.save(OmegaConf.create({"a": [1, "${b}"], "b": 2}), tmp_path / "c.yaml")
    assert list(LazyConfig.load(tmp_path / "c.yaml").a) == [1, 2]


# --- sharing and copies -----------------------------------------------------------------------------------------------


def test_check_notes_a_node_that_was_copied_into_a_second_place():
    part = LazyCall(collections.Counter)(a=1)
    cfg = Node(first=dict(part=part), second=dict(part=part))
    (note,) = check(cfg)
    assert note.key == "second.part" and not note.fatal and 'ref("first.part")' in note.message
    cfg.second.part = ref("first.part")
    assert check(cfg) == []
    moved = Node(a=part.copy())
    moved.b = moved.pop("a")  # moved, and a copy that was asked for: nothing to tell
    assert check(moved) == []


def test_an_override_of_a_part_keeps_it_shared_also_after_saving(tmp_path):
    cfg = Node(part=LazyCall(Holder)(1), a=LazyCall(Holder)(ref("part")), b=LazyCall(Holder)(ref("part")))
    LazyConfig.apply_overrides(cfg, ["part._args_[0]=2"])
    LazyConfig.save(cfg, tmp_path / "c.yaml")
    for each in (cfg, LazyConfig.load(tmp_path / "c.yaml")):
        builder = Builder(each)
        a, b = builder.build("a"), builder.build("b")
        assert a.value is b.value and a.value.value == 2


def test_swapping_a_target_or_a_whole_object_tells_what_does_not_fit(tmp_path):
    (tmp_path / "o.py").write_text(
        "from ultravid.config import LazyCall as L\nimport decimal\nd = L(decimal.Decimal)(value=1)\n"
    )
    swapped = LazyConfig.apply_overrides(make(), ["number._target_=decimal.Decimal"])
    messages = {f.key: f.message for f in check(swapped)}
    assert "It was meant for fractions.Fraction; '~number.numerator' removes it" in messages["number.numerator"]
    whole = LazyConfig.apply_overrides(make(), ["number.denominator=9", f"number={tmp_path / 'o.py'}:d"])
    notes = check(whole)
    assert [n.fatal for n in notes] == [False, False]
    assert "whose 'numerator', 'denominator' decimal.Decimal does not take" in notes[0].message
    assert "override 1: number.denominator=9" in notes[1].message


# --- faults of the forerunner -----------------------------------------------------------------------------------------


def test_to_py_keeps_empty_dicts_and_lists():
    assert LazyConfig.to_py(Node(a={}, b=dict(c={}), d=[])) == "cfg.a = {}\ncfg.b.c = {}\ncfg.d = []\n"


@pytest.mark.parametrize(
    "value", ["[choice(1,2)]", "{a: range(1,3)}", "interval(0,1)", "glob(*)", "[[{x: choice(a)}]]"]
)
def test_a_sweep_is_refused_however_deep_it_stands(value):
    with pytest.raises(OverrideError, match="is a sweep"):
        LazyConfig.apply_overrides(Node(a=1), [f"a={value}"])


def test_calls_inside_plain_containers_are_built_and_partials_wait():
    node = LazyCall(Holder)({"deep": [{"x": LazyCall(Holder)(1)}], "later": LazyPartial(Holder)(2)})
    made = instantiate(node).value
    assert made["deep"][0]["x"].value == 1 and made["later"]().value == 2
    assert [type(made), type(made["deep"])] == [dict, list]


# --- overrides keep what the command line has no word for -------------------------------------------------------------


def test_tuples_stay_tuples_and_their_items_can_be_set():
    cfg = Node(betas=(0.9, 0.99), deep=((1, 2), {"x": (3, ref("n"))}), n=4)
    LazyConfig.apply_overrides(cfg, ["betas=[0.8,0.9]", "betas.1=0.5", "deep[0][1]=7", "deep.1.x.0=8"])
    assert cfg.betas == (0.8, 0.5) and type(cfg.betas) is tuple
    assert instantiate(cfg.deep) == ((1, 7), {"x": (8, 4)})
    with pytest.raises(OverrideError, match="there is no index 5"):
        LazyConfig.apply_overrides(cfg, ["betas[5]=1"])


def test_a_dict_value_does_not_replace_a_reference_in_silence():
    cfg = Node(model=LazyCall(Holder)(1), trainer=dict(model=ref("model")))
    with pytest.raises(OverrideError, match=r"'trainer\.model' is a reference to 'model'"):
        LazyConfig.apply_overrides(cfg, ["trainer={model: {value: 3}}"])


def test_a_config_with_classes_of_its_own_file_can_be_pickled(tmp_path):
    (tmp_path / "own.py").write_text(
        "from ultravid.config import LazyCall as L\nclass Thing:\n    def __init__(self, kind): self.kind = kind\n"
        "thing = L(Thing)(kind=Thing)\n"
    )
    made = instantiate(pickle.loads(pickle.dumps(LazyConfig.load(tmp_path / "own.py"))).thing)
    assert type(made).__name__ == "Thing" and made.kind is type(made)


# --- what a new user stumbled over ------------------------------------------------------------------------------------


@dataclasses.dataclass
class Options:
    x: int = 1


class Abstract(abc.ABC):
    @abc.abstractmethod
    def run(self): ...


def positional(a, /): ...


@pytest.mark.parametrize(
    ("value", "key", "message"),
    [
        ((0.9, "???"), "a[1]", "is still ???"),
        (LazyCall(Holder), "a", "without its arguments: write L(...)(...)"),
        (Node(_target_=Holder, _partial_="false"), "a._partial_", "is 'false'; it is true or false"),
        (Node(_target_=Holder, _args_=5), "a._args_", "is 5, not a list of positional arguments"),
        (LazyCall(Abstract)(), "a", "is abstract: it lacks run"),
        (LazyCall(positional)(), "a", "needs an argument 'a'"),
        (LazyCall(list[int])(1, 2, 3), "a", "takes 1 positional arguments, 3 are given"),
    ],
)
def test_faults_that_are_easily_missed(value, key, message):
    found = {f.key: f.message for f in check(Node(a=value))}
    assert message in found[key]


def test_a_wrong_reference_of_the_command_line_is_told_where_it_stands():
    def takes(n: int): ...

    cfg = Node(name="x", user=LazyCall(takes)(n=1))
    LazyConfig.apply_overrides(cfg, ["user.n=${name}"])
    (fault,) = check(cfg)
    assert (
        fault.key == "user.n" and fault.where == "override 1: user.n=${name}" and "it refers to name" in fault.message
    )


def test_a_call_can_say_that_its_values_are_right_whatever_its_signature_says():
    def wrongly_annotated(value: float): ...

    node = LazyCall(wrongly_annotated)(value="random")
    assert [f.key for f in check(Node(a=node))] == ["a.value"]
    node._check_ = False
    assert check(Node(a=node)) == []
    assert instantiate(node) is None


def test_what_the_launcher_could_not_save_is_told_before_a_run(tmp_path):
    (tmp_path / "c.py").write_text("train = dict(note=lambda x: x)\n")
    with pytest.raises(ConfigError, match=r"train\.note: is .*lambda.*can't be saved with the run"):
        load_checked(tmp_path / "c.py")


def test_names_of_a_file_that_are_no_part_of_the_config_are_told_when_they_are_missed(tmp_path):
    (tmp_path / "c.py").write_text(
        "from ultravid.config import LazyCall as L, ref\nlr = 0.1\nbare = L(dict)\na = dict(x=ref('lr'), y=ref('bare'))\n"
    )
    messages = {f.key: f.message for f in check(LazyConfig.load(tmp_path / "c.py"))}
    assert "In that file it is a float, and only the dicts and nodes that" in messages["a.x"]
    assert "In that file it is a LazyCall without its arguments" in messages["a.y"]


@pytest.mark.parametrize("key", ["l.7", "l.name", "n.deep", "t[5]", "nowhere"])
def test_building_what_is_not_there_is_a_config_error(key):
    builder = Builder(Node(l=[1, LazyCall(Holder)(2)], n=3, t=(1, "${n}"), d={1: 5}))
    with pytest.raises(ConfigError):
        builder.build(key)
    assert builder.build("l.1").value == 2 and builder.build("d.1") == 5 and builder.build("t[1]") == 3


def test_enums_dtypes_and_whole_objects_from_the_command_line(tmp_path):
    (tmp_path / "o.py").write_text("train = dict(b=2)\n")
    cfg = Node(level=Level.LOW, dtype=torch.float16, train=dict(a=1), made=Options(5))
    LazyConfig.apply_overrides(cfg, ["level=HIGH", "dtype=torch.float32", f"train={tmp_path / 'o.py'}:train"])
    assert (cfg.level, cfg.dtype, dict(cfg.train)) == (Level.HIGH, torch.float32, {"b": 2})
    for override, message in [
        ("level=HGH", "Did you mean 'HIGH'"),
        ("dtype=flot32", "is not one"),
        ("made={x: 7}", "not a node: it has no keys to set"),
        ("train=common/optim.py", r"Name an object of the file: write 'train=common/optim\.py:NAME'"),
    ]:
        with pytest.raises(OverrideError, match=message):
            LazyConfig.apply_overrides(cfg, [override])


def test_omegaconf_gets_names_of_targets_and_calls_of_dataclasses():
    made = to_omegaconf(Node(call=LazyCall(Options)(x=3), value=Options(4)))
    assert instantiate(made.call) == Options(3) and instantiate(made.value) == Options(4)


def test_keys_that_come_twice_in_yaml_are_refused(tmp_path):
    (tmp_path / "c.yaml").write_text("a:\n  b: 1\n  c: 2\n  b: 3\n")
    with pytest.raises(ConfigError, match=r"c\.yaml:4: is not YAML: the key 'b' occurs twice"):
        LazyConfig.load(tmp_path / "c.yaml")


def test_a_folder_that_is_not_there_is_told_in_one_message(tmp_path):
    with pytest.raises(ConfigError, match="can't be written: No such file or directory"):
        LazyConfig.save(Node(a=1), tmp_path / "nowhere/c.yaml")


@dataclasses.dataclass
class Wants:
    a: dataclasses.InitVar[int]
    b: int = 1


def test_types_are_saved_and_a_dataclass_that_forgets_an_argument_is_refused(tmp_path):
    LazyConfig.save(Node(a=int | None, b=list[int]), tmp_path / "c.yaml")
    assert instantiate(LazyConfig.load(tmp_path / "c.yaml")) == {"a": int | None, "b": list[int]}
    with pytest.raises(ConfigError, match=r"x holds Wants\(b=1\)"):
        LazyConfig.save(Node(x=Wants(a=3)), tmp_path / "c.yaml")


# --- what a review found ----------------------------------------------------------------------------------------------


def test_a_long_chain_of_references_is_followed_once_a_link():
    cfg = Node({**{f"a{i}": f"${{a{i + 1}}}" for i in range(100)}, "a100": 7})
    assert cfg.a0 == 7 and check(cfg) == []


def test_a_copy_and_its_original_explain_their_own_edits():
    cfg = Node(opt=LazyCall(dict)(sub=LazyCall(dict)(k=1)))
    cfg.opt = LazyCall(dict)(sub=LazyCall(dict)(k=2))
    copied = copy.deepcopy(cfg)
    copied.opt.sub.k, cfg.opt.sub.k = 123, 55
    assert [explain(c, "opt.sub.k")[-1].value for c in (copied, cfg)] == [123, 55]


def test_a_file_is_of_no_allowed_package(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text(
        f"import pathlib\npathlib.Path({str(tmp_path / 'ran')!r}).touch()\ndef f(): ...\n"
    )
    monkeypatch.chdir(tmp_path)
    for act in (instantiate, lambda node, **kwargs: check(Node(a=node), **kwargs) and None):
        with contextlib.suppress(ConfigError):
            act({"_target_": "torch.py:f"}, allowed_packages=["torch"])
    assert not (tmp_path / "ran").exists()


def test_items_of_plain_tuples_are_judged_referred_to_and_told():
    def numbers(*values: int): ...

    (fault,) = check(Node(a={"_target_": numbers, "_args_": (1, "s")}))
    assert fault.key == "a._args_" and "is 's', a str, but" in fault.message
    cfg = Node(o=LazyCall(dict)(b=(0.9, 0.99)), r=ref("o.b[0]"))
    assert cfg.r == 0.9 and check(cfg) == []


def test_what_is_handed_over_unbuilt_need_not_be_complete():
    node = LazyCall(Holder)(LazyCall(fractions.Fraction)(numerator=1), extra=1)
    node._recursive_ = False
    node._args_[0] = LazyCall(positional)()
    assert [f.message for f in check(Node(a=node))] == [
        f"{__name__}.Holder takes no argument 'extra'. Known here: value."
    ]


def test_calls_in_containers_that_are_not_built_are_told():
    ordered = collections.OrderedDict(c=LazyCall(torch.nn.ReLU)())
    (fault,) = check(Node(a=LazyCall(torch.nn.Sequential)(ordered)))
    assert fault.key == "a._args_[0]" and "in which calls are not built" in fault.message


def test_every_way_of_reading_a_list_resolves():
    cfg = Node(a=["${b}", "${.0}", 3], b=1)
    plus = cfg.a + [4]  # noqa: RUF005  # the operator is what is tried
    assert cfg.a[1:] == [1, 3] and plus == [1, 1, 3, 4] and [0, *reversed(cfg.a)] == [0, 3, 1, 1]
    before = cfg.a
    cfg.a += [5]
    assert cfg.a is before and [len(explain(cfg, f"a[{i}]")) for i in (0, 3)] == [2, 1]


def test_texts_of_the_environment_are_decoded_where_asked_for(monkeypatch):
    monkeypatch.setenv("ULTRAVID_TEST_NUMBER", "4")
    assert Node(n="${oc.decode:${oc.env:ULTRAVID_TEST_NUMBER}}").n == 4


class Word(str, enum.Enum):  # noqa: UP042  # the older way is to be saved as well
    A = "a"


def test_odd_values_come_back_equal(tmp_path):
    cfg = Node(word=Word.A, method=str.upper, module=fractions)
    LazyConfig.save(cfg, tmp_path / "c.yaml")
    again = LazyConfig.load(tmp_path / "c.yaml")
    assert again == cfg and instantiate(again) == {"word": Word.A, "method": str.upper, "module": fractions}


def test_plain_data_is_returned_as_it_is():
    for value in ({"a": "b", "c": [1, {"d": (2, "x")}]}, [3, "y"], {}):
        assert instantiate(value) is value
    held = [1, {"_target_": "fractions.Fraction", "_args_": [3]}]
    assert instantiate(held) == [1, 3] and instantiate({"a": 1, "b": "${a}"}) == {"a": 1, "b": 1}
    with pytest.raises(ConfigError, match=r"a is still \?\?\?"):
        instantiate({"a": MISSING})


def test_code_is_printed_with_double_quotes_and_no_longer_than_88_columns():
    cfg = Node(a="it's", b='say "hi"', c=("x", 1), d={"k": "v"}, e=LazyCall(dict)(name="n" * 40, other="o" * 40))
    assert LazyConfig.to_py(cfg).splitlines() == [
        'cfg.a = "it\'s"',
        "cfg.b = 'say \"hi\"'",
        'cfg.c = ("x", 1)',
        'cfg.d.k = "v"',
        "cfg.e = builtins.dict(",
        f'    name="{"n" * 40}",',
        f'    other="{"o" * 40}",',
        ")",
    ]


class Own(collections.namedtuple("Own", "x y")):
    pass


@pytest.mark.parametrize(
    "value",
    [
        collections.OrderedDict(b=1, a=[1, {"x": (2,)}]),
        collections.OrderedDict({(1, 2): 3}),
        collections.defaultdict(list, {"a": [1], 3: [2]}),
        collections.Counter(a=2, b=0),
        collections.deque([1, [2]], maxlen=3),
        collections.deque([1]),
        collections.ChainMap({"a": 1}, {"b": 2}),
        collections.UserDict(a=1),
        collections.UserList([1, 2]),
        types.MappingProxyType({"a": {"b": 1}}),
        types.SimpleNamespace(a=1, b=[2]),
        argparse.Namespace(a=1),
        bytearray(b"ab"),
        array.array("d", [1.5, 2.5]),
        fractions.Fraction(1, 3),
        decimal.Decimal("1.10"),
        Own(1, [2]),
    ],
    ids=repr,
)
def test_a_collection_or_number_that_was_saved_is_the_one_of_the_config_and_builds_the_same(value, tmp_path):
    cfg = Node(call=LazyCall(Holder)(value=value), it=value)
    LazyConfig.save(cfg, tmp_path / "c.yaml")
    again = LazyConfig.load(tmp_path / "c.yaml")
    assert diff(cfg, again) == diff(again, cfg) == [] and cfg == again and config_hash(cfg) == config_hash(again)
    built = instantiate(again.call).value
    assert type(built) is type(value) and built == value and copy.deepcopy(cfg) == cfg
    assert type(pickle.loads(pickle.dumps(cfg)).it) is type(value)
    changed = Node(call=LazyCall(Holder)(value=None), it=value)
    assert [d.key for d in diff(again, changed)] == ["call.value"]


def test_calls_and_references_in_collections_that_are_not_built_are_reported():
    held = [LazyCall(dict)(), ref("a")]
    for kind in (collections.deque, lambda v: types.SimpleNamespace(v=v), lambda v: collections.defaultdict(list, v=v)):
        (fault, *_) = check(Node(a=1, it=kind(held)))
        assert fault.key == "it" and "calls are not built and references are not resolved" in fault.message
