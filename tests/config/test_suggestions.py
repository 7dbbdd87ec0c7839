"""What a message names for a key that the config does not have."""

import pytest

from tests.conftest import PHANTOM_CONFIG
from ultravid.config import LazyCall, LazyConfig, Node, OverrideError, check, get_cfg
from ultravid.utils.text import nearest

MEANT = {
    # mistyped
    "optimizer.rl": "'optimizer.lr'",
    "optimizer.LR": "'optimizer.lr'",
    "train.max_itr": "'train.max_iter'",
    "train.max-iter": "'train.max_iter'",
    "trian.max_iter": "'train.max_iter'",
    "trainer.hooks.evla.eval_period": "'trainer.hooks.eval.eval_period'",
    # of another framework
    "optimizer.learning_rate": "'optimizer.lr'",
    "learning_rate": "'optimizer.lr'",
    "train.epochs": "'train.max_iter'? A run is counted in iterations.",
    "num_epochs": "'train.max_iter'? A run is counted in iterations.",
    "iters": "'train.max_iter'",
    "batch_size": "'dataloader.train.total_batch_size'",
    "optimizer.wd": "'optimizer.weight_decay'",
    "momentum": "'optimizer.betas'",
    "train.fp16": "'train.amp.enabled'",
    "output": "'train.output_dir'",
    "weights": "'train.init_checkpoint'",
    "grad_clip": "'trainer.clip_grad.max_norm'",
    "scheduler": "'lr_multiplier'",
    "train.save_interval": "'train.checkpointer.period'",
    "checkpoint_interval": "'train.checkpointer.period'",
    "lr_rate": "'optimizer.lr'",
    "clip_len": "'dataloader.train.frame_sampler.num_frames'",
    # with other signs between the steps
    "optimizer_lr": "'optimizer.lr'",
    "train/max_iter": "'train.max_iter'",
    "train.amp_enabled": "'train.amp.enabled'",
    # at another level
    "lr": "'optimizer.lr'",
    "max_iter": "'train.max_iter'",
    "max_itr": "'train.max_iter'",
    "train.lr": "'optimizer.lr'",
    "solver.lr": "'optimizer.lr'",
    "hooks.eval.eval_period": "'trainer.hooks.eval.eval_period'",
    "norm": "'model.backbone.norm'",
}


@pytest.fixture(scope="module")
def phantom_config():
    return LazyConfig.load(PHANTOM_CONFIG)


def said(cfg, override):
    with pytest.raises(OverrideError) as caught:
        LazyConfig.apply_overrides(cfg, [override])
    return str(caught.value)


@pytest.mark.parametrize("key", MEANT)
def test_the_key_that_was_meant_comes_first(phantom_config, key):
    assert f"Did you mean {MEANT[key]}" in said(phantom_config, f"{key}=1")


def test_an_argument_that_the_target_takes_is_offered_with_what_adds_it(phantom_config):
    assert "AdamW accepts this argument: add it with '+optimizer.eps=1e-8'. (" in said(
        phantom_config, "optimizer.eps=1e-8"
    )
    assert "Add it with '+optimizer.amsgrad=true'" in said(phantom_config, "optimizer.amsgrda=true")
    assert "add it with '+model.backbone.depth=18'" in said(phantom_config, "backbone.depth=18")


def test_what_is_an_option_of_the_launcher_is_said_to_be_one(phantom_config):
    for override, option in {
        "resume=true": "--resume",
        "train.eval_only=1": "--eval-only",
        "gpus=2": "--num-gpus",
    }.items():
        assert f"The launcher has an option for it: {option}." in said(phantom_config, override)
    assert "Write 'train.amp.enabled=true'." in said(phantom_config, "train.amp=True")


def test_what_is_like_nothing_gets_the_list_of_what_is_there(phantom_config):
    assert "Known here: checkpointer, data, dataloader" in said(phantom_config, "qqq=1")


def test_a_synonym_is_known_to_the_check_and_to_yaml_keys():
    (fault,) = check(Node(a=LazyCall("torch.optim.AdamW")(params=[], learning_rate=1.0)))
    assert "Did you mean 'lr'?" in fault.message
    with pytest.raises(OverrideError, match=r"Did you mean 'SOLVER\.MAX_ITER'"):
        get_cfg().merge_from_list(["SOLVER.EPOCHS", "3"])
    with pytest.raises(OverrideError, match=r"Did you mean 'SOLVER\.IMS_PER_BATCH'"):
        get_cfg().merge_from_list(["SOLVER.BATCH_SIZE", "3"])


def test_the_nearest_name_is_found_for_short_names_too():
    assert nearest("rl", ["lr", "betas"]) == "lr"
    assert nearest("evalonly", ["eval-only", "resume"]) == "eval-only"
    assert nearest("iter", ["max_iter", "seed"]) == "max_iter"
    assert nearest("xy", ["lr", "betas"]) is None and nearest("", ["a"]) is None and nearest("a", []) is None
