"""Classes, functions and enumerations of config files: one object a file and load, and found again by any process."""

import pickle
import subprocess
import textwrap

import pytest

from tests.quick_python import quick_python
from ultravid.config import ConfigError, LazyConfig, check, diff, instantiate, load_checked

BASE = """
import collections, dataclasses, enum, functools, typing
from ultravid.config import LazyCall as L, ref

class Mode(enum.Enum):
    FAST = 1
    SLOW = "two"
class Bits(enum.Flag):
    A = 1
    B = 2
Colour = enum.Enum("Colour", "RED BLUE")
Pair = collections.namedtuple("Pair", "x y")
Seconds = typing.NewType("Seconds", float)
class Row(typing.NamedTuple):
    x: int
    y: int = 3
@dataclasses.dataclass(slots=True)
class Point:
    x: int
    tags: list = dataclasses.field(default_factory=list)
@dataclasses.dataclass(frozen=True)
class Fixed:
    x: int = 2
class Net:
    scale = 3
    def __init__(self, mode=Mode.FAST, size=4):
        self.mode, self.size = mode, half(size)
    class Inner:
        pass
UNSET = object()
def half(n, unset=UNSET):
    return n / 2
@functools.lru_cache(maxsize=None)
def cached(n):
    return n
net_of_2 = functools.partial(Net, size=2)
class Registry:
    def __init__(self): self.known = {}
    def register(self, it): self.known[it.__name__] = it; return it
REGISTRY = Registry()

train = dict(max_iter=90, mode=Mode.FAST, unset=[1, [2]])
train.update(net=L(Net)(mode=ref("train.mode")))
note = dict(kept=train["unset"])
_private = [1, {"a": 2}]
def shorten(): train.max_iter = 5
def shorten_more(): shorten(); return train
settings = Point(1)
"""


def write(folder, **files):
    folder.mkdir(exist_ok=True, parents=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    return folder


@pytest.fixture
def diamond(tmp_path):
    return write(
        tmp_path,
        base=BASE,
        left="""
            from .base import *
            from .base import Net as Again, _private
            assert Again is Net
            train.max_iter = 1
            _private[1]["a"] = 9
            settings.x = 9
            @REGISTRY.register
            class Left: pass
        """,
        right="""
            from .base import Mode, Net, UNSET, cached, half, settings, shorten, shorten_more, train, _private, REGISTRY
            assert (train.max_iter, _private, settings.x, settings.tags) == (90, [1, {"a": 2}], 1, [])
            assert shorten_more() is train and train.max_iter == 5
        """,
        top="""
            from . import left
            from .right import *
            from .left import Mode as M, Net as N, UNSET as U, cached as c, half as h, shorten as s, REGISTRY as R
            from .right import _private
            from .base import net_of_2
            assert net_of_2 is left.net_of_2 and net_of_2.func is Net
            assert (M, N, U, c, h, R) == (Mode, Net, UNSET, cached, half, REGISTRY) and U is UNSET and s is not shorten
            assert left.train.max_iter == 1 and train.max_iter == 5
            s()
            assert train.max_iter == 5 and train.mode is Mode.FAST is left.train.mode
            assert isinstance(settings, type(left.settings)) and "Left" in REGISTRY.known
            pair = dict(left=left.train, right=train, enum=[Mode.SLOW], point=left.Point(3), colour=left.Colour.RED)
        """,
    )


def test_a_file_of_a_diamond_has_one_set_of_definitions_and_fresh_nodes_for_each_import(diamond):
    LazyConfig.load(diamond / "top.py")


def test_a_file_is_run_once_in_a_load_also_through_get_config_and_load_rel(tmp_path):
    write(
        tmp_path,
        base="""
            import pathlib
            log = pathlib.Path(__file__ + ".log")
            log.write_text(log.read_text() + "x")
            runs = dict(n=len(log.read_text()))
        """,
        a="from .base import runs\n",
        top="""
            from .a import runs as first
            from .base import runs as second
            from ultravid.config import LazyConfig
            third = LazyConfig.load_rel("base.py").runs
            fourth = LazyConfig.load_rel("base.py", "runs")
        """,
    )
    (tmp_path / "base.py.log").touch()
    cfg = LazyConfig.load(tmp_path / "top.py")
    assert (tmp_path / "base.py.log").read_text() == "x" and cfg.first == cfg.second == cfg.third == cfg.fourth
    cfg.third.n = 7
    assert cfg.fourth.n == 1
    LazyConfig.load(tmp_path / "top.py")  # another load runs it again: values may depend on the environment
    assert (tmp_path / "base.py.log").read_text() == "xx"


def test_what_is_defined_further_down_decides_too_whether_definitions_of_two_loads_are_one(tmp_path, monkeypatch):
    write(
        tmp_path,
        run="""
            import dataclasses, functools, logging, os, pathlib
            LIMIT, HERE, logger = int(os.environ["LIMIT"]), pathlib.Path(__file__).parent, logging.getLogger(__name__)
            def limit(): return later()
            def later(n=LIMIT): return n
            class Net:
                def head(self): logger.debug("%s", HERE); return Head(Settings())
            class Head:
                def __init__(self, settings): self.settings = settings
            @dataclasses.dataclass
            class Settings:
                size: int = 3
            train = dict(limit=limit, net=Net)
        """,
    )
    loaded = []
    for value in ("1", "2"):
        monkeypatch.setenv("LIMIT", value)
        loaded.append(LazyConfig.load(tmp_path / "run.py").train)
    assert [train.limit() for train in loaded] == [1, 2]
    assert loaded[0].net is loaded[1].net and loaded[1].net().head().settings.size == 3


def test_unchanged_definitions_of_two_loads_are_one_and_those_that_differ_are_not(tmp_path, monkeypatch):
    write(
        tmp_path,
        base=BASE,
        env="""
        import os
        LIMIT = int(os.environ["LIMIT"])
        class Net:
            def limit(self): return LIMIT
        def plain(): return later()
        def later(): return 1
        def reads(): return train.n
        train = dict(n=LIMIT)
        class Registry:
            known = []
            def __init_subclass__(cls): Registry.known.append(cls)
        class Known(Registry): pass
    """,
    )
    names = ["Mode", "Bits", "Colour", "Pair", "Seconds", "Row", "Point", "Fixed", "Net", "UNSET", "half", "Registry"]
    first, second = (LazyConfig.load(tmp_path / "base.py", tuple(names)) for _ in range(2))
    assert [n for n, a, b in zip(names, first, second, strict=True) if a is not b] == []
    monkeypatch.setenv("LIMIT", "1")
    names = ("Net", "plain", "reads", "Known")
    one, plain, read, known = LazyConfig.load(tmp_path / "env.py", names)
    assert LazyConfig.load(tmp_path / "env.py", "Net") is one and LazyConfig.load(tmp_path / "env.py", "plain") is plain
    monkeypatch.setenv("LIMIT", "2")
    two, plain2, read2, known2 = LazyConfig.load(tmp_path / "env.py", names)
    assert (one().limit(), two().limit(), read(), read2()) == (1, 2, 1, 2) and plain is plain2 and known is not known2
    (tmp_path / "base.py").write_text(BASE.replace("FAST = 1", "FAST = 7"))
    assert LazyConfig.load(tmp_path / "base.py").train.mode.value == 7


@pytest.mark.parametrize("folder", ["plain", "x.py.d", "a b", "päth", "half%2E#1", "c:d", "über.py.d/x.py:y"])
def test_definitions_survive_saving_pickling_and_new_processes_in_any_folder(folder, tmp_path, monkeypatch, diamond):
    for file in ("base", "left", "right", "top"):
        write(tmp_path / folder, **{file: (diamond / f"{file}.py").read_text()})
    monkeypatch.chdir(tmp_path / folder)
    cfg = load_checked("top.py")
    LazyConfig.save(cfg, "saved.yaml")
    again = load_checked("saved.yaml")
    assert again == cfg and check(again) == []
    net, same = instantiate(cfg.pair.right.net), instantiate(again.pair.right.net)
    assert type(net) is type(same) and net.mode is same.mode is cfg.train.mode and net.size == 2
    built = instantiate(again.pair)
    assert built["enum"][0] is cfg.pair["enum"][0] and type(built["point"]) is type(cfg.pair.point)
    content = pickle.dumps((cfg, net, cfg.pair.point, cfg.train.net.raw["_target_"].Inner))
    assert pickle.loads(content)[0] == cfg and type(pickle.loads(content)[1]) is type(net)
    (tmp_path / "pickled").write_bytes(content)


@pytest.mark.slow_models
def test_spawned_workers_send_and_receive_objects_of_config_files(diamond, tmp_path):
    code = f"""
        import sys, pickle
        from torch.utils.data import DataLoader, Dataset
        from ultravid.config import LazyConfig
        class Held(Dataset):
            def __init__(self, cfg):
                self.cfg = cfg
            def __len__(self):
                return 1
            def __getitem__(self, index):
                mode = self.cfg.train.mode
                return self.cfg.pair.point, type(mode).SLOW, mode is self.cfg.pair.left.mode is type(mode).FAST
        if __name__ == "__main__":
            cfg = LazyConfig.load({str(diamond / "top.py")!r})
            loader = DataLoader(Held(cfg), batch_size=None, num_workers=1, multiprocessing_context="spawn")
            ((point, mode, same),) = list(loader)
            assert type(point) is type(cfg.pair.raw["point"]) and mode is cfg.pair.enum[0] and same
            pickle.dump((cfg, cfg.pair.point), open({str(tmp_path / "kept")!r}, "wb"))
    """
    (tmp_path / "main.py").write_text(textwrap.dedent(code))
    ran = subprocess.run([quick_python(), str(tmp_path / "main.py")], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    read = "import pickle, sys; from ultravid.config import LazyConfig; print(pickle.load(open(sys.argv[1], 'rb')))"
    command = [quick_python(), "-c", read, str(tmp_path / "kept")]
    base = (diamond / "base.py").read_text()
    for text, code, message in (
        (base, 0, ""),
        (base + "# edited\n", 0, "base.py was edited after objects that it defines were pickled"),
        (
            base.replace("Point", "Points"),
            1,
            "does not define it any more: it was edited since. Did you mean 'Points'?",
        ),
    ):
        (diamond / "base.py").write_text(text)
        ran = subprocess.run(command, check=False, capture_output=True, text=True)
        assert ran.returncode == code and message in ran.stderr, ran.stderr
    (diamond / "base.py").unlink()
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 1 and "ConfigError: Config file" in ran.stderr and "does not exist" in ran.stderr


def test_what_a_decorator_made_is_saved_by_the_name_it_is_bound_to_or_not_at_all(tmp_path):
    write(
        tmp_path,
        own="""
            import enum, functools
            from ultravid.config import LazyCall as L
            def twice(f):
                @functools.wraps(f)
                def both(n): return f(f(n))
                return both
            def add(n): return n + 1
            add_two = twice(add)
            add_four = twice(twice(lambda n: n + 1))
            class Bits(enum.IntFlag):
                A = 1
                B = 2
            calls = dict(one=L(add)(n=0), two=L(add_two)(n=0), four=L(add_four)(n=0), bits=Bits.A | Bits.B)
            bound = dict(it=Bits(1).bit_length)
        """,
    )
    cfg = LazyConfig.load(tmp_path / "own.py")
    LazyConfig.save(cfg.calls, tmp_path / "saved.yaml")
    again = LazyConfig.load(tmp_path / "saved.yaml")
    assert instantiate(again) == instantiate(cfg.calls) == {"one": 1, "two": 2, "four": 4, "bits": 3}
    assert diff(cfg.calls, again) == [] and type(instantiate(again)["bits"]) is type(cfg.calls.bits)
    with pytest.raises(ConfigError, match="can't be written as data"):
        LazyConfig.save(cfg.bound, tmp_path / "saved.yaml")


def test_a_file_that_is_imported_in_two_ways_is_named(tmp_path, caplog):
    write(
        tmp_path / "configs",
        base="""
            import enum
            class Mode(enum.Enum): FAST = 1
            train = dict(mode=Mode.FAST)
        """,
        other="from base import Mode\nother = dict(mode=Mode.FAST)\n",
        run="from .base import Mode, train\nfrom .other import other\n",
    )
    LazyConfig.load(tmp_path / "configs/run.py")
    assert "base.py is imported in two ways, 'from .base import ...' and 'from base import ...'" in caplog.text
