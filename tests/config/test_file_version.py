"""A saved config states the version of ultravid, which no run, comparison or identity sees; a later version is refused."""

import pytest
import yaml

import ultravid
from ultravid.config import (
    ConfigError,
    LazyCall,
    LazyConfig,
    Node,
    check,
    config_hash,
    diff,
    get_cfg,
    instantiate,
    load_checked,
    to_omegaconf,
)
from ultravid.config.file_version import LOAD_NEWER
from ultravid.config.overrides import apply_overrides
from ultravid.config.resume import significant_changes

NOW = ultravid.__version__
OLD_HOOK = "hook: {_target_: ultravid.engine.hooks.HangReport, timeout_s: 5.0}\n"


def written(folder, text, name="c.yaml"):
    path = folder / name
    path.write_text(text)
    return path


def test_a_saved_config_states_the_version_and_is_the_same_config_without_it(tmp_path):
    path = tmp_path / "c.yaml"
    cfg = Node(train=Node(seed=1), model=LazyCall("builtins.dict")(a=1))
    LazyConfig.save(cfg, path)
    data = yaml.safe_load(path.read_text())
    assert next(iter(data.items())) == ("ultravid_version", NOW)
    loaded = LazyConfig.load(path)
    assert loaded == cfg and "ultravid_version" not in loaded and diff(cfg, loaded) == []
    assert significant_changes(loaded, path) == [] == diff(Node(data), cfg)
    assert config_hash(cfg) == config_hash(loaded) == config_hash(data) == config_hash(to_omegaconf(data))
    assert [f for f in check(loaded) if "version" in str(f)] == []
    LazyConfig.save(data, tmp_path / "again.yaml")  # by one who read it with another loader
    assert (tmp_path / "again.yaml").read_text() == path.read_text()
    LazyConfig.save(Node(), tmp_path / "empty.yaml")
    assert LazyConfig.load(tmp_path / "empty.yaml") == {}


def test_the_version_of_a_saved_call_is_not_an_argument_of_it(tmp_path):
    path = tmp_path / "model.yaml"
    LazyConfig.save(LazyCall("builtins.dict")(a=1), path)
    for node in (LazyConfig.load(path), yaml.safe_load(path.read_text())):
        assert instantiate(node) == {"a": 1} and check(node) == []


@pytest.mark.parametrize("newer", ["0.3.0.dev1", "99", "0.1.1rc1"])
def test_a_config_of_a_later_version_is_refused_with_both_versions_and_the_way_out(
    tmp_path, monkeypatch, newer, caplog
):
    monkeypatch.delenv(LOAD_NEWER, raising=False)
    saved = written(tmp_path, f"train: {{seed: 1}}\nultravid_version: '{newer}'\n")
    python = written(tmp_path, f"import nothing_of_that_name\nultravid_version = '{newer}'\n", "c.py")
    for path in (saved, python):
        with pytest.raises(ConfigError) as error:
            load_checked(path)
        assert str(error.value).startswith(f"{path}:2: the config is for ultravid {newer}, and this is ultravid {NOW}")
        assert f"Install ultravid {newer} or later" in str(error.value) and f"{LOAD_NEWER}=1" in str(error.value)
    with pytest.raises(ConfigError, match=r"c\.yaml:2: the config is for"):
        apply_overrides(Node(a=None), [f"a={saved}:train"])
    with pytest.raises(ConfigError, match=r"c\.yaml:2: the config is for"):
        get_cfg().merge_from_file(saved)
    monkeypatch.setenv(LOAD_NEWER, "1")
    assert load_checked(saved) == {"train": {"seed": 1}}
    assert caplog.text.count("may mean something else") == 1


@pytest.mark.parametrize("stated", ["next", "[0, 1]", "null", "''", "{a: 1}"])
def test_what_is_not_a_version_is_refused(tmp_path, stated):
    path = written(tmp_path, f"ultravid_version: {stated}\na: 1\n")
    with pytest.raises(ConfigError, match=r"c\.yaml:1: ultravid_version is .*, which is not a version"):
        LazyConfig.load(path)
    path = written(tmp_path, "ultravid_version = str(1)\na = {}\n", "c.py")
    with pytest.raises(ConfigError, match=r"c\.py:1: ultravid_version is 'str\(1\)', which is not a version"):
        LazyConfig.load(path)


@pytest.mark.parametrize("stated", ["0.0.9", "0.1.0.dev3", "0.1", "'0.0'", f"{NOW}+cu128", NOW])
def test_an_earlier_version_is_read_in_yaml_and_in_python(tmp_path, stated):
    assert LazyConfig.load(written(tmp_path, f"ultravid_version: {stated}\na: 1\n")) == {"a": 1}
    text = stated.strip("'")
    cfg = LazyConfig.load(written(tmp_path, f"ultravid_version = '{text}'\na = dict(b=1)\n", "c.py"))
    assert cfg == {"a": {"b": 1}}
    values = get_cfg()
    values.merge_from_file(written(tmp_path, f"ultravid_version: {stated}\nSEED: 5\n"))
    assert values.SEED == 5


def test_an_earlier_config_says_its_version_and_how_much_was_changed(tmp_path, caplog):
    path = written(tmp_path, f"ultravid_version: 0.0.9\n{OLD_HOOK}")
    cfg = LazyConfig.load(path)
    notes = [str(f) for f in check(cfg) if not f.fatal]
    assert notes == [
        f"ultravid_version: the config is for ultravid 0.0.9, and 1 setting of it was changed for {NOW} ({path}:1)",
        f"hook._target_: 'ultravid.engine.hooks.HangReport' is now called 'ultravid.engine.hooks.Watchdog' ({path}:2)",
    ]
    assert [r.getMessage() for r in caplog.records] == notes
    LazyConfig.save(cfg, path)
    assert check(LazyConfig.load(path)) == [] and f"ultravid_version: {NOW}\n" in path.read_text()
