"""Overrides with several values: what each form spans, and what is refused."""

import pytest

from ultravid.config import OverrideError
from ultravid.config.override_values import Typed, parse_value
from ultravid.config.sweeps import Interval, parse_sweep, text_of_string


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("1e-4,3e-4", ["1e-4", "3e-4"]),
        ("range(3)", ["0", "1", "2"]),
        ("range(0.1,0.5,0.1)", ["0.1", "0.2", "0.3", "0.4"]),
        ("range(3,0,-1)", ["3", "2", "1"]),
        ("choice(18,'a,b','5')", ["18", "'a,b'", "'5'"]),
        ("sort(3,1,2)", ["1", "2", "3"]),
        ("str(1,2)", ["'1'", "'2'"]),
        ("[1,2],[3]", ["[1,2]", "[3]"]),
        ("{a:1},{a:2,b:x}", ["{a:1}", "{a:2,b:x}"]),
        ("configs/a.py:SMALL,configs/a.py:LARGE", ["configs/a.py:SMALL", "configs/a.py:LARGE"]),
        ("${a.b},${c}", ["${a.b}", "${c}"]),
        ("true,false", ["true", "false"]),
    ],
)
def test_a_sweep_gives_each_value_as_text_that_means_the_same_alone(typed, values):
    sweep = parse_sweep(f"++some.key={typed}")
    assert [sweep.override(value) for value in sweep.values] == [f"++some.key={value}" for value in values]


@pytest.mark.parametrize(
    "text", ["a=1", "a='1,2'", "a=[1,2]", "a=", "~a", "~a=1,2", "a={b:1,c:2}", r"a=1\,2", "a=hello"]
)
def test_what_sets_one_value_or_deletes_is_no_sweep(text):
    assert parse_sweep(text) is None


def test_a_glob_names_the_files_in_their_order_and_quotes_what_has_to_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.pth", "a,1.pth", "c.txt"):
        (tmp_path / name).touch()
    assert parse_sweep("w=glob(*.pth)").values == ("'a,1.pth'", "b.pth")
    assert parse_sweep("w=glob(*,exclude=*.pth)").values == ("c.txt",)
    with pytest.raises(OverrideError, match="matches no file in"):
        parse_sweep("w=glob(*.npy)")


def test_a_file_whose_path_has_a_comma_is_one_object(tmp_path):
    (tmp_path / "a,b.py").touch()
    assert parse_sweep(f"model={tmp_path}/a,b.py:SMALL") is None


def test_an_interval_is_of_whole_numbers_if_cast_and_logarithmic_if_tagged():
    assert parse_sweep("lr=tag(log,interval(1e-5,1e-2))") == Interval("lr", "", 1e-5, 1e-2, False, True)
    assert parse_sweep("n=int(interval(1,5))").is_integer


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=[1,range(3)]", "a sweep inside a list or dict can't be spanned"),
        ("a={b:choice(1,2)}", "a sweep inside a list or dict can't be spanned"),
        ("a=1,2,1", "names 1 twice"),
        ("a=range(3,3)", "names no value"),
        ("a=range(1,3,0)", "needs a step that is not 0"),
        ("a=range(inf)", "goes from a number to a number"),
        ("a=range(0,1e9)", "more than 1,000,000 values"),
        ("a=shuffle(1,2)", "the order of jobs is fixed"),
        ("a=interval(2,1)", "begins below its end"),
        ("a=tag(log,interval(0,1))", "begins above 0"),
        ("a=tag(x,interval(0,1))", "no tag 'x'"),
    ],
)
def test_a_sweep_that_cannot_be_spanned_is_refused(text, message):
    with pytest.raises(OverrideError, match=message):
        parse_sweep(text)


@pytest.mark.parametrize(
    "text", ["a", "1", "1e-4", "true", "null", "", "a b", "a,b", "x=1", "it's", "a\nb", " a", "\\", "é", "[1"]
)
def test_a_string_as_an_override_gives_that_string_again(text):
    read = parse_value("key", text_of_string(text), None)
    assert isinstance(read, Typed) and read.value == text and type(read.value) is str
