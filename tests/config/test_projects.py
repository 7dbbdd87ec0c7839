"""Modules of projects: two of one name in a process, names that are taken, packages that configs import by relative path."""

import concurrent.futures
import pickle
import subprocess
import sys
import textwrap

import pytest

from tests.conftest import ROOT
from tests.quick_python import quick_python
from ultravid.config import LazyConfig, diff, importable_project, instantiate, load_checked


def write(folder, **files):
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/').replace('/init', '/__init__')}.py"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(textwrap.dedent(text))
    return folder


@pytest.fixture
def two(tmp_path):
    """Two projects whose modules and packages have the same names."""
    for name in "ab":
        write(
            tmp_path / name,
            net="""
                import importlib
                from helper import who
                from parts.block import Block
                class Net:
                    def __init__(self, n=1): self.block = Block(n)
                    def who(self): return who(), self.block.who
                    def later(self):
                        import late
                        from parts import lazily
                        return late.WHO, lazily.WHO, importlib.import_module("late").WHO
            """,
            helper=f"def who(): return {name!r}\n",
            late=f"WHO = {name!r}\n",
            parts__init="",
            parts__block="from . import shared\nclass Block:\n    who = shared.WHO\n    def __init__(self, n): self.n = n\n",
            parts__shared=f"WHO = {name!r}\n",
            parts__lazily="from .shared import WHO\n",
            configs__run="""
                import net, parts.block as block
                from net import Net
                from ultravid.config import LazyCall as L
                assert net.Net is Net and block.Block
                model = L(Net)(n=3)
                by_name = L("net.Net")(n=3)
            """,
        )
    return tmp_path


def test_two_projects_in_one_process_have_their_own_modules(two, monkeypatch):
    path, files = list(sys.path), {name: two / name / "configs" / "run.py" for name in "ab"}
    loaded = {name: load_checked(file) for name, file in files.items()}
    assert sys.path == path
    for name in "abab":
        cfg = loaded[name]
        with importable_project(files[name]):
            models = [instantiate(cfg.model), instantiate(cfg.by_name)]
            LazyConfig.save(cfg, two / f"{name}.yaml")
        assert [m.who() for m in models] == [(name, name)] * 2 and type(models[0]) is type(models[1])
    assert "_target_: net.Net" in (two / "a.yaml").read_text() and "_target_: net.Net" in (two / "b.yaml").read_text()
    nets = {name: instantiate(loaded[name].model) for name in "ab"}
    assert all(
        type(instantiate(loaded[name].by_name)) is type(nets[name]) for name in "ba"
    )  # its own project's, always
    assert {name: net.later() for name, net in nets.items()} == {name: (name,) * 3 for name in "ab"}
    assert all(type(pickle.loads(pickle.dumps(net))) is type(net) for net in nets.values())
    with importable_project(files["a"]), importable_project(files["b"]):
        assert [d.key for d in diff(loaded["a"], loaded["b"])] == ["model._target_"]

    def who(name):
        for _ in range(20):
            with importable_project(files[name]):
                assert instantiate(LazyConfig.load(files[name]).by_name).who() == (name, name)
        return name

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(who, "abab")) == list("abab")


@pytest.mark.slow_models
def test_projects_in_spawned_processes_and_tools_whose_names_they_share(two, tmp_path):
    write(two / "b", evaluate="class Mine: pass\n", report="from evaluate import Mine\n", queue="class Own: pass\n")
    write(
        two / "b",
        configs__tool="""
        from evaluate import Mine
        from report import Mine as Same
        from ultravid.config import LazyCall as L
        assert Mine is Same
        mine = L(Mine)()
    """,
    )
    write(two / "b", configs__clash="from queue import Own\n")
    code = f"""
        import pickle, sys
        from ultravid.config import LazyConfig, instantiate
        from torch.utils.data import DataLoader
        if __name__ == "__main__":
            nets = [instantiate(LazyConfig.load(f"{two}/{{n}}/configs/run.py").model) for n in "ab"]
            mine = instantiate(LazyConfig.load("{two}/b/configs/tool.py").mine)
            class Held(list): pass
            got = list(DataLoader([nets[1], mine], batch_size=None, num_workers=1, multiprocessing_context="spawn"))
            assert type(got[0]) is type(nets[1]) and type(got[1]) is type(mine) and got[0].later() == ("b",) * 3
    """
    (tmp_path / "main.py").write_text(textwrap.dedent(code))
    (tmp_path / "evaluate.py").write_text("raise RuntimeError('that of the script')")
    ran = subprocess.run([quick_python(), str(tmp_path / "main.py")], check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    for config, code, message in (
        ("tool", 0, ""),
        ("clash", 2, f"import Own\n{two}/b/queue.py is hidden: 'import queue' gives the module of"),
    ):
        command = [
            quick_python(),
            str(ROOT / "tools/lazyconfig_train.py"),
            "--config-file",
            f"{two}/b/configs/{config}.py",
        ]
        ran = subprocess.run([*command, "--print"], check=False, capture_output=True, text=True)
        assert ran.returncode == code and message in ran.stderr, ran.stderr
        assert "Traceback" not in ran.stderr
