"""The places of the hooks, and every so many iterations."""

import re
from types import SimpleNamespace

import pytest

from tests.conftest import ROOT
from ultravid.config import get_config
from ultravid.engine import HookBase, hooks
from ultravid.engine.hooks import Every, HookOrder

PLACES = {
    "PROGRESS": 1,
    "PROFILER": 5,
    "TIMER": 10,
    "SCHEDULE": 20,
    "AVERAGING": 30,
    "DEFAULT": 50,
    "PRECISE_BN": 55,
    "EVALUATION": 60,
    "BEST_CHECKPOINT": 70,
    "TIME_BREAKDOWN": 75,
    "WRITER": 80,
    "CHECKPOINT": 90,
    "STOP": 95,
    "RECORD": 98,
    "WATCHDOG": 99,
}


def test_the_places_of_hooks_stay_what_hooks_with_a_number_rely_on():
    assert {place.name: place.value for place in HookOrder} == PLACES
    of_class = {n: getattr(hooks, n).order for n in hooks.__all__ if n not in ("Every", "HookOrder")}
    assert all(isinstance(order, HookOrder) or name == "RunRecord" for name, order in of_class.items())
    assert of_class["EMA"] < of_class["EvalHook"] < of_class["PeriodicWriter"] < of_class["PeriodicCheckpointer"]
    assert of_class["RunRecord"] == HookOrder.RECORD and of_class["HookBase"] == HookOrder.DEFAULT


def test_the_table_in_the_docs_is_that_of_the_hooks():
    table = re.findall(r"^\| (\d+) \| `(\w+)` \| (.*?) \|", (ROOT / "docs/runs.md").read_text(), re.MULTILINE)
    assert {name: int(value) for value, name, _ in table} == PLACES
    assert [int(value) for value, _, _ in table] == sorted(PLACES.values())
    listed = {name: int(value) for value, _, names in table for name in re.findall(r"`(\w+)`", names)}
    kinds = {name: getattr(hooks, name) for name in listed}
    assert listed == {name: kind.order for name, kind in kinds.items() if issubclass(kind, HookBase)}
    in_config = get_config("common/train.py").trainer.hooks
    named = {node.raw["_target_"] for node in in_config.values() if node is not None}
    assert {kind if isinstance(kind, str) else kind.__name__ for kind in named} <= set(listed)


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (Every(3), [2, 5, 8]),
        (Every(3, last=True), [2, 5, 8, 9]),
        (Every(5, last=False), [4]),
        (Every(5), [4, 9]),
        (Every(0), []),
        (Every(-1), []),
        (Every(0, last=True), [9]),
        (Every(0, last=False), []),
        (Every(1, last=False), list(range(9))),
    ],
)
def test_every_so_many_iterations_counts_from_the_first_of_the_run(every, expected):
    due = [i for i in range(10) if every.is_due(SimpleNamespace(iter=i, max_iter=10))]
    assert due == expected
