"""What a type checker finds in a config before anything is run."""

import re

import pytest
from mypy import api

from tests.conftest import ROOT

RIGHT = """\
from typing import Any

import torch

from ultravid.config import MISSING, LazyCall as L, LazyPartial, Node, ref
from ultravid.modeling import ResNet

optimizer = L(torch.optim.AdamW)(params=ref("model"), lr=MISSING, betas=ref("train.betas"))
optimizer.lr = 3
optimizer.params.new = L(dict)(a=1)
nested = L(torch.nn.Sequential)(L(torch.nn.Linear)(2, 3), L(torch.nn.ReLU)())
later = LazyPartial(torch.optim.AdamW)(lr=0.1)
by_name = L("torch.optim.AdamW")(anything=1)
data = Node(root="x")
data.root = "y"
"""
WRONG = """\
import torch

from ultravid.config import LazyCall as L, LazyPartial, ref

name = L(torch.optim.AdamW)(params=ref("model"), lrr=0.1)
kind = L(torch.optim.AdamW)(params=ref("model"), lr="fast")
missing = L(torch.optim.AdamW)(lr=0.1)
nested = L(torch.nn.Sequential)(L(torch.nn.Linear)(2))
"""


@pytest.mark.slow
def test_mypy_finds_wrong_names_types_and_missing_arguments_and_passes_what_is_right(tmp_path):
    (tmp_path / "right.py").write_text(RIGHT)
    (tmp_path / "wrong.py").write_text(WRONG)
    config = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
    told, errors, _ = api.run([*config, str(tmp_path / "right.py"), str(tmp_path / "wrong.py")])
    assert not errors
    found = re.findall(r"(\w+)\.py:(\d+): error: (.*?)  \[", told)
    assert [(file, int(line)) for file, line, _ in found] == [("wrong", n) for n in (5, 6, 7, 8)]
    messages = [message for _, _, message in found]
    assert 'did you mean "lr"?' in messages[0]
    assert 'incompatible type "str"' in messages[1]
    assert 'Missing positional argument "params"' in messages[2]
    assert 'Missing positional argument "out_features"' in messages[3]
