import collections
import copy
import fractions
import pickle

import pytest
from omegaconf import OmegaConf

from ultravid.config import (
    Builder,
    ConfigError,
    InterpolationError,
    LazyCall,
    LazyPartial,
    Node,
    UnknownKeyError,
    instantiate,
    ref,
)


class Recorder:
    """Keeps what it was called with."""

    def __init__(self, *args, **kwargs):
        self.args = args
        self.kwargs = kwargs


def takes_odd_names(self, items, keys=0):
    return self, items, keys


def test_a_reference_to_a_call_is_one_object_wherever_it_is_read():
    cfg = Node(
        counter=LazyCall(collections.Counter)(a=1),
        user=LazyCall(Recorder)(x=ref("counter"), y=["${counter}"], z={"deep": ref("counter")}),
    )
    builder = Builder(cfg)
    user = builder.build("user")
    assert user.kwargs["x"] is user.kwargs["y"][0] is user.kwargs["z"]["deep"] is builder.build("counter")
    assert Builder(cfg).build("counter") is not builder.build("counter")


def test_nodes_form_a_tree_and_a_second_place_gets_a_copy():
    inner = LazyCall(Recorder)(x=1)
    cfg = Node(a=inner)
    cfg.b = inner
    cfg.b.x = 2
    assert (cfg.a.x, cfg.b.x) == (1, 2)


def test_every_way_of_reading_resolves_and_raw_shows_what_was_written():
    cfg = Node(n=3, sub=dict(a=ref("n"), b="${.a}", c="${..n}", d="n=${n}", e=["${n}"], f=("${n}", 1)))
    sub = cfg.sub
    expected = {"a": 3, "b": 3, "c": 3, "d": "n=3", "e": [3], "f": (3, 1)}
    assert {k: list(v) if k == "e" else tuple(v) if k == "f" else v for k, v in dict(sub).items()} == expected
    assert dict(**sub)["b"] == sub["b"] == sub.b == sub.get("b") == dict(sub.items())["b"] == 3
    assert sub.raw.b == "${.a}"
    assert sub.raw["a"] == "${n}"


def test_environment_variables_and_their_defaults(monkeypatch):
    monkeypatch.setenv("ULTRAVID_TEST_NAME", "seen")
    monkeypatch.delenv("ULTRAVID_TEST_OTHER", raising=False)
    cfg = Node(
        a="${oc.env:ULTRAVID_TEST_NAME}/x",
        b="${oc.env:ULTRAVID_TEST_OTHER,fallback}",
        c="${oc.env:ULTRAVID_TEST_OTHER}",
    )
    assert (cfg.a, cfg.b) == ("seen/x", "fallback")
    with pytest.raises(InterpolationError, match="ULTRAVID_TEST_OTHER"):
        _ = cfg.c


def test_a_circle_of_references_is_named():
    cfg = Node(a="${b}", b="${c.d}", c=dict(d="${a}"))
    with pytest.raises(InterpolationError, match=r"a -> b -> c\.d -> a"):
        _ = cfg.a


def test_an_unknown_key_names_the_nearest():
    cfg = Node(train=dict(max_iter=1))
    with pytest.raises(UnknownKeyError, match=r"'max_itr' in 'train'\. Did you mean 'max_iter'"):
        _ = cfg.train.max_itr
    assert not hasattr(cfg, "trian")
    assert isinstance(UnknownKeyError("x"), AttributeError | KeyError)


def test_targets_receive_plain_containers_and_nested_calls_are_built():
    made = instantiate(
        LazyCall(Recorder)(
            [1, LazyCall(fractions.Fraction)(1, 3)],
            t=(1, {"k": LazyCall(list)()}),
            d={"x": LazyCall(dict)(a=1)},
        )
    )
    assert made.args == ([1, fractions.Fraction(1, 3)],)
    assert made.kwargs == {"t": (1, {"k": []}), "d": {"x": {"a": 1}}}
    assert [type(v) for v in (made.args[0], made.kwargs["t"], made.kwargs["d"])] == [
        list,
        tuple,
        dict,
    ]


def test_targets_by_name_lazy_targets_partials_and_unbuilt_arguments():
    assert instantiate({"_target_": "fractions.Fraction", "numerator": 1, "denominator": 2}) == fractions.Fraction(1, 2)
    assert instantiate(LazyCall(LazyPartial(sorted)(key=len))(["aaa", "b"])) == ["b", "aaa"]
    node = LazyCall(Recorder)(x=LazyCall(list)())
    node._recursive_ = False
    assert isinstance(instantiate(node).kwargs["x"], Node)
    assert instantiate(OmegaConf.create({"_target_": "fractions.Fraction", "numerator": 3})) == 3
    assert instantiate(5) == 5


def test_arguments_named_self_and_items_work():
    assert instantiate(LazyCall(takes_odd_names)(self=1, items=2, keys=3)) == (1, 2, 3)


def test_a_live_object_is_passed_on_as_it_is():
    live = object()
    cfg = Node(a=LazyCall(Recorder)(x=None))
    cfg.a.x = live
    assert instantiate(cfg.a).kwargs["x"] is live


def test_a_constructor_that_fails_keeps_its_error_and_says_where_it_stands():
    cfg = Node(part=dict(broken=LazyCall(fractions.Fraction)(numerator=1, denominator=0)))
    with pytest.raises(ZeroDivisionError) as caught:
        Builder(cfg).build("part.broken")
    (note,) = caught.value.__notes__
    assert "part.broken" in note and "fractions.Fraction(numerator=1, denominator=0)" in note
    assert "test_nodes.py" in note


def test_an_object_that_needs_itself_is_an_error():
    cfg = Node(a=LazyCall(Recorder)(b=LazyCall(Recorder)(a=ref("a"))))
    with pytest.raises(ConfigError, match="a needs itself"):
        Builder(cfg).build("a")


def test_copies_and_pickles_are_equal_and_independent():
    cfg = Node(n=1, a=LazyCall(fractions.Fraction)(numerator="${n}"), t=(1, ["${n}"]))
    for other in (copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg)), cfg.copy()):
        assert other == cfg
        other.n = 2
        assert (other.a.numerator, cfg.a.numerator) == (2, 1)


def test_lists_resolve_however_they_are_read():
    cfg = Node(n=3, values=["${n}", 4])
    values = cfg["values"]
    assert 3 in values and values.index(3) == 0 and values.count(3) == 1 and values[:1] == [3]
    assert values.pop(0) == 3 and list(values) == [4]
