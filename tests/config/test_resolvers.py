"""References that read the environment, and texts that look like something else in one version of YAML."""

import pytest
import yaml
from omegaconf import OmegaConf

from ultravid.config import InterpolationError, LazyConfig, Node

ABSENT = {
    # the default of a variable that is not set
    "${oc.env:NOPE,'out'}": "out",
    '${oc.env:NOPE,"a, b"}': "a, b",
    "${oc.env:NOPE,''}": "",
    "${oc.env:NOPE,}": "",
    "${oc.env:NOPE,3}": "3",
    "${oc.env:NOPE,null}": None,
    "${oc.env:NOPE,'null'}": "null",
    "${oc.env:NOPE,'it\\'s'}": "it's",
    "${oc.env:NOPE,a\\,b}": "a,b",
    "${oc.env:NOPE,'a}b'}/c": "a}b/c",
    "${oc.env: NOPE , a b }": "a b",
    "${oc.env:NOPE,http://x:80/y}": "http://x:80/y",
    "${oc.env:NOPE,${name}}": "it's, x",
    "${oc.env:NOPE,'${name}/x'}": "it's, x/x",
    "${oc.env:NOPE,${oc.env:NEITHER,'deep'}}": "deep",
    "${oc.env:${variable}}": "12:30",
    "it's ${oc.env:NOPE,'x'} and 'y'": "it's x and 'y'",
}
DECODED = {
    "12:30": "12:30",
    "no": "no",
    "on": "on",
    "0o10": "0o10",
    "1_000": 1000,
    "1e3": 1000.0,
    "'5'": "5",
    "null": None,
}
DECODED |= {"true": True, "[1, a]": [1, "a"], "{a: 1}": dict(a=1), "2024-01-01": "2024-01-01", "a b": "a b", "-3": -3}
TEXTS = [
    "12:30",
    "no",
    "on",
    "1e3",
    "-1e5",
    ".5",
    "1.",
    "0o10",
    "0x1F",
    "010",
    "1_000",
    "null",
    "~",
    "2024-01-01",
    "1.10",
    "007",
    ".inf",
    "NaN",
    "true",
    "y",
    "=",
    "<<",
    "1:2:3.5",
    "-",
    "?",
]


@pytest.fixture
def environment(monkeypatch):
    monkeypatch.delenv("NOPE", raising=False)
    monkeypatch.delenv("NEITHER", raising=False)
    monkeypatch.setenv("THERE", "12:30")
    return monkeypatch


@pytest.mark.parametrize("text", ABSENT)
def test_a_default_is_what_omegaconf_makes_of_it(environment, text):
    values = dict(v=text, name="it's, x", variable="THERE")
    assert Node(values).v == ABSENT[text]
    if "}b" not in text and text != "${oc.env:NOPE,}":  # OmegaConf warns
        assert OmegaConf.create(values).v == ABSENT[text]


@pytest.mark.parametrize("text", DECODED)
def test_a_text_is_decoded_by_the_grammar_of_overrides_and_not_as_yaml(environment, text):
    environment.setenv("THERE", text)
    value = Node(v="${oc.decode:${oc.env:THERE}}").v
    assert value == DECODED[text] and (type(value) is type(DECODED[text]) or isinstance(value, dict))
    assert Node(v="${oc.env:THERE}").v == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("${oc.evn:X}", "Did you mean 'oc.env'?"),
        ("${oc.env:NOPE,'a'b}", "is not a text in quotes"),
        ("${oc.env:NOPE,'a}", "is not a text in quotes"),
        ("${oc.decode:3e563}", "beyond the largest float"),
        ("${oc.decode:}", "can't read ''"),
    ],
)
def test_a_wrong_call_of_a_resolver_gets_one_message(environment, text, message):
    with pytest.raises(InterpolationError) as caught:
        _ = Node(v=text).v
    assert message in str(caught.value)


def test_a_saved_text_is_the_same_text_to_every_reader_of_yaml(tmp_path):
    path = tmp_path / "c.yaml"
    LazyConfig.save(Node(v=TEXTS), path)
    assert (
        list(LazyConfig.load(path).v) == yaml.safe_load(path.read_text())["v"] == list(OmegaConf.load(path).v) == TEXTS
    )
    path.write_text("a: 12:30\nb: 1:2:3.5\nc: 750\nd: 1.5\n")
    assert dict(LazyConfig.load(path)) == dict(a="12:30", b="1:2:3.5", c=750, d=1.5)
