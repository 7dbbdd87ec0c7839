"""What holds for any config, any override and any file, tried on made-up ones."""

import collections
import copy
import datetime
import enum
import pathlib
import pickle
import string
import tempfile

import pytest
import torch
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from ultravid.config import (
    ConfigError,
    LazyCall,
    LazyConfig,
    LazyPartial,
    Node,
    OverrideError,
    check,
    config_hash,
    instantiate,
    ref,
)
from ultravid.config.override_values import _WORD, _word_value

# The same examples each time: a test that fails now and then shows nobody what to repair.
settings.register_profile("repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")


class Level(enum.Enum):
    LOW = 1


class Bits(enum.Flag):
    A = 1
    B = 2


Pair = collections.namedtuple("Pair", "x y")  # the untyped kind is to be saved as well


class Outer:
    class Inner:
        @classmethod
        def make(cls, *args, **kwargs):
            return ("made", cls, args, kwargs)


WORDS = ("true", "false", "null", "nan", "inf")  # the grammar of overrides takes them for values
NAMES = st.text(string.ascii_lowercase + "_", min_size=1, max_size=6).filter(lambda n: n[0] != "_" and n not in WORDS)
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=12).filter(lambda t: "${" not in t and t != "???"),
    st.binary(max_size=4),
    st.dates(),
    st.sampled_from(
        [
            len,
            dict.fromkeys,
            collections.Counter,
            Outer.Inner,
            Outer.Inner.make,
            Level.LOW,
            Bits.A | Bits.B,
            Pair(1, "a"),
            torch.float16,
            torch.channels_last,
            torch.relu,
            torch.nn.functional.relu,
            pathlib.Path("a/b"),
            pathlib.PureWindowsPath("a"),
            slice(1, None),
            range(3),
            complex(1, 2),
            frozenset({1, 2}),
            type(None),
            ...,
        ]
    ),
)


def calls(children):
    kwargs = st.dictionaries(NAMES, children, max_size=3)
    args = st.lists(children, max_size=2)
    plain = st.builds(lambda a, k: LazyCall(Outer.Inner.make)(*a, **k), args, kwargs)
    return plain | st.builds(lambda a, k: LazyPartial(dict)(**k), args, kwargs)


VALUES = st.recursive(
    LEAVES,
    lambda children: st.one_of(
        st.lists(children, max_size=3),
        st.lists(children, max_size=3).map(tuple),
        st.dictionaries(NAMES | st.integers() | st.booleans(), children, max_size=3),
        calls(children),
    ),
    max_leaves=12,
)
CONFIGS = st.dictionaries(NAMES, VALUES, max_size=4)


def folder():
    return tempfile.TemporaryDirectory()


def built_alike(a, b):
    """Are two built values equal? Partials have no equality of their own."""
    return repr(a) == repr(b) and type(a) is type(b)


@given(CONFIGS)
def test_a_config_survives_saving_pickling_and_copying(values):
    cfg = Node(values)
    with folder() as name:
        path = pathlib.Path(name) / "c.yaml"
        LazyConfig.save(cfg, path)
        yaml.safe_load(path.read_text(encoding="utf-8"))
        read = LazyConfig.load(path)
    for other in (read, copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg))):
        assert other == cfg and cfg == other
        assert config_hash(other) == config_hash(cfg)
        assert built_alike(instantiate(other), instantiate(cfg))
    assert check(read) == check(cfg) == []


@given(CONFIGS, CONFIGS)
def test_equal_configs_have_equal_hashes_and_unequal_ones_do_not(a, b):
    left, right = Node(a), Node(b)
    assert (left == right) == (config_hash(left) == config_hash(right))
    assert config_hash(Node(dict(reversed(a.items())))) == config_hash(left)


PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**9), 10**9),
    st.floats(-1e6, 1e6),
    st.text(string.ascii_letters, max_size=5),
)
TREES = st.recursive(PLAIN, lambda c: st.lists(c, max_size=3) | st.dictionaries(NAMES, c, max_size=3), max_leaves=8)


def written(value):
    """A value in the grammar of overrides."""
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return f"'{value}'" if isinstance(value, str) else repr(value)


def places(tree, steps=()):
    """Every key of a tree of dicts and lists, as steps."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*steps, key)
        yield from places(value, (*steps, key))


def is_of_one_kind(old, value):
    """Whether a value can be set without a message about its kind; the items of lists have kinds too."""
    return old is None or value is None or (type(old) is type(value) and not isinstance(value, list))


@given(st.dictionaries(NAMES, TREES, min_size=1, max_size=4), TREES, st.data())
def test_an_override_equals_the_same_edit_in_python(tree, value, data):
    steps = data.draw(st.sampled_from(list(places(tree))))
    kind = data.draw(st.sampled_from(["", "++", "~"]))
    expected = copy.deepcopy(tree)
    parent = expected
    for step in steps[:-1]:
        parent = parent[step]
    old = parent[steps[-1]]
    if kind == "~":
        del parent[steps[-1]]
    elif isinstance(value, dict) and isinstance(old, dict):
        kind = "++"  # a dict is merged, and may add

        def merge(into, what):
            for key, item in what.items():
                assume(key not in into or is_of_one_kind(into[key], item))
                if isinstance(item, dict) and isinstance(into.get(key), dict):
                    merge(into[key], item)
                else:
                    into[key] = item

        merge(old, copy.deepcopy(value))
    else:
        parent[steps[-1]] = value
    key = "".join(f"[{s}]" if isinstance(s, int) else f".{s}" for s in steps).lstrip(".")
    texts = [f"~{key}"] if kind == "~" else [f"{kind}{key}={written(value)}"]
    if kind != "~" and not is_of_one_kind(old, value):
        assume(isinstance(parent, dict))
        texts = [f"~{key}", f"+{key}={written(value)}"]
    assert LazyConfig.apply_overrides(Node(tree), texts) == Node(expected)


WORDLIKE = st.text(st.sampled_from(list("0123456789._+-eEaInNfFtTrRuUlLxé")), min_size=1, max_size=9)
SPECIAL = st.sampled_from(
    ["inf", "-inf", "nan", "NaN", "True", "nUll", "+1", "1_000", "1__0", "01", "1.", ".5", "-.5e-3", "1e5", "5."]
)


@given(WORDLIKE | SPECIAL | st.floats().map(repr) | st.integers().map(str))
@settings(max_examples=500)
def test_a_single_word_means_what_it_means_to_hydra(text):
    word = _WORD.fullmatch(text)
    if word is not None:
        ours, theirs = _word_value(word), OverridesParser.create().parse_override(f"key={text}").value()
        assert repr(ours) == repr(theirs)


ODD = st.text(st.sampled_from(list("ab=+~.,:[]{}()'\"\\${}@ \t\n0123e-é\x00_")), max_size=20)


@given(ODD | st.text(max_size=15) | ODD.map(lambda t: f"a={t}") | ODD.map(lambda t: f"b.c={t}"))
@settings(max_examples=300)
def test_any_string_is_an_override_or_gets_the_documented_error(text):
    cfg = Node(a=1, b=dict(c=[1, (2, 3)]), d=ref("b"))
    try:
        LazyConfig.apply_overrides(cfg, [text])
    except OverrideError as error:
        assert str(error)
    check(cfg)


YAMLISH = st.text(st.sampled_from(list("ab:-[]{}&*!|>'\"#%?,<= \n\t0129.e_\x00é")), max_size=40).map(str.encode)
TAGGED = st.builds(
    lambda tag, text: f"a: !!{tag} {text}\n".encode(),
    st.sampled_from(["int", "float", "timestamp", "binary", "set", "omap", "pairs", "python/name:os.system", "map"]),
    st.text(string.printable, max_size=8),
)
RESERVED = st.builds(
    lambda word, value: yaml.safe_dump({"a": {word: value}}).encode(),
    st.sampled_from(["_tuple_", "_object_", "_pickle_", "_target_", "_args_", "_partial_", "_recursive_"]),
    TREES,
)


@given(st.binary(max_size=30) | YAMLISH | TAGGED | RESERVED)
@settings(max_examples=300)
def test_any_bytes_are_a_yaml_config_or_get_the_documented_error(content):
    with folder() as name:
        path = pathlib.Path(name) / "c.yaml"
        path.write_bytes(content)
        try:
            cfg = LazyConfig.load(path)
            check(cfg)
            LazyConfig.to_py(cfg)
            instantiate(cfg)
        except ConfigError as error:
            assert str(error)
        except (TypeError, ValueError) as error:  # a target's own, with a note of where it stands
            assert error.__notes__


@pytest.mark.parametrize("text", ["a: &a [*a]\n", "a: &a {b: *a}\n"])
def test_a_value_that_holds_itself_is_refused(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError, match="holds itself"):
        LazyConfig.load(tmp_path / "c.yaml")


def test_a_file_that_describes_far_more_than_it_holds_is_refused(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    (tmp_path / "c.yaml").write_text("\n".join(lines))
    with pytest.raises(ConfigError, match="more than 1,000,000 values"):
        LazyConfig.load(tmp_path / "c.yaml")


def test_dates_are_kept_as_dates(tmp_path):
    (tmp_path / "c.yaml").write_text("a: 2026-01-02\nb: 2026-01-02 03:04:05\n")
    cfg = LazyConfig.load(tmp_path / "c.yaml")
    LazyConfig.save(cfg, tmp_path / "d.yaml")
    again = instantiate(LazyConfig.load(tmp_path / "d.yaml"))
    assert again == {"a": datetime.date(2026, 1, 2), "b": datetime.datetime(2026, 1, 2, 3, 4, 5)}
