import collections
import fractions

import pytest

from ultravid.config import LazyCall, LazyConfig, Node, OverrideError, check, load_checked, ref


def make():
    return Node(
        train=dict(max_iter=10, name="a", amp=dict(enabled=False)),
        model=LazyCall(dict)(depth=18),
        trainer=LazyCall(dict)(model=ref("model"), hooks=dict(eval=LazyCall(dict)(period=5))),
        items=[1, LazyCall(dict)(x=1)],
        pair=(1, dict(x=1)),
    )


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("train.max_iter=5", lambda c: c.train.max_iter, 5),
        ("train.name='x y, z'", lambda c: c.train.name, "x y, z"),
        ("train.name=''", lambda c: c.train.name, ""),
        ("train.max_iter=null", lambda c: c.train.max_iter, None),
        (
            "+train.steps=[1,[2]]",
            lambda c: [c.train.steps[0], list(c.train.steps[1])],
            [1, [2]],
        ),
        ("+train.new=1e-3", lambda c: c.train.new, 1e-3),
        ("++train.max_iter=3", lambda c: c.train.max_iter, 3),
        ("train.amp={enabled: true}", lambda c: c.train.amp.enabled, True),
        ("train={amp: {enabled: true}}", lambda c: (c.train.amp.enabled, c.train.max_iter), (True, 10)),
        ("~trainer.hooks.eval", lambda c: dict(c.trainer.hooks), {}),
        ("items[1].x=4", lambda c: c["items"][1].x, 4),
        ("items.0=9", lambda c: c["items"][0], 9),
        ("+items.2=9", lambda c: c["items"][2], 9),
        ("+pair.2=9", lambda c: c.pair[2], 9),
        ("train.name=${model.depth}", lambda c: c.train.name, 18),
        (
            "+trainer.hooks.ema={_target_: builtins.dict}",
            lambda c: c.trainer.hooks.ema._target_,
            "builtins.dict",
        ),
    ],
)
def test_an_override_does_what_the_same_edit_in_python_does(override, read, value):
    assert read(LazyConfig.apply_overrides(make(), [override])) == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.max_itr=5",
            r"Unknown key 'train\.max_itr'\. Did you mean 'train\.max_iter'\?.*override 1",
        ),
        ("trian.max_iter=5", "Did you mean 'train.max_iter'"),
        ("train.max_iter.x=5", "is 10, which has no keys"),
        (
            "trainer.model.depth=50",
            r"'trainer\.model' is a reference to 'model'.*override 'model\.depth'",
        ),
        ("train.max_iter=", "has no value"),
        ("train.max_iter=1,2", "is a sweep"),
        ("train.max_iter=[1", "does not parse"),
        ("train.max_iter", "sets nothing"),
        ("+train.max_iter=1", "exists already"),
        ("~train.max_itr", "Did you mean 'train.max_iter'"),
        ("items[7]=1", "no index 7"),
        ("train.amp={enabeld: true}", "Did you mean 'train.amp.enabled'"),
        ("train={amp: {enabeld: true}}", "Did you mean 'train.amp.enabled'"),
        ("train={1: 2}", r"Unknown key 'train\.1'"),
        ("~pair.0", "is a tuple: override it as a whole"),
        ("=3", "is not an override"),
    ],
)
def test_a_wrong_override_gets_one_clear_message(override, message):
    with pytest.raises(OverrideError, match=message):
        LazyConfig.apply_overrides(make(), [override])


def test_all_wrong_overrides_are_told_together():
    with pytest.raises(OverrideError) as caught:
        LazyConfig.apply_overrides(make(), ["train.max_itr=1", "train.max_iter=2", "modle.depth=3"])
    assert "override 1" in str(caught.value) and "override 3" in str(caught.value)


def test_an_object_of_a_file_takes_the_keys_place(tmp_path):
    (tmp_path / "other.py").write_text("from ultravid.config import LazyCall as L\nnew = L(dict)(a=1)\n")
    cfg = LazyConfig.apply_overrides(make(), [f"model={tmp_path / 'other.py'}:new", "model.a=2"])
    assert dict(cfg.model)["a"] == 2 and "depth" not in cfg.model
    with pytest.raises(OverrideError, match="Did you mean 'new'"):
        LazyConfig.apply_overrides(make(), [f"model={tmp_path / 'other.py'}:nwe"])
    shipped = LazyConfig.apply_overrides(Node(optimizer=None), ["optimizer=common/optim.py:SGD"])
    assert shipped.optimizer.momentum == 0.9


def test_check_reports_every_fault_at_once_and_says_where():
    cfg = Node(
        a=LazyCall("collections.Countr")(),
        b=LazyCall(fractions.Fraction)(numeratr=1),
        c=LazyCall(pytest.approx)(),
        d="${nowhere.x}",
        e=dict(f="???"),
        g="${h}",
        h="${g}",
        fine=LazyCall(collections.Counter)(anything=1),
    )
    faults = {f.key: f.message for f in check(cfg)}
    assert set(faults) == {"a", "b.numeratr", "c", "d", "e.f", "g", "h"}
    assert "Did you mean 'Counter'" in faults["a"]
    assert "Did you mean 'numerator'" in faults["b.numeratr"]
    assert "needs an argument 'expected'" in faults["c"]
    assert all("test_overrides_and_check.py" in f.where for f in check(cfg))


def test_a_broken_module_shows_its_real_error(tmp_path, monkeypatch):
    (tmp_path / "ultravid_test_broken.py").write_text("import module_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    (fault,) = check(Node(a=LazyCall("ultravid_test_broken.Thing")()))
    assert "module_that_is_not_there" in fault.message


def test_faults_of_overrides_and_of_the_config_come_in_one_list(tmp_path):
    path = tmp_path / "c.py"
    path.write_text(
        "from ultravid.config import LazyCall as L\nimport fractions\na = L(fractions.Fraction)(numeratr=1)\n"
    )
    with pytest.raises(ValueError, match="2 faults") as caught:
        load_checked(path, ["b.c=1"])
    assert "numeratr" in str(caught.value) and "override 1" in str(caught.value)


def test_check_finds_objects_that_need_themselves_and_targets_by_reference():
    calls = Node(a=LazyCall(dict)(x=ref("b")), b=LazyCall(dict)(x=ref("a")))
    plain = Node(a=dict(x=ref("b")), b=dict(x=ref("a")))
    for cfg in (calls, plain):
        assert any("needs itself to be built: a -> b -> a" in f.message for f in check(cfg))
    assert check(Node(cls=fractions.Fraction, a=LazyCall("${cls}")(numerator=1))) == []


def test_an_override_of_an_unknown_key_is_a_key_error_too():
    for override in ("train.max_itr=1", "train.max_iter.deeper=1", "other.key=1"):
        with pytest.raises(KeyError, match="Unknown key"):
            LazyConfig.apply_overrides(Node(train=Node(max_iter=3)), [override])
    with pytest.raises(OverrideError) as caught:
        LazyConfig.apply_overrides(Node(train=Node(max_iter=3)), ["+train.max_iter=1"])
    assert not isinstance(caught.value, KeyError)


def test_a_key_that_nothing_reads_beside_one_of_almost_its_name_is_named(tmp_path, caplog):
    (tmp_path / "run.py").write_text(
        "from ultravid.config import LazyCall as L, ref\n"
        "train = dict(max_iter=10, amp=dict(enabled=False), note='mine')\n"
        "counts = L(dict)(n=ref('train.max_iter'), on=ref('train.amp.enabled'))\n"
        "train['max_itr'] = 5\n"
        "train['amp']['enable'] = True\n"
    )
    load_checked(tmp_path / "run.py")
    assert [record.message.partition(" (")[0] for record in caplog.records] == [
        "train.amp.enable: is set, but nothing reads it. Did you mean 'train.amp.enabled'?",
        "train.max_itr: is set, but nothing reads it. Did you mean 'train.max_iter'?",
    ]
