"""Which configs are the same run; and that a job's identity, found the fast way, is that of a whole load and check."""

import random
import re
import subprocess
import sys

import pytest

from tests.conftest import PHANTOM_CONFIG, ROOT
from ultravid.config import ConfigError, LazyConfig, Node, diff, importable_project, load_checked, project_folders
from ultravid.config.check import RUN_KEYS, RUN_OBJECTS
from ultravid.config.command_line import load_with_overrides
from ultravid.config.identity import check_identity, config_identity
from ultravid.config.resume import significant_changes
from ultravid.config.tree import Container, full_key, raw_children, walk
from ultravid.config.variants import Variants

CONFIG = """
from pathlib import Path
from ultravid.config import LazyCall as L, Node

def build(rate: float, sizes: tuple, note: str = "", depth: int = 3, inner=None): ...

train = dict(output_dir="out", device="cpu", seed=0, init_checkpoint="", num_threads=None, wall_time_s=None, num_workers=0)
data = dict(root="${oc.env:IDENTITY_ROOT,here}", pair=("${oc.env:IDENTITY_ROOT,here}", 1), size="${oc.decode:${oc.env:IDENTITY_SIZE,'2'}}",
            place=Path("x"), workers="${train.num_workers}")
parts = [dict(rate=0.5, on=True), dict(rate=0.25, name="b")]
holder = dict(parts=parts, first="${holder.parts.0.rate}", all="${holder.parts}")
model = L(build)(rate="${holder.parts[0].rate}", sizes=(L(build)(rate=1.0, sizes=()), "${train.seed}"), note="${train.output_dir}/x",
                 depth="${train.seed}", inner=dict(a="${data}"))
dataloader = dict(test=L(build)(rate=0.1, sizes=()), evaluator=L(build)(rate=0.1, sizes=(), note="${train.wall_time_s} ${train.seed}"))
trainer = L(build)(rate=0.2, sizes=(), inner="${model}")
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    return path


def identity(path, *overrides):
    return config_identity(load_with_overrides(str(path), overrides))


def test_the_job_and_the_machine_do_not_matter_and_any_value_does(config, monkeypatch):
    whole = identity(config)
    monkeypatch.setenv("IDENTITY_ROOT", "elsewhere")
    monkeypatch.setenv("IDENTITY_SIZE", "7")
    job = ["train.output_dir=other", "train.wall_time_s=5", "train.num_threads=2"]
    assert identity(config, *job) == whole
    others = ["train.seed=1", "holder.parts[1].rate=0.3", "holder.parts[1].name=0.25", "data.place=y"]
    found = [
        identity(config, each) for each in [*others, "+data.extra=1", "~data.place", "model._target_=builtins.dict"]
    ]
    found += [
        config_identity(Node(a=value))
        for value in ({0: 1}, {"0": 1}, [1], (1,), 1, 1.0, "1", {"b.c": 1}, {"b": {"c": 1}})
    ]
    assert len({whole, *found}) == len(found) + 1


def test_a_saved_config_has_the_identity_of_its_source_also_in_another_process(config, tmp_path):
    saved = load_with_overrides(str(config), ["train.seed=3"])
    whole = config_identity(saved)
    saved.project_folders = ["/somewhere", *project_folders(config)]
    LazyConfig.save(saved, tmp_path / "saved.yaml")
    code = f"""
from ultravid.config.command_line import load_with_overrides
from ultravid.config.identity import config_identity
print(config_identity(load_with_overrides({str(tmp_path / "saved.yaml")!r}, ["train.output_dir=x"])))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert said.strip() == whole


def test_a_project_that_was_moved_has_the_identities_of_its_configs_and_no_difference(tmp_path):
    text = """
import dataclasses, enum, functools
from ultravid.config import LazyCall as L
def build(lr=0.1, step=None): ...
class Own:
    @classmethod
    def make(cls): ...
class Mode(enum.Enum):
    FAST = 1
@dataclasses.dataclass
class Size:
    of: object = build
train = dict(output_dir="out", steps=[Own, build, dict(of=Own)], pair=(build, [Own.make], Mode.FAST), mode=Mode.FAST, size=Size(),
             nested=(dict(of=Own), (build,), build), sooner=functools.partial(build, lr=1.0))
model = L(build)(lr=0.1, step=build)
"""
    found, saved, loaded = [], [], []
    for place in ("first", "second/deeper"):
        for name in ("mine.py", "other.py"):
            path = tmp_path / place / "configs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            with importable_project(str(path)):
                cfg = LazyConfig.load(path)
                loaded.append(cfg)
                found.append(config_identity(cfg))
                copied = cfg.copy()
                copied.project_folders = project_folders(path)
                saved.append(tmp_path / f"{len(saved)}.yaml")
                LazyConfig.save(copied, saved[-1])
            assert config_identity(LazyConfig.load(saved[-1])) == found[-1]
    assert found[:2] == found[2:]
    # Another file may define other functions under the same names.
    assert found[0] != found[1] and "model._target_" in {d.key for d in diff(loaded[0], loaded[1])}
    assert diff(loaded[0], LazyConfig.load(saved[2])) == diff(loaded[0], loaded[2]) == []
    (tmp_path / "first").rename(tmp_path / "gone")
    assert diff(LazyConfig.load(saved[0]), LazyConfig.load(saved[2])) == []
    assert significant_changes(loaded[2], saved[0]) == []
    assert {d.key for d in significant_changes(loaded[3], saved[0])} >= {
        "model._target_",
        "train.mode",
        "train.pair[1][0]",
    }


def test_a_config_that_was_changed_since_it_was_planned_is_refused(config):
    planned = identity(config)[:16]
    check_identity(load_with_overrides(str(config)), planned)
    config.write_text(CONFIG.replace("0.25", "0.125"))
    with pytest.raises(ConfigError, match=f"but {planned} was planned"):
        check_identity(load_with_overrides(str(config)), planned)


VALUES = {
    bool: ["true", "false", "yes"],
    int: ["0", "1", "2", "7", "-1", "1.5", "null"],
    float: ["0.5", "0.001", "1", "null", "x"],
    str: ["auto", "cpu", "b", "5", "'a b'", "'${train.seed}'"],
}


def random_overrides(rng, values):
    """Overrides of some keys, most of them fitting; structure now and then, before or after plain values."""
    for key, old in rng.sample(values, rng.choice([1, 2, 2, 3])):
        sign = "++" if rng.random() < 0.1 else ""
        yield f"{sign}{key}={rng.choice(VALUES.get(type(old), ['1', 'null']))}"
    patterns = (
        "**.seed=3",
        "**.num_workers=1",
        "train.**.num_workers=2",
        "**.rate=0.75",
        "~**.num_workers",
        "**.evaluator.note=x",
    )
    for text in patterns:
        if rng.random() < 0.1:
            yield text
    for text in ("+extra.note=5", "train.num_threads=2", "train.wall_time_s=20", "train.output_dir=x", "train.sed=1"):
        if rng.random() < (0.03 if text == "train.sed=1" else 0.15):
            yield text


def compare(path, number, seed=0):
    """The outcome of many override sets, found by `Variants` and by a whole load and check; the number of fast ones."""
    rng = random.Random(seed)
    with importable_project(path):
        loaded = load_with_overrides(str(path))
        variants = Variants(path, loaded, RUN_KEYS, RUN_OBJECTS)
        steps = [(full_key(o, k), v) for o in walk(loaded) for k, v in raw_children(o) if not isinstance(v, Container)]
        values = [(k, v) for k, v in steps if not (isinstance(v, str) and "${" in v) and re.fullmatch(r"[\w.\[\]]+", k)]
        good = [(k, v) for k, v in values if type(v) in (int, float, bool)]
        for turn in range(number):
            overrides = list(random_overrides(rng, good if turn % 3 else values))
            rng.shuffle(overrides)
            yield overrides, *(outcome(way, overrides) for way in (variants.identity, slow(path)))


def slow(path):
    return lambda overrides: config_identity(load_checked(path, overrides, required=RUN_KEYS, objects=RUN_OBJECTS))


def outcome(way, overrides):
    try:
        return way(overrides)
    except ConfigError as error:
        return str(error)


def test_jobs_have_the_identity_and_the_faults_of_a_whole_check(config):
    found = list(compare(config, 80))
    assert [row for row in found if row[1] != row[2]] == []
    assert len({row[1] for row in found if len(row[1]) == 64}) > 5 and any("faults" in row[1] for row in found)


CROSSED = """
from typing import Annotated
from ultravid.config import LazyCall as L
from ultravid.utils.limits import EitherThisOr, Limits

def split(fold: Annotated[int, Limits(ge=0, lt="num_folds")] = 0, num_folds: int = 5, rate: Annotated[float, Limits(gt=0)] = 0.1,
          path: Annotated[str | None, EitherThisOr("url")] = None, url: str | None = None, sizes: tuple[int, ...] = ()): ...

train = dict(output_dir="out", device="cpu", seed=0, init_checkpoint="", deterministic=False, flag=False, path="here", url=None)
data = dict(fold=1, half="${data.fold}", num_folds=4)
model = L(split)(path="x")
dataloader = dict(train=L(split)(fold="${data.half}", num_folds="${data.num_folds}", path="${train.path}", url="${train.url}"),
                  test=L(split)(sizes=[1, "${data.fold}"], path="x"), evaluator=L(split)(path="x", rate=0.5))
trainer = L(split)(fold=2, num_folds=3, path=None, url="u", _partial_="${train.flag}")
"""


def test_a_value_that_does_not_fit_another_one_is_found_whichever_of_the_two_a_job_sets(tmp_path):
    path = tmp_path / "crossed.py"
    path.write_text(CROSSED)
    rng = random.Random(3)
    choices = {
        "data.fold": [0, 1, 2, 3, 4, -1, "a"],
        "data.num_folds": [1, 2, 3, 4, "null", 2.5],
        "dataloader.evaluator.rate": [0.5, 0.25, 0, -1],
        "train.path": ["here", "null"],
        "train.url": ["null", "there"],
        "trainer.url": ["u", "null"],
        "trainer.num_folds": [3, 2, 5],
        "train.flag": ["true", "false"],
        "train.deterministic": ["true", "false", "maybe"],
    }
    with importable_project(path):
        variants = Variants(path, load_with_overrides(str(path)), RUN_KEYS, RUN_OBJECTS)
        rows = []
        for _ in range(80):
            keys = rng.sample(sorted(choices), rng.choice([1, 1, 2, 3]))
            overrides = [f"{key}={rng.choice(choices[key])}" for key in keys]
            rows.append((overrides, outcome(variants.identity, overrides), outcome(slow(path), overrides)))
    assert [row for row in rows if row[1] != row[2]] == []
    faults = " ".join(row[1] for row in rows)
    assert all(text in faults for text in ("takes 0 to", "takes either", "needs either", "'a' is text"))


def test_jobs_of_a_shipped_config_have_the_identity_and_the_faults_of_a_whole_check():
    assert [row for row in compare(PHANTOM_CONFIG, 6, seed=1) if row[1] != row[2]] == []


@pytest.mark.slow_models
def test_jobs_of_all_shipped_configs_have_the_identity_and_the_faults_of_a_whole_check():
    for path in sorted(ROOT.glob("projects/*/configs/*.py")):
        assert [row for row in compare(path, 60, seed=2) if row[1] != row[2]] == [], path
