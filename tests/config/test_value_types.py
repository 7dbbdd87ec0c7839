"""What a value may be where a signature says what it takes: wrong ones are reported, doubtful ones pass."""

import collections
import collections.abc
import dataclasses
import enum
import fractions
import functools
import os
import pathlib
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType, Protocol, TypedDict, TypeVar

import numpy as np
import pytest
import torch
from torch import nn

from ultravid.config import LazyCall, LazyConfig, LazyPartial, Node, check, ref
from ultravid.config.value_types import mismatch

if TYPE_CHECKING:
    from somewhere import Unknown

Seconds = NewType("Seconds", float)
Kind = TypeVar("Kind")


class Colour(enum.Enum):
    RED = 1


class Size(TypedDict):
    height: int


class Sized(Protocol):
    def size(self) -> int: ...


@dataclasses.dataclass
class Box:
    left: float
    labels: "list[str]" = dataclasses.field(default_factory=list)


class Child(nn.Linear):
    pass


def make_module() -> int: ...


def node(value):
    return Node(value=value).value


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 1),
        (int, np.int64(1)),
        (int, True),
        (float, 1),
        (float, LazyCall(torch.tensor)(1.0)),
        (float, torch.tensor(1.0)),
        (float | None, None),
        (str | os.PathLike[str], "x"),
        (pathlib.Path, LazyCall(pathlib.Path)("x")),
        (list[int], [1, 2]),
        (list[int], (1, 2)),
        (tuple[int, float], [1, 2.5]),
        (tuple[int, ...], []),
        (collections.abc.Sequence[str], "ab"),
        (collections.abc.Iterable[int], {1: 2}),
        (dict[str, int], {"a": 1}),
        (collections.abc.Mapping[str, Any], LazyCall(dict)(a=1)),
        (collections.abc.Callable[[int], int], len),
        (collections.abc.Callable[[int], int], LazyPartial(sorted)(key=len)),
        (collections.abc.Callable[[int], int], LazyCall(nn.Linear)(1, 2)),
        (type[nn.Module], nn.Linear),
        (nn.Module, LazyCall(Child)(1, 2)),
        (nn.Module, LazyCall(make_module)()),
        (nn.Module, LazyCall("torch.nn.Linear")(1, 2)),
        (nn.Module, object()),
        (Literal["a", 1], "a"),
        (Annotated[int, "pixels"], 3),
        (Seconds, 1.5),
        (Kind, object()),
        (Sized, LazyCall(make_module)()),
        (Colour, Colour.RED),
        (torch.device, "cpu"),
        (torch.utils.data.Dataset, [1, 2]),
        (list[nn.Module], LazyCall(nn.ModuleList)([])),
        (dict[str, nn.Module], LazyCall(nn.ModuleDict)()),
        (pathlib.PosixPath, LazyCall(pathlib.Path)("x")),
        (Size, {"height": 1}),
        (torch.dtype, torch.float32),
        (torch.dtype, {"_object_": "torch.float32"}),
        ("Unknown", 5),
        (int, "???"),
    ],
)
def test_a_value_that_may_be_right_passes(annotation, value):
    assert mismatch(node(value), annotation) is None


@pytest.mark.parametrize(
    ("annotation", "value", "steps"),
    [
        (int, "1", ()),
        (int, 1.5, ()),
        (int, [1], ()),
        (int, None, ()),
        (int, nn.Linear, ()),
        (int, len, ()),
        (int, {"a": 1}, ()),
        (int, LazyCall(nn.Linear)(1, 2), ()),
        (float, "1e-3", ()),
        (float | None, "none", ()),
        (bool, 1, ()),
        (str, 5, ()),
        (str, LazyCall(pathlib.Path)("x"), ()),
        (pathlib.Path, "x", ()),
        (list[int], "12", ()),
        (list[int], [1, "2"], (1,)),
        (list[list[int]] | None, [[1], [2, None]], (1, 1)),
        (tuple[int, int], [1, 2, 3], ()),
        (dict[str, int], {"a": {"b": 1}}, ("a",)),
        (dict[str, int], [1], ()),
        (collections.abc.Sequence[int], "ab", ()),
        (collections.abc.Callable[[int], int], "len", ()),
        (type[nn.Module], "torch.nn.Linear", ()),
        (nn.Module, "resnet", ()),
        (nn.Module, LazyCall(fractions.Fraction)(1), ()),
        (nn.Module, LazyPartial(nn.Linear)(1), ()),
        (nn.Module, {"depth": 3}, ()),
        (Literal["a", "b"], "c", ()),
        (Annotated[int, "pixels"], "3", ()),
        (Seconds, "long", ()),
        (Colour, "RED", ()),
        (Size, 3, ()),
        (Sized, 5, ()),
        (Box, [1.0], ()),
    ],
)
def test_a_value_that_cannot_be_right_is_found_with_the_way_to_it(annotation, value, steps):
    found = mismatch(node(value), annotation)
    assert found is not None
    assert found.steps == steps


class Target:
    """Takes one argument of many kinds."""

    def __init__(self, count: int = 1, rate: "float" = 0.1, *rest: str, labels: "Unknown" = (), **options: int):
        self.count = count


def faults_of(**keys):
    return {f.key: f.message for f in check(Node(**keys))}


def test_the_fault_stands_at_the_key_that_owns_the_value_once():
    cfg = dict(train=dict(n="many"), a=LazyCall(Target)(count=ref("train.n")), b=LazyCall(Target)(ref("train.n")))
    cfg["c"] = LazyCall(Target)(1, 0.5, "x", 3, labels=object(), speed="fast")
    found = faults_of(**cfg)
    assert set(found) == {"train.n", "c._args_[3]", "c.speed"}
    assert "is 'many', a str, but" in found["train.n"] and "Target takes int for 'count'" in found["train.n"]


def test_values_equal_to_the_default_pass_whatever_the_annotation_says():
    def lenient(a: int = None, b: str = 0): ...  # noqa: RUF013  # many libraries write it so

    assert faults_of(x=LazyCall(lenient)(a=None, b=0)) == {}
    assert faults_of(x=LazyCall(lenient)(b=1)) == {}  # the default is no str either
    assert set(faults_of(x=LazyCall(lenient)(a="x", b=[1]))) == {"x.a", "x.b"}


def test_a_number_that_yaml_reads_as_text_is_told_with_the_number(tmp_path):
    (tmp_path / "c.yaml").write_text("opt:\n  _target_: torch.optim.SGD\n  params: []\n  lr: 1e-3\n")
    (fault,) = check(LazyConfig.load(tmp_path / "c.yaml"))
    assert fault.key == "opt.lr" and "Did you mean 0.001, without quotes?" in fault.message
    assert fault.where.endswith("c.yaml:4")


def test_dataclasses_partials_and_wrapped_functions_are_judged_by_their_own_annotations():
    @functools.wraps(make_module)
    def wrapper(*args, **kwargs): ...

    assert set(faults_of(x=LazyCall(Box)(left="a", labels=["b", 3]))) == {"x.left", "x.labels[1]"}
    assert set(faults_of(x=LazyPartial(Target)(count="a"))) == {"x.count"}
    assert faults_of(x=LazyCall(wrapper)(1)) != {}  # it takes what it wraps takes: nothing
    node = LazyCall(Target)(count=LazyCall(int)("3"))
    assert faults_of(x=node) == {}
    unbuilt = Node(LazyCall(Target)(count=LazyCall(Target)()), _recursive_=False)
    assert faults_of(x=unbuilt) == {}
