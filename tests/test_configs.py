"""Every config: checked, built small, saved and read back, one step trained."""

import json
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT, read_rows
from ultravid.config import Builder, LazyConfig, check, load_checked
from ultravid.engine.quick import shorten_config


def names(path):
    return f"{path.parents[1].name}/{path.stem}"


CONFIGS = sorted((ROOT / "projects").glob("*/configs/*.py"))
# A full-size model takes seconds to step: one of each project does so in each run of the tests, except UltraDet, whose
# FlowNet alone takes 8 s.
SLOW = ("cva_bus_", "ultradet/cva_bus")
STEPS = [
    pytest.param(p, marks=[pytest.mark.slow_models] * (p.stem.startswith(SLOW) or names(p).startswith(SLOW)))
    for p in CONFIGS
]
TOP_KEYS = {"model", "dataloader", "optimizer", "lr_multiplier", "train", "trainer"}
TRAIN_KEYS = {
    "output_dir",
    "init_checkpoint",
    "max_iter",
    "amp",
    "ddp",
    "checkpointer",
    "eval_period",
    "log_period",
}


def skip_without_extras(path):
    if "TimmBackbone" in path.read_text(encoding="utf-8"):
        pytest.importorskip("timm", reason="the extra ultravid[timm] is not installed")


@pytest.fixture
def stills(phantom, tmp_path):
    """The phantom's frames as plain COCO stills."""
    for split in ("trainval", "test"):
        content = json.loads((phantom / f"{split}.json").read_text())
        content["images"] = [
            {k: v for k, v in i.items() if k not in ("video_id", "frame_id")} for i in content["images"]
        ]
        del content["videos"]
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    return [
        f"data.train={tmp_path / 'trainval.json'}",
        f"data.test={tmp_path / 'test.json'}",
        f"data.image_root={phantom / 'rawframes'}",
    ]


@pytest.mark.parametrize("path", STEPS, ids=names)
def test_a_config_trains_a_step(path, phantom, stills, launch_run, tmp_path):
    skip_without_extras(path)
    cfg = load_checked(path)
    assert set(cfg) >= TOP_KEYS
    assert set(cfg.train) >= TRAIN_KEYS | {"device", "seed"}
    assert {"train", "test", "evaluator"} <= set(cfg.dataloader)
    overrides = [
        f"train.output_dir={tmp_path / 'run'}",
        "train.max_iter=1",
        "train.log_period=1",
        "~trainer.hooks.eval",
        "~trainer.hooks.best",
        "dataloader.train.num_workers=0",
        "dataloader.test.num_workers=0",
        "dataloader.train.total_batch_size=2",
    ]
    overrides += stills if "test" in cfg.data else [f"data.root={phantom}"]
    if cfg.dataloader.train.frame_sampler.num_frames > 1:
        overrides.append("dataloader.train.frame_sampler.num_frames=2")
    if cfg.dataloader.test.area:
        overrides += ["dataloader.test.area=6000", "dataloader.train.transforms.0.area=6000"]
        overrides.append("~trainer.hooks.checkpoint")  # a file of up to 600 MB, written twice
    assert launch_run(["--config-file", str(path), *overrides]) == 0
    assert read_rows(tmp_path / "run/metrics.json")[0]["total_loss"] > 0


@pytest.mark.parametrize("path", CONFIGS, ids=names)
def test_a_saved_config_is_checked_and_builds_the_same_model(path, tmp_path):
    skip_without_extras(path)
    LazyConfig.save(LazyConfig.load(path), tmp_path / "config.yaml")
    saved = LazyConfig.load(tmp_path / "config.yaml")
    assert check(saved) == []
    with torch.device("meta"):  # tensors without values: no time goes into drawing them
        built = [Builder(c).build("model") for c in (LazyConfig.load(path), saved)]
    assert str(built[0]) == str(built[1])
    plan = shorten_config(saved, path.name)
    assert check(saved) == [] and Path(saved.train.output_dir) == Path(plan.output_dir) / "quick"
    assert (saved.trainer.max_iter, plan.max_iter) == (6, saved.train.max_iter)


def test_one_line_is_all_that_the_one_frame_config_changes():
    temporal, single = (
        LazyConfig.load(ROOT / f"projects/basicdet/configs/{n}.py") for n in ("phantom", "phantom_one_frame")
    )
    single.train.output_dir = temporal.train.output_dir
    single.model.token_mixer.context_frames = temporal.model.token_mixer.context_frames
    assert single == temporal
