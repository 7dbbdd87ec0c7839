"""What tests share under detectron2's names."""

import pytest
import torch
from torch import nn

from ultravid.config import LazyCall, get_cfg, upgrade_config
from ultravid.config.errors import ConfigError
from ultravid.utils.testing import random_boxes, reload_lazy_config, reload_script_model


def test_random_boxes_are_inside_and_not_empty():
    boxes = random_boxes(200, max_coord=50)
    assert boxes.shape == (200, 4) and boxes.max() <= 50
    assert (boxes[:, 2:] - boxes[:, :2] >= 1 - 1e-5).all()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # scripting is deprecated
def test_a_config_and_a_scripted_module_come_back():
    cfg = LazyCall(dict)(a=1, b=[2])
    again = reload_lazy_config(cfg)
    assert again == cfg and again is not cfg
    script = torch.jit.script(nn.ReLU())
    assert torch.equal(reload_script_model(script)(torch.tensor([-1.0, 2.0])), torch.tensor([0.0, 2.0]))


def test_a_cfg_node_has_one_version():
    cfg = get_cfg()
    assert upgrade_config(cfg) == cfg and upgrade_config(cfg) is not cfg
    with pytest.raises(ConfigError, match="there is only version 1"):
        upgrade_config(cfg, 2)
