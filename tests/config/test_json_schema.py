"""The JSON Schema of a config, checked by a validator: what the check accepts is valid, and clear mistakes are not."""

import json

import pytest
import yaml

from tests.conftest import ROOT, load_tool
from ultravid.config import LazyConfig
from ultravid.config.command_line import load_with_overrides
from ultravid.config.json_schema import json_schema

jsonschema = pytest.importorskip("jsonschema", reason="pip install 'ultravid[dev]' has the validator")


def validator(schema):
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def saved_data(cfg, folder):
    LazyConfig.save(cfg, folder / "saved.yaml")
    return yaml.safe_load((folder / "saved.yaml").read_text())


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    cfg = load_with_overrides(ROOT / "projects/basicdet/configs/phantom.py")
    return validator(json_schema(cfg, "phantom.py")), saved_data(cfg, tmp_path_factory.mktemp("schema"))


def changed(data, key, value):
    """The parts that the tests look at and references in place of the others, with one value changed; None deletes it."""
    parts = ("train", "optimizer", "trainer")
    new = {name: json.loads(json.dumps(data[name])) if name in parts else "${elsewhere}" for name in data}
    *above, last = key.split(".")
    node = new
    for step in above:
        node = node[step]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return new


@pytest.mark.slow_models
def test_a_saved_config_is_valid_and_says_so_in_every_family(phantom, tmp_path):
    check, data = phantom
    assert list(check.iter_errors(data)) == []
    for name in ("one_stage", "query", "cfg_node"):
        path = ROOT / f"tests/saved/0.2/configs/{name}.yaml"
        cfg = LazyConfig.load(path)
        assert list(validator(json_schema(cfg)).iter_errors(saved_data(cfg, tmp_path))) == []


WRONG = [
    ("optimizer.lr", "much"),
    ("optimizer.lr", [1]),
    ("optimizer.lr", -1),
    ("train.max_iter", "ten"),
    ("train.max_iter", 1.5),
    ("train.amp.enabled", 3),
    ("train.num_threads", []),
    ("train.output_dir", 5),
    ("optimizer.learning_rate", 0.1),
    ("trainer.hooks.eval.perod", 5),
    ("optimizer.params", None),
    ("trainer.model", None),
    ("trainer.accumulation.num_batch", 1),
    ("model", {"_target_": "torch.optim.AdamW", "params": [], "lr": "fast"}),
    ("trainer", 5),
    ("train", []),
    ("train.max_iter", None),
    ("train.amp.enabled", None),
    ("train.amp", None),
    ("train", None),
    ("train", 5),
    ("dataloader", None),
]
RIGHT = [
    ("optimizer.lr", "${train.rate}"),
    ("optimizer.lr", 1),
    ("train.max_iter", "${oc.decode:${oc.env:N,5}}"),
    ("train.num_threads", 4),
    ("train.extra", {"anything": [1, {"a": None}]}),
    ("trainer.hooks", "${others}"),
    ("trainer.hooks.own", {"_target_": "my.Hook", "depth": 3}),
    ("trainer.clip_grad", {"_object_": "torch.relu"}),
    ("model", "${other}"),
    ("optimizer", {"_target_": "my.Optimizer", "params": "${optimizer.params}"}),
    ("optimizer.lr", {"_target_": "builtins.float", "_args_": ["0.1"]}),
    ("optimizer.betas", {"_tuple_": [0.9, 0.95]}),
    ("optimizer._partial_", True),
    ("ultravid_version", "0.1.0"),
]


def test_a_wrong_type_an_unknown_key_of_a_call_and_a_missing_argument_are_not(phantom):
    check, data = phantom
    assert [(key, value) for key, value in WRONG if check.is_valid(changed(data, key, value))] == []


def test_references_calls_and_what_is_new_are_valid(phantom):
    check, data = phantom
    assert [(key, value) for key, value in RIGHT if not check.is_valid(changed(data, key, value))] == []


def test_a_key_that_references_read_is_required_as_long_as_one_of_them_is_there(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "a: {x: 1, note: 'to ${b[1].name}', own: '${.x}', up: '${..c}', unsure: '${oc.env:NAME,${d}}', pair: {_tuple_: ['${f.0}']}}\n"
        "b: [0, {name: n}]\nc: 3\nd: 4\ne: {twice: '${a.up}', of: '${b}'}\nf: {_tuple_: [5]}\n"
    )
    data = yaml.safe_load((tmp_path / "c.yaml").read_text())
    check = validator(json_schema(LazyConfig.load(tmp_path / "c.yaml")))

    def without(*keys):
        new = json.loads(json.dumps(data))
        for key in keys:
            *above, last = [int(step) if step.isdecimal() else step for step in key.split(".")]
            node = new
            for step in above:
                node = node[step]
            del node[last]
        return new

    assert check.is_valid(data) and check.is_valid(without("d")) and check.is_valid({**data, "b": "${a.x}"})
    assert check.is_valid(without("a.note", "b.1.name")) and check.is_valid(without("a.up", "e.twice", "c"))
    lacking = ["a.x", "a.up", "b", "b.1", "b.1.name", "c", "f", "f._tuple_.0"]
    assert [key for key in lacking if check.is_valid(without(key))] == []
    [error] = check.iter_errors(without("b.1.name"))
    assert list(error.absolute_path) == ["b", 1] and "'name' is a required property" in error.message


def test_a_partial_call_need_not_have_its_required_arguments(phantom):
    check, data = phantom
    data = changed(data, "optimizer.params", None)
    assert check.is_valid(changed(data, "optimizer._partial_", True)) and not check.is_valid(data)


def test_the_tool_writes_the_schema_with_the_documentation_of_arguments(tmp_path, capsys):
    (tmp_path / "c.yaml").write_text("opt: {_target_: torch.optim.SGD, params: [], lr: 0.1}\n")
    assert load_tool("config_schema").main([str(tmp_path / "c.yaml"), "--output", str(tmp_path / "s.json")]) == 0
    schema = json.loads((tmp_path / "s.json").read_text())
    learning_rate = schema["$defs"]["torch.optim.SGD"]["properties"]["lr"]
    assert learning_rate["default"] == 0.001 and learning_rate["description"].startswith("learning rate")
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema" and schema["title"] == "c.yaml"
