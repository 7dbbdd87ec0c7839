import subprocess
import sys

import pytest
import torch

from ultravid.config import locate as config_locate
from ultravid.utils import registry
from ultravid.utils.env import TORCH_VERSION, seed_all_rng
from ultravid.utils.registry import Registry, locate, public_name


class Outer:
    class Inner:
        pass


@pytest.mark.parametrize("target", [torch.optim.SGD, Outer.Inner, len, dict])
def test_an_object_is_found_again_by_its_name(target):
    assert locate(public_name(target)) is target
    assert registry._convert_target_to_string(target) == public_name(target)


def test_the_name_is_the_shortest_that_is_public():
    assert public_name(torch.optim.SGD) == "torch.optim.SGD"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("asdf", "no module 'asdf'"),
        ("torch.optim.Adamm", "Did you mean 'Adam'"),
        ("torch optim", "not a dotted name"),
        ("torch.nosuch.thing", "has no 'nosuch'"),
    ],
)
def test_a_name_that_leads_nowhere_is_an_import_error(name, message):
    with pytest.raises(ImportError, match=message):
        locate(name)


def test_configs_find_targets_in_the_same_way():
    assert config_locate("torch.optim.SGD") is torch.optim.SGD


def test_a_registry_keeps_what_is_registered():
    shapes = Registry("SHAPE")

    @shapes.register()
    class Square:
        pass

    assert shapes.get("Square") is Square and "Square" in shapes
    with pytest.raises(KeyError, match="Circle"):
        shapes.get("Circle")


def test_locating_needs_no_fvcore():
    code = "import sys, ultravid.utils.registry as r; r.locate('json.loads'); print('fvcore' in sys.modules, 'torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "False False\n"
    )


def test_seeds_of_all_generators(caplog):
    import random

    import numpy as np

    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    seed_all_rng(3)
    drawn = draw()
    seed_all_rng(3)
    assert draw() == drawn
    seed_all_rng()
    assert draw() != drawn
    assert TORCH_VERSION >= (2, 9)
