"""Configs that today's version saved load in every later version, and mean what they meant."""

import pytest

from tests.conftest import ROOT
from ultravid.config import Builder, LazyConfig, check, config_hash, diff, get_cfg
from ultravid.config.serialize import resolved

CONFIGS = ROOT / "tests/saved/0.2/configs"
NAMES = sorted(p.stem for p in CONFIGS.glob("*.yaml") if not p.stem.endswith(".resolved"))


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_config_loads_checks_and_has_the_values_that_it_had(name):
    cfg = LazyConfig.load(CONFIGS / f"{name}.yaml")
    assert [str(f) for f in check(cfg) if f.fatal] == []
    kept = LazyConfig.load(CONFIGS / f"{name}.resolved.yaml")
    values = resolved(cfg)
    assert diff(kept, values) == [] and config_hash(kept) == config_hash(values)


@pytest.mark.parametrize("name", ["two_stage", "one_stage", "query"])
def test_a_saved_detector_of_each_family_is_built(name):
    assert Builder(LazyConfig.load(CONFIGS / f"{name}.yaml")).build("model").training


def test_there_is_one_of_each_kind_and_a_run_of_yaml_keys_gives_them_back():
    assert {"two_stage", "one_stage", "query", "cfg_node", "evaluation"} <= set(NAMES)
    cfg = get_cfg()
    cfg.merge_from_file(CONFIGS / "cfg_node.yaml")
    assert (cfg.SOLVER.MAX_ITER, cfg.MODEL.OPTS) == (4, ["token_mixer.context_frames=0"])
