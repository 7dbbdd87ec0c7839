"""The full-size configs have the recipe that UltraDet's comparison trained each detector with."""

import pytest

from tests.conftest import ROOT
from ultravid.config import LazyConfig
from ultravid.engine.conversion import ModelOfKeys, published_model, run_config
from ultravid.modeling.published import PUBLISHED_MODELS

CONFIGS = sorted((ROOT / "projects").glob("*/configs/cva_bus*.py"))
CLIPPED = {"basicdet", "relationnet", "fgfa", "mega", "defcn", "fcos", "yolox", "trackyolo", "transvod"}
SAMPLERS = {
    "mega": ("MemoryFrameSampler", {"num_memory": 6, "memory_interval": 10, "num_frames": 10, "window": 20}),
    "cvanet": ("MemoryFrameSampler", {"num_memory": 8, "memory_interval": 15, "num_frames": 8, "window": 15}),
    "causal": ("StridedFrameSampler", {"num_frames": 16, "stride": 2}),  # of our own: its windows have one step
}
TRANSFORMS = [
    ("ResizeToArea", {"area": 900_000, "factor": (0.3, 1.5)}),
    ("RandomColor", {"contrast": (0.7, 1.3), "sharpness": (0.7, 1.3), "saturation": (0.7, 1.3)}),
    ("RandomFlip", {"prob": 0.5}),
]


def call(node):
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in node.items() if not k.startswith("_")}
    return node._target_.__name__, values


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: f"{p.parents[1].name}/{p.stem}")
def test_a_config_has_the_published_recipe(path):
    cfg = LazyConfig.load(path)
    model = path.stem.removeprefix("cva_bus").lstrip("_") or path.parents[1].name
    train = cfg.dataloader.train
    assert [call(t) for t in train.transforms] == TRANSFORMS
    assert call(train.frame_sampler) == SAMPLERS.get(model, ("WindowFrameSampler", {"num_frames": 16, "window": 30}))
    assert train.total_batch_size == 8 and cfg.dataloader.test.area == 900_000
    of_queries = path.parents[1].name == "query"
    assert (cfg.optimizer.lr, cfg.optimizer.betas) == (2e-3 if model == "mega" else 2e-4, (0.9, 0.99))
    assert cfg.optimizer.weight_decay == (1e-4 if of_queries else 0.05)
    factors = cfg.optimizer.params.lr_factor_func.factors if of_queries else {}
    assert factors == (dict(backbone=0.1, reference_points=0.1, sampling_offsets=0.1) if of_queries else {})
    clip = cfg.trainer.clip_grad
    assert (None if clip is None else (clip._target_.__name__, clip.clip_value)) == (
        ("clip_grad_value_", 1.0) if model in CLIPPED else None
    )
    schedule = cfg.lr_multiplier
    assert (cfg.train.max_iter, list(schedule.scheduler.milestones)) == (10_000, [6000, 8000, 10_000])
    assert (list(schedule.scheduler["values"]), schedule.warmup_factor, schedule.warmup_length) == (
        [1.0, 0.1, 0.01],
        0.001,
        0.1,
    )
    if model != "convnext":
        assert (cfg.model.backbone.depth, cfg.model.backbone.norm, cfg.model.backbone.freeze_at) == (34, "FrozenBN", 2)


def test_a_converted_config_has_the_recipe_of_the_shipped_one(tmp_path):
    shipped = {cfg.train.output_dir: cfg for cfg in map(LazyConfig.load, reversed(CONFIGS))}
    for name, published in PUBLISHED_MODELS.items():
        stem = published.config.rpartition("/")[2].removesuffix(".py")
        expected = shipped[f"./outputs/{stem}_cva_bus"]
        converted, _ = run_config(ModelOfKeys(name, published_model(name)), {}, tmp_path)
        for cfg in (expected, converted):
            cfg.train.output_dir = cfg.train.init_checkpoint = ""
        for key in ("data", "dataloader", "train", "trainer", "checkpointer", "optimizer", "lr_multiplier"):
            assert LazyConfig.to_py(converted[key]) == LazyConfig.to_py(expected[key]), (name, key)
