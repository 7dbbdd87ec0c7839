import builtins
import subprocess
import sys

import pytest
import yaml

from ultravid.config import (
    ConfigError,
    LazyCall,
    LazyConfig,
    Node,
    get_config,
    instantiate,
    load_checked,
)
from ultravid.config.provenance import where


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


BASE = """
from ultravid.config import LazyCall as L, ref
from fractions import Fraction
train = dict(max_iter=10, amp=dict(enabled=False))
number = L(Fraction)(
    numerator=ref("train.max_iter"),
    denominator=3,
)
"""


def test_relative_imports_need_no_package_and_are_fresh_each_time(tmp_path):
    sub = tmp_path / "sub"
    sub.mkdir()
    write(tmp_path, base=BASE)
    write(
        sub,
        top="from ..base import *\nfrom . import side\ntrain.max_iter = 5\nother = side.values\n",
        side="values = dict(a=1)\n",
    )
    cfg = LazyConfig.load(sub / "top.py")
    assert (cfg.number.numerator, cfg.other.a) == (5, 1)
    assert LazyConfig.load(tmp_path / "base.py").train.max_iter == 10
    assert set(cfg) == {"train", "number", "other"}


def test_load_takes_keys_and_load_rel_is_relative_to_its_caller(tmp_path):
    write(
        tmp_path,
        base=BASE,
        rel="from ultravid.config import LazyConfig\ntrain = LazyConfig.load_rel('base.py', 'train')\n",
    )
    train, number = LazyConfig.load(tmp_path / "base.py", ("train", "number"))
    assert train.max_iter == 10 and number.denominator == 3
    assert LazyConfig.load(tmp_path / "rel.py").train.max_iter == 10
    with pytest.raises(ConfigError, match="Did you mean 'train'"):
        LazyConfig.load(tmp_path / "base.py", "trian")


def test_a_failed_load_leaves_nothing_patched_and_shows_the_imported_files_own_error(tmp_path):
    before, path = builtins.__import__, list(sys.path)
    write(tmp_path, top="from .bad import x\n", bad="a = 1\nx = undefined_name\n")
    with pytest.raises(NameError) as caught:
        LazyConfig.load(tmp_path / "top.py")
    assert str(tmp_path / "bad.py") in str(caught.traceback[-1].path)
    assert builtins.__import__ is before and sys.path == path


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"top": "x = (1,\ny = 2\n"}, r"top\.py:\d: syntax error"),
        ({"top": "from .missing import x\n", "missin": ""}, "Did you mean 'missin'"),
        (
            {"top": "from .a import x\n", "a": "from .b import x\n", "b": "from .a import x\n"},
            r"circle: a\.py -> b\.py -> a\.py",
        ),
        (
            {"top": "from .a import x\n", "a": "import sys\nsys.exit()\n"},
            r"a\.py ends the process while it is read: None\.",
        ),
    ],
)
def test_faults_of_files_are_told_in_one_message(tmp_path, files, message):
    write(tmp_path, **files)
    with pytest.raises(ConfigError, match=message):
        LazyConfig.load(tmp_path / "top.py")


def test_a_file_that_is_not_there_names_the_nearest(tmp_path):
    write(tmp_path, phantom="")
    with pytest.raises(ConfigError, match=r"fantom\.py does not exist. Did you mean 'phantom\.py'"):
        LazyConfig.load(tmp_path / "fantom.py")


def test_saved_configs_are_plain_data_and_build_the_same(tmp_path):
    write(tmp_path, base=BASE)
    cfg = LazyConfig.load(tmp_path / "base.py")
    cfg.extra = LazyCall(dict)(t=(1, [2]), f=len, call=LazyCall("pathlib.Path")("x"), s=slice(1, 2), cls=dict)
    cfg.by_class_method = LazyCall(dict.fromkeys)("ab")
    LazyConfig.save(cfg, tmp_path / "saved.yaml")
    assert isinstance(yaml.safe_load((tmp_path / "saved.yaml").read_text()), dict)
    again = LazyConfig.load(tmp_path / "saved.yaml")
    assert again.number.raw.numerator == "${train.max_iter}"
    for key in ("number", "extra", "by_class_method"):
        assert instantiate(again[key]) == instantiate(cfg[key])


def test_what_cannot_be_saved_names_its_key(tmp_path):
    cfg = Node(a=dict(b=LazyCall(dict)(key=lambda x: x)))
    with pytest.raises(ConfigError, match=r"a\.b\.key holds .*lambda"):
        LazyConfig.save(cfg, tmp_path / "x.yaml")
    assert not (tmp_path / "x.yaml").exists()


def test_reading_yaml_runs_no_code(tmp_path):
    (tmp_path / "evil.yaml").write_text("a: !!python/object/apply:os.system ['touch hacked']\n")
    with pytest.raises(ConfigError, match=r"evil\.yaml:1: is not YAML"):
        LazyConfig.load(tmp_path / "evil.yaml")


def test_values_know_their_file_and_line(tmp_path):
    write(tmp_path, base=BASE, top="from .base import *\ntrain.amp.enabled = True\n")
    cfg = LazyConfig.load(tmp_path / "top.py")
    assert where(cfg.train, "max_iter").endswith("base.py:4")
    assert where(cfg.train.amp, "enabled").endswith("top.py:2")
    assert where(cfg.number, "denominator").endswith("base.py:7")
    LazyConfig.apply_overrides(cfg, ["train.max_iter=3"])
    assert where(cfg.train, "max_iter") == "override 1: train.max_iter=3"


def test_shipped_configs_come_fresh_and_a_wrong_name_is_told():
    get_config("common/optim.py").AdamW.lr = 7
    assert get_config("common/optim.py").AdamW.lr != 7
    with pytest.raises(ConfigError, match=r"Did you mean 'common/optim\.py'"):
        get_config("common/optm.py")


def test_to_py_reads_like_python(tmp_path):
    write(tmp_path, base=BASE)
    text = LazyConfig.to_py(LazyConfig.load(tmp_path / "base.py"))
    assert "cfg.train.amp.enabled = False" in text
    assert 'cfg.number = fractions.Fraction(numerator=ref("train.max_iter"), denominator=3)' in text


def test_a_class_of_a_config_file_survives_saving(tmp_path):
    write(
        tmp_path,
        own="class Thing:\n    def __init__(self, a):\n        self.a = a\n",
        top="from ultravid.config import LazyCall as L\nfrom .own import Thing\nthing = L(Thing)(a=3)\n",
    )
    LazyConfig.save(LazyConfig.load(tmp_path / "top.py"), tmp_path / "saved.yaml")
    assert instantiate(LazyConfig.load(tmp_path / "saved.yaml").thing).a == 3


def test_the_config_package_starts_without_torch():
    code = "import sys, ultravid.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_config_files_may_hold_dataclasses(tmp_path):
    for name, future in (("a", ""), ("b", "from __future__ import annotations\n")):
        text = future + "from dataclasses import dataclass\nfrom ultravid.config import LazyCall as L\n"
        text += "@dataclass\nclass Point:\n    x: int\n    y: int = 2\npoint = L(Point)(x=1)\n"
        (tmp_path / f"{name}.py").write_text(text)
        assert instantiate(LazyConfig.load(tmp_path / f"{name}.py").point).y == 2
    assert not [m for m in sys.modules if m.startswith("ultravid_config_file:")]


def test_an_omegaconf_config_of_a_file_is_part_of_the_config_and_one_that_gets_a_node_is_told_what_to_write(tmp_path):
    write(
        tmp_path,
        plain="from omegaconf import OmegaConf\ntrain = OmegaConf.create({'a': 1, 'b': '${train.a}'})\n",
        mixed="from omegaconf import OmegaConf\nfrom ultravid.config import LazyCall as L\n"
        "data = OmegaConf.create()\ndata.train = L(dict)(a=1)\n",
    )
    assert LazyConfig.load(tmp_path / "plain.py").train.b == 1
    with pytest.raises(ConfigError, match=r"mixed\.py:4: UnsupportedValueType(.|\n)*write Node\(\)"):
        load_checked(tmp_path / "mixed.py")


def test_a_folder_is_not_imported_as_a_file(tmp_path):
    (tmp_path / "parts").mkdir()
    write(tmp_path, top="from . import parts\n")
    with pytest.raises(ConfigError, match=r"it is a folder; write 'from \.parts import NAME'"):
        LazyConfig.load(tmp_path / "top.py")


def test_a_config_file_is_python_in_any_encoding_and_says_where_its_values_are(tmp_path):
    latin = "# -*- coding: latin-1 -*-\n\x0cfrom __future__ import annotations\ntrain = dict(a='\xe9', f=__file__)\n"
    latin += "if __name__ == '__main__':\n    raise SystemExit(3)\n"
    (tmp_path / "latin.py").write_bytes(latin.encode("latin-1"))
    cfg = LazyConfig.load(tmp_path / "latin.py")
    assert (cfg.train.a, cfg.train.f) == ("\xe9", str(tmp_path / "latin.py"))
    assert where(cfg.train, "a").endswith("latin.py:3")
    for content, message in (
        (b"# -*- coding: nonsense -*-\n", "syntax error: unknown encoding: nonsense"),
        (b"x = '\xe9'\n", "can't decode byte"),
        (b"x = 1\0", "null bytes"),
    ):
        (tmp_path / "bad.py").write_bytes(content)
        with pytest.raises(ConfigError, match=rf"bad\.py.*{message}"):
            LazyConfig.load(tmp_path / "bad.py")


PACKAGE = {
    "modeling/__init__": "from .net import Net\nfrom . import parts\nRATE = 0.1\nclass Own: pass\n",
    "modeling/net": "import logging\nlog = logging.getLogger(__name__)\nclass Net:\n    def __init__(self, a=1): self.a = a\n",
    "modeling/parts": "from .net import Net\nclass Part(Net): pass\n",
    "common/__init__": "from .train import train\n",
    "common/train": "train = dict(a=1)\n",
    "shared/__init__": "",
    "shared/train": "train = dict(b=1)\n",
    "configs/__init__": "",
    "configs/deep/run": """
from ultravid.config import LazyCall as L
from ...modeling import Net, parts, Own
from ...modeling.net import Net as Same
from ...common import train
from ...common import train as again
from ...shared import train as module
from ...shared.train import *
from modeling import Net as Absolute
assert Same is Net is Absolute and issubclass(parts.Part, Net)
train.a = 3
assert again.a == 1 and "b" not in again
net = L(Net)(a=2)
of_module = module.train
""",
}


def tree(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text(text)
    return folder


def test_relative_imports_give_a_packages_own_classes_and_fresh_nodes_of_packages_of_configs(tmp_path):
    tree(tmp_path, PACKAGE)
    cfg = LazyConfig.load(tmp_path / "configs/deep/run.py")
    assert cfg.of_module.b == 1 and cfg.again.a == 1 and cfg.net._target_.__module__ == "modeling.net"
    LazyConfig.save(cfg, tmp_path / "saved.yaml")
    assert "_target_: modeling.Net\n" in (tmp_path / "saved.yaml").read_text()
    # A package that is in no project's folder: a saved config names its file.
    tree(
        tmp_path / "far",
        {"parts/__init__": "class Thing: pass\n", "x/y": "from ..parts import Thing\nt = dict(a=Thing)\n"},
    )
    far = LazyConfig.load(tmp_path / "far/x/y.py")
    LazyConfig.save(far, tmp_path / "far.yaml")
    assert "/far/parts/__init__.py:Thing" in (tmp_path / "far.yaml").read_text()
    assert instantiate(LazyConfig.load(tmp_path / "far.yaml").t)["a"] is far.t.a


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"run": "from .modeling import Nett\n"},
            r"__init__\.py does not define it, and there is no Nett\.py\. Did you mean 'Net'",
        ),
        ({"run": "from .modeling.nett import Net\n"}, r"nett\.py does not exist\. Did you mean 'net'"),
        ({"run": f"from .{'.' * 40}x import y\n"}, r"run\.py: the relative import from .* fails: it leads above /"),
        (
            {"run": "from .all import *\n", "all": "__all__ = ['tain']\ntrain = dict()\n"},
            "no 'tain', which its __all__ lists",
        ),
        ({"run": "from . import train\n", "train": "train = dict()\n"}, r"write 'from \.train import train'"),
        (
            {
                "run": "from ultravid.config import LazyConfig\na = LazyConfig.load_rel('b.py', 'b')\n",
                "b": "from . import run\n",
            },
            r"circle: run\.py -> b\.py -> run\.py",
        ),
    ],
)
def test_wrong_relative_imports_get_one_message(tmp_path, files, message):
    tree(tmp_path, {**PACKAGE, **files})
    with pytest.raises(ConfigError, match=message):
        load_checked(tmp_path / "run.py", required=["train"])


def test_a_file_that_was_moved_is_named_with_the_key_that_needs_it(tmp_path):
    write(tmp_path, own="from ultravid.config import LazyCall as L\nclass Net: pass\nnet = L(Net)()\n")
    LazyConfig.save(LazyConfig.load(tmp_path / "own.py"), tmp_path / "saved.yaml")
    (tmp_path / "own.py").rename(tmp_path / "new.py")
    with pytest.raises(ConfigError, match=r"net: Target '.*own\.py:Net' can't be imported: the file does not exist"):
        load_checked(tmp_path / "saved.yaml")
